"""Contenders measured by turns: each in a process of its own, one computing at a time.

In every round each contender runs for about the same time, and every other round goes the other way about: what
drifts on the machine (its clock, its other users) meets all alike and cancels in the ratios of a round. Processes of
their own keep thread pools and allocators apart, and give each contender its own environment and peak memory.
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

# Of a turn's time, what the number of calls in a turn is found with.
_PILOT = 0.2
_SECONDS_TO_CLOSE = 60

Numbers = Mapping[str, float | int]


@dataclass(frozen=True)
class Contender:
    """Who takes part, as its process is told.

    Attributes:
      name: As the table calls it.
      target: `module:function` that returns its `Entry`; named, so that only its own process imports it.
      arguments: Of the function.
      environment: Variables to set before its process starts.
      required: Whether the contest ends with an error if it fails; others are left out, with the reason.
    """

    name: str
    target: str
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False


@dataclass(frozen=True)
class Lane:
    """Something that a contender's process can run by turns.

    Attributes:
      run: Makes so many calls, and returns when the last has been computed.
      samples: What a call gets through, in the unit of its rate.
      period: Calls after which its work repeats; a turn is a multiple where it is that long.
      compiles: Whether its first call compiles.
      inspect: Further numbers, taken once after the first calls.
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
      lanes: By the suffix to the contender's name; the main one has none.
      finish: Called after the last round: numbers of the process as a whole, `peak_bytes` among them.
    """

    lanes: Mapping[str, Lane]
    finish: Callable[[], Numbers]


@dataclass(frozen=True)
class Measured:
    """A lane's measurements.

    Attributes:
      name: Of the contender, with the lane's suffix.
      samples: What a call gets through.
      calls: In a turn.
      seconds: Of each round's turn.
      compile_seconds: Of the first call, less those of a later one; None where nothing is compiled.
      numbers: What the lane and its process say of themselves.
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
      contenders: In the order of the first round.
      rounds: At least 1.
      seconds: Of a turn, about.
      show: Is told of progress in a line.

    Returns:
      The lanes' measurements, and by name why a contender was left out.

    Raises:
      InputError: What a contender's process raised as such.
      RuntimeError: If a required contender failed; its message holds the traceback.
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
    """What a contender's function returns, called in a process of its own; so what it raises is raised here."""
    with (
        _environment(contender.environment),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(_call, contender).result()


def _call(contender: Contender) -> Any:
    module, function = contender.target.split(":")
    return getattr(importlib.import_module(module), function)(*contender.arguments)


def turns(lanes: Sequence[Any], number: int) -> list[Any]:
    """The order of a round: as given, and the other way about in every other one."""
    return list(lanes if number % 2 == 0 else reversed(lanes))


def calls_in(seconds: float, one_call: float, period: int) -> int:
    """How many calls take about `seconds`, a multiple of the period where that many fit."""
    calls = max(1, round(seconds / one_call))
    return calls if calls < period else round(calls / period) * period


def resident_peak() -> int:
    """The most bytes of memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Failure(Exception):
    """Why a contender cannot go on, in a line; `detail` has the traceback."""

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
        """Sends a request, a lane and its number of calls or nothing for the end, and waits for the answer."""
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
    """A contender's process: builds, warms up, and runs what it is asked to until it is asked for the end."""
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
        pass  # the parent has gone
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
