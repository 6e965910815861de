"""The command `simsiam export` as a launcher.

Command: python -m experiments.export --help
"""

from simsiam_jax.cli.commands import export
from simsiam_jax.cli.guard import run_command

if __name__ == "__main__":
    run_command(export)
