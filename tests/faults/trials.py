"""Trials: a tiny study is stopped by signals at random moments, goes on, and must end as an undisturbed one.

`python -m tests.faults.trials SIGKILL 100 FOLDER` sends so many signals and prints a line for each trial. With
`--processes=2` the study is one run of two processes, and a signal goes to either of them.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from simsiam_jax.train.checkpoints import digest
from tests.support.launchers import PATIENCE, free_address, json_lines, numbers

# A stopped process has to end within this time, by the promise of `simsiam_jax.stopping`.
ENDED_WITHIN = 30.0
# A process whose peer was killed has to end within this time: `simsiam_jax.hosts` waits 20 seconds for a sign of life.
ALONE_WITHIN = 60.0
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


def folder_of(folder: Path, process: int) -> Path:
    """The folder in which a process of a trial starts: the trial's own for the first one, which writes there."""
    return folder / f"process-{process}" if process else folder


def start_all(folder: Path, processes: int) -> list[BaseProcess]:
    """Starts the study in `folder` as a run of so many processes, of which the first one writes there."""
    if processes == 1:
        return [start(folder)]
    address = free_address()
    return [
        start(
            folder_of(folder, number),
            *(f"--data_dir={folder / 'data'}", f"--coordinator={address}"),
            *(f"--num_processes={processes}", f"--process_id={number}"),
        )
        for number in range(processes)
    ]


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
      to: Number of the process that it was sent to.
      codes: Exit code of each process.
      took: Seconds from the signal to the end of all processes.
      lost: Seconds since the last checkpoint or result, or since the start where there was none.
      said: What each process said.
      place: The last checkpoint or result that was made; "" for none.
    """

    after: int
    to: int
    codes: tuple[int, ...]
    took: float
    lost: float
    said: tuple[str, ...]
    place: str

    @property
    def done(self) -> bool:
        """Whether the study had ended before the signal came; a process that only follows may still be there."""
        return self.codes[0] == 0


def run(
    folder: Path,
    number: signal.Signals | None = None,
    after: int = 0,
    pause: float = 0.0,
    *,
    processes: int = 1,
    to: int = 0,
) -> Stop:
    """Runs the study, and sends it a signal where it has made so many paths.

    Args:
      folder: The folder of the trial.
      number: The signal; None lets the study run to its end.
      after: Number of new paths that are waited for.
      pause: Seconds from then to the signal.
      processes: Number of processes that run it together.
      to: Number of the process that gets the signal.
    """
    known, started = paths(folder), start_all(folder, processes)
    last, there, seen, place = time.time(), saved(folder), set(), ""
    try:
        while any(each.is_alive() for each in started) and (number is None or len(seen) < after):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            seen |= paths(folder) - known
            if (now := saved(folder)) - there:
                last, there, place = time.time(), now, max(now - there)
        time.sleep(pause)
        sent = time.time()
        if number is not None and started[to].is_alive():
            os.kill(started[to].pid or 0, number)
        codes = tuple(map(ended, started))
    finally:
        for each in started:
            each.kill()
    said = tuple(said_of(folder_of(folder, each)) for each in range(processes))
    return Stop(len(seen), to, codes, time.time() - sent, sent - last, said, place)


def ended(process: BaseProcess) -> int:
    """Waits for a study's end, and gives its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


def said_of(folder: Path) -> str:
    """What the last study in a folder printed."""
    return (folder / "said").read_text(errors="replace")


def complaint(stop: Stop, number: signal.Signals) -> str:
    """What is wrong with how the processes ended after a signal; empty where nothing is."""
    if stop.done:
        return ""
    # A run that is stopped ends as one; of a kill the others learn by silence.
    killed = number == signal.SIGKILL
    wanted = [CODES[number] if each == stop.to or not killed else 1 for each in range(len(stop.codes))]
    if list(stop.codes) != wanted:
        return f"exit codes {stop.codes}: {[said[-300:] for said in stop.said]}"
    for each, said in enumerate(stop.said):
        ends = f"process {stop.to} of {len(stop.codes)} is gone" if killed else "the same command goes on"
        if not (killed and each == stop.to) and ("Traceback" in said or ends not in said):
            return f"process {each} said {said[-300:]}"
    if stop.took > (ALONE_WITHIN if killed else ENDED_WITHIN):
        return f"took {stop.took:.1f} s"
    return ""


def undisturbed(folder: Path, processes: int = 1) -> tuple[int, Outcome]:
    """Runs the study to its end: the number of paths that it makes, and what it leaves."""
    done = run(folder, processes=processes)
    assert done.done, done.said
    return done.after, outcome(folder)


def trial(
    folder: Path, number: signal.Signals, stops: int, seed: int, count: int, wanted: Outcome, processes: int = 1
) -> tuple[list[Stop], str]:
    """Stops a study some times, runs it to its end, and says what differs from an undisturbed run.

    Args:
      folder: An empty folder.
      number: The signal.
      stops: Number of times that it is sent; fewer, where the study is done before.
      seed: Seed of the moments.
      count: Number of paths that an undisturbed run makes.
      wanted: What an undisturbed run leaves.
      processes: Number of processes that run it together, of which each signal strikes one.

    Returns:
      The stops, and what went wrong; empty where nothing did.
    """
    draw, left, found = np.random.default_rng([int(number), seed]), count, []
    for still in range(stops, 0, -1):
        # The signals still to come share out what is left, so that few come too late.
        after = int(draw.integers(1, max(2, 2 * left // (still + 1))))
        pause = float(draw.uniform(0, 0.3))
        stop = run(folder, number, after, pause, processes=processes, to=int(draw.integers(processes)))
        left -= stop.after  # a run that goes on makes the rest
        if stop.done:
            break
        found.append(stop)
        if wrong := complaint(stop, number):
            return found, wrong
    done = run(folder, processes=processes)
    if any(done.codes):
        return found, f"the rerun failed: {[said[-300:] for said in done.said]}"
    got = outcome(folder)
    differ = [name for name in vars(wanted) if getattr(wanted, name) != getattr(got, name)]
    left = [str(path) for path in folder.glob("w/**/*") if path.name.endswith(".tmp")]
    return found, f"other {', '.join(differ)}" if differ else f"left {left[:3]}" if left else ""


def main() -> None:
    """Runs trials until so many signals are sent, and prints a line of JSON for each trial."""
    flags = argparse.ArgumentParser(prog="python -m tests.faults.trials")
    flags.add_argument("signal", choices=[number.name for number in CODES])
    flags.add_argument("count", type=int, help="number of signals")
    flags.add_argument("folder", type=Path)
    flags.add_argument("--per_trial", type=int, default=5, help="signals of a trial, at most")
    flags.add_argument("--processes", type=int, default=1)
    asked = flags.parse_args()
    number, name = signal.Signals[asked.signal], f"{asked.signal}-{asked.processes}"
    made, wanted = undisturbed(asked.folder / f"{name}-undisturbed", asked.processes)
    sent, seed = 0, 0
    while sent < asked.count:
        seed, began = seed + 1, time.time()
        mine, most = asked.folder / f"{name}-{seed}", min(asked.per_trial, asked.count - sent)
        stops, wrong = trial(mine, number, most, seed, made, wanted, asked.processes)
        sent += len(stops)
        line = {"signal": asked.signal, "seed": seed, "sent": sent, "wrong": wrong, "seconds": time.time() - began}
        short = [{**asdict(stop), "said": [said[-200:] for said in stop.said]} for stop in stops]
        print(json.dumps({**line, "stops": short}), flush=True)
        if not wrong:
            shutil.rmtree(mine)


if __name__ == "__main__":
    main()
