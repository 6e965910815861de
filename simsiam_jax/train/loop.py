"""The training loop: epochs of micro-steps, measured, logged and checkpointed; exact when resumed. Or without files."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from einops import rearrange

from simsiam_jax import hosts, stopping
from simsiam_jax.data.feed import epoch_order
from simsiam_jax.errors import DivergenceError, require
from simsiam_jax.files import write_sealed_lines
from simsiam_jax.metrics import Numbers
from simsiam_jax.settings.schema import ScheduleConfig
from simsiam_jax.train.board import open_board
from simsiam_jax.train.checkpoints import CHECKPOINTS, Checkpoints
from simsiam_jax.train.epochs import RunEpoch
from simsiam_jax.train.optimizer import learning_rates
from simsiam_jax.train.progress import Display
from simsiam_jax.train.state import TrainState
from simsiam_jax.train.steps import Hyper

_SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass(frozen=True)
class Plan:
    """The order in which a stage sees its images and the learning rate of each update.

    Attributes:
      images: Number of images to learn from.
      micro_batch_size: Images of a micro-step over all devices.
      accumulation: Micro-steps of an update.
      epochs: Length in epochs.
      seed: Seed of the order and of the views.
      rates: The scheduled learning rate of each update, float32 [updates].
      constant_rate: Learning rate of the parameters that do not follow the schedule.
    """

    images: int
    micro_batch_size: int
    accumulation: int
    epochs: int
    seed: int
    rates: np.ndarray
    constant_rate: float

    @property
    def updates_per_epoch(self) -> int:
        """Whole updates in an epoch; the images left over, fewer than an update takes, wait for another epoch."""
        return self.images // (self.micro_batch_size * self.accumulation)

    @property
    def steps_per_epoch(self) -> int:
        """Micro-steps in an epoch."""
        return self.updates_per_epoch * self.accumulation

    def epoch(self, epoch: int) -> tuple[np.ndarray, Hyper]:
        """Indices [updates, micro-batches, micro-batch] and the `Hyper` of each update of an epoch counted from 0."""
        updates = self.updates_per_epoch
        order = epoch_order(self.images, seed=self.seed, epoch=epoch)[: self.steps_per_epoch * self.micro_batch_size]
        indices = rearrange(
            order, "(update micro batch) -> update micro batch", update=updates, micro=self.accumulation
        )
        hyper = Hyper(
            learning_rate=self.rates[epoch * updates :][:updates],
            constant_rate=np.full(updates, self.constant_rate, np.float32),
            seed=np.full(updates, self.seed, np.uint32),
            epoch=np.full(updates, epoch, np.int32),
        )
        return indices, hyper


def make_plan(
    images: int,
    *,
    schedule: ScheduleConfig,
    micro_batch_size: int,
    accumulation: int = 1,
    epochs: int,
    seed: int,
) -> Plan:
    """The plan of a stage.

    Raises:
      InputError: If an epoch has fewer micro-batches than one update takes.
    """
    micro_batches = images // micro_batch_size
    require(
        micro_batches >= accumulation,
        f"--accumulation={accumulation}: an epoch of {images} images has only {micro_batches} micro-batches of "
        f"{micro_batch_size}; lower --accumulation or --micro_batch_size",
    )
    peak = schedule.peak(micro_batch=micro_batch_size, accumulation=accumulation)
    updates = images // (micro_batch_size * accumulation)
    return Plan(
        images=images,
        micro_batch_size=micro_batch_size,
        accumulation=accumulation,
        epochs=epochs,
        seed=seed,
        rates=learning_rates(schedule, peak=peak, updates_per_epoch=updates, epochs=epochs),
        constant_rate=peak,
    )


class Trained(NamedTuple):
    """What a stage ends with.

    Attributes:
      state: State after the last epoch.
      best: `params` and `batch_stats` of the epoch with the highest `select`ed number, of the last epoch without one.
      best_epoch: Epochs done when `best` was reached.
      history: Numbers of each epoch, as in metrics.jsonl; the first may be of epoch 0, before any training.
      seconds: Time of training and measuring, over all the runs that it took.
    """

    state: TrainState
    best: dict[str, Any]
    best_epoch: int
    history: list[Numbers]
    seconds: float


def fit(
    state: TrainState,
    split: Any,
    plan: Plan,
    run_epoch: RunEpoch,
    *,
    measure: Callable[[TrainState, int], Numbers],
    folder: Path,
    title: str,
    select: str | None = None,
    measure_untrained: bool = False,
    display: Display | None = None,
) -> Trained:
    """Trains to the end of the plan, going on from the newest checkpoint in `folder` if there is one.

    Order, views and learning rates are functions of the seed and the epoch, so a run that was interrupted ends with
    the numbers of one that was not, wherever it was. The state is saved between two updates, twice a minute, at the
    end, and where a signal asks the process to stop.

    Args:
      state: State before the first epoch; it is consumed.
      split: The `ImageSplit` to learn from.
      plan: Order of the images and learning rates.
      run_epoch: Function that runs an epoch, from `epoch_runner`.
      measure: Gives numbers of a state after so many epochs, to be logged beside the training loss.
      folder: Folder of the stage; receives `metrics.jsonl`, `checkpoints/` and `tensorboard/`.
      title: Title of the progress line.
      select: The measured number whose highest value (the first, among equals) picks the best epoch.
      measure_untrained: Whether to measure the state before the first epoch, too, as epoch 0.
      display: Where the progress is shown; None means a display of its own.

    Returns:
      The trained state, the best epoch's variables and the history.

    Raises:
      stopping.Stopped: If a signal has asked for it; the state is saved.
      DivergenceError: If the loss, a parameter or a measured number is not finite; nothing of it is saved.
    """
    # The state's buffers are given to the first step; a copy of the best ones stays.
    best = jax.device_get(dict(state.variables)) if select else None
    done = _Done()
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:

        def tree():
            return {"state": state, "best": best} if select else {"state": state}

        found = checkpoints.restore_latest(tree())
        if found:
            _, restored, meta = found
            state = TrainState(**as_dict(restored["state"]))
            best = restored.get("best")
            done = _Done.from_meta(meta)
        state = hosts.share(state)
        history, begun = done.history, time.monotonic()
        saved = begun

        def save():
            nonlocal saved, begun
            now = time.monotonic()
            done.seconds += now - begun
            saved = begun = now
            checkpoints.save(done.epoch * plan.updates_per_epoch + done.updates, tree(), done.meta())

        def pause():
            return stopping.asked() or time.monotonic() - saved >= _SECONDS_BETWEEN_CHECKPOINTS

        if measure_untrained and not history:
            history.append({"epoch": 0, "update": 0, **measure(state, 0)})
        write_sealed_lines(folder / "metrics.jsonl", history)
        draw = open_board(folder / "tensorboard", from_epoch=done.epoch + 1 if done.epoch else 0)
        with (
            contextlib.nullcontext(display) if display else Display() as shown,
            shown.stage(
                title,
                total=plan.epochs * plan.steps_per_epoch,
                done=done.epoch * plan.steps_per_epoch + done.updates * plan.accumulation,
                images_per_step=plan.micro_batch_size,
            ) as progress,
        ):

            def diverged(what: str, update: int) -> DivergenceError:
                """Says what is not finite after so many updates."""
                last = checkpoints.latest
                kept = "there is no checkpoint" if last is None else f"the last checkpoint is of update {last:,}"
                return DivergenceError(
                    f"{what} in epoch {done.epoch + 1} of {title}, at a learning rate of {plan.rates[update - 1]:.3g}; "
                    f"{kept}; try a lower rate",
                    where=f"at update {update:,}",
                )

            def show(steps: int, loss: Any, rate: Any) -> None:
                if not math.isfinite(loss):
                    raise diverged(f"the loss is {loss}", progress.steps // plan.accumulation + 1)
                progress.advance(steps, epoch=done.epoch + 1, loss=loss, learning_rate=rate)

            if done.epoch == 0 and history:
                draw(history[0])
            while done.epoch < plan.epochs:
                epoch = done.epoch
                indices, hypers = plan.epoch(epoch)
                while done.updates < plan.updates_per_epoch:
                    part_begun = time.monotonic()
                    progress.resume()
                    hosts.tell([epoch, done.updates])
                    with hosts.together(DivergenceError):
                        state, metrics, updates = run_epoch(
                            state, split, indices, hypers, show, start=done.updates, pause=pause
                        )
                    if not _finite(state.variables):
                        raise diverged("a parameter is not finite", epoch * plan.updates_per_epoch + updates)
                    done.add(updates, metrics, time.monotonic() - part_begun)
                    if done.updates < plan.updates_per_epoch:
                        save()
                        stopping.check()
                try:
                    measured = measure(state, epoch + 1)
                except stopping.Stopped:
                    save()
                    raise
                except DivergenceError as fault:
                    raise diverged(fault.what, (epoch + 1) * plan.updates_per_epoch) from None
                line = {**_epoch_numbers(plan, epoch, done.metrics, done.training), **measured}
                for name, value in line.items():
                    if not math.isfinite(value):
                        raise diverged(f"{name} is {value}", (epoch + 1) * plan.updates_per_epoch)
                done.close_epoch(line)
                if select and done.beats_best(line[select], select):
                    best, done.best_epoch = jax.device_get(dict(state.variables)), epoch + 1
                write_sealed_lines(folder / "metrics.jsonl", history)
                draw(line)
                if done.epoch == plan.epochs or pause():
                    save()
                    stopping.check()
        done.seconds += time.monotonic() - begun
    if not select:
        best, done.best_epoch = dict(state.variables), plan.epochs
    assert best is not None
    return Trained(state, best, done.best_epoch, history, done.seconds)


def follow(state: TrainState, split: Any, plan: Plan, run_epoch: RunEpoch) -> NoReturn:
    """Takes part in a `fit` of process 0, from the state that it has, until that is over.

    Args:
      state: A state of the shapes of that of process 0.
      split: The same images.
      plan: The same plan.
      run_epoch: The same function, from `epoch_runner`.

    Raises:
      hosts.Over: When it is over.
    """
    state = hosts.share(state)
    while True:
        epoch, start = hosts.hear()
        with hosts.together():
            state, _, _ = run_epoch(state, split, *plan.epoch(epoch), lambda *_: None, start=start)


def fit_in_memory(
    state: TrainState, split: Any, plan: Plan, run_epoch: RunEpoch, *, goes_on: Callable[[Numbers], bool]
) -> tuple[TrainState, list[Numbers]]:
    """Trains epoch by epoch as `fit` does, and writes nothing.

    Args:
      state: State before the first epoch; it is consumed.
      split: The `ImageSplit` to learn from.
      plan: Order of the images and learning rates.
      run_epoch: Function that runs an epoch, from `epoch_runner`.
      goes_on: Function that sees the numbers of each epoch, and says whether another one follows.

    Returns:
      The state after the last epoch, and the numbers of each epoch.
    """
    history: list[Numbers] = []
    for epoch in range(plan.epochs):
        begun = time.monotonic()
        state, metrics, _ = run_epoch(state, split, *plan.epoch(epoch), lambda steps, loss, rate: None)
        history.append(_epoch_numbers(plan, epoch, metrics, time.monotonic() - begun))
        if not goes_on(history[-1]):
            break
    return state, history


def _epoch_numbers(plan: Plan, epoch: int, metrics: dict[str, np.ndarray], seconds: float) -> Numbers:
    """What training itself tells of an epoch counted from 0."""
    updates = (epoch + 1) * plan.updates_per_epoch
    return {
        "epoch": epoch + 1,
        "update": updates,
        **{name: float(np.mean(values)) for name, values in metrics.items()},
        "learning_rate": float(plan.rates[updates - 1]),
        "images_per_second": plan.steps_per_epoch * plan.micro_batch_size / seconds,
    }


@dataclass
class _Done:
    """How far a stage has come: what goes beside the state into a checkpoint, and comes back from it.

    Attributes:
      epoch: Whole epochs done and measured.
      updates: Updates done of the next epoch.
      metrics: Metrics of these updates by name, float32 [micro-steps].
      training: Seconds of these updates.
      history: Numbers of each epoch done.
      best_epoch: Epochs done when the selected number was highest; 0 before there is one.
      seconds: Seconds of training and measuring.
    """

    epoch: int = 0
    updates: int = 0
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    training: float = 0.0
    history: list[Numbers] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    def add(self, updates: int, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Adds a part of the next epoch, up to so many of its updates."""
        self.updates = updates
        self.metrics = {name: np.append(self.metrics.get(name, values[:0]), values) for name, values in metrics.items()}
        self.training += seconds

    def close_epoch(self, line: Numbers) -> None:
        """Adds the numbers of the epoch whose updates are all done."""
        self.history.append(line)
        self.epoch, self.updates, self.metrics, self.training = self.epoch + 1, 0, {}, 0.0

    def beats_best(self, number: float, select: str) -> bool:
        """Whether the last epoch's selected number is above that of the best epoch before."""
        return self.best_epoch == 0 or number > self.history[-1 - (self.epoch - self.best_epoch)][select]

    def meta(self) -> dict[str, Any]:
        """Plain values for a checkpoint; a float32 is written as the number that it is, to the last bit."""
        metrics = {name: values.tolist() for name, values in self.metrics.items()}
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "metrics": metrics}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "_Done":
        """Reads what `meta` gave."""
        return cls(**{**meta, "metrics": {name: np.array(each, np.float32) for name, each in meta["metrics"].items()}})


def _finite(variables: dict[str, Any]) -> bool:
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.device_get(variables)))


def as_dict(restored: Any) -> dict[str, Any]:
    """A restored state's fields: Orbax gives back the dataclass or a dictionary, as its version has it."""
    return restored if isinstance(restored, dict) else vars(restored)
