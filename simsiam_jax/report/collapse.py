"""Which pretrainings collapsed, or are on the way: all images in nearly one direction (SimSiam, section 4.1).

The sign is the spread of the l2-normalised z times the root of its dimension, on validation images at the end of
pretraining: 1 where z fills the sphere, 0 where it is one point. kNN stands beside it, with what guessing gives.

A collapse takes time. With batch norm of scale and bias on z, as the paper's code has it, it goes by way of the bias,
which has to outgrow the scale: then the loss is near -1 and no longer hurries, and a short run ends in between.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.seeds import Score, scores_by_arm

# Below the first a pretraining counts as collapsed, below the second as partly so. The second was drawn after a look at
# recorded runs (experiments/results): without a predictor or without stop-gradient they ended below 0.4, SimSiam as it
# is with ResNet-18, ViT-S and PiT-Ti on real images never below 0.49.
COLLAPSED_BELOW, NARROWED_BELOW = 0.1, 0.45


@dataclass(frozen=True)
class Spread:
    """How one arm's pretraining ended.

    Attributes:
      arm: Whose.
      by_seed: Spread of z times sqrt(d) by seed, on validation images.
      knn: kNN on test images, in percent, where it was measured.
    """

    arm: ArmRecord
    by_seed: dict[int, float]
    knn: Score | None

    @property
    def mean(self) -> float:
        """Mean spread over the seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def flag(self) -> str | None:
        """In how many seeds it collapsed, wholly or partly, in words; None where it did in none."""
        whole = sum(value < COLLAPSED_BELOW for value in self.by_seed.values())
        partly = sum(COLLAPSED_BELOW <= value < NARROWED_BELOW for value in self.by_seed.values())
        counts = [
            f"{words} in {count}" for words, count in (("collapsed", whole), ("partly collapsed", partly)) if count
        ]
        return f"{', '.join(counts)} of {len(self.by_seed)} seeds" if counts else None


def spreads(results: Sequence[Result], experiment: Experiment) -> list[Spread]:
    """How each arm's pretraining ended, arms without one left out.

    Args:
      results: The result lines; of two for the same pretraining the later counts.
      experiment: Says which arms there are.
    """
    knn = scores_by_arm(results, experiment, experiment.metric)
    found = []
    for arm in experiment.arms:
        mine = {
            result.seed: float(result.metrics["z_spread"])
            for result in results
            if (result.arm, result.eval, result.split) == (arm.name, "pretrain", "validation")
            and math.isfinite(result.metrics.get("z_spread", math.nan))
        }
        if mine:
            found.append(Spread(arm, dict(sorted(mine.items())), knn[arm.name].get(("knn", "test"))))
    return found


def chance(experiment: Experiment) -> float | None:
    """What guessing gives, in percent: of classes that are equally frequent, or of a ranking; None for attributes."""
    if experiment.metric == "auc":
        return 50.0
    if experiment.metric in ("top1", "balanced_accuracy") and experiment.class_names:
        return 100.0 / len(experiment.class_names)
    return None


def summary(found: Sequence[Spread], experiment: Experiment) -> str:
    """Whether anything collapsed, in a sentence or two; "" without a pretraining.

    Args:
      found: From `spreads`.
      experiment: Says what guessing gives.
    """
    if not found:
        return ""
    fallen = [each for each in found if each.flag]
    if not fallen:
        lowest = min(found, key=lambda each: each.mean)
        return f"No pretraining collapsed: the smallest spread of z × √d is {lowest.mean:.2f} (“{lowest.arm.title}”)."
    guess = chance(experiment)
    guessing = "" if guess is None else f"; guessing gives {guess:.0f} %"
    words = [
        f"“{each.arm.title}” {each.flag} (spread of z × √d {each.mean:.3f}"
        + ("" if each.knn is None else f", kNN {experiment.headline.noun} {each.knn.mean:.1f} %{guessing}")
        + ")"
        for each in fallen
    ]
    return (
        f"{'; '.join(words)}. Collapsed means a spread below {COLLAPSED_BELOW}, partly collapsed one below "
        f"{NARROWED_BELOW}."
    )
