"""Numbers, durations and settings read as people say them."""

import pytest

from simsiam_jax.report.words import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.24, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert duration(seconds) == words
