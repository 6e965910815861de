"""Our side of the benchmark: what the process of one of our contenders builds and runs.

Only such a process imports this module: `contest.py` calls its functions by name, and each returns an `Entry`.
"""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from experiments.benchmark.contest import Entry, Lane, Numbers, resident_peak
from experiments.benchmark.flops import flops_per_sample
from experiments.benchmark.ours import CompiledNetwork, lax_form, pretraining_update
from experiments.benchmark.workload import CLASSES, Workload
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.feed import Batch, gather, in_batches
from simsiam_jax.data.views import two_views
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import MOST_NEIGHBOURS, knn_outputs
from simsiam_jax.losses import simsiam_loss
from simsiam_jax.models import train_on_batches
from simsiam_jax.records.environment import device_name
from simsiam_jax.settings.schema import Config
from simsiam_jax.train.devices import AXIS, UnderWay, on_every_device, shared_out
from simsiam_jax.train.epochs import CompiledUpdate, epoch_runner
from simsiam_jax.train.loop import make_plan
from simsiam_jax.train.steps import Hyper
from simsiam_jax.weights import timm_code

SEED = 0

# How many calls have their dispatch timed one by one, and how many calls a trace holds.
_DISPATCHES = 5
_TRACED_CALLS = 3

# The side of a matrix product that runs at the device's peak and takes less than a second.
_MATRIX_SIZE = {"cpu": 2048}
_MATRIX_SIZE_ELSEWHERE = 8192


class Survey(NamedTuple):
    """What is known of the device and the network before anything is measured.

    Attributes:
      platform: The platform's name in jax, such as `cpu` or `gpu`.
      device: The device in words.
      flops_per_sample: Model FLOPs of a pair of views or of an image.
      timm_code: Python code that builds the backbone in timm.
    """

    platform: str
    device: str
    flops_per_sample: float | int
    timm_code: str


def survey(config: Config, stage: str) -> Survey:
    """Looks at the device and the network.

    Args:
      config: The network's settings.
      stage: One of `workload.STAGES`.

    Raises:
      InputError: If the network cannot be built.
    """
    flops = flops_per_sample(config, stage)
    code = timm_code(CompiledNetwork(config.program).backbone, config.image_size)
    return Survey(jax.default_backend(), device_name(), flops, code)


def ours(workload: Workload, lax: bool = False, trace: Path | None = None, form: str = "auto") -> Entry:
    """Our implementation of the workload's stage.

    Args:
      workload: The stage to run and its size.
      lax: Whether convolutions are lax's own, whatever the platform.
      trace: Folder for a profile of a few calls, taken after the last round; None means no profile.
      form: Form of an update, of `train.epochs.FORMS`.
    """
    stages = {"augment": _augment, "forward": _forward, "step": _step, "epoch": _epoch, "eval": _evaluation}
    network = CompiledNetwork(workload.config.program, accumulate_by=form)
    lanes = stages[workload.stage](workload, network)
    if lax:
        lanes = {suffix: dataclasses.replace(lane, run=_with_lax(lane.run)) for suffix, lane in lanes.items()}

    def finish() -> Numbers:
        numbers = peak_memory()
        if trace is not None:
            with jax.profiler.trace(str(trace)):
                lanes[""].run(_TRACED_CALLS)
        return numbers

    return Entry(lanes, finish)


def _with_lax(run: Callable[[int], Any]) -> Callable[[int], Any]:
    # Programs are traced when they are first called, not when they are built.
    def run_with_lax(calls: int) -> None:
        with lax_form():
            run(calls)

    return run_with_lax


def peak_memory() -> Numbers:
    """Peak memory as `peak_bytes`: the device's where it counts them, else this process's."""
    counted = jax.local_devices()[0].memory_stats() or {}
    return {"peak_bytes": counted["peak_bytes_in_use"] if "peak_bytes_in_use" in counted else resident_peak()}


