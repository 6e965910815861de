"""Runs a launcher's main function: a mistake of the user's is one line and exit code 2."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from absl import app, flags, logging

from simsiam_jax import runtime
from simsiam_jax.cli.flags import help_text
from simsiam_jax.errors import InputError, require

_HELP = {"--help", "-help", "-h", "--helpshort"}


def run(main: Callable[[], None], values: Callable[[], Mapping[str, Any]] | None = None) -> None:
    """Runs a launcher's main function under absl. Does not return.

    Args:
      main: Function that the launcher runs, once its flags are parsed.
      values: Function that gives each setting's value under the chosen recipe and preset, for `--help`.
    """

    def guarded(arguments: list[str]) -> None:
        try:
            require(len(arguments) == 1, f"unknown argument {' '.join(arguments[1:])!r}; all settings are flags")
            runtime.configure()
            main()
        except InputError as mistake:
            fail(str(mistake))
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=lambda arguments: _parse(arguments, values))


def _parse(arguments: list[str], values: Callable[[], Mapping[str, Any]] | None) -> list[str]:
    # Orbax tells every step of every save; --verbosity=0 brings it back.
    logging.set_verbosity(logging.WARNING)
    asked = bool(_HELP & set(arguments[1:]))
    try:
        rest = flags.FLAGS([each for each in arguments if each not in _HELP])
        if asked:
            print(help_text(values() if values else {}))
    except (flags.Error, InputError) as mistake:
        fail(str(mistake).replace("\n", " "))
    if asked:
        sys.exit(0)
    return rest


def fail(message: str) -> NoReturn:
    """Prints `error: message` and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
