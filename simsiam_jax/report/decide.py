"""Which arms helped or hurt, decided after 3, 5, 8, ... seeds so that looking often does not raise the error.

A plan (`AnalysisPlan`) names the numbers of seeds after which a run may stop. Three rules keep its promises.

*Looks.* At each look a paired t test is held against a boundary. The error alpha is spent over the looks by Pocock's
kind of spending function, alpha * ln(1 + (e - 1) f) at the fraction f of the seeds: the probability of a first crossing
at a look is what is spent there, so that all looks together err with probability alpha (Lan and DeMets, 1983).

*Arms.* Primary arms are tested first, the others only count once every primary arm helped or hurt (serial
gatekeeping). Within each of the two tiers Holm's rule holds at each look: m arms that are not rejected are tested at
alpha / m, and a rejection raises the level of the rest at once. This is a shortcut of a closed test. The hypothesis
that m given arms all have no effect is rejected where any of them crosses its boundary at alpha / m at any look, which
happens with probability alpha at most. The shortcut needs boundaries that fall as the level rises, so that a rejection
at alpha / m is one at alpha / (m - 1) too. Boundaries of Pocock's kind do at every look (Glimm, Maurer and Bretz, 2010;
Maurer and Bretz, 2013). An arm that gets no more seeds is tested with the t of its last look.

*Too small.* An arm's effect is too small to matter where both one-sided tests against the plan's smallest effect
reject, at boundaries of their own: at an effect that just matters this is said with probability alpha at most.
The levels of these tests are divided by the number of arms of the tier. Such an arm counts as not rejected for Holm.

The interval of an arm is its mean plus and minus boundary times standard error: a repeated confidence interval
(Jennison and Turnbull, 1989), which holds whenever one stops.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from simsiam_jax.records.experiment import AnalysisPlan

DECIDED = ("helped", "hurt", "too_small")
_PATHS = 1_000_000
_DECIMALS = 9  # smaller differences, in points, are rounding errors of equal scores
_UNDECIDED, _HELPED, _HURT, _TOO_SMALL = range(4)
_NAMES = ("undecided", *DECIDED)


@dataclass(frozen=True)
class Decision:
    """What is decided about one arm against the first arm of its group.

    Attributes:
      arm: The arm's name.
      outcome: `helped`, `hurt`, `too_small`, `undecided` or `missing` (no seed is measured).
      mean: The mean paired difference in points, over the seeds of the look, or before the first look over the seeds
        that there are; None where there is none.
      low: The lower end of the repeated confidence interval, in points; None before the first look and for one seed.
      high: Its upper end.
      n: The number of seeds that `mean` is over.
      look: The place, from 0, of the look in `AnalysisPlan.looks` that decided, or else of the last one that the arm
        passed; None before the first.
      level: The two-sided level, above 0 and at most the plan's alpha, at which the arm was last tested: the interval
        holds with probability 1 - level.
      primary: Whether the arm is one that the plan asks for.
      final: Whether no more seeds of the plan can change the outcome.
      failed: Why nothing is decided whatever was measured: in which seed the arm failed; "" where it failed in none.
    """

    arm: str
    outcome: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    look: int | None
    level: float
    primary: bool
    final: bool
    failed: str = ""


@dataclass(frozen=True)
class Outcomes:
    """What is decided in many studies at once, as arrays of studies and arms.

    Attributes:
      outcome: 0 undecided, 1 helped, 2 hurt, 3 too small.
      look: The place of the look that decided, or else of the last one that the arm passed; -1 before the first.
      level: The two-sided level at which the arm was last tested.
      mean: The mean difference in points at that look; NaN before the first.
      low: The lower end of the interval; not finite before the first look and for one seed.
      high: The upper end of the interval.
    """

    outcome: Int[np.ndarray, "studies arms"]
    look: Int[np.ndarray, "studies arms"]
    level: Float[np.ndarray, "studies arms"]
    mean: Float[np.ndarray, "studies arms"]
    low: Float[np.ndarray, "studies arms"]
    high: Float[np.ndarray, "studies arms"]


@functools.lru_cache(maxsize=128)
def boundaries(looks: tuple[int, ...], alpha: float, sides: int = 2) -> tuple[float, ...]:
    """The critical values of t at each look, found by a simulation of a million studies from a fixed seed.

    The first look is exact (Student's quantile), and with it a plan of one look. A look of one seed has no t and spends
    nothing: what it leaves is spent at the next look.

    Args:
      looks: The numbers of seeds of the looks, ascending, each at least 1.
      alpha: The probability of a crossing at any look where there is no effect, above 0 and below 1.
      sides: 2 for boundaries of |t|, 1 for those of t.

    Source: Lan and DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983.
    """
    generator = np.random.default_rng(0)
    total = squares = np.zeros(_PATHS)
    found: list[float] = []
    spent, before = 0.0, 0
    for n in looks:
        spending = alpha * math.log1p((math.e - 1) * n / looks[-1]) - spent
        added, before = n - before, n
        if n > 1 and spent == 0:
            found.append(float(stdtrit(n - 1, 1 - spending / sides)))
        if n == looks[-1] and spent == 0:
            return tuple(found) if n > 1 else (math.inf,) * len(looks)
        step = math.sqrt(added) * generator.standard_normal(len(total))
        total = total + step
        # The squares of `added` standard normals whose sum is `step`.
        squares = squares + step**2 / added + (generator.chisquare(added - 1, len(total)) if added > 1 else 0.0)
        if n == 1:
            found.append(math.inf)
            continue
        error = np.sqrt((squares - total**2 / n) / (n - 1) / n)
        t = (np.abs(total) if sides == 2 else total) / n / error
        if spent > 0:
            place = len(t) - max(1, round(spending * _PATHS))
            found.append(float(np.partition(t, place)[place]))
        going_on = t < found[-1]
        total, squares = total[going_on], squares[going_on]
        spent += spending
    return tuple(found)


def decide(
    values: Mapping[str, Mapping[int, float]], plan: AnalysisPlan, failed: Mapping[str, str] | None = None
) -> dict[str, Decision]:
    """Decides about each arm by the plan, from all seeds that are measured so far.

    Args:
      values: By arm and seed, the paired difference to the first arm of the arm's group, in points. An arm without a
        seed, or with NaN for it, does not pass the looks that need the seed. Seeds outside the plan are not used.
      plan: The plan. Where none of its primary arms is among `values`, all arms are tested as one tier.
      failed: Why no verdict may be drawn from an arm, by its name. It is undecided, and passes no look: the seeds that
        did not fail are no sample of all seeds.

    Returns:
      A decision for each arm, in the order of `values`.
    """
    if not values:
        return {}
    failed = failed or {}
    array = np.array([[[of.get(seed, math.nan) for seed in plan.seeds] for of in values.values()]], np.float64)
    primary = [arm in plan.primary for arm in values]
    tested = np.where(np.array([arm in failed for arm in values])[:, None], math.nan, array)
    found = decide_studies(tested, primary, plan.looks, plan.alpha, plan.smallest_effect)
    return {
        arm: _decision(arm, place, array[0, place], found, plan, failed.get(arm, ""))
        for place, arm in enumerate(values)
    }


def decide_studies(
    differences: Float[np.ndarray, "studies arms seeds"],
    primary: Sequence[bool],
    looks: tuple[int, ...],
    alpha: float,
    smallest_effect: float | int,
) -> Outcomes:
    """The rule of `decide` for many studies of the same plan.

    Args:
      differences: The paired differences in points; NaN where a seed is not measured.
      primary: For each arm, whether the plan asks for it.
      looks: The numbers of seeds of the looks, ascending, the last at most `seeds`.
      alpha: The probability of any wrong claim of an effect, above 0 and below 1.
      smallest_effect: The difference in points that just matters, 0 or more; 0 for none.
    """
    means, errors = _moments(np.round(differences, _DECIMALS), looks)
    last = np.isfinite(means).sum(axis=0) - 1  # a look that lacks a seed has a NaN, and so have those after it
    asked = np.array(primary, bool)
    tiers = [tier for tier in (asked, ~asked) if tier.any()]
    outcome, look, rest = np.zeros_like(last), last.copy(), np.ones_like(last)
    for step in range(len(looks)):
        at = np.minimum(last, step)
        mean, error = _at(means, at), _at(errors, at)
        t = _t(mean, error)
        gate = np.ones(len(last), bool)
        for tier in tiers:
            open_here = (outcome == _UNDECIDED) & (at >= 0) & tier
            one_sided = np.array(boundaries(looks, alpha / int(tier.sum()), 1))[at]
            small = open_here & (np.abs(mean) + one_sided * error < smallest_effect)
            if smallest_effect > 0 and small.any():
                rest = np.where(small, _not_rejected(outcome, tier)[:, None], rest)
                outcome, look = np.where(small, _TOO_SMALL, outcome), np.where(small, at, look)
            _holm(outcome, look, rest, t, at, tier, gate, looks, alpha)
            gate = gate & ((outcome == _HELPED) | (outcome == _HURT))[:, tier].all(axis=1)
    for tier in tiers:
        waiting = (outcome == _UNDECIDED) & tier
        rest = np.where(waiting, _not_rejected(outcome, tier)[:, None], rest)
    mean, half = _at(means, look), _critical(rest, look, looks, alpha) * _at(errors, look)
    return Outcomes(outcome, look, alpha / rest, mean, mean - half, mean + half)


def open_arms(
    decisions: Mapping[str, Decision], plan: AnalysisPlan, groups: Mapping[str, str | None]
) -> tuple[str, ...]:
    """The arms that need more seeds, in order. The first arm of a group, which is in no decision, goes with them.

    A run goes on for the question that was asked: until its primary arms are decided or have passed the last look.
    The other arms of an open primary arm's group get the same seeds, decided or not, so that a group stays comparable;
    those of a group without a primary arm get them while any primary arm is open. Without primary arms each arm is on
    its own. An arm that failed gets no more seeds.

    Args:
      decisions: From `decide`.
      plan: The plan.
      groups: The group of each arm, as `ArmRecord.group`.
    """
    waiting = {arm for arm, decision in decisions.items() if not decision.final}
    primary = {arm for arm in decisions if arm in plan.primary}
    if not primary:
        return tuple(arm for arm in decisions if arm in waiting)
    asking = primary & waiting
    sound = [arm for arm, decision in decisions.items() if not decision.failed]
    open_groups = {groups.get(arm) for arm in asking}
    without = {groups.get(arm) for arm in decisions} - {groups.get(arm) for arm in primary}
    open_groups |= without if asking else set()
    return tuple(arm for arm in sound if arm in asking or (arm not in primary and groups.get(arm) in open_groups))


def next_look(decisions: Mapping[str, Decision], plan: AnalysisPlan, groups: Mapping[str, str | None]) -> int | None:
    """The number of seeds that the open arms need next; None where no arm is open.

    Args:
      decisions: From `decide`.
      plan: The plan.
      groups: The group of each arm, as `ArmRecord.group`.
    """
    arms = open_arms(decisions, plan, groups)
    deciding = [decisions[arm] for arm in arms if decisions[arm].primary] or [decisions[arm] for arm in arms]
    passed = [-1 if decision.look is None else decision.look for decision in deciding]
    return plan.looks[min(passed) + 1] if passed else None


def _decision(
    arm: str, place: int, values: Float[np.ndarray, " seeds"], found: Outcomes, plan: AnalysisPlan, failed: str
) -> Decision:
    look = int(found.look[0, place])
    there = [float(value) for value in values if math.isfinite(value)]
    outcome = _NAMES[found.outcome[0, place]] if there or failed else "missing"
    low, high = float(found.low[0, place]), float(found.high[0, place])
    has_interval = look >= 0 and math.isfinite(low) and math.isfinite(high)
    mean = float(found.mean[0, place]) if look >= 0 else statistics.fmean(there) if there else None
    return Decision(
        arm=arm,
        outcome=outcome,
        mean=mean,
        low=low if has_interval else None,
        high=high if has_interval else None,
        n=plan.looks[look] if look >= 0 else len(there),
        look=look if look >= 0 else None,
        level=float(found.level[0, place]),
        primary=arm in plan.primary,
        final=outcome in DECIDED or look == len(plan.looks) - 1 or failed != "",
        failed=failed,
    )


def _moments(
    values: Float[np.ndarray, "studies arms seeds"], looks: tuple[int, ...]
) -> tuple[Float[np.ndarray, "looks studies arms"], Float[np.ndarray, "looks studies arms"]]:
    """Mean and standard error at each look. One seed tells nothing of the error: it is infinite."""
    means = np.stack([values[..., :n].mean(axis=2) for n in looks])
    errors = [
        values[..., :n].std(axis=2, ddof=1) / math.sqrt(n) if n > 1 else np.full(values.shape[:2], math.inf)
        for n in looks
    ]
    return means, np.round(np.stack(errors), _DECIMALS)


def _at(
    values: Float[np.ndarray, "looks studies arms"], look: Int[np.ndarray, "studies arms"]
) -> Float[np.ndarray, "studies arms"]:
    """The value of each arm at its look; that of the first look, which is NaN, before it."""
    return np.take_along_axis(values, np.maximum(look, 0)[None], axis=0)[0]


def _t(
    mean: Float[np.ndarray, "studies arms"], error: Float[np.ndarray, "studies arms"]
) -> Float[np.ndarray, "studies arms"]:
    """Student's t. Where all seeds agree it is infinite, or 0 if they agree on no difference."""
    agreed = np.where(mean == 0, 0.0, np.copysign(math.inf, mean))
    return np.divide(mean, error, out=agreed, where=error != 0)


def _not_rejected(
    outcome: Int[np.ndarray, "studies arms"], tier: Bool[np.ndarray, " arms"]
) -> Int[np.ndarray, " studies"]:
    """The number m of arms in a tier that Holm's rule has not rejected, 1 at least."""
    rejected = ((outcome == _HELPED) | (outcome == _HURT)) & tier
    return np.maximum(int(tier.sum()) - rejected.sum(axis=1), 1)


def _critical(
    rest: Int[np.ndarray, "studies arms"],
    look: Int[np.ndarray, "studies arms"],
    looks: tuple[int, ...],
    alpha: float,
) -> Float[np.ndarray, "studies arms"]:
    """The boundary of |t| at level alpha / rest and the arm's look."""
    found = np.empty(rest.shape)
    for m in np.unique(rest):
        found = np.where(rest == m, np.array(boundaries(looks, alpha / int(m)))[look], found)
    return found


def _holm(
    outcome: Int[np.ndarray, "studies arms"],
    look: Int[np.ndarray, "studies arms"],
    rest: Int[np.ndarray, "studies arms"],
    t: Float[np.ndarray, "studies arms"],
    at: Int[np.ndarray, "studies arms"],
    tier: Bool[np.ndarray, " arms"],
    gate: Bool[np.ndarray, " studies"],
    looks: tuple[int, ...],
    alpha: float,
) -> None:
    """Rejects what Holm's rule rejects in a tier at this look, the clearest first, in the first three arrays."""
    studies = np.arange(len(outcome))
    for _ in range(int(tier.sum())):
        may = (outcome == _UNDECIDED) & (at >= 0) & tier & gate[:, None]
        m = np.broadcast_to(_not_rejected(outcome, tier)[:, None], outcome.shape)
        # Arms at different looks are ordered by how far they are beyond their boundaries.
        beyond = np.where(may, np.abs(t) / _critical(m, at, looks, alpha), 0.0)
        clearest = beyond.argmax(axis=1)
        chosen = studies[beyond[studies, clearest] >= 1]
        if not len(chosen):
            return
        place = (chosen, clearest[chosen])
        outcome[place] = np.where(t[place] > 0, _HELPED, _HURT)
        look[place], rest[place] = at[place], m[place]
