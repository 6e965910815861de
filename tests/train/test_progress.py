"""What a person sees while a study trains."""

import io
import sys

import pytest
from absl import logging

from simsiam_jax.terminal import Console
from simsiam_jax.train import progress
from simsiam_jax.train.progress import Display, fitting, roughly


class Clock:
    """Stands in for the module `time`."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def display_of(width, terminal=True):
    return Display(Console(file=io.StringIO(), force_terminal=terminal, width=width, soft_wrap=True, color_system=None))


def seen(display):
    """The live lines as they stand now."""
    console = display._console
    with console.capture() as captured:
        console.print(display._lines())
    return [line.rstrip() for line in captured.get().splitlines()]


def halfway(display, clock, title="in_domain seed 0 pretrain"):
    """A stage of 100 micro-steps of 64 images, half done at 10 steps a second."""
    stage = display.stage(title, total=100, done=0, images_per_step=64)
    stage.__enter__()
    stage.advance(1, epoch=1, loss=-0.5, learning_rate=0.05)
    clock.now += 4.9
    stage.advance(49, epoch=2, loss=-0.75, learning_rate=0.04)
    return stage


@pytest.mark.parametrize(
    ("width", "kept"), [(80, "abcd"), (13, "abcd"), (12, "abd"), (10, "abd"), (9, "ad"), (5, "ad"), (2, "ad")]
)
def test_what_counts_least_is_left_out_first(width, kept):
    # Two columns between two texts: all four need 1 + 1 + 1 + 4 + 6 = 13.
    fields = [(0, "a"), (1, "b"), (2, "c"), (0, "dddd")]
    assert [text[0] for text in fitting(fields, width)] == list(kept)


def test_the_study_stands_above_the_stage_each_in_one_line(clock):
    display = display_of(120)
    with display.unit("none", number=1, total=18, waiting=["in_domain"]):
        clock.now += 60
    with display.unit("in_domain", number=2, total=18, waiting=["none", "in_domain"]):
        halfway(display, clock)
        study, stage = seen(display)
    # The units took a minute; 4.9 s of this one are over, and two wait.
    assert study.endswith("unit 2 of 18  3 min left")
    # 50 steps of 0.1 s are left; 49 steps of 64 images took 4.9 s.
    assert stage.endswith("in_domain seed 0 pretrain  50%  epoch 2  loss -0.7500  lr 4.00e-02  640 images/s  5 s left")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_a_narrow_terminal_keeps_the_time_and_one_line(clock, width):
    display = display_of(width)
    with display.unit("none", number=3, total=18, waiting=[]):
        halfway(display, clock)
        lines = seen(display)
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    assert lines[1].endswith("5 s left")
    assert "50%" in lines[1]


def test_before_a_unit_has_ended_no_time_is_promised(clock):
    display = display_of(80)
    assert display.seconds_left() is None
    with display.unit("none", number=1, total=2, waiting=["random"]):
        assert display.seconds_left() is None
        clock.now += 10
    with display.unit("random", number=2, total=2, waiting=["none", "random"]):
        clock.now += 30
        # An arm that was never timed takes as long as the others; this one is over its time already.
        assert display.seconds_left() == 0 + 10 + 10


def test_a_unit_that_fails_is_not_timed(clock):
    display = display_of(80)

    def fail():
        clock.now += 1
        raise ArithmeticError

    with pytest.raises(ArithmeticError), display.unit("none", number=1, total=2, waiting=["none"]):
        fail()
    with display.unit("none", number=2, total=2, waiting=[]):
        assert display.seconds_left() is None


def test_where_there_is_no_terminal_lines_are_printed_every_ten_seconds(clock):
    display = display_of(80, terminal=False)
    stage = halfway(display, clock)
    clock.now += 5.1
    stage.advance(40, epoch=2, loss=-0.8, learning_rate=0.03)
    stage.advance(10, epoch=2, loss=-0.9, learning_rate=0.0)
    printed = display._console.file.getvalue().splitlines()
    assert [line.split()[4] for line in printed] == ["100", "90%", "100%"]
    assert printed[-1].endswith("0 s left")


def test_warnings_stand_above_the_live_lines_and_go_back_to_where_they_went(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    handler = logging.get_absl_handler().python_handler
    before = handler.stream
    with Display(Console(file=shown, force_terminal=True, width=60)) as display:
        assert handler.stream is sys.stderr is not shown
        display.tell("unit 1 of 2  [none]  kNN 81.20")
    assert handler.stream is before
    assert "unit 1 of 2  [none]  kNN 81.20\n" in shown.getvalue()


def test_times_are_said_as_a_person_says_them():
    assert [roughly(each) for each in (0.4, 89.0, 90.0, 600.0, 5399.0, 11_100.0)] == [
        *("0 s", "89 s", "2 min", "10 min", "1 h 30 min", "3 h 05 min")
    ]
