"""Label efficiency: accuracy against labels with and without pretraining, and how many labels pretraining saved.

A saving is read at equal accuracy: the labels that a network without pretraining needs to reach what the pretrained
one reached with n. Its curve is interpolated in the logarithm of the labels, after making it rise (more labels never
count as a loss). Where the accuracy lies beyond the curve, its nearer end bounds the saving.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from simsiam_jax.records.experiment import Experiment, Headline
from simsiam_jax.records.results import Result
from simsiam_jax.report.seeds import Difference, Score, paired_difference, scores_by_arm
from simsiam_jax.report.style import MARKERS, Picture, arm_colour, styled
from simsiam_jax.report.words import STAGE_WORDS, capital, seeds_text

NONE, IN_DOMAIN = "none", "in_domain"


@dataclass(frozen=True)
class Point:
    """What was reached with one number of labels.

    Attributes:
      labels: The number of labelled images.
      without: The headline on test in percent, without pretraining.
      pretrained: The headline on test in percent, after in-domain pretraining.
      needed: By seed, the labels that give without pretraining what the pretrained network reached with `labels`. It is
        an end of the curve where that lies beyond.
      beyond: The number of seeds in which it lies beyond the curve.
    """

    labels: int
    without: Score
    pretrained: Score
    needed: Mapping[int, float]
    beyond: int


@dataclass(frozen=True)
class Efficiency:
    """The label efficiency of pretraining in one evaluation.

    Attributes:
      eval: The evaluation, one of `EVALUATIONS`.
      headline: The words for the number that is measured.
      points: What was reached with each number of labels, rising.
      saving: The saving against zero with Student's interval. A seed's saving is the mean over the points of
        log(needed / used labels).
    """

    eval: str
    headline: Headline
    points: tuple[Point, ...]
    saving: Difference

    @property
    def factor(self) -> float:
        """How many times as many labels are needed without pretraining: the geometric mean over the seeds."""
        return math.exp(self.saving.mean)

    @property
    def sentence(self) -> str:
        """How many labels pretraining saved, believed where the interval leaves out a factor of 1."""
        where = f"At equal {STAGE_WORDS[self.eval].adjective} {self.headline.noun},"
        times = f"without it, {self.factor:.2f} times as many are needed"
        bound = ", the ends of the curve taken where an accuracy lay beyond it"
        bound = bound if any(point.beyond for point in self.points) else ""
        if self.saving.n == 1:
            return f"{where} one seed cannot tell whether pretraining saved labels: {times}{bound}."
        seeds = seeds_text(self.saving.n)
        intervals = f"(95 % interval {_interval(self.saving.low, self.saving.high)}, {seeds}{bound})"
        if self.saving.sign > 0:
            return f"{where} pretraining saved {100 * (1 - 1 / self.factor):.0f} % of the labels: {times} {intervals}."
        if self.saving.sign < 0:
            return f"{where} pretraining saved no labels, it cost some: {times} {intervals}."
        return f"{where} pretraining saved no labels that {seeds} can show: {times} {intervals}."


def _interval(low: float | None, high: float | None) -> str:
    return f"{math.exp(low or 0):.2f} to {math.exp(high or 0):.2f}"


def efficiency(results: Sequence[Result], experiment: Experiment, eval: str = "finetune") -> Efficiency | None:
    """What pretraining saved in labels; None where arms do not differ in their number of labels.

    Args:
      results: All results of the run.
      experiment: What the run is. Its arms say their `labels` and their `pretrain`.
      eval: The evaluation, one of `EVALUATIONS`.
    """
    scores = scores_by_arm(results, experiment, experiment.metric)
    curves: dict[str, dict[int, Score]] = {NONE: {}, IN_DOMAIN: {}}
    for arm in experiment.arms:
        score = scores[arm.name].get((eval, "test"))
        if arm.labels is not None and arm.pretrain in curves and score is not None:
            curves[arm.pretrain][arm.labels] = score
    common = sorted(curves[NONE].keys() & curves[IN_DOMAIN].keys())
    if len(common) < 2:
        return None
    seeds = sorted(set.intersection(*(set(curve[labels].by_seed) for curve in curves.values() for labels in common)))
    if not seeds:
        return None
    needed = {
        seed: labels_needed(
            np.array(common, np.float64),
            np.array([curves[NONE][labels].by_seed[seed] for labels in common]),
            np.array([curves[IN_DOMAIN][labels].by_seed[seed] for labels in common]),
        )
        for seed in seeds
    }
    points = tuple(
        Point(
            labels=labels,
            without=curves[NONE][labels],
            pretrained=curves[IN_DOMAIN][labels],
            needed={seed: float(needed[seed][0][place]) for seed in seeds},
            beyond=sum(bool(needed[seed][1][place]) for seed in seeds),
        )
        for place, labels in enumerate(common)
    )
    logarithms = {
        seed: statistics.fmean(math.log(point.needed[seed] / point.labels) for point in points) for seed in seeds
    }
    saving = paired_difference(logarithms, dict.fromkeys(seeds, 0.0))
    assert saving is not None
    return Efficiency(eval, experiment.headline, points, saving)


def labels_needed(
    labels: Float[np.ndarray, " counts"],
    without: Float[np.ndarray, " counts"],
    pretrained: Float[np.ndarray, " counts"],
) -> tuple[Float[np.ndarray, " counts"], Float[np.ndarray, " counts"]]:
    """The labels at which the curve `without` reaches each value of `pretrained`.

    Args:
      labels: The numbers of labels, rising.
      without: What is reached without pretraining.
      pretrained: What is to be reached.

    Returns:
      The labels that are needed, and for each 1 where it is an end of the curve because the value lies beyond, else 0.
    """
    rising = np.maximum.accumulate(without)
    # np.interp takes the last of equal values; labels that add nothing are not needed: the first.
    first = np.r_[True, np.diff(rising) > 0]
    found = np.exp(np.interp(pretrained, rising[first], np.log(labels[first])))
    beyond = (pretrained > rising[-1]) | (pretrained < rising[0])
    return np.where(pretrained > rising[-1], labels[-1], found), beyond.astype(np.float64)


def picture(found: Efficiency) -> Picture:
    """The picture of both curves, with the saving in words."""
    return Picture(
        f"labels-{found.eval}",
        figure(found),
        f"{capital(found.headline.noun)} against the number of labels, {STAGE_WORDS[found.eval].name}",
        f"Lines are means over seeds, bands reach from the lowest to the highest seed. {found.sentence}",
    )


def figure(found: Efficiency) -> Figure:
    """Both curves over the labels: lines are means, bands reach from the lowest to the highest seed."""
    with styled():
        figure = Figure(figsize=(5.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        places = [point.labels for point in found.points]
        for index, (name, label) in enumerate((("without", "no pretraining"), ("pretrained", "in-domain pretraining"))):
            scores = [getattr(point, name) for point in found.points]
            colour = arm_colour(2 * index)
            axes.plot(places, [score.mean for score in scores], color=colour, marker=MARKERS[index], label=label)
            low, high = zip(
                *((min(score.by_seed.values()), max(score.by_seed.values())) for score in scores), strict=True
            )
            axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(places)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y")
        axes.tick_params(length=0, pad=5)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("labelled images")
        axes.set_title(f"{capital(STAGE_WORDS[found.eval].name)} on test: {found.headline.name}, %")
        axes.legend(loc="lower right")
    return figure
