"""Runs a main function: a mistake of the user's is one line and exit code 2."""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn, Protocol, runtime_checkable

from absl import app, flags, logging

from simsiam_jax import hosts, runtime, stopping
from simsiam_jax.cli.flags import help_text, value
from simsiam_jax.errors import InputError, require

_HELP = {"--help", "-help", "-h", "--helpshort"}


@runtime_checkable
class Command(Protocol):
    """What `run_command` runs: a module of `cli.commands`, or a `Comparison`.

    It may also have `WORDS` and `values()`, which `run` takes.
    """

    __doc__: str | None

    def define(self) -> None:
        """Defines the flags."""

    @property
    def main(self) -> Callable[..., None]:
        """The main function, which is called with the words that are no flags."""
        ...


def run_command(command: Command) -> None:
    """Runs a command with the words of the command line. Does not return.

    Args:
      command: The command; `--help` begins with the docstring of a module, or of the launcher that was started.
    """
    command.define()
    run(
        command.main,
        values=getattr(command, "values", None),
        words=getattr(command, "WORDS", ()),
        description=command.__doc__ if isinstance(command, ModuleType) else None,
    )


def run(
    main: Callable[..., None],
    values: Callable[[], Mapping[str, Any]] | None = None,
    words: Sequence[str] = (),
    description: str | None = None,
) -> None:
    """Runs a main function under absl. Does not return.

    Args:
      main: Function to run once flags are parsed; it is called with the words that are no flags.
      values: Function that gives each setting's value under the chosen recipe and preset, for `--help`.
      words: Names of the words that `main` takes, in order; one in brackets, such as `[FOLDER]`, may be left out.
      description: Text that `--help` begins with; None means the docstring of the module that was started.
    """

    def guarded(arguments: list[str]) -> None:
        with hosts.ending_together():
            checked(arguments)

    def checked(arguments: list[str]) -> None:
        try:
            given = arguments[1:]
            stray = " ".join(given[len(words) :])
            takes = (
                f"; the words here are {' '.join(words)}, all else are flags" if words else "; all settings are flags"
            )
            require(not stray, f"unknown argument {stray!r}{takes}")
            missing = [word for word in words[len(given) :] if not word.startswith("[")]
            require(not missing, f"{' '.join(missing)} is missing; {program()} --help shows an example")
            runtime.configure()
            hosts.join(*(value(name) for name in ("coordinator", "num_processes", "process_id")))
            main(*given)
        except InputError as mistake:
            fail(str(mistake))
        except stopping.Stopped as stop:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(stopping.exit_code(stop.number))

    stopping.listen()
    app.run(guarded, flags_parser=lambda arguments: _parse(arguments, values, description))


def program() -> str:
    """The command of `simsiam` that runs, such as `simsiam study`; the path of a launcher otherwise."""
    return sys.argv[0]


def _parse(arguments: list[str], values: Callable[[], Mapping[str, Any]] | None, description: str | None) -> list[str]:
    # Orbax tells every step of every save; --verbosity=0 brings it back.
    logging.set_verbosity(logging.WARNING)
    asked = bool(_HELP & set(arguments[1:]))
    try:
        rest = flags.FLAGS([each for each in arguments if each not in _HELP])
        if asked:
            print(help_text(values() if values else {}, description))
    except (flags.Error, InputError) as mistake:
        fail(str(mistake).replace("\n", " "))
    if asked:
        sys.exit(0)
    return rest


def fail(message: str) -> NoReturn:
    """Prints `error: message` and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
