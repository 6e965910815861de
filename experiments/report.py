"""Builds a report again from the result files of one or several workdirs, and from nothing else.

Command: python -m experiments.report --workdir=runs/table1_fashion_mnist
         python -m experiments.report --workdir=machine1/table2,machine2/table2 --out=table2
Writes index.html, report.md, table.tex, table.csv and the figures into WORKDIR/report, or --out.
"""

from pathlib import Path

from absl import flags

from simsiam_jax.cli import launch
from simsiam_jax.errors import require


def main() -> None:
    values = flags.FLAGS
    require(bool(values.workdir), "--workdir names no folder: give the folder of a run, or several")
    from simsiam_jax.report.page import write_report

    out = Path(values.out).expanduser().absolute() if values.out else None
    print(f"report  {write_report(*(Path(each).expanduser().absolute() for each in values.workdir), out=out)}")


if __name__ == "__main__":
    flags.DEFINE_list("workdir", [], "Folders of one experiment's runs, comma-separated.")
    flags.DEFINE_string("out", None, "Folder for the report; `report` in the first workdir by default.")
    launch.run(main)
