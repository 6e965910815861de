"""What is printed never controls the terminal, whatever the names in it are."""

import io
import logging as standard_logging

import pytest
from rich.table import Table

from simsiam_jax.cli.guard import fail
from simsiam_jax.data.names import listed
from simsiam_jax.terminal import Console, LogFormatter, say, visible
from simsiam_jax.train.progress import Display

# Clears the screen; turns the line around; a C1 sequence; a byte that is no UTF-8.
EVIL = "a\x1b[2Jb\u202ec\x9bd\udce9"
SHOWN = "a\\x1b[2Jb\\u202ec\\x9bd\\udce9"


def test_control_characters_become_escapes_and_all_other_text_stays():
    assert visible(EVIL) == SHOWN
    plain = "Käfer 猫 🧑\u200d🌾 1\u00a0000 “…”\n\tindented"
    assert visible(plain) == plain
    assert visible("two\nlines\r", keep="") == "two\\nlines\\r"
    assert listed([EVIL, "b\nc"]) == f"{SHOWN}, b\\nc"


def test_lines_and_errors_are_printed_visibly(capsys):
    say(f"preparing {EVIL}")
    with pytest.raises(SystemExit):
        fail(f"folder {EVIL}\nis empty")
    assert capsys.readouterr() == (f"preparing {SHOWN}\n", f"error: folder {SHOWN}\\nis empty\n")


def test_tables_and_progress_are_printed_visibly():
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=False)
    table = Table(EVIL)
    table.add_row(EVIL)
    console.print(table)
    Display(console).tell(f"{EVIL} seed 0")
    # A cell is as wide as what it was to hold, so that the escape of a table may be cut short.
    assert file.getvalue().count("a\\x1b[2J") == 3
    assert f"{SHOWN} seed 0\n" in file.getvalue()
    assert set(EVIL) & set(file.getvalue()) == set("abcd[2J")


def test_a_terminal_still_gets_richs_own_colours():
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system="standard", _environ={})
    console.print(f"[red]{EVIL}[/red]", highlight=False)
    assert file.getvalue() == f"\x1b[31m{SHOWN}\x1b[0m\n"


def test_the_log_is_printed_visibly():
    record = standard_logging.makeLogRecord(
        {"msg": "skipping %s", "args": (EVIL,), "levelno": 30, "levelname": "WARNING"}
    )
    assert LogFormatter().format(record).endswith(f"skipping {SHOWN}")
