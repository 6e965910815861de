"""Contenders measured by turns, each in a process of its own, of which one computes at a time.

In every round each contender runs for about the same time, and every other round has the opposite order. So what drifts
on the machine (its clock, its other users) meets all contenders alike and cancels in the ratios of a round. Processes
of their own keep thread pools and allocators apart, and give each contender its own environment and peak memory.
"""

import collections
import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from simsiam_jax.errors import InputError
from simsiam_jax.runtime import keep_freed_memory

# The share of a turn's time that is spent on finding how many calls fill a turn.
_PILOT = 0.2
_SECONDS_TO_CLOSE = 60

Numbers = Mapping[str, float | int]


@dataclass(frozen=True)
class Contender:
    """A participant, and what its process is told.

    Attributes:
      name: Its name in the table.
      target: The function that returns its `Entry`, as `module:function`, so that only its own process imports it.
      arguments: The function's arguments.
      environment: Environment variables to set before its process starts.
      required: Whether the contest ends with an error if it fails. Other contenders are then left out, with the reason.
    """

    name: str
    target: str
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False


@dataclass(frozen=True)
class Lane:
    """Work that a contender's process can run by turns.

    Attributes:
      run: A function that makes the given number of calls, and returns when the last has been computed.
      samples: What a call gets through, in the unit of the rate.
      period: Number of calls after which the work repeats; a turn that is long enough is a multiple of it.
      compiles: Whether the first call compiles.
      inspect: A function that returns further numbers, called once after the first calls.
    """

    run: Callable[[int], Any]
    samples: float | int
    period: int = 1
    compiles: bool = True
    inspect: Callable[[], Numbers] = dict


@dataclass(frozen=True)
class Entry:
    """What a contender's process has built.

    Attributes:
      lanes: The lanes by the suffix to the contender's name; the main lane's suffix is empty.
      finish: A function called after the last round that returns numbers of the whole process, such as `peak_bytes`.
    """

    lanes: Mapping[str, Lane]
    finish: Callable[[], Numbers]


@dataclass(frozen=True)
class Measured:
    """A lane's measurements.

    Attributes:
      name: The contender's name, with the lane's suffix.
      samples: What a call gets through.
      calls: Number of calls in a turn.
      seconds: Length of the turn in each round, in seconds.
      compile_seconds: Seconds of the first call less those of a later one; None where nothing is compiled.
      numbers: Further numbers of the lane and its process.
    """

    name: str
    samples: float | int
    calls: int
    seconds: tuple[float, ...]
    compile_seconds: float | None
    numbers: Numbers

    @property
    def rates(self) -> tuple[float, ...]:
        """Samples a second in each round."""
        return tuple(self.samples * self.calls / seconds for seconds in self.seconds)


def contest(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seconds: float,
    show: Callable[[str], None] = print,
) -> tuple[list[Measured], dict[str, str]]:
    """Starts the contenders one after the other and measures them by turns.

    Args:
      contenders: The contenders in the order of the first round.
      rounds: Number of rounds, at least 1.
      seconds: Approximate length of a turn in seconds.
      show: A function that is given each line of progress.

    Returns:
      The lanes' measurements, and by name the reason why a contender was left out.

    Raises:
      InputError: If a contender's process raised it.
      RuntimeError: If a required contender failed; the message holds the traceback.
    """
    left_out: dict[str, str] = {}
    lanes: list[tuple[_Child, str]] = []
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            child = stack.enter_context(_child(contender, seconds))
            with _leaving_out(contender, left_out, show):
                child.described = child.answer()
                lanes += [(child, suffix) for suffix in child.described]
                show(f"{contender.name} is ready")
        for number in range(rounds):
            for child, suffix in turns(lanes, number):
                if child.contender.name not in left_out:
                    with _leaving_out(child.contender, left_out, show):
                        child.seconds[suffix].append(child.ask(suffix, child.described[suffix]["calls"]))
            show(f"round {number + 1} of {rounds}")
        measured = []
        for child in dict.fromkeys(child for child, _ in lanes):
            if child.contender.name not in left_out:
                with _leaving_out(child.contender, left_out, show):
                    measured += child.measured(child.ask())
    return measured, left_out


@contextlib.contextmanager
def _leaving_out(contender: Contender, left_out: dict[str, str], show: Callable[[str], None]) -> Iterator[None]:
    """Notes the failure of a contender that is not required."""
    try:
        yield
    except _Failure as failure:
        if contender.required:
            raise RuntimeError(f"{contender.name} failed: {failure.detail}") from None
        left_out[contender.name] = str(failure)
        show(f"{contender.name} is left out: {failure}")


