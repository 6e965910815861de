"""The command `simsiam pretrain` as a launcher.

Command: python -m experiments.pretrain --help
"""

from simsiam_jax.cli.commands import pretrain
from simsiam_jax.cli.guard import run_command

if __name__ == "__main__":
    run_command(pretrain)
