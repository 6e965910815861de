"""What a person sees while a study trains: two live lines on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from simsiam_jax.terminal import Console

_SECONDS_BETWEEN_PLAIN_LINES = 10.0
_BAR_WIDTH = 20


class Display:
    """The live lines of a run: that of the study, "unit 3 of 18, 41 min left", above that of the stage.

    It is a context manager, and lives as long as the run. Where the error output is no terminal it prints lines.

    Args:
      console: Where to show it; None means the error output.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(file=sys.stderr, soft_wrap=True)
        self._units: _Units | None = None
        self._stage: StageLine | None = None
        self._seconds: dict[str, list[float]] = {}
        self._open = contextlib.ExitStack()

    @property
    def live(self) -> bool:
        """Whether it is a terminal, whose last lines can be changed."""
        return self._console.is_terminal

    def __enter__(self) -> "Display":
        if self.live:
            # Nothing but a terminal may be redirected to this one.
            redirected = sys.stdout.isatty()
            area = Live(console=self._console, get_renderable=self._lines, transient=True, redirect_stdout=redirected)
            self._open.enter_context(area)
            # Warnings go above the live lines, as all else does that is printed.
            handler: Any = logging.get_absl_handler().python_handler
            self._open.callback(handler.setStream, handler.stream)
            handler.setStream(sys.stderr)
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def tell(self, line: str) -> None:
        """Prints a line that stays."""
        self._console.print(line, markup=False, highlight=False)

    @contextlib.contextmanager
    def unit(self, arm: str, *, number: int, total: int, waiting: Sequence[str]) -> Iterator[None]:
        """Shows a unit of the study while the context lasts, and learns how long such units take.

        Args:
          arm: Name of its arm.
          number: Its number, from 1.
          total: Number of units in all.
          waiting: The arms of the units that come after it.
        """
        self._units = _Units(number, total, arm, tuple(waiting), time.monotonic())
        try:
            yield
            self._seconds.setdefault(arm, []).append(time.monotonic() - self._units.begun)
        finally:
            self._units = None

    def seconds_left(self) -> float | None:
        """Estimated seconds until the last unit ends; None before a unit has ended, and between two."""
        if self._units is None or not self._seconds:
            return None
        means = {arm: float(np.mean(seconds)) for arm, seconds in self._seconds.items()}
        other = float(np.mean(list(means.values())))
        now = max(0.0, means.get(self._units.arm, other) - (time.monotonic() - self._units.begun))
        return now + sum(means.get(arm, other) for arm in self._units.waiting)

    def stage(self, title: str, *, total: int, done: int, images_per_step: int) -> "StageLine":
        """The line of a stage, as a context manager.

        Args:
          title: Such as `in_domain seed 0 pretrain`.
          total: Micro-steps of the stage.
          done: Micro-steps done before, by a run that was interrupted.
          images_per_step: Images of a micro-step.
        """
        return StageLine(self, title, total=total, done=done, images_per_step=images_per_step)

    def show(self, stage: "StageLine | None") -> None:
        """Makes a stage the one that is shown, or none."""
        self._stage = stage

    def _lines(self) -> Group:
        width, lines = self._console.width, []
        if self._units is not None:
            done = (self._units.number - 1) / self._units.total
            lines.append(_line(done, unit_fields(self._units.number, self._units.total, self.seconds_left()), width))
        if self._stage is not None:
            lines.append(_line(self._stage.share, self._stage.fields(), width))
        return Group(*lines)


class _Units(NamedTuple):
    """The unit that is under way, since when, and the arms of those that wait."""

    number: int
    total: int
    arm: str
    waiting: tuple[str, ...]
    begun: float


class StageLine:
    """Loss, learning rate, images/s and time left of one stage; made by `Display.stage`.

    Attributes:
      total: Micro-steps of the stage.
    """

    def __init__(self, display: Display, title: str, *, total: int, done: int, images_per_step: int):
        self._display = display
        self._title = title
        self.total = total
        self._before = done
        self._images_per_step = images_per_step
        self._steps = self._timed = 0
        self._training = 0.0
        self._started = self._printed = self._mark = time.monotonic()
        self._numbers: tuple[tuple[int, str], ...] = ((0, "compiling"),)

    def __enter__(self) -> "StageLine":
        self._display.show(self)
        if not self._display.live:
            self._display.tell(f"{self._title}: {self.total} micro-steps, compiling")
        return self

    def __exit__(self, *_: Any) -> None:
        self._display.show(None)

    @property
    def steps(self) -> int:
        """Micro-steps done."""
        return self._before + self._steps

    @property
    def share(self) -> float:
        """Share of the stage that is done."""
        return self.steps / self.total

    def fields(self) -> list[tuple[int, str]]:
        """What the line shows, in order: how soon it is left out where there is little room, and the text."""
        left = [(0, f"{roughly(self._left())} left")] if self._timed else []
        return [(1, self._title), (0, f"{self.share:.0%}"), *self._numbers, *left]

    def resume(self) -> None:
        """Says that training goes on; the time since it was last heard of went into measuring and saving."""
        self._mark = time.monotonic()

    def advance(self, steps: int, *, epoch: int, loss: float, learning_rate: float) -> None:
        """Counts `steps` more micro-steps and shows the newest numbers."""
        now = time.monotonic()
        if self._steps:
            self._training += now - self._mark
            self._timed += steps
        else:
            # The first step's time is the compiler's.
            self._started = now
        self._mark = now
        self._steps += steps
        speed = self._timed * self._images_per_step / self._training if self._training else 0.0
        self._numbers = (
            (3, f"epoch {epoch}"),
            (2, f"loss {loss:+.4f}"),
            (5, f"lr {learning_rate:.2e}"),
            (4, f"{speed:,.0f} images/s"),
        )
        late = now - self._printed >= _SECONDS_BETWEEN_PLAIN_LINES
        if not self._display.live and (late or self.steps == self.total):
            self._printed = now
            numbers = "  ".join(text for _, text in self._numbers)
            self._display.tell(f"{self._title}: {self.share:4.0%}  {numbers}  {self._left():,.0f} s left")

    def _left(self) -> float:
        passed = time.monotonic() - self._started
        return (self.total - self.steps) * passed / max(self._timed, 1)


def unit_fields(number: int, total: int, seconds_left: float | None) -> list[tuple[int, str]]:
    """What the line of a study shows, as `StageLine.fields` has it."""
    left = [] if seconds_left is None else [(0, f"{roughly(seconds_left)} left")]
    return [(0, f"unit {number} of {total}"), *left]


def roughly(seconds: float) -> str:
    """A length of time as an estimate is said: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def fitting(fields: Sequence[tuple[int, str]], width: int) -> list[str]:
    """The texts that fit side by side into a width, two columns apart; those of the highest number go first.

    Args:
      fields: How soon each is left out, and its text; those of 0 stay.
      width: Columns of the terminal.
    """
    kept = list(fields)
    while sum(len(text) + 2 for _, text in kept) - 2 > width and any(rank for rank, _ in kept):
        kept.remove(max(kept, key=lambda each: each[0]))
    return [text for _, text in kept]


def _line(share: float, fields: Sequence[tuple[int, str]], width: int) -> Table:
    """A bar and the fields beside it, in one line; a narrow terminal has no bar."""
    texts = fitting(fields, width)
    line = Table.grid(padding=(0, 2, 0, 0))
    room = width - sum(len(text) + 2 for text in texts) >= _BAR_WIDTH
    bar = [ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH)] if room else []
    line.add_row(*bar, *(Text(text, no_wrap=True) for text in texts))
    return line
