"""One experiment from several workdirs: of machines that each ran some of its arms or seeds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from simsiam_jax.errors import require
from simsiam_jax.records.experiment import EVALUATIONS, Experiment, read_experiment
from simsiam_jax.records.results import Result, read_results
from simsiam_jax.settings.values import differences


def read_runs(workdirs: Sequence[Path]) -> tuple[Experiment, list[Result]]:
    """What the workdirs hold together.

    Args:
      workdirs: At least one; arms stand in the order of the first that names them.

    Raises:
      InputError: If they belong to different experiments, settings or images, or hold different numbers for one unit.
    """
    require(len(workdirs) > 0, "--workdir names no folder: give the folder of a run")
    experiments = [read_experiment(workdir) for workdir in workdirs]
    first, *others = experiments
    for workdir, other in zip(workdirs[1:], others, strict=True):
        where = f"--workdir={workdir} and {workdirs[0]} cannot be shown together:"
        require(other.experiment == first.experiment, f"{where} they hold {other.experiment} and {first.experiment}")
        changed = differences(first.config, other.config)
        require(not changed, f"{where} their settings differ ({'; '.join(changed[:3])})")
        require(other.metric == first.metric, f"{where} they show {other.metric} and {first.metric}")
        for split, values in other.data.items():
            known = first.data.get(split, values)
            require(known == values, f"{where} their {split} images differ")
        arms = {arm.name: arm for arm in first.arms}
        for arm in other.arms:
            changes = arms.get(arm.name, arm).changes
            require(changes == arm.changes, f"{where} their settings of {arm.name} differ")
    measured: dict[tuple[str, int, str, str], tuple[Path, Result]] = {}
    for workdir in workdirs:
        mine = {(each.arm, each.seed, each.eval, each.split): each for each in read_results(workdir)}
        for key, result in mine.items():
            earlier = measured.setdefault(key, (workdir, result))
            same = earlier[1].metrics == result.metrics or repr(earlier[1].metrics) == repr(result.metrics)
            require(
                same,
                f"--workdir={workdir} and {earlier[0]} hold different numbers for {result.arm} seed {result.seed} "
                f"({result.eval}): leave one of them out",
            )
    return _merged(experiments), [result for _, result in measured.values()]


def _merged(experiments: Sequence[Experiment]) -> Experiment:
    arms = {}
    for experiment in experiments:
        for arm in experiment.arms:
            # An arm that one machine could not run may have been run by another.
            if arm.name not in arms or arms[arm.name].absent:
                arms[arm.name] = arm
    data = {split: values for experiment in reversed(experiments) for split, values in experiment.data.items()}
    return dataclasses.replace(
        experiments[0],
        arms=tuple(arms.values()),
        command="\n".join(dict.fromkeys(experiment.command for experiment in experiments)),
        evals=tuple(name for name in EVALUATIONS if any(name in experiment.evals for experiment in experiments)),
        seeds=tuple(sorted({seed for experiment in experiments for seed in experiment.seeds})),
        data=data,
        figure3=any(experiment.figure3 for experiment in experiments),
    )
