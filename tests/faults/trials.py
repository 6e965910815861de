"""Trials: a tiny study is stopped by signals at random moments, goes on, and must end as an undisturbed one.

`python -m tests.faults.trials SIGKILL 100 FOLDER` runs so many trials by itself and prints a line for each.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from simsiam_jax.train.checkpoints import digest
from tests.support.launchers import PATIENCE, json_lines, numbers

# A stopped process has to end within this time, by the promise of `simsiam_jax.stopping`.
ENDED_WITHIN = 30.0
# How a process that a signal has stopped ends.
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
_SECONDS_BETWEEN_LOOKS = 0.02


def start(folder: Path, *flags: str) -> BaseProcess:
    """Starts the study in `folder`, in a process that has imported everything and has begun nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.launcher"])
    process = context.Process(target=_main, args=(folder, flags))
    process.start()
    return process


def _main(folder: Path, flags: tuple[str, ...]) -> None:
    # It is imported already, and nothing of it where a trial is watched.
    from tests.faults import launcher

    launcher.main(folder, flags)


def paths(folder: Path) -> set[str]:
    """Every path of a study: its moments, whatever the speed of the machine."""
    # Unlike glob, walk passes over a folder that goes in the meantime.
    found = (each for name in ("w", "data") for each in os.walk(folder / name))
    return {
        os.path.relpath(os.path.join(top, name), folder) for top, folders, files in found for name in folders + files
    }


def saved(folder: Path) -> set[str]:
    """The finished results and checkpoints of a study, by their paths."""
    found = re.compile(r"w/[^/]+/seed-\d+/.*(/result\.json|/checkpoints/\d+)")
    return {path for path in paths(folder) if found.fullmatch(path)}


@dataclass(frozen=True)
class Outcome:
    """What a study leaves that a fault must not change.

    Attributes:
      results: Numbers by arm, seed, stage and split.
      logs: Numbers of each epoch by the stage's folder, without speeds.
      parameters: Digest of the newest checkpoint by the stage's folder.
      report: Names of the report's files.
    """

    results: dict
    logs: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    report: tuple[str, ...] = ()


def outcome(folder: Path) -> Outcome:
    """Reads what the study in `folder`/w has left."""
    workdir = folder / "w"
    logs = {
        str(path.parent.relative_to(workdir)): [
            {name: value for name, value in line.items() if name not in ("images_per_second", "digest")}
            for line in json_lines(path)
        ]
        for path in workdir.rglob("metrics.jsonl")
    }
    parameters = {str(path.parent.relative_to(workdir)): final_digest(path) for path in workdir.rglob("checkpoints")}
    return Outcome(
        numbers(workdir), logs, parameters, tuple(sorted(path.name for path in (workdir / "report").iterdir()))
    )


def final_digest(checkpoints: Path) -> tuple[int, str]:
    """The updates behind the newest checkpoint of a folder, and the digest of its state."""
    update = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    with ocp.StandardCheckpointer() as checkpointer:
        return update, digest(checkpointer.restore(checkpoints.resolve() / str(update) / "state"))


@dataclass
class Stop:
    """One signal of a trial.

    Attributes:
      after: Number of new paths after which the signal was sent; as many as there were, where it came too late.
      code: Exit code of the process.
      took: Seconds from the signal to the process's end.
      lost: Seconds since the last checkpoint or result, or since the start where there was none.
      said: What the process said.
      place: The last checkpoint or result that it made; "" for none.
    """

    after: int
    code: int
    took: float
    lost: float
    said: str
    place: str


