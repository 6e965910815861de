"""Epochs of updates on the devices: the forms that an update takes there, compiled, and the calls of an epoch."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from simsiam_jax import hosts
from simsiam_jax.data.feed import Batch
from simsiam_jax.errors import InputError
from simsiam_jax.train.devices import (
    UnderWay,
    device_memory,
    feed_chooser,
    memory_in_use,
    on_each_device,
    on_every_device,
)
from simsiam_jax.train.optimizer import accumulated
from simsiam_jax.train.state import TrainState
from simsiam_jax.train.steps import Hyper, Step, Update, add_micro_batch, apply_sum, micro_step, whole_update

FORMS = ("auto", "one_pass", "scan", "loop", "multi_steps")

# The most micro-steps in one call on an accelerator, and the most bytes of their images: a progress line that moves,
# and a few calls' batches beside the network.
_STEPS_PER_CALL = 1024
_BYTES_PER_CALL = 256 * 2**20

# The share of a device's memory that a program may plan with. The libraries of its kernels need some beside it.
_USABLE_MEMORY = 0.85

# show(micro-steps, loss, learning rate)
Show = Callable[[int, float, float], None]
# report(micro-steps, metrics, learning rate of the last update)
Report = Callable[[int, dict[str, jax.Array], Any], None]


class Call(NamedTuple):
    """A call of a compiled function in an epoch.

    Attributes:
      where: Positions in the indices [updates, micro-batches, micro-batch] of the images that it needs.
      update: Number of the first update that it works on.
      begins: Whether that update begins with it, so that before it nothing is under way but whole updates.
    """

    where: Any
    update: int
    begins: bool = True


class Part(NamedTuple):
    """What a run of an epoch, or of a part of one, ends with.

    Attributes:
      state: State after the last update that was made.
      metrics: Metrics of each micro-step, or of each update where many are one call.
      updates: Number of the epoch's updates that are made by now, those before this part included.
    """

    state: TrainState
    metrics: dict[str, np.ndarray]
    updates: int


# Runs an epoch, or what is left of one: see `epoch_runner`.
RunEpoch = Callable[..., Part]


class CompiledUpdate(NamedTuple):
    """An update in one of its forms, compiled when it is first called.

    Attributes:
      calls_of: calls_of(indices [updates, micro-batches, micro-batch], bytes of an image) gives the calls that make
        these updates.
      train: train(state, batches, hypers, calls, report) -> state makes the calls, each with the next batch, and
        reports each at once, before the devices are done. The calls may end before the batches, between two updates.
        A batch is taken before its call: where it cannot be read, no other process makes the call and waits.
      frugal: Whether the host waits for a call that takes long, so that there are temporaries of one alone.
    """

    calls_of: Callable[[np.ndarray, int], list[Call]]
    train: Callable[[TrainState, Iterator[Batch], Hyper, Iterator[Call], Report], TrainState]
    frugal: bool


def compile_step(
    step: Step, devices: Any = None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]:
    """`step` on all devices (or on these): the batch has a leading device axis, the state is donated."""
    return on_each_device(step, in_axes=(None, 0, None), out_axes=(None, None), donate=(0,), devices=devices)


def compile_scan(
    step: Step, devices: Any = None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]:
    """Many updates in one call, for accelerators: `lax.scan` over groups that lie on the devices.

    The compiled function takes the state, a `Batch` of arrays [devices, updates, micro-batches, local batch, ...] and a
    `Hyper` of arrays [updates]; its metrics are [updates]. The state is donated. On a CPU XLA runs the same updates
    several times slower inside a scan.
    """

    def updates(state, groups, hypers):
        return jax.lax.scan(lambda state, inputs: step(state, *inputs), state, (groups, hypers))

    return compile_step(updates, devices)


def compile_update(update: Update, *, accumulation: int = 1, form: str = "auto", platform: str) -> CompiledUpdate:
    """Compiles an update in one of its forms.

    The forms differ in speed and memory; their results are equal up to rounding:

    - `one_pass`: the micro-batches of an update pass at once, and many updates are one call.
    - `scan`: the same with as many micro-batches at once as have room in the device's memory.
    - `loop`: a call for each micro-batch, which adds its gradients to a sum, and one for the optimiser.
    - `multi_steps`: a call for each micro-batch, and `optax.MultiSteps` in the optimiser.

    Args:
      update: The training.
      accumulation: Micro-batches of an update.
      form: One of `FORMS`; `auto` is `loop` on a CPU and `scan` elsewhere.
      platform: Name of the devices' platform in jax, such as `cpu`.

    Raises:
      InputError: If there is no such form.
    """
    if form not in FORMS:
        raise InputError(f"--accumulate_by={form}: unknown form; known: {', '.join(FORMS)}")
    if form == "auto":
        form = "loop" if platform == "cpu" else "scan"
    if form in ("loop", "multi_steps"):
        train = (_looped if form == "loop" else _multi_stepped)(update, accumulation)
        return CompiledUpdate(_micro_steps, train, frugal=platform == "cpu")
    return CompiledUpdate(_calls_of_many, _in_many(update, form), frugal=platform == "cpu")


def epoch_runner(compiled: CompiledUpdate, feed: str = "auto") -> RunEpoch:
    """Makes a function that runs an epoch.

    Args:
      compiled: The update, from `compile_update`.
      feed: Name of the feed: `resident`, `streamed`, or `auto` for a choice by size. It changes no result.

    Returns:
      run(state, split, indices, hypers, show, start=0, pause=never) -> Part. The indices are [updates, micro-batches,
      micro-batch], the `Hyper` has an entry for each update. `show(micro-steps, loss, rate)` is called as calls finish,
      with the last loss of the call, or one that is not finite.
      The updates before number `start` are left out, as a run that was paused has made them. `pause()` is asked before
      each call that begins an update; where it is true the run ends, once the calls under way are done. The state is
      donated.
    """
    feed_of = feed_chooser(feed)

    def run(state, split, indices, hypers, show, *, start=0, pause=lambda: False):
        calls = [call for call in compiled.calls_of(indices, split.images[0].nbytes) if call.update >= start]
        metrics, calls_under_way, updates = [], UnderWay(compiled.frugal), len(indices)

        def until_paused():
            nonlocal updates
            for call in calls:
                if hosts.agreed(functools.partial(pauses, call)):
                    updates = call.update
                    return
                yield call

        def pauses(call):
            return call.begins and call.update > start and pause()

        def show_call(steps, loss, rate):
            losses = np.ravel(loss)
            # One that is not finite counts, wherever it is among those of a call.
            told = np.append(losses[~np.isfinite(losses)], losses[-1])
            show(steps, float(told[0]), float(np.ravel(rate)[-1]))

        def report(steps, measured, rate):
            metrics.append(measured)
            for each in calls_under_way.add((steps, measured["loss"], rate)):
                show_call(*each)

        batches = feed_of(split)(split, (indices[call.where] for call in calls))
        state = compiled.train(on_every_device(state), iter(batches), hypers, until_paused(), report)
        for each in calls_under_way.rest():
            show_call(*each)

        def join(*values):
            return np.concatenate([np.atleast_1d(each) for each in values])

        return Part(state, jax.tree.map(join, *jax.device_get(metrics)), updates)

    return run


def _of(hypers: Hyper, updates: Any) -> Hyper:
    return Hyper(*(values[updates] for values in hypers))


def _micro_steps(indices: np.ndarray, image_bytes: int) -> list[Call]:
    """A call for each micro-batch: (update, micro-batch)."""
    return [Call((update, micro), update, micro == 0) for update, micro in np.ndindex(*indices.shape[:2])]


def _looped(update: Update, accumulation: int) -> Callable[..., TrainState]:
    if accumulation == 1:
        return _stepped(micro_step(update))
    sums = {"in_axes": (None, 0, None, 0, None), "out_axes": (0, None, None)}
    add = on_each_device(add_micro_batch(update), **sums, donate=(1, 2))
    apply = on_each_device(
        apply_sum(update, accumulation=accumulation),
        in_axes=(None, 0, None, None),
        out_axes=(None, 0),
        donate=(0, 1, 2),
    )
    zeros = on_each_device(lambda params, _: jax.tree.map(jax.numpy.zeros_like, params), in_axes=(None, 0), out_axes=0)

    def train(state, batches, hypers, calls, report):
        gradients = zeros(state.params, np.zeros(jax.local_device_count()))
        for batch, call in zip(batches, calls, strict=False):
            number, micro = call.where
            hyper, still = _of(hypers, number), dataclasses.replace(state, batch_stats={})
            gradients, batch_stats, metrics = add(still, gradients, state.batch_stats, batch, hyper)
            state = dataclasses.replace(state, batch_stats=batch_stats)
            if micro == accumulation - 1:
                state, gradients = apply(still, gradients, batch_stats, hyper)
            report(1, metrics, hyper.learning_rate)
        return state

    return train


def _stepped(step: Step) -> Callable[..., TrainState]:
    compiled = compile_step(step)

    def train(state, batches, hypers, calls, report):
        for batch, call in zip(batches, calls, strict=False):
            hyper = _of(hypers, call.update)
            state, metrics = compiled(state, batch, hyper)
            report(1, metrics, hyper.learning_rate)
        return state

    return train


def _multi_stepped(update: Update, accumulation: int) -> Callable[..., TrainState]:
    """As `_stepped`, with the optimiser's state inside that of `optax.MultiSteps` while an epoch lasts."""
    stepped = _stepped(micro_step(update, accumulation=accumulation))
    if accumulation == 1:
        return stepped
    start = jax.jit(accumulated(update.optimizer, accumulation).init)

    def train(state, batches, hypers, calls, report):
        wrapped: Any = on_every_device(start(state.params))
        before = int(state.step)
        state = dataclasses.replace(state, opt_state=wrapped._replace(inner_opt_state=state.opt_state))
        state = stepped(state, batches, hypers, calls, report)
        updates = before + (state.step - before) // accumulation
        return dataclasses.replace(state, step=updates, opt_state=state.opt_state.inner_opt_state)

    return train


