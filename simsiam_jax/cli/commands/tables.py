"""Runs one of the experiments: the paper's tables, the demo, the ablation of the method, the searches.

Example: simsiam tables                                               (lists them)
         simsiam tables table1_fashion_mnist --preset=small           (as python -m experiments.table1_fashion_mnist)
         simsiam tables table1_fashion_mnist --help
"""

import importlib.util
import pkgutil
import runpy
import sys
from pathlib import Path

from simsiam_jax.errors import require
from simsiam_jax.terminal import say

# The experiments lie above this package: they are found and started by name.
_HOME = "experiments"


def run_words(words: list[str]) -> None:
    """Lists the experiments, or starts the one that the first word names. Does not return from the latter.

    Args:
      words: What stands behind `simsiam tables`.

    Raises:
      InputError: If there is no such experiment.
    """
    known = experiments()
    if not words or words[0].startswith("-"):
        width = max(map(len, known))
        say((__doc__ or "").strip() + "\n")
        say("\n".join(f"  {name:{width}}  {line}" for name, line in known.items()))
        return
    name, *rest = words
    require(name in known, f"there is no experiment {name!r}; known: {', '.join(known)}")
    sys.argv = [f"{_HOME}.{name}", *rest]
    runpy.run_module(f"{_HOME}.{name}", run_name="__main__", alter_sys=True)


def experiments() -> dict[str, str]:
    """The first line of each experiment's docstring, by the name of its module."""
    found = importlib.util.find_spec(_HOME)
    require(found is not None and bool(found.submodule_search_locations), "the package `experiments` is not installed")
    assert found is not None
    assert found.submodule_search_locations is not None
    (home, *_) = found.submodule_search_locations
    lines = {}
    for module in pkgutil.iter_modules([home]):
        text = "" if module.ispkg else (Path(home) / f"{module.name}.py").read_text()
        if "Comparison(" in text:
            lines[module.name] = text.partition('"""')[2].splitlines()[0]
    return lines
