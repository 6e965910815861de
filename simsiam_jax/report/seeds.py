"""Numbers over seeds: mean and spread, and the paired difference of two arms with Student's 95 % interval.

Seeds are paired: arms with the same seed saw the same labels and views, so their difference is free of what the
seed does to both. The interval is Student's t over the paired differences (n - 1 degrees of freedom). It supposes that
they are normal and that the number of seeds was fixed beforehand; `decide` has the intervals of a run that looks at its
results and goes on.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from simsiam_jax.records.experiment import Experiment
from simsiam_jax.records.results import Result

CONFIDENCE = 0.95

Key = tuple[str, str]


@dataclass(frozen=True)
class Score:
    """One arm's numbers in one column of the table.

    Attributes:
      by_seed: The numbers in percent by seed; at least one.
    """

    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds, in percent."""
        return statistics.fmean(self.by_seed.values())

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1) over the seeds, in points; None for one seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms over the seeds that both have, in points.

    Attributes:
      mean: The mean difference.
      n: The number of seeds.
      std: The sample standard deviation (n - 1) of the differences; None for one seed.
      low: The lower end of the interval; None for one seed.
      high: The upper end of the interval; None for one seed.
    """

    mean: float
    n: int
    std: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies wholly above or below zero, else 0."""
        return 0 if self.low is None or self.high is None else (self.low > 0) - (self.high < 0)


def scores_by_arm(results: Sequence[Result], experiment: Experiment, metric: str) -> dict[str, dict[Key, Score]]:
    """The scores of one number by arm and (eval, split), only where it was measured and is finite.

    Args:
      results: All results of the run. Of two for the same arm, seed, eval and split the later one counts.
      experiment: What the run is: its arms.
      metric: The number's name in results, where it is a fraction 0..1.
    """
    found: dict[str, dict[Key, dict[int, float]]] = {arm.name: {} for arm in experiment.arms}
    for result in results:
        value = result.metrics.get(metric, math.nan)
        if result.arm in found and math.isfinite(value):
            found[result.arm].setdefault((result.eval, result.split), {})[result.seed] = 100 * value
    return {
        arm: {key: Score(dict(sorted(values.items()))) for key, values in columns.items()}
        for arm, columns in found.items()
    }


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours minus theirs over the seeds that both have, with Student's interval; None without a common seed.

    Args:
      ours: A number in percent by seed.
      theirs: The same number of the arm to compare with, by seed.
    """
    values = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Difference(mean=mean, n=1)
    std = statistics.stdev(values)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * std / math.sqrt(n)
    return Difference(mean, n, std, mean - half, mean + half)


def planned_differences(results: Sequence[Result], experiment: Experiment) -> dict[str, dict[int, float]]:
    """What the plan decides on: by arm and seed, the paired difference to the first arm of the arm's group, in points.

    The numbers are the headline of the plan's evaluation on test images. Arms that cannot be run are left out.

    Args:
      results: All results of the run. Of two for the same arm, seed, eval and split the later one counts.
      experiment: What the run is. Without a plan there is no difference.
    """
    if experiment.plan is None:
        return {}
    key, scores = (experiment.plan.evaluation, "test"), scores_by_arm(results, experiment, experiment.metric)
    by_seed = {arm: columns[key].by_seed if key in columns else {} for arm, columns in scores.items()}
    return {
        arm.name: {
            seed: value - by_seed[arms[0].name][seed]
            for seed, value in by_seed[arm.name].items()
            if seed in by_seed[arms[0].name]
        }
        for arms in experiment.groups.values()
        for arm in arms[1:]
        if not arm.absent and not arms[0].absent
    }


def better_than_all(name: str, rivals: Mapping[str, Score]) -> bool:
    """Whether the arm's paired interval against every other one lies above zero.

    Args:
      name: The arm, one of `rivals`.
      rivals: The scores of every arm. A single arm is never better than all.
    """
    others = [score for other, score in rivals.items() if other != name]
    found = (paired_difference(rivals[name].by_seed, other.by_seed) for other in others)
    return bool(others) and all(difference is not None and difference.sign > 0 for difference in found)
