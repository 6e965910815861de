"""Builds a report again from the files of a run, and from nothing else.

Example: simsiam report runs/study-photos
         simsiam report experiments/results/table1_fashion_mnist-small --out=report

Writes index.html, report.md, table.tex, table.csv and the figures into WORKDIR/report, or --out.
"""

from pathlib import Path

from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import value
from simsiam_jax.errors import require
from simsiam_jax.terminal import say

WORDS = ("[WORKDIR]",)


def define() -> None:
    """Defines the flags."""
    define_flags(["workdir", "out"])


def main(workdir: str | None = None) -> None:
    """Writes the report of a run's folder."""
    named = workdir or value("workdir")
    require(bool(named), "WORKDIR is missing: give the folder of a run, as in `simsiam report runs/study-photos`")
    from simsiam_jax.report.page import write_report

    out = value("out")
    written = write_report(Path(named).expanduser().absolute(), Path(out).expanduser().absolute() if out else None)
    say(f"report  {written}")
