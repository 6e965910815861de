"""Which pretrainings collapsed, or are about to: all images get nearly the same direction (SimSiam, section 4.1).

The sign is the spread of the l2-normalised z times the root of its dimension, on validation images at the end of
pretraining: it is 1 where z fills the sphere and 0 where it is one point. The accuracy of kNN is said with it, beside
what guessing gives.

A collapse takes time. The paper's code has batch norm with scale and bias on z. There the bias has to outgrow the
scale. The loss is near -1 by then and falls slowly, so that a short run ends half-way.
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
      arm: The arm.
      by_seed: The spread of the l2-normalised z times sqrt(d) by seed, on validation images.
      knn: The headline of kNN on test images, in percent; None where it was not measured.
    """

    arm: ArmRecord
    by_seed: dict[int, float]
    knn: Score | None

    @property
    def mean(self) -> float:
        """The mean spread over the seeds."""
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
    """How each arm's pretraining ended. Arms without a pretraining are left out.

    Args:
      results: All results of the run. Of two for the same pretraining the later one counts.
      experiment: What the run is: its arms and its headline.
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
    """What guessing gives in percent, for equally frequent classes or a ranking; None for attributes."""
    if experiment.metric == "auc":
        return 50.0
    if experiment.metric in ("top1", "balanced_accuracy") and experiment.class_names:
        return 100.0 / len(experiment.class_names)
    return None


def collapse_sentence(found: Sequence[Spread], experiment: Experiment) -> str:
    """Whether any pretraining collapsed, in a sentence or two; "" without a pretraining.

    Args:
      found: How each arm's pretraining ended, from `spreads`.
      experiment: What the run is: its headline and its classes, which say what guessing gives.
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
