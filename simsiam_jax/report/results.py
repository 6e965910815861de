"""The files that a run leaves, written so that a killed process loses at most the line it was writing."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simsiam_jax.config import InputError, require

RESULTS_FILE = "results.jsonl"
EXPERIMENT_FILE = "experiment.json"
EVALS = ("pretrain", "knn", "linear", "finetune")
SPLITS = ("train", "validation", "test")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "simsiam_jax")


class Headline(NamedTuple):
    """What the number that an experiment's tables show is called: in full, in a sentence, and as a curve's unit."""

    name: str
    noun: str
    unit: str
    note: str = ""


# By its name in result lines, where it is a fraction 0..1; `metrics.HEADLINE` says which labels have which.
HEADLINES = {
    "top1": Headline("top-1 accuracy", "accuracy", "top-1, %"),
    "macro_jaccard": Headline("macro Jaccard", "macro Jaccard", "%", " (which the paper calls macro accuracy)"),
}


@dataclass(frozen=True)
class Result:
    """One measured set of values: a line of results.jsonl.

    `metrics` holds fractions 0..1, those of `metrics.scores` (`top1`, or what is said of attributes); for eval
    "pretrain" it holds `loss`, `z_spread` (spread of the l2-normalised z times sqrt(d)), `images_per_second` and
    `updates`. `seconds` is the time of the whole unit (arm × seed × eval), the same on each of its splits' lines.
    """

    experiment: str
    arm: str
    backbone: str
    pretrain: str | None
    seed: int
    eval: str
    split: str
    metrics: dict[str, float | int]
    seconds: float | int
    config_hash: str
    git_revision: str
    versions: dict[str, str]
    device: str

    def __post_init__(self) -> None:
        require(self.eval in EVALS, f"eval must be one of {', '.join(EVALS)}, not {self.eval!r}")
        require(self.split in SPLITS, f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")


@dataclass(frozen=True)
class Arm:
    """One arm of an ablation; `paper` holds the paper's own accuracies in percent by split, {} where it has none."""

    name: str
    label: str
    paper: dict[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What experiment.json says of a run: the order of `arms` is that of the table, the first is the reference.

    `seeds` are the seeds that the run will have when it is finished; empty where the file does not say. `init` tells
    which weights its backbones start from; None for random ones. `metric` is what its tables show, of `HEADLINES`.
    """

    experiment: str
    title: str
    question: str
    dataset: str
    command: str
    arms: tuple[Arm, ...]
    evals: tuple[str, ...]
    config: dict[str, Any]
    data: dict[str, Any]
    paper_source: str | None = None
    seeds: tuple[int, ...] = ()
    init: dict[str, Any] | None = None
    metric: str = "top1"

    @property
    def headline(self) -> Headline:
        """What `metric` is called."""
        return HEADLINES[self.metric]


def append_results(workdir: Path, results: Sequence[Result]) -> None:
    """Appends whole lines to results.jsonl in one write, and returns when they are on the disk.

    The piece of a line that a killed process left at the end of the file is dropped first; a last line that
    lacks nothing but its line break is kept.

    Args:
      workdir: The run's folder; it exists.
      results: The lines to add, in order; none leaves the file alone.
    """
    if not results:
        return
    text = "".join(json.dumps(_finite(dataclasses.asdict(result)), allow_nan=False) + "\n" for result in results)
    path = Path(workdir) / RESULTS_FILE
    with open(path, "r+b" if path.exists() else "x+b") as file:
        whole, tail = _split_tail(file.read())
        complete = _is_json(tail)
        if not complete:
            file.seek(len(whole))
            file.truncate()
        file.write((b"\n" if complete else b"") + text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(workdir: Path) -> list[Result]:
    """The lines of results.jsonl in the order of writing; none where the file is missing.

    Args:
      workdir: The run's folder.

    Raises:
      InputError: A line is no result, and it is not the cut last line of a killed process.
    """
    path = Path(workdir) / RESULTS_FILE
    if not path.exists():
        return []
    whole, tail = _split_tail(_read_bytes(path))
    lines = whole.split(b"\n")[:-1] + ([tail] if _is_json(tail) else [])
    return [_parse_result(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def read_experiment(workdir: Path) -> Experiment:
    """What experiment.json says of the run in `workdir`.

    Raises:
      InputError: There is no such folder or file, or the file is not what a launcher writes.
    """
    require(Path(workdir).is_dir(), f"--workdir={workdir}: there is no such folder")
    path = Path(workdir) / EXPERIMENT_FILE
    require(
        path.exists(), f"--workdir={workdir} holds no {EXPERIMENT_FILE}: give the folder of a finished or begun run"
    )
    fix = "give the folder that a launcher wrote, or run the launcher again"
    try:
        values = json.loads(_read_bytes(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({_one_line(error)}): {fix}") from None
    require(isinstance(values, dict), f"{path} is not a JSON object: {fix}")
    expected = {"experiment": str, "title": str, "question": str, "dataset": str, "command": str}
    expected |= {"arms": list, "evals": list, "config": dict, "data": dict}
    for name, kind in expected.items():
        require(isinstance(values.get(name), kind), f"{path} has no usable {name!r}: {fix}")
    require(len(values["arms"]) > 0, f"{path} names no arm: {fix}")
    require(isinstance(values.get("paper_source"), str | None), f"{path} has no usable 'paper_source': {fix}")
    require(isinstance(values.get("init"), dict | None), f"{path} has no usable 'init': {fix}")
    metric = values.get("metric", "top1")
    require(
        isinstance(metric, str) and metric in HEADLINES,
        f"{path} has no usable 'metric' (known: {', '.join(HEADLINES)}): {fix}",
    )
    seeds = values.get("seeds") or []
    require(isinstance(seeds, list) and all(map(_is_count, seeds)), f"{path} has no usable 'seeds': {fix}")
    return Experiment(
        arms=tuple(
            _parse_arm(arm, f"{path} has an arm that is no name, label and paper: {fix}") for arm in values["arms"]
        ),
        evals=tuple(str(name) for name in values["evals"]),
        config=values["config"],
        data=values["data"],
        paper_source=values.get("paper_source"),
        seeds=tuple(seeds),
        init=values.get("init"),
        metric=metric,
        **{name: values[name] for name, kind in expected.items() if kind is str},
    )


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a metrics.jsonl, and how many of them are unreadable.

    A log is looked at, not counted on: unlike a result, a bad line is left out.

    Args:
      path: The file; no lines where it is missing.
    """
    if not path.exists():
        return [], 0
    lines = [line for line in _read_bytes(path).split(b"\n") if line.strip()]
    records = [json.loads(line) for line in lines if _is_json(line)]
    return records, len(lines) - len(records)


def environment(device: str) -> dict[str, Any]:
    """What every result line says of where it was measured: git_revision, versions, device.

    Args:
      device: The accelerator or processor in words; given, so that this module needs no jax.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"git_revision": git_revision(Path(__file__)), "versions": versions, "device": device}


def git_revision(source: Path) -> str:
    """The commit that the file `source` is tracked in, "-dirty" appended when tracked files differ from it.

    "unknown" outside a repository, in one that does not track the file (a virtual environment inside some other
    project) and where git is missing.
    """
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", source.name],
            cwd=source.parent, capture_output=True, timeout=20, check=True,
        )  # fmt: skip
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=source.parent, capture_output=True, timeout=20, check=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip() or "unknown"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _split_tail(data: bytes) -> tuple[bytes, bytes]:
    """The whole lines of a file, and what follows the last line break."""
    end = data.rfind(b"\n") + 1
    return data[:end], data[end:]


def _is_json(line: bytes) -> bool:
    """Whether a line holds a whole JSON object; a piece of one never does, for it lacks the last brace."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parse_result(line: bytes, path: Path, number: int) -> Result:
    fix = "remove the line, or give another --workdir"
    try:
        values = json.loads(line)
        fields = {name.name for name in dataclasses.fields(Result)}
        require(isinstance(values, dict), "it is no JSON object")
        if missing := sorted(fields - values.keys()):
            raise InputError(f"{missing[0]!r} is missing")
        if unknown := sorted(values.keys() - fields):
            raise InputError(f"{unknown[0]!r} is unknown")
        require(_is_count(values["seed"]), "'seed' is no integer")
        require(_is_number(values["seconds"]), "'seconds' is no number")
        for name in ("versions", "metrics"):
            require(isinstance(values[name], dict), f"{name!r} is no object")
        for name in fields - {"seed", "seconds", "versions", "metrics", "pretrain"}:
            require(isinstance(values[name], str), f"{name!r} is no text")
        require(isinstance(values["pretrain"], str | None), "'pretrain' is no text")
        metrics = {name: math.nan if value is None else value for name, value in values["metrics"].items()}
        require(all(map(_is_number, metrics.values())), "'metrics' holds more than numbers")
        return Result(**values | {"metrics": metrics})
    except ValueError as error:
        raise InputError(f"{path}, line {number} is no result ({_one_line(error)}): {fix}") from None


def _parse_arm(values: Any, message: str) -> Arm:
    require(isinstance(values, dict) and isinstance(values.get("name"), str), message)
    label, paper = values.get("label") or values["name"], values.get("paper") or {}
    require(isinstance(label, str) and isinstance(paper, dict) and all(map(_is_number, paper.values())), message)
    return Arm(name=values["name"], label=label, paper=paper)


def _finite(value: Any) -> Any:
    """Plain values for JSON: a number that it cannot hold (a diverged loss) becomes null, read back as NaN."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if value is None or isinstance(value, str | int):
        return value
    number = float(value)  # also numpy's and jax's scalars: hours of work must not end in a TypeError
    return number if math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
