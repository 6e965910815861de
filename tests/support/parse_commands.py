"""Parses commands without running them: `python -m tests.support.parse_commands` reads them as JSON.

The input is a list of commands, each a list of words that begins with a launcher's module or with `simsiam`. The
output is a list of faults, one text each. All launchers are looked at in one process: each would take seconds to
start.
"""

import contextlib
import importlib
import importlib.util
import json
import runpy
import sys

from absl import app, flags


class Defined(Exception):
    """A launcher has defined its flags and would now run."""


def faults(commands):
    """A text for each command that does not exist, or refuses its flags or words."""
    found = []
    for first, *words in commands:
        try:
            if first == "simsiam":
                parse_command(*words)
            else:
                parse(first, words)
        except (flags.Error, ImportError) as fault:
            found.append(f"{first} {' '.join(words)}: {fault}")
    return found


def parse_command(name, *words):
    """As `parse`, for `simsiam NAME WORDS...`."""
    if name == "tables":
        parse(f"experiments.{words[0]}", words[1:])
        return
    command = importlib.import_module(f"simsiam_jax.cli.commands.{name}")
    with forgotten():
        command.define()
        rest = flags.FLAGS([name, *words])[1:]
    takes = getattr(command, "WORDS", ())
    needed = [word for word in takes if not word.startswith("[")]
    if not len(needed) <= len(rest) <= len(takes):
        raise flags.Error(f"{len(rest)} words for {len(takes)}")


@contextlib.contextmanager
def forgotten():
    """Forgets the flags that are defined while the context lasts."""
    known = set(flags.FLAGS)
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)


def parse(module, words):
    """Defines the flags of a launcher and parses the words with them, then forgets the flags."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        raise ImportError("there is no such launcher")
    with forgotten():
        with contextlib.suppress(Defined):
            runpy.run_path(spec.origin, run_name="__main__")
        rest = flags.FLAGS([module, *words])
        if len(rest) > 1:
            raise flags.Error(f"unknown argument {rest[1]!r}")


def _defined(*_, **__):
    raise Defined


if __name__ == "__main__":
    commands = json.load(sys.stdin)
    app.run = _defined
    sys.argv = ["launcher"]
    json.dump(faults(commands), sys.stdout)
