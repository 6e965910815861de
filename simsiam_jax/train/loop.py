"""The only training loop: epochs of micro-steps, measured, logged and checkpointed; exact when resumed."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange

from simsiam_jax.data.feed import epoch_order
from simsiam_jax.errors import require
from simsiam_jax.metrics import Numbers
from simsiam_jax.settings.schema import ScheduleConfig
from simsiam_jax.train.checkpoints import Checkpoints
from simsiam_jax.train.epochs import RunEpoch
from simsiam_jax.train.optimizer import learning_rates
from simsiam_jax.train.progress import ProgressLine
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
) -> Trained:
    """Trains to the end of the plan, going on from the newest checkpoint in `folder` if there is one.

    Order, views and learning rates are functions of the seed and the epoch, so a run that was interrupted ends with
    the numbers of one that was not.

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

    Returns:
      The trained state, the best epoch's variables and the history.
    """
    # Where torch is installed tensorboardX imports it, for seconds that only training has.
    from tensorboardX import SummaryWriter

    best, best_epoch, highest, seconds, start = dict(state.variables), 0, -math.inf, 0.0, 0
    history: list[Numbers] = []
    if select:
        # The state's buffers are given to the first step; the copy stays.
        best = jax.device_get(best)
    with Checkpoints(folder / "checkpoints") as checkpoints:

        def tree():
            return {"state": state, "best": best} if select else {"state": state}

        found = checkpoints.restore_latest(tree())
        if found:
            start, restored, meta = found
            state = TrainState(**as_dict(restored["state"]))
            best = restored.get("best", best)
            best_epoch, history, seconds = meta["best_epoch"], meta["history"], meta["seconds"]
            highest = next((line[select] for line in history if select and line["epoch"] == best_epoch), highest)
        begun = saved = time.monotonic()
        if measure_untrained and not history:
            history.append({"epoch": 0, "update": 0, **measure(state, 0)})
        _write_lines(folder / "metrics.jsonl", history)
        with (
            SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else 0) as board,
            ProgressLine(
                title,
                total=plan.epochs * plan.steps_per_epoch,
                done=start * plan.steps_per_epoch,
                images_per_step=plan.micro_batch_size,
            ) as progress,
        ):
            if start == 0 and history:
                _draw(board, history[0])
            for epoch in range(start, plan.epochs):
                epoch_begun = time.monotonic()

                def show(steps, loss, rate, epoch=epoch):
                    progress.advance(steps, epoch=epoch + 1, loss=loss, learning_rate=rate)

                indices, hypers = plan.epoch(epoch)
                progress.resume()
                state, metrics = run_epoch(state, split, indices, hypers, show)
                training = time.monotonic() - epoch_begun
                line = {
                    "epoch": epoch + 1,
                    "update": (epoch + 1) * plan.updates_per_epoch,
                    **{name: float(np.mean(values)) for name, values in metrics.items()},
                    "learning_rate": float(hypers.learning_rate[-1]),
                    "images_per_second": indices.size / training,
                    **measure(state, epoch + 1),
                }
                if select and (best_epoch == 0 or line[select] > highest):
                    best, best_epoch, highest = jax.device_get(state.variables), epoch + 1, line[select]
                history.append(line)
                _append_line(folder / "metrics.jsonl", line)
                _draw(board, line)
                last = epoch + 1 == plan.epochs
                if last or time.monotonic() - saved >= _SECONDS_BETWEEN_CHECKPOINTS:
                    saved = time.monotonic()
                    meta = {
                        "best_epoch": best_epoch,
                        "history": history,
                        "seconds": seconds + saved - begun,
                    }
                    checkpoints.save(epoch + 1, tree(), meta)
        seconds += time.monotonic() - begun
    if not select:
        best, best_epoch = dict(state.variables), plan.epochs
    return Trained(state, best, best_epoch, history, seconds)


def _draw(board: Any, line: Numbers) -> None:
    for name, value in line.items():
        board.add_scalar(name, value, int(line["epoch"]))


def as_dict(restored: Any) -> dict[str, Any]:
    """A restored state's fields: Orbax gives back the dataclass or a dictionary, as its version has it."""
    return restored if isinstance(restored, dict) else vars(restored)


def _write_lines(path: Path, lines: list[Numbers]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _append_line(path: Path, line: Numbers) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
