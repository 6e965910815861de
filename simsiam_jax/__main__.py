"""`python -m simsiam_jax` is the command `simsiam`."""

from simsiam_jax.cli.main import main

main()
