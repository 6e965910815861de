"""Records a run in this folder: what was asked, every number, and the report in Markdown.

The path of a folder of images becomes the folder's name: it is a path of one machine.

Command: python -m experiments.results.record WORKDIR NAME      (then python -m experiments.results)
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from experiments.results.recorded import RESULTS
from simsiam_jax.cli.flags import value
from simsiam_jax.cli.guard import run
from simsiam_jax.data.datasets import FOLDER
from simsiam_jax.errors import require
from simsiam_jax.files import unsealed, write_sealed, write_sealed_lines, write_whole
from simsiam_jax.records.experiment import EXPERIMENT_FILE, read_experiment
from simsiam_jax.records.results import RESULTS_FILE, read_results
from simsiam_jax.report.page import write_report
from simsiam_jax.terminal import say

REPORT = "report.md"


def record(workdir: Path, name: str, *figures: str, root: Path = RESULTS) -> Path:
    """Copies what a run's numbers can be read from, without paths of this machine.

    Args:
      workdir: The run's folder, with its report where figures are asked for.
      name: Name of the new folder.
      *figures: Names of figures of the report that a README shows.
      root: Folder that the new one is made in.

    Returns:
      The new folder.

    Raises:
      InputError: If a figure is missing, or one of the run's files is damaged.
    """
    workdir, folder = Path(workdir), root / name
    # They say what is damaged, if anything is.
    read_experiment(workdir)
    read_results(workdir)
    for needed in figures:
        made = workdir / "report" / needed
        require(made.exists(), f"{made} is missing: run simsiam report {workdir}")
    folder.mkdir(parents=True, exist_ok=True)
    asked = unsealed(json.loads((workdir / EXPERIMENT_FILE).read_bytes()))
    lines = [unsealed(json.loads(line)) for line in (workdir / RESULTS_FILE).read_bytes().splitlines()]
    write_sealed(folder / EXPERIMENT_FILE, without_paths(asked))
    write_sealed_lines(folder / RESULTS_FILE, map(without_paths, lines))
    for figure in figures:
        write_whole(folder / figure, (workdir / "report" / figure).read_bytes())
    # Of the recorded numbers alone, so that it has no word of curves, whose logs are not recorded.
    with tempfile.TemporaryDirectory() as report:
        write_report(folder, Path(report))
        write_whole(folder / REPORT, (Path(report) / REPORT).read_bytes())
    return folder


def without_paths(values: Any) -> Any:
    """Plain values in which `folder:/any/where/photos` is `folder:photos`."""
    if isinstance(values, dict):
        return {name: without_paths(value) for name, value in values.items()}
    if isinstance(values, list):
        return [without_paths(value) for value in values]
    if isinstance(values, str):
        before, found, path = values.partition(f"{FOLDER}/")
        # Weights and a data set are one text, too; a command line stays as it was typed.
        if found and (not before or before.endswith("+")):
            return f"{before}{FOLDER}{Path(path).name}"
    return values


def main(workdir: str, name: str) -> None:
    """Records the run that the command line names."""
    say(f"recorded  {record(Path(workdir), name, *value('figures'))}")


if __name__ == "__main__":
    flags.DEFINE_list("figures", [], "Figures of the report that a README shows, such as spread.png.")
    run(main, words=("WORKDIR", "NAME"))
