"""The command `simsiam report` as a launcher.

Command: python -m experiments.report --help
"""

from simsiam_jax.cli.commands import report
from simsiam_jax.cli.guard import run_command

if __name__ == "__main__":
    run_command(report)
