"""Numbers, durations and settings read as people say them."""

import subprocess
import sys
from pathlib import Path

import pytest

from simsiam_jax.report.words import duration, escape_latex, escape_markdown, flat_values, flatten, number_text, signed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.24, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_a_setting_that_has_no_value_is_not_called_default():
    config = {"recipe": "paper", "labels": None, "pretrain": {"max_images": None, "optimizer": {"rate": 0.001}}}
    assert flatten(config) == {
        "": {"recipe": "paper", "labels": "not set"},
        "pretrain": {"max_images": "not set", "optimizer.rate": "0.001"},
    }


def test_values_read_as_words():
    assert flat_values({"a": [0.2, 1.0], "b": [], "c": True, "d": {}}) == {
        "a": "0.2, 1",
        "b": "none",
        "c": "true",
        "d": "{}",
    }
    assert flat_values(3) == {"value": "3"}


def test_numbers_have_a_true_minus_and_zero_has_no_sign():
    assert [signed(value) for value in (1.234, -0.5, -0.001, 0.0)] == ["+1.23", "−0.50", "0.00", "0.00"]
    assert number_text("{:.3f}", -0.93) == "−0.930"
    assert number_text("{:,.0f}", None) == "–"


def test_user_text_is_escaped():
    assert escape_markdown("a|b\n<b>*c* & _d") == r"a\|b &lt;b>\*c\* &amp; \_d"
    assert escape_latex(r"50 % of $x_1$ ± {a}\b") == r"50 \% of \$x\_1\$ $\pm$ \{a\}\textbackslash{}b"


def test_nothing_is_drawn_to_say_a_duration():
    code = "import sys, simsiam_jax.report.words; print({'matplotlib', 'jinja2', 'rich', 'jax'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
