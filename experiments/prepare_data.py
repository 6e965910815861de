"""The command `simsiam prepare` as a launcher.

Command: python -m experiments.prepare_data --help
"""

from simsiam_jax.cli.commands import prepare
from simsiam_jax.cli.guard import run_command

if __name__ == "__main__":
    run_command(prepare)
