"""The command `simsiam evaluate` as a launcher.

Command: python -m experiments.evaluate --help
"""

from simsiam_jax.cli.commands import evaluate
from simsiam_jax.cli.guard import run_command

if __name__ == "__main__":
    run_command(evaluate)
