"""Trials: a tiny study is stopped by signals at random moments, goes on, and must end as an undisturbed one.

`python -m tests.faults.trials SIGKILL 100 FOLDER` runs so many trials by itself and prints a line for each.
"""

import json
import multiprocessing
import os
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


def begun(folder: Path, process: BaseProcess, known: float) -> None:
    """Waits until a study writes to its folders, or ends.

    Args:
      folder: The folder of the trial.
      process: The study's process.
      known: Time of the last write before it was started.
    """
    while process.is_alive() and newest(folder) <= known:
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def newest(folder: Path) -> float:
    """The time at which anything of a study was last written; 0 where there is nothing."""
    found = 0.0
    for path in (*folder.glob("w/**/*"), *folder.glob("data/**/*")):
        try:
            found = max(found, path.lstat().st_mtime)
        except OSError:  # it went in the meantime
            continue
    return found


def saved(folder: Path) -> list[str]:
    """The finished checkpoints and results of a study, by their paths."""
    found = [*folder.glob("w/*/seed-*/*/result.json"), *folder.glob("w/*/seed-*/*/checkpoints/[0-9]*")]
    return sorted(str(path.relative_to(folder)) for path in found if path.name.isdigit() or path.is_file())


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
            {name: value for name, value in line.items() if name != "images_per_second"} for line in json_lines(path)
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
      after: Seconds from the first write to the signal.
      code: Exit code of the process.
      took: Seconds from the signal to the process's end.
      lost: Seconds since the last checkpoint or result, or since the first write where there was none.
      said: What the process said on its error output.
      place: The last checkpoint or result that was there.
    """

    after: float
    code: int
    took: float
    lost: float
    said: str
    place: str


def disturb(folder: Path, number: signal.Signals, draw: np.random.Generator, span: float) -> Stop:
    """Runs the study and sends it a signal at a random moment of its work.

    Args:
      folder: The folder of the trial.
      number: The signal.
      draw: Source of the moment.
      span: Seconds that the work of an undisturbed run takes, from its first write.
    """
    # A run that goes on has less to do than the first one.
    after, known = float(draw.uniform(0, 0.6 * span)), newest(folder)
    process = start(folder)
    try:
        begun(folder, process, known)
        first = last = time.time()
        there = saved(folder)
        while process.is_alive() and time.time() - first < after:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            if (now := saved(folder)) != there:
                last, there = time.time(), now
        sent = time.time()
        if process.is_alive():
            os.kill(process.pid or 0, number)
        code = ended(process)
    finally:
        process.kill()
    said = said_of(folder)
    return Stop(after, code, time.time() - sent, sent - last, said, there[-1] if there else "")


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


def finish(folder: Path) -> tuple[float, str]:
    """Runs the study to its end: seconds of its work, from the first write, and what it said where it failed."""
    known, process = newest(folder), start(folder)
    begun(folder, process, known)
    first, code = time.time(), ended(process)
    return time.time() - first, said_of(folder) or f"exit code {code}" if code else ""


def trial(
    folder: Path, number: signal.Signals, stops: int, seed: int, span: float, wanted: Outcome
) -> tuple[list[Stop], str]:
    """Stops a study some times, runs it to its end, and says what differs from an undisturbed run.

    Args:
      folder: An empty folder.
      number: The signal.
      stops: Number of times that it is sent.
      seed: Seed of the moments.
      span: Seconds that the work of an undisturbed run takes.
      wanted: What an undisturbed run leaves.

    Returns:
      The stops, and what went wrong; empty where nothing did.
    """
    draw, found = np.random.default_rng([int(number), seed]), []
    for _ in range(stops):
        found.append(disturb(folder, number, draw, span))
        if wrong := complaint(found[-1], number):
            return found, wrong
        if found[-1].code == 0:  # it was done before the signal came
            found.pop()
            break
    _, said = finish(folder)
    if said:
        return found, f"the rerun failed: {said[-300:]}"
    got = outcome(folder)
    differ = [name for name in vars(wanted) if getattr(wanted, name) != getattr(got, name)]
    left = [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp") and folder / "w" in path.parents]
    return found, f"other {', '.join(differ)}" if differ else f"left {left[:3]}" if left else ""


def main(name: str, count: str, where: str, each: str = "4", first_seed: str = "0") -> None:
    """Runs trials until so many signals are sent, and prints a line of JSON for each trial."""
    number, folder = signal.Signals[name], Path(where)
    base = folder / "undisturbed"
    if not (base / "span.json").exists():
        finish(folder / "warm")  # compiled programs are on disk from here on
        span, said = finish(base)
        assert not said, said
        (base / "span.json").write_text(json.dumps(span))
    span, wanted = json.loads((base / "span.json").read_text()), outcome(base)
    sent, seed = 0, int(first_seed)
    while sent < int(count):
        seed, mine = seed + 1, folder / f"{name}-{seed}"
        mine.mkdir(parents=True)
        begun_at = time.time()
        stops, wrong = trial(mine, number, int(each), seed, span, wanted)
        sent += len(stops)
        line = {"signal": name, "seed": seed, "sent": sent, "wrong": wrong, "seconds": round(time.time() - begun_at),
                "stops": [{**asdict(stop), "said": stop.said[-200:]} for stop in stops]}  # fmt: skip
        print(json.dumps(line), flush=True)
        if not wrong:
            shutil.rmtree(mine)


if __name__ == "__main__":
    main(*sys.argv[1:])
