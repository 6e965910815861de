"""What an interval is made of: seeds, draws of labelled images and the finite number of test images.

A paired difference varies between seeds (weights, order, views), and within a seed between draws of labelled images.
The two are told apart by the method of moments: the spread within seeds gives the draws' part, and what the means of
seeds vary beyond it is the seeds' part. The test images are the same for all seeds and draws: their part is in no
interval over seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.seeds import CONFIDENCE

_MOST_SEEDS = 10_000  # beyond it no number is worth saying


@dataclass(frozen=True)
class Components:
    """The parts of the uncertainty of one paired difference.

    Attributes:
      seeds: The number of seeds.
      draws: The number of draws of labelled images a seed, 1 or more: the harmonic mean where seeds differ in it.
      between_seeds: The standard deviation between seeds in points, the draws' part taken out where it is known; None
        for one seed.
      between_draws: The standard deviation between draws within a seed in points; None where seeds have one draw.
      test_images: The number of test images; None where it is not known.
      test_error: An upper bound of the standard error in points that the test images give; None where it is not known.
    """

    seeds: int
    draws: float
    between_seeds: float | None
    between_draws: float | None
    test_images: int | None = None
    test_error: float | None = None

    @property
    def more_seeds(self) -> int | None:
        """How many more seeds would halve Student's interval; None for one seed."""
        if self.seeds < 2:
            return None
        wanted = _half_width(self.seeds) / 2
        return next((n - self.seeds for n in range(self.seeds + 1, _MOST_SEEDS) if _half_width(n) <= wanted), None)

    @property
    def more_draws(self) -> int | None:
        """How many more draws a seed would halve the interval; None where no number does, or the part is not known."""
        if self.between_seeds is None or not self.between_draws:
            return None
        seeds, draws = self.between_seeds**2, self.between_draws**2
        left = (seeds + draws / self.draws) / 4 - seeds
        return math.ceil(draws / left - self.draws - 1e-9) if left > 0 else None

    @property
    def seeds_dominate(self) -> bool:
        """Whether the seeds' part is larger than what the draws leave of theirs in a seed's mean."""
        drawn = 0.0 if self.between_draws is None else self.between_draws / math.sqrt(self.draws)
        return self.between_seeds is not None and self.between_seeds >= drawn

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each part is, and what would halve it."""
        said = []
        if self.between_seeds is not None and self.more_seeds is not None:
            said.append(
                f"Between seeds {self.between_seeds:.1f} points: "
                f"{_count(self.more_seeds, 'more seed')} would halve the interval."
            )
        if self.between_draws is not None:
            if self.more_draws is not None:
                gain = f"{_count(self.more_draws, 'more draw')} a seed would halve the interval."
            elif self.between_seeds is None:
                gain = "one seed does not tell whether more draws would help."
            else:
                gain = "more draws alone cannot halve the interval."
            said.append(f"Between draws of labelled images {self.between_draws:.1f} points: {gain}")
        if self.test_error is not None and self.test_images is not None:
            said.append(
                f"{self.test_images:,} test images: a standard error of at most {self.test_error:.1f} points, whatever "
                f"the seeds: 4 times as many images would halve it."
            )
        return tuple(said)


def components(
    differences: Mapping[int, Sequence[float]],
    test_images: int | None = None,
    rates: tuple[float, float] | None = None,
) -> Components:
    """Tells the parts of a paired difference's uncertainty apart, by the method of moments.

    Args:
      differences: By seed, the paired difference of each draw of labelled images, in points; at least one seed, each
        with at least one draw.
      test_images: The number of test images; None where it is not known.
      rates: The share of right answers of both arms in percent; None where the number that is compared is no share.
    """
    numbers = [list(draws) for draws in differences.values()]
    means = [statistics.fmean(draws) for draws in numbers]
    freedom = sum(len(draws) - 1 for draws in numbers)
    squares = sum((value - mean) ** 2 for draws, mean in zip(numbers, means, strict=True) for value in draws)
    within = squares / freedom if freedom else None
    per_seed = statistics.harmonic_mean([len(draws) for draws in numbers])
    between = None
    if len(means) > 1:
        between = math.sqrt(max(0.0, statistics.variance(means) - (within or 0.0) / per_seed))
    error = None
    if test_images and rates is not None:
        error = math.sqrt(sum(rate * (100 - rate) for rate in rates) / test_images)
    return Components(
        seeds=len(numbers),
        draws=float(per_seed),
        between_seeds=between,
        between_draws=None if within is None else math.sqrt(within),
        test_images=test_images,
        test_error=error,
    )


def primary_components(results: Sequence[Result], experiment: Experiment) -> dict[str, Components]:
    """The parts of each primary comparison of the plan, by the arm's name, where the draws of both arms are known.

    Args:
      results: All results of the run. Of two for the same arm and seed the later one counts.
      experiment: What the run is: its plan, its arms and the number of its test images.
    """
    plan = experiment.plan
    if plan is None:
        return {}
    draws: dict[str, dict[int, tuple[float, ...]]] = {arm.name: {} for arm in experiment.arms}
    for result in results:
        known = all(math.isfinite(value) for value in result.draws)
        if result.arm in draws and (result.eval, result.split) == (plan.evaluation, "test") and result.draws and known:
            draws[result.arm][result.seed] = tuple(100 * float(value) for value in result.draws)
    images = experiment.data.get("test", {}).get("images")
    found = {}
    for reference, arm in _primary(experiment):
        theirs, ours = draws[reference.name], draws[arm.name]
        seeds = [seed for seed in plan.seeds if seed in ours and len(ours[seed]) == len(theirs.get(seed, ()))]
        if not seeds:
            continue
        paired = {seed: [one - other for one, other in zip(ours[seed], theirs[seed], strict=True)] for seed in seeds}
        rates = tuple(statistics.fmean(value for seed in seeds for value in of[seed]) for of in (ours, theirs))
        share = (rates[0], rates[1]) if experiment.metric == "top1" else None
        found[arm.name] = components(paired, images if isinstance(images, int) else None, share)
    return found


def _primary(experiment: Experiment) -> list[tuple[ArmRecord, ArmRecord]]:
    """Each primary arm behind the first arm of its group."""
    asked = () if experiment.plan is None else experiment.plan.primary
    return [(arms[0], arm) for arms in experiment.groups.values() for arm in arms[1:] if arm.name in asked]


def _half_width(n: int) -> float:
    """Half of Student's interval over `n` seeds in standard deviations."""
    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) / math.sqrt(n)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
