"""What a run cost and where: seconds and speed of each arm, how pretraining ended, and machines and versions."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import STAGES, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.curves import Curves


@dataclass(frozen=True)
class Timing:
    """What one arm cost, as means over its seeds.

    Attributes:
      label: The arm's title.
      position: The arm's `ArmRecord.position`.
      seconds: The seconds of each finished stage.
      pretrain_rate: The images a second of pretraining, each seen in two views; None where it is not known.
      finetune_rate: The images a second of fine-tuning; None where it is not known.
      updates: The number of updates of pretraining; None without a pretraining.
      loss: The loss on validation images at the end of pretraining; None without a pretraining.
      z_spread: The spread of the l2-normalised z times sqrt(d) on the same images; None without a pretraining.
    """

    label: str
    position: int
    seconds: dict[str, float]
    pretrain_rate: float | None
    finetune_rate: float | None
    updates: float | None
    loss: float | None
    z_spread: float | None

    @property
    def total(self) -> float:
        """The seconds of all stages."""
        return sum(self.seconds.values())


def arm_timings(
    results: Sequence[Result], experiment: Experiment, pretraining: Sequence[Curves], finetuning: Sequence[Curves]
) -> list[Timing]:
    """What each arm cost. Arms without a result are left out.

    Args:
      results: All results of the run.
      experiment: What the run is: its arms.
      pretraining: The logs of pretraining, in the order of the arms.
      finetuning: The logs of fine-tuning, in the order of the arms.
    """
    timings = []
    for arm, pretrain_log, finetune_log in zip(experiment.arms, pretraining, finetuning, strict=True):
        mine = [result for result in results if result.arm == arm.name]
        # All lines of a stage carry the stage's time.
        units = {(result.eval, result.seed): float(result.seconds) for result in mine}
        seconds = {
            stage: statistics.fmean(times)
            for stage in STAGES
            if (times := [time for (name, _), time in units.items() if name == stage])
        }
        # Length and speed are of the training images. How it ended is of the held-out images, where it is measured.
        ended: dict[int, dict[str, float | int]] = {}
        for split in ("train", "validation"):
            for result in mine:
                if (result.eval, result.split) == ("pretrain", split):
                    ended[result.seed] = {**ended.get(result.seed, {}), **result.metrics}
        if seconds:
            timings.append(
                Timing(
                    label=arm.title,
                    position=arm.position,
                    seconds=seconds,
                    pretrain_rate=_rate(pretrain_log) or _mean_metric(ended, "images_per_second"),
                    finetune_rate=_rate(finetune_log),
                    updates=_mean_metric(ended, "updates"),
                    loss=_mean_metric(ended, "loss"),
                    z_spread=_mean_metric(ended, "z_spread"),
                )
            )
    return timings


def provenance(results: Sequence[Result]) -> dict[str, dict[str, str]]:
    """Where the numbers were measured. A run may be continued elsewhere: every distinct value is listed.

    Returns:
      Two groups of texts by name: the machine and the code, and the versions of packages. Empty groups are left out.
    """
    versions: dict[str, list[str]] = {}
    for result in results:
        for package, version in result.versions.items():
            versions.setdefault(package, []).append(version)
    machine = {
        "device": [result.device for result in results],
        "backbone": [result.backbone for result in results],
        "git revision": [result.git_revision for result in results],
        "configuration": [result.config_hash for result in results],
    }
    groups = {"where and what": machine, "versions": versions}
    return {
        group: {name: ", ".join(dict.fromkeys(values)) for name, values in found.items()}
        for group, found in groups.items()
        if any(found.values())
    }


def _rate(curves: Curves) -> float | None:
    """The median images a second over epochs and seeds: the first epoch's compilation does not move it."""
    rates = [rate for values in curves.by_epoch("images_per_second").values() for rate in values]
    return statistics.median(rates) if rates else None


def _mean_metric(by_seed: dict[int, dict[str, float | int]], name: str) -> float | None:
    values = [metrics[name] for metrics in by_seed.values() if name in metrics]
    return statistics.fmean(values) if values else None
