"""Which arms need more seeds: the verdict so far of a run that may stop early, by the code that the report uses."""

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.failures import failed_arms, read_failures, without_verdict
from simsiam_jax.records.results import read_results
from simsiam_jax.report.decide import decide, next_look, open_arms
from simsiam_jax.report.seeds import planned_differences
from simsiam_jax.report.words import OUTCOMES, seeds_text, signed
from simsiam_jax.study.definition import Study


def next_arms(study: Study) -> tuple[tuple[str, ...], int | None, str]:
    """The arms that the next look needs, with those that they are compared with, and what was decided, in words.

    Args:
      study: The study, whose folder holds what was measured so far.

    Returns:
      Names of arms in their order and the number of seeds that they need, none and None where the run is at its end;
      and a line for the terminal.
    """
    assert study.plan is not None
    experiment = read_experiment(study.workdir)
    failed = without_verdict(failed_arms(read_failures(study.workdir), experiment), experiment)
    decisions = decide(planned_differences(read_results(study.workdir), experiment), study.plan, failed)
    groups = {arm.name: arm.group for arm in experiment.arms}
    going_on = set(open_arms(decisions, study.plan, groups))
    references = {arms[0].name for arms in experiment.groups.values() if going_on & {arm.name for arm in arms}}
    said = [
        f"{arm} {OUTCOMES[found.outcome][2:]}"
        + (f" ({found.failed})" if found.failed else "")
        + ("" if found.mean is None or found.failed else f" ({signed(found.mean)} points, {seeds_text(found.n)})")
        for arm, found in decisions.items()
        if found.primary
    ]
    needed = next_look(decisions, study.plan, groups)
    step = "the run ends" if needed is None else f"going on to {needed} seeds"
    return tuple(name for name in study.arms if name in going_on | references), needed, f"{'; '.join(said)}: {step}"
