"""What a run has measured: one file for each finished stage, and the lines that are gathered from them.

A stage is finished when `WORKDIR/ARM/seed-K/STAGE/result.json` is there. The file is written whole or not at all, so
that any number of processes can work on one folder and a killed one leaves nothing to repair.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import one_line, read_sealed, unsealed, write_sealed, write_sealed_lines
from simsiam_jax.records.experiment import EXPERIMENT_FILE, SPLITS, STAGES, read_experiment
from simsiam_jax.settings.values import from_dict

RESULT_FILE = "result.json"
RESULTS_FILE = "results.jsonl"
_DELETE = "delete this file to measure the stage again"


@dataclass(frozen=True)
class Result:
    """What one stage measured on one split: a line of results.jsonl.

    Attributes:
      experiment: The launcher's name.
      arm: The arm's name.
      backbone: The backbone's name.
      pretrain: The data that the backbone was pretrained on, `none`, or None where nothing is known of it.
      seed: The unit's seed.
      eval: The stage, one of `STAGES`.
      split: The split, one of `SPLITS`.
      metrics: The numbers by name. Those of an evaluation are fractions 0..1 (`metrics.scores`), means over the draws
        of labelled images. Those of the stage `pretrain` are `loss`, `z_spread` (the spread of the l2-normalised z
        times the root of its dimension), `rank` and `untrained_rank` (the effective rank of the backbone's features
        after and before, `metrics.effective_rank`), `images_per_second` and `updates`. NaN stands for a number that is
        not finite.
      seconds: The time of the whole stage in seconds, the same for each of its splits.
      config_hash: 12 hex digits that name the arm's settings.
      git_revision: The revision of the code.
      versions: The version of each package.
      device: The devices in words.
      draws: The headline of each draw of labelled images, in their order, of which `metrics` holds the mean; empty for
        the stage `pretrain`, and where an older run had one draw.
      attributes: The numbers of each attribute by name, in the order of the experiment's `class_names`: `jaccard`,
        `accuracy`, `auc`, `average_precision` (`metrics.all_scores`) and `threshold`, the probability from which on it
        was predicted; means over the draws, NaN where a number is not defined. Empty for classes, and in older runs.
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
    draws: tuple[float | int, ...] = ()
    attributes: dict[str, tuple[float | int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.eval in STAGES, f"eval must be one of {', '.join(STAGES)}, not {self.eval!r}")
        require(self.split in SPLITS, f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")


@dataclass(frozen=True)
class StageResult:
    """What one finished stage of one arm and seed measured: the content of its result.json.

    Attributes:
      experiment: The launcher's name.
      arm: The arm's name.
      backbone: The backbone's name.
      pretrain: The data that the backbone was pretrained on, `none`, or None where nothing is known of it.
      seed: The unit's seed.
      stage: The stage, one of `STAGES`.
      metrics: The numbers of each split, by the split's name, as `Result.metrics` has them.
      seconds: The time of the stage in seconds.
      config_hash: 12 hex digits that name the arm's settings.
      git_revision: The revision of the code.
      versions: The version of each package.
      device: The devices in words.
      draws: The headline of each draw of labelled images by split, as `Result.draws` has them.
      attributes: The numbers of each attribute by split, as `Result.attributes` has them.
    """

    experiment: str
    arm: str
    backbone: str
    pretrain: str | None
    seed: int
    stage: str
    metrics: dict[str, dict[str, float | int]]
    seconds: float | int
    config_hash: str
    git_revision: str
    versions: dict[str, str]
    device: str
    draws: dict[str, tuple[float | int, ...]] = field(default_factory=dict)
    attributes: dict[str, dict[str, tuple[float | int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.stage in STAGES, f"stage must be one of {', '.join(STAGES)}, not {self.stage!r}")
        for split in self.metrics:
            require(split in SPLITS, f"a split must be one of {', '.join(SPLITS)}, not {split!r}")

    @property
    def lines(self) -> list[Result]:
        """The stage's lines of results.jsonl, one for each split in the order of `SPLITS`."""
        common = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        stage, metrics, draws = common.pop("stage"), common.pop("metrics"), common.pop("draws")
        attributes = common.pop("attributes")
        return [
            Result(
                **common,
                eval=stage,
                split=split,
                metrics=metrics[split],
                draws=draws.get(split, ()),
                attributes=attributes.get(split, {}),
            )
            for split in SPLITS
            if split in metrics
        ]

    def write(self, folder: Path) -> None:
        """Writes result.json into the stage's folder, whole or not at all. The stage is finished from then on.

        A number that JSON lacks (the loss of a diverged network) is written as null.
        """
        write_sealed(Path(folder) / RESULT_FILE, _plain(dataclasses.asdict(self)))


def read_stage_result(folder: Path) -> StageResult | None:
    """Reads what `StageResult.write` left in a stage's folder; None where the stage is not finished.

    Args:
      folder: The folder `WORKDIR/ARM/seed-K/STAGE`. It need not exist.

    Raises:
      InputError: If the file is damaged, or belongs to another arm, seed or stage than its folder.
    """
    path = Path(folder) / RESULT_FILE
    try:
        found = from_dict(StageResult, _with_nan(read_sealed(path)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is no stage's result ({one_line(error)}): {_DELETE}") from None
    place = [found.arm, f"seed-{found.seed}", found.stage]
    require([*path.absolute().parts[-4:-1]] == place, f"{path} is the result of {'/'.join(place)}: {_DELETE}")
    return found


def set_damaged_aside(workdir: Path) -> list[Path]:
    """Renames each result.json that was damaged after it was written, so that its stage counts as not finished.

    A file that is whole, but of another stage or version, stays: no stage is measured again for it.

    Args:
      workdir: The run's folder. It need not exist.

    Returns:
      The paths of the files as they were, by name.
    """
    damaged = []
    for path in sorted(Path(workdir).glob(f"*/seed-*/*/{RESULT_FILE}")):
        try:
            read_sealed(path)
        except (OSError, ValueError):
            path.replace(path.with_name(f"{RESULT_FILE}.damaged"))
            damaged.append(path)
    return damaged


def read_results(workdir: Path) -> list[Result]:
    """Reads every result of a run: the lines of its stage files.

    A recorded run has no stage files; then the lines of its results.jsonl are read.

    Args:
      workdir: The run's folder. It need not exist.

    Returns:
      The lines by the order of arms in experiment.json, where there is one, then by seed, stage and split. The lines
      of a recorded run are in the order of its file.

    Raises:
      InputError: If a file is damaged.
    """
    stages = _read_stages(Path(workdir))
    if stages:
        return [line for stage in stages for line in stage.lines]
    path = Path(workdir) / RESULTS_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return [_read_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def gather_results(workdir: Path) -> None:
    """Writes results.jsonl from the stage files of a run, whole or not at all.

    A folder without stage files keeps the results.jsonl that it has.

    Raises:
      InputError: If a stage file is damaged.
    """
    stages = _read_stages(Path(workdir))
    if stages:
        lines = [_plain(dataclasses.asdict(line)) for stage in stages for line in stage.lines]
        write_sealed_lines(Path(workdir) / RESULTS_FILE, lines)


def read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads the lines of a metrics.jsonl, and counts those that are unreadable.

    A bad line is left out, because a log is looked at but no result depends on it. The first line may be of epoch 0
    and hold only what was measured of the untrained network.

    Args:
      path: The log. A missing one has no lines.

    Raises:
      InputError: If the file cannot be read.
    """
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for line in lines:
        try:
            record = unsealed(json.loads(line))
        except ValueError:
            continue
        # What is measured is a number: a text is a digest whose name was hit.
        if not any(isinstance(value, str) for value in record.values()):
            records.append(record)
    return records, len(lines) - len(records)


def _read_stages(workdir: Path) -> list[StageResult]:
    """The finished stages by arm, seed and stage. Arms that experiment.json does not name come last, by name."""
    found = [read_stage_result(path.parent) for path in workdir.glob(f"*/seed-*/*/{RESULT_FILE}")]
    named = (workdir / EXPERIMENT_FILE).exists() and any(found)
    order = [arm.name for arm in read_experiment(workdir).arms] if named else []
    places = {arm: place for place, arm in enumerate(order)}
    return sorted(
        (stage for stage in found if stage is not None),
        key=lambda stage: (places.get(stage.arm, len(places)), stage.arm, stage.seed, STAGES.index(stage.stage)),
    )


def _read_line(line: bytes, path: Path, number: int) -> Result:
    try:
        return from_dict(Result, _with_nan(unsealed(json.loads(line))))
    except ValueError as error:
        fix = "remove the line, or give another --workdir"
        raise InputError(f"{path}, line {number} is no result ({one_line(error)}): {fix}") from None


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    """A read result with NaN in place of each null among its numbers: `_plain` wrote null for it."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: restore(item) for name, item in value.items()}
        if isinstance(value, list):
            return [restore(item) for item in value]
        return math.nan if value is None else value

    return {**values, **{name: restore(values[name]) for name in ("metrics", "draws", "attributes") if name in values}}


def _plain(value: Any) -> Any:
    """The value for JSON: null stands for a number that JSON lacks, such as the loss of a diverged network."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    number = float(value)  # also numpy's and jax's scalars: hours of work must not end in a TypeError
    return number if math.isfinite(number) else None
