"""Writes this folder's README and the table of claims in the main README from the recorded runs.

Command: python -m experiments.results              (writes both)
         python -m experiments.results --check      (exits 1 where one of them differs from what the files say)
"""

import sys
from pathlib import Path

from absl import flags

from experiments.results.claims import short_table
from experiments.results.page import read_runs, text
from experiments.results.recorded import RESULTS
from simsiam_jax.cli.guard import run
from simsiam_jax.errors import require
from simsiam_jax.files import write_whole

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- generated: python -m experiments.results -->", "<!-- end of generated -->"


def generated() -> dict[Path, str]:
    """The text of every file that is made from the recorded runs, by its path.

    Raises:
      InputError: If a run's file is missing or damaged, or the main README lacks the two markers.
    """
    runs = read_runs()
    readme = ROOT / "README.md"
    return {RESULTS / "README.md": text(runs), readme: between_markers(readme.read_text(), short_table(runs))}


def between_markers(page: str, lines: list[str]) -> str:
    """A page with these lines between its two markers, in place of what stands there.

    Args:
      page: Text that holds each marker once.
      lines: The lines to stand between them.

    Raises:
      InputError: If a marker is missing or stands there twice.
    """
    require(
        page.count(BEGIN) == page.count(END) == 1 and page.index(BEGIN) < page.index(END),
        f"README.md must hold the lines {BEGIN!r} and {END!r} once, in this order: put them around the table of claims",
    )
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *lines, END + after])


def main() -> None:
    files = generated()
    stale = [path for path, words in files.items() if not path.exists() or path.read_text() != words]
    if flags.FLAGS.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} differs from the recorded runs: run python -m experiments.results")
        sys.exit(bool(stale))
    for path in stale:
        write_whole(path, files[path].encode())
        print(f"wrote  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    flags.DEFINE_boolean("check", False, "Exit with 1 where a file differs, and write nothing.")
    run(main)
