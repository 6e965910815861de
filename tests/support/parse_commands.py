"""Parses commands of launchers without running them: `python -m tests.support.parse_commands` reads them as JSON.

The input is a list of commands, each a list of words that begins with the launcher's module. The output is a list of
faults, one text each. All launchers are looked at in one process, because each would take seconds to start.
"""

import contextlib
import importlib.util
import json
import runpy
import sys

from absl import app, flags


class Defined(Exception):
    """A launcher has defined its flags and would now run."""


def faults(commands):
    """A text for each command whose launcher is missing, or refuses its flags."""
    found = []
    for module, *words in commands:
        try:
            parse(module, words)
        except (flags.Error, ImportError) as fault:
            found.append(f"{module} {' '.join(words)}: {fault}")
    return found


def parse(module, words):
    """Defines the flags of a launcher and parses the words with them, then forgets the flags."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        raise ImportError("there is no such launcher")
    known = set(flags.FLAGS)
    try:
        with contextlib.suppress(Defined):
            runpy.run_path(spec.origin, run_name="__main__")
        rest = flags.FLAGS([module, *words])
        if len(rest) > 1:
            raise flags.Error(f"unknown argument {rest[1]!r}")
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)


def _defined(*_, **__):
    raise Defined


if __name__ == "__main__":
    commands = json.load(sys.stdin)
    app.run = _defined
    sys.argv = ["launcher"]
    json.dump(faults(commands), sys.stdout)
