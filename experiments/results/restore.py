"""Makes a work folder of a recorded run, so that its command goes on where the record ends: with more seeds, or arms.

The numbers of each finished stage come back. Checkpoints and logs are not recorded: figures of curves lack the restored
seeds, and an arm that starts from another arm's pretraining trains it again.

Command: python -m experiments.results.restore NAME WORKDIR     (then the run's own command with that --workdir)
"""

import dataclasses
import itertools
from operator import attrgetter
from pathlib import Path

from experiments.results.recorded import RESULTS
from simsiam_jax.cli.guard import run
from simsiam_jax.errors import require
from simsiam_jax.files import write_whole
from simsiam_jax.records.experiment import EXPERIMENT_FILE, read_experiment
from simsiam_jax.records.results import Result, StageResult, read_results
from simsiam_jax.terminal import say


def restore(name: str, workdir: Path, root: Path = RESULTS) -> int:
    """Writes experiment.json and the stage files of a recorded run into a work folder.

    Args:
      name: Name of the run's folder.
      workdir: The folder to write. It must be missing or empty.
      root: Folder that holds the recorded runs.

    Returns:
      The number of stages that are finished there.

    Raises:
      InputError: If there is no such run, one of its files is damaged, or the work folder has files.
    """
    folder = root / name
    require(
        (folder / EXPERIMENT_FILE).exists(), f"{name!r} names no recorded run: {folder / EXPERIMENT_FILE} is missing"
    )
    occupied = workdir.exists() and any(workdir.iterdir())
    require(not occupied, f"{workdir} is not empty: give the name of a new folder")
    read_experiment(folder)
    lines = read_results(folder)
    stages = [_stage(list(split)) for _, split in itertools.groupby(lines, attrgetter("arm", "seed", "eval"))]
    for stage in stages:
        stage.write(workdir / stage.arm / f"seed-{stage.seed}" / stage.stage)
    write_whole(workdir / EXPERIMENT_FILE, (folder / EXPERIMENT_FILE).read_bytes())
    return len(stages)


def _stage(splits: list[Result]) -> StageResult:
    """The stage whose lines of results.jsonl are given, one for each split."""
    values = {each.name: getattr(splits[0], each.name) for each in dataclasses.fields(Result)}
    values["stage"] = values.pop("eval")
    del values["split"]
    for part in ("metrics", "draws", "attributes"):
        # A stage that has no draws has no entry for them.
        values[part] = {line.split: getattr(line, part) for line in splits if getattr(line, part)}
    return StageResult(**values)


def main(name: str, workdir: str) -> None:
    """Restores the run that the command line names."""
    say(f"restored  {restore(name, Path(workdir))} stages into {workdir}")


if __name__ == "__main__":
    run(main, words=("NAME", "WORKDIR"))