def _calls_of_many(indices: np.ndarray, image_bytes: int) -> list[Call]:
    """The updates in as few calls as their images' bytes allow; each length is a program of its own."""
    updates, *group = indices.shape
    most = min(_STEPS_PER_CALL // group[0], _BYTES_PER_CALL // (math.prod(group) * image_bytes))
    fewest = -(-updates // max(1, most))
    # Calls of one length, where that takes no more than twice as many; else as equal as can be.
    calls = next((count for count in range(fewest, 2 * fewest + 1) if updates % count == 0), fewest)
    return [Call(each, int(each[0])) for each in np.array_split(np.arange(updates), calls)]


def _in_many(update: Update, form: str) -> Callable[..., TrainState]:
    # Arms with other batches share the update: by the shape of a call's images, and of an update's.
    compiled: dict[tuple[int, ...], Any] = {}
    at_once: dict[tuple[int, ...], int] = {}

    def program(state, groups, hypers):
        """The compiled program for such a call; the first chooses how many micro-batches pass at once."""
        inputs, group = (state, groups, hypers), groups.images.shape[2:]
        if group not in at_once and form == "one_pass":
            at_once[group] = group[0]
        if group not in at_once:
            found = compile_scan(whole_update(update)).lower(*inputs).compile()
            room = functools.partial(choose_at_once, group[0], *memory_of(found), _room_for(found))
            at_once[group] = hosts.agreed(room)
            if at_once[group] == group[0]:
                return found
            logging.info("the memory has room for %d of %d micro-batches at once", at_once[group], group[0])
        return compile_scan(whole_update(update, at_once=at_once[group])).lower(*inputs).compile()

    def train(state, batches, hypers, calls, report):
        for groups, call in zip(batches, calls, strict=False):
            hyper, shape = _of(hypers, call.where), groups.images.shape
            if shape not in compiled:
                compiled[shape] = program(state, groups, hyper)
            state, metrics = compiled[shape](state, groups, hyper)
            report(len(call.where) * shape[2], metrics, hyper.learning_rate)
        return state

    return train


def memory_of(compiled: Any) -> tuple[int, int]:
    """Bytes of a compiled program on a device: its temporaries, and its arguments, results and code."""
    found = compiled.memory_analysis()
    arguments = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return found.temp_size_in_bytes, arguments + found.generated_code_size_in_bytes


def _room_for(compiled: Any) -> int:
    """Bytes of a device's memory for a program, beside what lies there that is no argument of it, such as a split."""
    others = max(0, memory_in_use() - compiled.memory_analysis().argument_size_in_bytes)
    return int(_USABLE_MEMORY * device_memory()) - others


def choose_at_once(micro_batches: int, temporary: int, fixed: int, memory: int) -> int:
    """How many micro-batches of an update pass at once: the largest divisor of their number that has room.

    Args:
      micro_batches: Number of micro-batches of an update.
      temporary: Bytes of temporaries of the program in which all pass at once; they are taken to grow with the number.
      fixed: Bytes that do not: arguments, results, code.
      memory: Bytes of the device's memory that may be used.

    Returns:
      1 if there is no room even for one: whether that is true only the device can say.
    """
    fitting = (
        each
        for each in range(micro_batches, 0, -1)
        if micro_batches % each == 0 and fixed + temporary * each / micro_batches <= memory
    )
    return next(fitting, 1)