def run(folder: Path, number: signal.Signals | None = None, after: int = 0, pause: float = 0.0) -> Stop:
    """Runs the study, and sends it a signal where it has made so many paths.

    Args:
      folder: The folder of the trial.
      number: The signal; None lets the study run to its end.
      after: Number of new paths that are waited for.
      pause: Seconds from then to the signal.
    """
    known, process = paths(folder), start(folder)
    last, there, seen, place = time.time(), saved(folder), set(), ""
    try:
        while process.is_alive() and (number is None or len(seen) < after):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            seen |= paths(folder) - known
            if (now := saved(folder)) - there:
                last, there, place = time.time(), now, max(now - there)
        time.sleep(pause)
        sent = time.time()
        if number is not None and process.is_alive():
            os.kill(process.pid or 0, number)
        code = ended(process)
    finally:
        process.kill()
    return Stop(len(seen), code, time.time() - sent, sent - last, said_of(folder), place)


def ended(process: BaseProcess) -> int:
    """Waits for a study's end, and gives its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


def said_of(folder: Path) -> str:
    """What the last study in a folder printed."""
    return (folder / "said").read_text(errors="replace")


def complaint(stop: Stop, number: signal.Signals) -> str:
    """What is wrong with how a process ended after a signal; empty where nothing is."""
    if stop.code == 0:
        return ""  # it was done before
    if stop.code != CODES[number]:
        return f"exit code {stop.code}: {stop.said[-300:]}"
    if number != signal.SIGKILL:
        if stop.took > ENDED_WITHIN:
            return f"took {stop.took:.1f} s"
        if "Traceback" in stop.said or "the same command goes on" not in stop.said:
            return f"said {stop.said[-300:]}"
    return ""


def undisturbed(folder: Path) -> tuple[int, Outcome]:
    """Runs the study to its end: the number of paths that it makes, and what it leaves."""
    done = run(folder)
    assert done.code == 0, done.said
    return done.after, outcome(folder)


def trial(
    folder: Path, number: signal.Signals, stops: int, seed: int, count: int, wanted: Outcome
) -> tuple[list[Stop], str]:
    """Stops a study some times, runs it to its end, and says what differs from an undisturbed run.

    Args:
      folder: An empty folder.
      number: The signal.
      stops: Number of times that it is sent; fewer, where the study is done before.
      seed: Seed of the moments.
      count: Number of paths that an undisturbed run makes.
      wanted: What an undisturbed run leaves.

    Returns:
      The stops, and what went wrong; empty where nothing did.
    """
    draw, left, found = np.random.default_rng([int(number), seed]), count, []
    for still in range(stops, 0, -1):
        # The signals still to come share out what is left, so that few come too late.
        reach = 2 * left // (still + 1)
        stop = run(folder, number, int(draw.integers(1, max(2, reach))), float(draw.uniform(0, 0.3)))
        left -= stop.after  # a run that goes on makes the rest
        if stop.code == 0:  # it was done before the signal came
            break
        found.append(stop)
        if wrong := complaint(stop, number):
            return found, wrong
    done = run(folder)
    if done.code:
        return found, f"the rerun failed: {done.said[-300:]}"
    got = outcome(folder)
    differ = [name for name in vars(wanted) if getattr(wanted, name) != getattr(got, name)]
    left = [str(path) for path in folder.glob("w/**/*") if path.name.endswith(".tmp")]
    return found, f"other {', '.join(differ)}" if differ else f"left {left[:3]}" if left else ""


def main(name: str, count: str, where: str, each: str = "4", first_seed: str = "0") -> None:
    """Runs trials until so many signals are sent, and prints a line of JSON for each trial."""
    number, folder = signal.Signals[name], Path(where)
    made, wanted = undisturbed(folder / f"{name}-undisturbed")
    sent, seed = 0, int(first_seed)
    while sent < int(count):
        seed, mine, began = seed + 1, folder / f"{name}-{seed + 1}", time.time()
        stops, wrong = trial(mine, number, min(int(each), int(count) - sent), seed, made, wanted)
        sent += len(stops)
        line = {"signal": name, "seed": seed, "sent": sent, "wrong": wrong, "seconds": round(time.time() - began)}
        print(json.dumps({**line, "stops": [{**asdict(stop), "said": stop.said[-200:]} for stop in stops]}), flush=True)
        if not wrong:
            shutil.rmtree(mine)


if __name__ == "__main__":
    main(*sys.argv[1:])
