"""Builds a report again from the files of a run, and from nothing else.

Command: python -m experiments.report --workdir=runs/table1_fashion_mnist
         python -m experiments.report --workdir=experiments/results/table1_fashion_mnist-small --out=report
Writes index.html, report.md, table.tex, table.csv and the figures into WORKDIR/report, or --out.
"""

from pathlib import Path

from absl import flags

from simsiam_jax.cli import launch
from simsiam_jax.errors import require


def main() -> None:
    values = flags.FLAGS
    require(bool(values.workdir), "--workdir names no folder: give the folder of a run")
    from simsiam_jax.report.page import write_report

    workdir = Path(values.workdir).expanduser().absolute()
    out = Path(values.out).expanduser().absolute() if values.out else None
    print(f"report  {write_report(workdir, out)}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of a run.")
    flags.DEFINE_string("out", None, "Folder for the report; `report` in the workdir by default.")
    launch.run(main)
