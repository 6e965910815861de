"""The files that a run leaves, written so that a killed process loses at most the line it was writing."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import one_line
from simsiam_jax.settings.schema import Column, Layout

RESULTS_FILE = "results.jsonl"
EXPERIMENT_FILE = "experiment.json"
EVALS = ("pretrain", "knn", "linear", "finetune")
SPLITS = ("train", "validation", "test")


class Headline(NamedTuple):
    """What the number that an experiment's tables show is called: in full, in a sentence, and as a curve's unit."""

    name: str
    noun: str
    unit: str
    note: str = ""


# What tables can show, by its name in result lines, where it is a fraction 0..1 (`metrics.scores`).
HEADLINES = {
    "top1": Headline("top-1 accuracy", "accuracy", "top-1, %"),
    "balanced_accuracy": Headline("balanced accuracy", "balanced accuracy", "balanced accuracy, %"),
    "auc": Headline("area under the ROC curve", "AUC", "AUC, %"),
    **{
        f"{average}_{name}": Headline(f"{average} {words}", f"{average} {words}", "%", note.format(average))
        for average in ("macro", "micro")
        for name, words, note in (
            ("jaccard", "Jaccard", " (which the paper calls {} accuracy)"),
            ("accuracy", "accuracy", ""),
            ("auc", "AUC", ""),
            ("average_precision", "average precision", ""),
        )
    },
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
    """One arm of an ablation.

    Attributes:
      name: Its folder.
      label: What tables call it.
      paper: The paper's own numbers in percent, by split where they are the headline's or by `split/metric`.
      pretrain: `none`, `in_domain` or `random_images`; None where the file does not say.
      group: Arms of one group are compared with the group's first one; None: all such arms are one group.
      shares: The arm whose pretraining it starts from.
      settings: In which it differs from the run, by the names of `config.OVERRIDES`.
      changes: The same in full, such as `pretrain.stop_gradient: true -> false`.
      labels: Labelled images that it learns from.
      absent: Why it was not run; None for an arm that was or will be.
      init: The weights that it starts from; None for random ones or those of the run.
    """

    name: str
    label: str
    paper: dict[str, float | int] = field(default_factory=dict)
    pretrain: str | None = None
    group: str | None = None
    shares: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    labels: int | None = None
    absent: str | None = None
    init: dict[str, Any] | None = None

    @property
    def words(self) -> str:
        """The label on one line."""
        return " ".join(self.label.split()) or self.name

    @property
    def title(self) -> str:
        """The label with the group in front, if it has one: what tells it from every other arm."""
        return self.words if self.group is None or self.group in self.words else f"{self.group}: {self.words}"


@dataclass(frozen=True)
class Experiment:
    """What experiment.json says of a run: the order of `arms` is that of the table, a group's first is its reference.

    `seeds` are the seeds that the run will have when it is finished; empty where the file does not say. `init` tells
    which weights its backbones start from; None for random ones. `metric` is what its tables show, of `HEADLINES`.
    `label_kind` is `classes` or `attributes`, `class_names` are their names where known. `layout` is the table in the
    paper's form; `figure3` asks for the test loss of pretraining by arm.
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
    label_kind: str | None = None
    class_names: tuple[str, ...] = ()
    layout: Layout | None = None
    figure3: bool = False

    @property
    def headline(self) -> Headline:
        """What `metric` is called."""
        return HEADLINES[self.metric]

    @property
    def groups(self) -> dict[str | None, tuple[Arm, ...]]:
        """The arms of each group in order: the first of each is what its others are compared with."""
        names = dict.fromkeys(arm.group for arm in self.arms)
        return {name: tuple(arm for arm in self.arms if arm.group == name) for name in names}


def results_file(shard: str | None = None) -> str:
    """The name of the file that a process appends to: machines that share a workdir write one each.

    Args:
      shard: Such as `1-of-2`; None for a process that does every unit.
    """
    return RESULTS_FILE if shard is None else RESULTS_FILE.replace(".", f"-{shard}.")


