"""Runs a main function: a mistake of the user's is one line and exit code 2."""

import logging as stdlib_logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, Protocol, runtime_checkable

from absl import app, flags, logging

from simsiam_jax import hosts, runtime, stopping
from simsiam_jax.cli.flags import help_text, value
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import disk_is_full
from simsiam_jax.terminal import LogFormatter, say, visible

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
        except Exception as fault:
            if not disk_is_full(fault):
                raise
            fail(full_disk_words(fault, _folders()))
        except stopping.Stopped as stop:
            say("stopped; the same command goes on from here", error=True)
            sys.exit(stopping.exit_code(stop.number))

    stopping.listen()
    logging.get_absl_handler().setFormatter(LogFormatter())
    _hush_full_disks()
    app.run(guarded, flags_parser=lambda arguments: _parse(arguments, values, description))


def _hush_full_disks() -> None:
    """Lets threads of libraries say nothing of a full disk: the main thread learns of it, too, and says it once."""

    def hushed(record: stdlib_logging.LogRecord) -> bool:
        fault = record.exc_info[1] if record.exc_info else None
        return fault is None or not disk_is_full(fault)

    for name in ("absl", "concurrent.futures", "asyncio"):
        stdlib_logging.getLogger(name).addFilter(hushed)
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or not disk_is_full(arguments.exc_value):
            before(arguments)

    threading.excepthook = hook


def _folders() -> list[Path]:
    """The folders that a command may write to: those of its flags, of compiled programs and of temporary files."""
    named = [getattr(flags.FLAGS, name, None) for name in ("workdir", "data_dir", "out")]
    others = [os.environ.get("JAX_COMPILATION_CACHE_DIR"), tempfile.gettempdir()]
    return [Path(each).expanduser().absolute() for each in (*named, *others) if each]


def full_disk_words(fault: BaseException, folders: Sequence[Path]) -> str:
    """What is full, and what to do, on one line.

    Args:
      fault: The exception that said so.
      folders: Folders that may have been written to; the one with the least space is named where the fault names none.
    """
    name = getattr(fault, "filename", None)
    folder = Path(name).absolute().parent if isinstance(name, str) else None
    there = [existing(each) for each in ([folder] if folder else folders)]
    fullest = min(there, key=lambda each: shutil.disk_usage(each).free)
    usage = shutil.disk_usage(fullest)
    what = f" while writing {Path(name).name}" if isinstance(name, str) else ""
    return (
        f"no space left on {fullest}{what} ({usage.free / 1e6:,.1f} of {usage.total / 1e6:,.0f} MB free, or a quota is "
        "spent): free some there and run the same command again, it goes on"
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


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
            say(help_text(values() if values else {}, description))
    except (flags.Error, InputError) as mistake:
        fail(str(mistake).replace("\n", " "))
    if asked:
        sys.exit(0)
    return rest


def fail(message: str) -> NoReturn:
    """Prints `error: message` and exits with code 2."""
    # One line, also where a name has several.
    say(f"error: {visible(message, keep='')}", error=True)
    sys.exit(2)
