"""Which pretrainings collapsed, or are about to: all images get nearly the same direction (SimSiam, section 4.1).

The sign is the spread of the l2-normalised z times the root of its dimension, on validation images at the end of
pretraining: it is 1 where z fills the sphere and 0 where it is one point. The accuracy of kNN is said with it, beside
what guessing gives.

A collapse takes time. The paper's code has batch norm with scale and bias on z. There the bias has to outgrow the
scale. The loss is near -1 by then and falls slowly, so that a short run ends half-way.

Dimensions can be lost while z still fills its sphere: the features of the backbone, which are what is used, then vary
along few directions only. Their effective rank on validation images says so, beside that of the untrained network.
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
# A pretraining lost dimensions where its features' effective rank ends below this share of the untrained network's.
# Pretraining is there to add directions that tell images apart: half of what random weights give is a clear loss, while
# a little less may come with features that fit the images better.
LOST_BELOW = 0.5

SPREAD_EXPLAINED = (
    "Spread of z: how far apart pretraining places different images; times √d it is 1 where they fill the whole sphere "
    "and 0 where all are one point."
)
RANK_EXPLAINED = (
    "Effective rank: along how many directions the features vary; more directions can tell more kinds of images apart."
)


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


@dataclass(frozen=True)
class Ranks:
    """How many directions the features of one arm's backbone vary along, before and after pretraining.

    Attributes:
      arm: The arm.
      untrained: The effective rank of the untrained network's features by seed, on validation images, above 0.
      trained: The same after pretraining.
    """

    arm: ArmRecord
    untrained: dict[int, float]
    trained: dict[int, float]

    @property
    def lost(self) -> int:
        """The number of seeds in which dimensions were lost."""
        return sum(self.trained[seed] < LOST_BELOW * before for seed, before in self.untrained.items())

    @property
    def flag(self) -> str | None:
        """In how many seeds dimensions were lost, in words; None where they were in none."""
        return f"lost dimensions in {self.lost} of {len(self.trained)} seeds" if self.lost else None

    @property
    def change(self) -> str:
        """The mean effective rank before and after, as `12.5 → 3.6`."""
        before, after = (statistics.fmean(values.values()) for values in (self.untrained, self.trained))
        return f"{before:.1f} → {after:.1f}"


def ranks(results: Sequence[Result], experiment: Experiment) -> list[Ranks]:
    """The effective ranks of each arm's features. Arms without both numbers are left out, as in older runs.

    Args:
      results: All results of the run. Of two for the same pretraining the later one counts.
      experiment: What the run is: its arms.
    """
    found = []
    for arm in experiment.arms:
        mine = {
            result.seed: (float(result.metrics["untrained_rank"]), float(result.metrics["rank"]))
            for result in results
            if (result.arm, result.eval, result.split) == (arm.name, "pretrain", "validation")
            and all(math.isfinite(result.metrics.get(name, math.nan)) for name in ("rank", "untrained_rank"))
        }
        if mine:
            seeds = sorted(mine)
            found.append(Ranks(arm, {seed: mine[seed][0] for seed in seeds}, {seed: mine[seed][1] for seed in seeds}))
    return found


def rank_sentence(found: Sequence[Ranks], *, recipe: object = None) -> str:
    """Whether any pretraining lost dimensions, with numbers and what to try; "" where no rank is known.

    Args:
      found: The effective ranks of each arm, from `ranks`.
      recipe: Name of the run's recipe, where it is known: `practice` is not advised to a run that has it.
    """
    if not found:
        return ""
    lost = [each for each in found if each.lost]
    if not lost:
        said = "; ".join(f"“{each.arm.title}” {each.change}" for each in found)
        return f"No pretraining lost dimensions: effective rank of the features before → after: {said}."
    words = "; ".join(f"“{each.arm.title}” {each.flag} (effective rank of the features {each.change})" for each in lost)
    return (
        f"{words}. Dimensions are lost where the rank ends below {LOST_BELOW:g} of the untrained network's. "
        f"{rank_advice(recipe)}"
    )


def rank_advice(recipe: object) -> str:
    """What to try where pretraining lost dimensions, as a sentence.

    Args:
      recipe: Name of the run's recipe; None where it is not known. `practice` is not advised to a run that has it.
    """
    tries = ["a lower learning rate", "more updates"]
    if recipe != "practice":
        tries.append("a head whose last batch norm has no scale and bias (--recipe=practice)")
    return f"Try one of these: {', '.join(tries)}."


def flags(found: Sequence[Spread], measured: Sequence[Ranks]) -> dict[str, str]:
    """What went wrong in each arm's pretraining, in words, by the arm's name. Arms without a fault are left out.

    Args:
      found: How each arm's pretraining ended, from `spreads`.
      measured: The effective ranks of each arm, from `ranks`.
    """
    said: dict[str, str] = {}
    for each in (*found, *measured):
        if each.flag is not None:
            name = each.arm.name
            said[name] = f"{said[name]}, {each.flag}" if name in said else each.flag
    return said


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