def ask(contender: Contender) -> Any:
    """Calls a contender's function in a process of its own, and returns or raises what the function does."""
    with (
        _environment(contender.environment),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(_call, contender).result()


def _call(contender: Contender) -> Any:
    module, function = contender.target.split(":")
    return getattr(importlib.import_module(module), function)(*contender.arguments)


def turns(lanes: Sequence[Any], number: int) -> list[Any]:
    """The order of a round: as given in even rounds, reversed in odd ones."""
    return list(lanes if number % 2 == 0 else reversed(lanes))


def calls_in(seconds: float, one_call: float, period: int) -> int:
    """How many calls take about `seconds`: a multiple of the period where at least one period fits.

    Args:
      seconds: Wanted length of a turn in seconds.
      one_call: Length of a call in seconds.
      period: As in `Lane`.
    """
    calls = max(1, round(seconds / one_call))
    return calls if calls < period else round(calls / period) * period


def resident_peak() -> int:
    """The largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Failure(Exception):
    """The reason why a contender cannot go on, in a line; `detail` holds the traceback."""

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail or message


class _Child:
    """A contender's process, as its parent sees it."""

    def __init__(self, contender: Contender, process: Any, connection: Connection):
        self.contender, self.process, self.connection = contender, process, connection
        self.described: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)

    def ask(self, *request: Any) -> Any:
        """Sends a request and waits for the answer: a lane's suffix and a number of calls, or nothing for the end."""
        try:
            self.connection.send(request)
        except OSError as error:
            raise _Failure(f"its process has gone ({error})") from None
        return self.answer()

    def answer(self) -> Any:
        try:
            kind, *values = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_SECONDS_TO_CLOSE)
            raise _Failure(f"its process ended with exit code {self.process.exitcode}") from None
        if kind == "mistake":
            raise InputError(*values)
        if kind == "failed":
            raise _Failure(*values)
        return values[0]

    def measured(self, finished: Numbers) -> list[Measured]:
        return [
            Measured(
                name=f"{self.contender.name} {suffix}".strip(),
                samples=lane["samples"],
                calls=lane["calls"],
                seconds=tuple(self.seconds[suffix]),
                compile_seconds=lane["compile_seconds"],
                numbers={**lane["numbers"], **finished},
            )
            for suffix, lane in self.described.items()
        ]


@contextlib.contextmanager
def _child(contender: Contender, seconds: float) -> Iterator[_Child]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # Not a daemon: those may have no processes of their own, such as a DataLoader's workers.
    process = context.Process(target=_serve, args=(there, contender, seconds), name=contender.name)
    with _environment(contender.environment):
        process.start()
    there.close()
    try:
        yield _Child(contender, process, here)
        process.join(_SECONDS_TO_CLOSE)
    finally:
        here.close()
        process.terminate()
        process.join()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, contender: Contender, seconds: float) -> None:
    """Builds and warms up a contender in its process, and runs what it is asked to until it is asked for the end."""
    # Ctrl-C reaches the parent too, which ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As launchers do for ours; PyTorch gains by it as well.
    keep_freed_memory()
    try:
        entry = _call(contender)
        connection.send(("ready", {suffix: _warm_up(lane, seconds) for suffix, lane in entry.lanes.items()}))
        while request := connection.recv():
            suffix, calls = request
            connection.send(("done", _seconds_of(entry.lanes[suffix], calls)))
        connection.send(("finished", entry.finish()))
    except EOFError:
        pass  # The parent has gone.
    except InputError as mistake:
        connection.send(("mistake", str(mistake)))
    except Exception as error:
        # Compilers' messages are pages; their first line says what it is.
        lines = str(error).strip().splitlines() or ["no message"]
        connection.send(("failed", f"{type(error).__name__}: {lines[0][:300]}", traceback.format_exc()))


def _warm_up(lane: Lane, seconds: float) -> dict[str, Any]:
    first, second = _seconds_of(lane, 1), _seconds_of(lane, 1)
    pilot = max(1, int(_PILOT * seconds / second))
    steady = _seconds_of(lane, pilot) / pilot
    return {
        "samples": lane.samples,
        "calls": calls_in(seconds, steady, lane.period),
        "compile_seconds": max(0.0, first - steady) if lane.compiles else None,
        "numbers": lane.inspect(),
    }


def _seconds_of(lane: Lane, calls: int) -> float:
    begun = time.perf_counter()
    lane.run(calls)
    return time.perf_counter() - begun