def matrix_product(dtype: str) -> Entry:
    """A large square matrix product, whose samples are FLOPs: the rate that the device can reach.

    Args:
      dtype: Type of the matrices, `float32` or `bfloat16`.
    """
    size = _MATRIX_SIZE.get(jax.default_backend(), _MATRIX_SIZE_ELSEWHERE)
    left, right = (jax.random.normal(jax.random.key(seed), (size, size), jnp.dtype(dtype)) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    return Entry({"": _lane(lambda _: product(left, right), [()], samples=2 * size**3)}, peak_memory)


def _lane(call: Callable[..., Any], inputs: Sequence[Any], *, samples: float) -> Lane:
    """A lane whose calls go round the inputs.

    Args:
      call: A function that is given an input and returns at once; its last result is waited for.
      inputs: The inputs, used one after the other again and again.
      samples: What a call gets through.
    """
    around = itertools.cycle(inputs)

    def run(calls: int) -> None:
        last = None
        for _ in range(calls):
            last = call(next(around))
        jax.block_until_ready(last)

    return Lane(run, samples)


def _split(workload: Workload) -> ImageSplit:
    images, labels = workload.draw()
    return ImageSplit(images, labels, np.arange(len(labels), dtype=np.int32), fingerprint="0" * 16)


def _rows(workload: Workload) -> Int[np.ndarray, "micro_batches batch"]:
    return in_batches(workload.images, workload.micro_batch_size)[: workload.micro_batches]


def _on_device(split: ImageSplit, rows: Int[np.ndarray, "*axes"]) -> Batch:
    return shared_out(gather(split, rows[None]))


def _augment(workload: Workload, network: CompiledNetwork) -> dict[str, Lane]:
    draw = jax.jit(functools.partial(two_views, spec=workload.config.program.views))
    split, rows = _split(workload), _rows(workload)
    batches = [jax.device_put(gather(split, each)) for each in rows]

    def call(batch: Batch) -> Any:
        return draw(batch.images, batch.sample_ids, seed=np.uint32(SEED), epoch=np.int32(0))

    return {"": _lane(call, batches, samples=rows.shape[1])}


def _forward(workload: Workload, network: CompiledNetwork) -> dict[str, Lane]:
    def loss_of(variables, batch):
        (p, z), batch_stats = train_on_batches(network.simsiam, variables, jnp.stack(batch))
        return simsiam_loss(*p, *z), batch_stats

    compiled = jax.pmap(loss_of, axis_name=AXIS, in_axes=(None, 0), out_axes=None)
    draw = jax.jit(
        functools.partial(two_views, seed=np.uint32(SEED), epoch=np.int32(0), spec=workload.config.program.views)
    )
    split, rows = _split(workload), _rows(workload)
    views = [shared_out(jax.tree.map(_with_device_axis, draw(split.images[each], split.sample_ids[each])))
             for each in rows]  # fmt: skip
    variables = on_every_device(network.initial_simsiam(SEED))
    return {"": _lane(lambda batch: compiled(variables, batch), views, samples=rows.shape[1])}


def _with_device_axis(array: jax.Array) -> jax.Array:
    return array[None]


class Training(NamedTuple):
    """Updates of pretraining and their inputs.

    Attributes:
      update: The compiled update.
      inputs: For each turn the batches on the devices, the `Hyper` of the updates, and the calls of `train`.
      micro_steps: Micro-steps in a turn.
    """

    update: CompiledUpdate
    inputs: list[tuple[list[Batch], Hyper, list[Any]]]
    micro_steps: int


def _hyper(workload: Workload, updates: int) -> Hyper:
    schedule = workload.config.pretrain.schedule
    peak = schedule.peak(micro_batch=workload.micro_batch_size, accumulation=workload.accumulation)
    rate = np.full(updates, peak, np.float32)
    return Hyper(rate, rate, np.full(updates, SEED, np.uint32), np.zeros(updates, np.int32))


def _training(workload: Workload, network: CompiledNetwork) -> Training:
    """Updates whose micro-batches lie on the devices: one a turn where a call is a micro-step, else all."""
    update, split = pretraining_update(network), _split(workload)
    indices = _rows(workload).reshape(-1, workload.accumulation, workload.micro_batch_size)
    image_bytes = split.images[0].nbytes
    turns = [indices] if len(update.calls_of(indices, image_bytes)) < len(indices) else list(indices[:, None])
    inputs = []
    for turn in turns:
        calls = update.calls_of(turn, image_bytes)
        inputs.append(([_on_device(split, turn[call.where]) for call in calls], _hyper(workload, len(turn)), calls))
    return Training(update, inputs, len(turns[0]) * workload.accumulation)


def _train(workload: Workload, training: Training, network: CompiledNetwork) -> Lane:
    """A lane of training, each turn's state going into the next; it also measures what a turn costs the host."""
    state: Any = on_every_device(network.pretrain_state(SEED))
    waited = 0.0

    def turn(inputs: tuple[list[Batch], Hyper, list[Any]]) -> Any:
        nonlocal state
        batches, hypers, calls = inputs
        under_way = UnderWay(training.update.frugal)

        def report(steps, metrics, rate):
            nonlocal waited
            begun = time.perf_counter()
            # As an epoch does: what is under way takes memory.
            under_way.add(metrics)
            waited += time.perf_counter() - begun

        state = training.update.train(state, iter(batches), hypers, iter(calls), report)
        return state

    def inspect() -> Numbers:
        nonlocal waited
        dispatches = []
        for inputs in itertools.islice(itertools.cycle(training.inputs), _DISPATCHES):
            waited, begun = 0.0, time.perf_counter()
            result = turn(inputs)
            dispatches.append(time.perf_counter() - begun - waited)
            jax.block_until_ready(result)
        return {"dispatch_seconds_per_step": statistics.median(dispatches) / training.micro_steps}

    lane = _lane(turn, training.inputs, samples=workload.micro_batch_size * training.micro_steps)
    return dataclasses.replace(lane, inspect=inspect)


def _step(workload: Workload, network: CompiledNetwork) -> dict[str, Lane]:
    return {"": _train(workload, _training(workload, network), network)}


def _epoch(workload: Workload, network: CompiledNetwork) -> dict[str, Lane]:
    """An epoch as training runs it, and its steps with nothing between them.

    The difference between the two is the host's time between calls.
    """
    pretrain, split = workload.config.pretrain, _split(workload)
    plan = make_plan(
        workload.images,
        schedule=pretrain.schedule,
        micro_batch_size=workload.micro_batch_size,
        accumulation=workload.accumulation,
        epochs=pretrain.epochs,
        seed=SEED,
    )
    run_epoch = epoch_runner(pretraining_update(network), feed="resident")
    state, epochs = network.pretrain_state(SEED), itertools.cycle(range(plan.epochs))

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state = run_epoch(state, split, *plan.epoch(next(epochs)), lambda steps, loss, rate: None).state
        jax.block_until_ready(state)

    training = _training(workload, network)
    return {
        "": Lane(run, workload.micro_batches * workload.micro_batch_size),
        "back to back": _back_to_back(workload, training, network),
    }


def _back_to_back(workload: Workload, training: Training, network: CompiledNetwork) -> Lane:
    """A lane of whole epochs of steps whose batches lie on the device already."""
    lane = _train(workload, training, network)
    calls_of_an_epoch = len(training.inputs)
    return Lane(
        lambda calls: lane.run(calls * calls_of_an_epoch), lane.samples * calls_of_an_epoch, inspect=lane.inspect
    )


def _evaluation(workload: Workload, network: CompiledNetwork) -> dict[str, Lane]:
    """Computes the features of all images, and kNN of a fifth of them among all: CIFAR-10's share of test images."""
    split, evaluation = _split(workload), workload.config.evaluation
    variables = backbone_variables(network.initial_simsiam(SEED))
    queries = -(-len(split) // 5)

    def run(calls: int) -> None:
        for _ in range(calls):
            features = network.features(variables, split)
            knn_outputs(
                features,
                split.labels,
                features[:queries],
                num_classes=CLASSES,
                k=evaluation.knn_k or MOST_NEIGHBOURS,
                temperature=evaluation.knn_temperature,
            )

    return {"": Lane(run, len(split))}