def append_results(workdir: Path, results: Sequence[Result], shard: str | None = None) -> None:
    """Appends whole lines to the process's file of results in one write, and returns when they are on the disk.

    The piece of a line that a killed process left at the end of the file is dropped first; a last line that
    lacks nothing but its line break is kept.

    Args:
      workdir: The run's folder; it exists.
      results: The lines to add, in order; none leaves the file alone.
      shard: Which part of the units this process does, as `results_file` takes it.
    """
    if not results:
        return
    text = "".join(json.dumps(_finite(dataclasses.asdict(result)), allow_nan=False) + "\n" for result in results)
    path = Path(workdir) / results_file(shard)
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
    """The lines of every results*.jsonl, file after file by name, each in the order of writing; none without a file.

    Args:
      workdir: The run's folder.

    Raises:
      InputError: A line is no result, and it is not the cut last line of a killed process.
    """
    pattern = RESULTS_FILE.replace(".", "*.")
    return [result for path in sorted(Path(workdir).glob(pattern)) for result in _read_results_file(path)]


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
        raise InputError(f"{path} is not JSON ({one_line(error)}): {fix}") from None
    require(isinstance(values, dict), f"{path} is not a JSON object: {fix}")
    expected = {"experiment": str, "title": str, "question": str, "dataset": str, "command": str}
    expected |= {"arms": list, "evals": list, "config": dict, "data": dict}
    for name, kind in expected.items():
        require(isinstance(values.get(name), kind), f"{path} has no usable {name!r}: {fix}")
    require(len(values["arms"]) > 0, f"{path} names no arm: {fix}")
    require(isinstance(values.get("paper_source"), str | None), f"{path} has no usable 'paper_source': {fix}")
    optional = {"init": dict | None, "label_kind": str | None, "figure3": bool | None, "class_names": list | None}
    for name, kind in optional.items():
        require(isinstance(values.get(name), kind), f"{path} has no usable {name!r}: {fix}")
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
        label_kind=values.get("label_kind"),
        class_names=tuple(map(str, values.get("class_names") or ())),
        layout=_parse_layout(values.get("layout"), f"{path} has no usable 'layout': {fix}"),
        figure3=bool(values.get("figure3")),
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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _read_results_file(path: Path) -> list[Result]:
    whole, tail = _split_tail(_read_bytes(path))
    lines = whole.split(b"\n")[:-1] + ([tail] if _is_json(tail) else [])
    return [_parse_result(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


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
        raise InputError(f"{path}, line {number} is no result ({one_line(error)}): {fix}") from None


def _parse_arm(values: Any, message: str) -> Arm:
    require(isinstance(values, dict), message)
    # What is null is as if it were not there, which is how files of before a field was known read.
    given = {field.name: values[field.name] for field in dataclasses.fields(Arm) if values.get(field.name) is not None}
    kinds = {"settings": dict, "paper": dict, "init": dict, "changes": list, "labels": int}
    require(all(isinstance(value, kinds.get(name, str)) for name, value in given.items()), message)
    require("name" in given and all(map(_is_number, given.get("paper", {}).values())), message)
    given |= {"label": given.get("label") or given["name"], "changes": tuple(map(str, given.get("changes", ())))}
    return Arm(**given)


def _parse_layout(values: Any, message: str) -> Layout | None:
    """`{"columns": [[eval, split, metric, heading], ...], "pivot": bool}`."""
    if values is None:
        return None
    require(isinstance(values, dict) and isinstance(values.get("columns"), list), message)
    columns = [list(column.values()) if isinstance(column, dict) else column for column in values["columns"]]
    for column in columns:
        usable = isinstance(column, list) and len(column) == 4 and all(isinstance(part, str) for part in column)
        require(usable and column[0] in EVALS and column[1] in SPLITS and column[2] in HEADLINES, message)
    found = (Column(heading, eval, split, metric) for eval, split, metric, heading in columns)
    return Layout(tuple(found), bool(values.get("pivot")))


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
