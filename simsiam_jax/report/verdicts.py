"""What differences say, in words: the verdict on each comparison, and the answer to the question that was asked.

A run's plan names one evaluation on test images. Its comparisons are decided (`decide`), and only they get a claim.
Every other comparison is descriptive: it has a difference and Student's interval, which stands alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import AnalysisPlan, ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.decide import Decision
from simsiam_jax.report.seeds import Difference, Key
from simsiam_jax.report.words import OUTCOMES, STAGE_WORDS, capital, duration, seeds_text, signed


@dataclass(frozen=True)
class Verdict:
    """What one difference says, in words.

    Attributes:
      arm: The arm's title.
      eval: The evaluation, one of `EVALUATIONS`.
      outcome: One of `OUTCOMES`: `helped`, `hurt`, `too_small` or `undecided` by the run's plan; `descriptive` where
        the plan does not ask for the comparison; `missing` where there is nothing to compare.
      finding: The difference in words.
      conclusion: What follows from it.
    """

    arm: str
    eval: str
    outcome: str
    finding: str
    conclusion: str

    def __str__(self) -> str:
        return f"“{self.arm}” {self.finding}: {self.conclusion}."


def verdict(
    arm: ArmRecord,
    reference: ArmRecord,
    key: Key,
    difference: Difference | None,
    experiment: Experiment,
    decision: Decision | None = None,
    failed: str = "",
) -> Verdict:
    """What one arm's difference to its reference says.

    Args:
      arm: The arm.
      reference: The first arm of its group.
      key: The column as (eval, split).
      difference: The difference in points; None where the arms have no seed in common.
      experiment: What the run is: its headline and its plan.
      decision: What the plan decides about the arm; None where the column is not the plan's.
      failed: Why no verdict is drawn from the arm: in which seed it failed; "" where it failed in none.
    """
    spoken = f"{STAGE_WORDS[key[0]].adjective} {key[1]} {experiment.headline.noun}"
    if difference is None:
        finding = f"and “{reference.words}” have no finished seed in common for {spoken}"
        return Verdict(arm.title, key[0], "missing", finding, failed or "nothing to compare yet")
    seeds = seeds_text(difference.n)
    spread = "" if difference.std is None else f" ± {difference.std:.2f}"
    interval = "no interval"
    if difference.low is not None and difference.high is not None:
        level = 0.05 if decision is None else decision.level
        interval = f"{_percent(level)} % interval {signed(difference.low)} to {signed(difference.high)}"
    finding = f"changed {spoken} by {signed(difference.mean)}{spread} points against “{reference.words}”"
    finding += f" ({interval}, {seeds})"
    if decision is not None and experiment.plan is not None:
        conclusion = _conclusion(decision, difference, experiment.plan)
        return Verdict(arm.title, key[0], decision.outcome, finding, conclusion)
    if failed:
        return Verdict(arm.title, key[0], "descriptive", finding, f"no verdict, {failed}")
    side = "the interval leaves out 0" if difference.sign else "the interval includes 0"
    told = experiment.plan is None and difference.low is not None
    return Verdict(arm.title, key[0], "descriptive", finding, f"descriptive, {side}" if told else "descriptive")


def answer(decisions: Mapping[str, Decision], experiment: Experiment, results: Sequence[Result]) -> str:
    """What was asked, the answer, its interval, and what it cost, in a few sentences; "" without a plan.

    Args:
      decisions: What the plan decides, by the arm's name.
      experiment: What the run is: its question and its plan.
      results: All results of the run, for the time that they took.
    """
    plan = experiment.plan
    if plan is None:
        return ""
    question = experiment.question.strip()
    times = {(result.arm, result.seed, result.eval): float(result.seconds) for result in results}
    cost = duration(sum(times.values()))
    if not decisions or all(decision.outcome == "missing" for decision in decisions.values()):
        return f"{question} Nothing is measured yet."
    pairs = [(arms[0], arm, decisions[arm.name]) for arms in experiment.groups.values() for arm in arms[1:]
             if arm.name in decisions]  # fmt: skip
    asked = [each for each in pairs if each[2].primary]
    if not asked:
        counts = {name: sum(decision.outcome == name for _, _, decision in pairs) for name in OUTCOMES}
        said = ", ".join(f"{count} {OUTCOMES[name][2:]}" for name, count in counts.items() if count)
        arms = "1 comparison" if len(pairs) == 1 else f"{len(pairs)} comparisons"
        return f"{question} Of {arms}: {said} ({_measured(pairs[0][2], experiment)}, {cost})."
    if len(asked) == 1:
        ((reference, arm, decision),) = asked
        lead, words = _reply(reference, arm, decision, experiment, cost)
        return f"{question} {capital(lead)}: {words}."
    replies = [(arm.group, *_reply(reference, arm, decision, experiment)) for reference, arm, decision in asked]
    said = [capital(f"{lead}: {words}.") if group is None else f"{group}: {lead}, {words}."
            for group, lead, words in replies]  # fmt: skip
    return " ".join([question, *said, f"All of it took {cost}."])


def _reply(
    reference: ArmRecord, arm: ArmRecord, decision: Decision, experiment: Experiment, cost: str | None = None
) -> tuple[str, str]:
    """The answer about one arm as a word or two, and the sentence that gives its reason."""
    plan, mean = experiment.plan, decision.mean
    assert plan is not None
    if decision.failed:
        return "undecided", decision.failed + (f" ({cost})" if cost else "")
    spoken = f"{STAGE_WORDS[plan.evaluation].adjective} test {experiment.headline.noun}"
    ours = f"{arm.words}," if "," in arm.words else arm.words
    if mean is None:
        return "undecided so far", f"{ours} and {reference.words} have no finished seed in common"
    facts = [_measured(decision, experiment), *([cost] if cost else [])]
    if decision.low is not None and decision.high is not None:
        interval = f"{signed(decision.low, 1)} to {signed(decision.high, 1)}"
        facts.insert(0, f"{_percent(decision.level)} % interval {interval}")
    about = f"({', '.join(facts)})"
    if decision.outcome == "helped":
        return "yes", f"{ours} raised {spoken} by {signed(mean, 1)} points over {reference.words} {about}"
    if decision.outcome == "hurt":
        return "no", f"{ours} lowered {spoken} by {abs(mean):.1f} points against {reference.words} {about}"
    if decision.outcome == "too_small":
        effect = f"the effect of {ours} on {spoken} is too small to matter"
        change = f"{signed(mean, 1)} points against {reference.words}"
        return "no", f"{effect}, {change}, and {_points(plan.smallest_effect)} or more is ruled out {about}"
    lead = f"undecided after {seeds_text(decision.n)}" if decision.final else "undecided so far"
    if decision.look is None:
        about = f"{about}; the first look is at {seeds_text(plan.looks[0])}"
    elif not decision.final:
        about = f"{about}; the next look is at {seeds_text(plan.looks[decision.look + 1])}"
    return lead, f"{ours} changed {spoken} by {signed(mean, 1)} points against {reference.words} {about}"


def _measured(decision: Decision, experiment: Experiment) -> str:
    """The number of seeds, and of draws of labels where there are several."""
    assert experiment.plan is not None
    draws = experiment.label_draws.get(experiment.plan.evaluation, 1)
    return seeds_text(decision.n) + (f" × {draws} draws of labels" if draws > 1 else "")


def _conclusion(decision: Decision, difference: Difference, plan: AnalysisPlan) -> str:
    if decision.failed:
        return f"undecided, {decision.failed}"
    if decision.outcome == "helped":
        return "it helped"
    if decision.outcome == "hurt":
        return "it hurt"
    if decision.outcome == "too_small":
        return f"too small to matter, {_points(plan.smallest_effect)} or more is ruled out"
    if decision.look is None:
        return f"undecided, the first look is at {seeds_text(plan.looks[0])}"
    if difference.n == 1:
        return "undecided, one seed cannot tell"
    if not decision.primary and difference.sign:
        return "undecided, because it counts only once every primary comparison helped or hurt"
    return "undecided"


def _percent(level: float) -> str:
    return f"{100 * (1 - level):.3g}"


def _points(value: float | int) -> str:
    return f"{value:g} point" if value == 1 else f"{value:g} points"
