"""What is printed to a terminal: texts whose control characters are shown rather than obeyed.

Names of files, classes and columns are the user's, or come from an archive. An escape sequence in one could recolour or
clear the terminal, or turn the line around. So whatever is printed goes through here: plain lines by `say`, tables and
live lines by `Console`, warnings by `LogFormatter`.
"""

import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import rich.console
from absl import logging
from rich.segment import Segment

# Control, format (such as those that turn the direction of writing), half characters, and separators of lines.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners make one picture of several emoji, and letters of some scripts join by them.
_JOINERS = "\u200c\u200d"


def visible(text: str, keep: str = "\n\t") -> str:
    """The text with escapes, as Python writes them, in place of control characters and bytes that are no UTF-8.

    Args:
      text: The text.
      keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in _HIDDEN and letter not in keep + _JOINERS
        else letter
        for letter in text
    )


def say(text: str = "", *, error: bool = False) -> None:
    """Prints lines at once, to the error output or to the standard one."""
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


class Console(rich.console.Console):
    """rich's console for texts that may hold anything."""

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """The renderable's parts, of which rich's own control codes alone are obeyed."""
        for part in super().render(*arguments, **options):
            yield part if part.control else Segment(visible(part.text), part.style)


class LogFormatter(logging.PythonFormatter):
    """absl's form of a line of the log, for messages that may hold anything."""

    def format(self, record: Any) -> str:
        """The line."""
        return visible(super().format(record))
