"""Runs launchers one after the other in one process, because each would take seconds to start.

`python -m tests.support.one_process` reads a JSON list of commands, each a list of words that begins with the
launcher's module in `experiments`, or with `simsiam` and the name of a command. It writes a JSON list of [exit code,
standard output, standard error].
"""

import contextlib
import importlib.util
import io
import json
import runpy
import sys

from absl import flags, logging

# These define flags once, when they are imported, and the flags stay.
from array_record.python import array_record_data_source  # noqa: F401

from simsiam_jax.cli import launch  # noqa: F401


def outcome(module, words):
    """Exit code and output of a launcher, whose flags are forgotten afterwards."""
    name = "simsiam_jax.__main__" if module == "simsiam" else f"experiments.{module}"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    known, out, err = set(flags.FLAGS), io.StringIO(), io.StringIO()
    sys.argv = [spec.origin, *words]
    warnings = logging.get_absl_handler().python_handler
    before = warnings.setStream(err)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(spec.origin, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        warnings.setStream(before)
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    answers = [outcome(module, words) for module, *words in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)
