"""What a person sees while a stage trains: one live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_PLAIN_LINES = 10.0


class ProgressLine:
    """Loss, learning rate, images/s and time left of one stage, as a context manager.

    Args:
      title: Such as `in_domain seed 0 pretrain`.
      total: Micro-steps of the stage.
      done: Micro-steps done before, by a run that was interrupted.
      images_per_step: Images of a micro-step.
    """

    def __init__(self, title: str, *, total: int, done: int, images_per_step: int):
        self._title = title
        self._total = total
        self._steps = 0
        self._timed = 0
        self._before = done
        self._images_per_step = images_per_step
        self._training = 0.0
        self._started = self._printed = self._mark = time.monotonic()
        self._console = Console(file=sys.stderr, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, numbers="compiling")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: {self._total} micro-steps, compiling", highlight=False)
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

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
        numbers = f"epoch {epoch}  loss {loss:+.4f}  lr {learning_rate:.2e}  {speed:,.0f} images/s"
        self._bar.update(self._task, advance=steps, numbers=numbers)
        done = self._before + self._steps
        late = now - self._printed >= _SECONDS_BETWEEN_PLAIN_LINES
        if not self._console.is_terminal and (late or done == self._total):
            self._printed = now
            left = (self._total - done) * (now - self._started) / max(self._timed, 1)
            share = f"{done / self._total:4.0%}"
            self._console.print(f"{self._title}: {share}  {numbers}  {left:,.0f} s left", highlight=False)
