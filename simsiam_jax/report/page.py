"""One self-contained page, `report/index.html`, from the files that a run leaves, finished or not."""

import json
import os
import shutil
import statistics
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from simsiam_jax.errors import InputError
from simsiam_jax.records.experiment import STAGES, Experiment, read_experiment
from simsiam_jax.records.results import Result, read_log, read_results
from simsiam_jax.report import exhibits, figures, labels, tables
from simsiam_jax.report.figures import Curves
from simsiam_jax.report.picture import Picture

PAIRS_FILE = "pairs.npz"
# Every picture that a report may have.
PICTURES = (
    *("accuracy", "difference", "labels-finetune", "labels-linear"),
    *("loss", "figure3", "knn", "spread", "finetune"),
    *("samples", "pairs", "neighbours", "map", "confusion"),
)
STAGE_NAMES = {"pretrain": "pretraining", "knn": "kNN", "linear": "linear probe", "finetune": "fine-tuning"}


@dataclass(frozen=True)
class Timing:
    """One arm's cost: mean seconds a seed by stage, images a second, and what pretraining ended with."""

    label: str
    position: int
    seconds: dict[str, float]
    pretrain_rate: float | None
    finetune_rate: float | None
    updates: float | None
    loss: float | None
    z_spread: float | None

    @property
    def total(self) -> float:
        """Mean seconds a seed over all stages."""
        return sum(self.seconds.values())


def write_report(workdir: Path, out: Path | None = None) -> Path:
    """Writes index.html, report.md, table.tex, table.csv and the figures as PNG, and returns the page's path.

    All files are built before any is put in place, so that a rebuild that fails leaves the former report.

    Args:
      workdir: The run's folder. It holds at least experiment.json.
      out: The folder to write to; by default `report` in the workdir.

    Raises:
      InputError: If the folder holds no run, a file in it is damaged, or the report cannot be written.
    """
    files = build_report(Path(workdir), read_experiment(workdir), read_results(workdir))
    flag = f"--workdir={workdir}" if out is None else f"--out={out}"
    try:
        return _put_in_place(files, Path(workdir) / "report" if out is None else Path(out))
    except OSError as error:
        raise InputError(f"{flag}: the report cannot be written ({error.strerror})") from None


def build_report(workdir: Path, experiment: Experiment, results: Sequence[Result]) -> dict[str, bytes]:
    """Builds the report's files, and returns their contents by name, index.html last.

    Args:
      workdir: The folder that holds the logs and the exhibits.
      experiment: What the run is.
      results: What the run has measured.
    """
    table = tables.summarise(results, experiment)
    pretraining, bad_pretraining = _read_curves(workdir, experiment, "pretrain")
    finetuning, bad_finetuning = _read_curves(workdir, experiment, "finetune")
    shown, bad_exhibits = exhibits.pictures(workdir, experiment, results)
    notes = [*_failures(workdir), *bad_pretraining, *bad_finetuning, *bad_exhibits]
    by_name = {picture.name: picture for picture in shown}
    try:
        pairs = _pairs_picture(workdir)
        by_name |= {"pairs": pairs} if pairs else {}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        notes.append(f"{PAIRS_FILE} cannot be read; the augmented pairs are left out")
    saved = [found for name in ("finetune", "linear") if (found := labels.efficiency(results, experiment, name))]
    sections = {
        "outcome": _outcome_pictures(table),
        "labels": [
            Picture(
                f"labels-{found.eval}",
                labels.figure(found),
                f"{tables.capital(experiment.headline.noun)} against the number of labels, {found.eval}",
                f"Lines are means over seeds, bands reach from the lowest to the highest seed. {found.sentence}",
            )
            for found in saved
        ],
        "curves": _curve_pictures(pretraining, finetuning, experiment),
        "images": [by_name[name] for name in ("samples", "pairs") if name in by_name],
        "features": [by_name[name] for name in ("neighbours", "map", "confusion") if name in by_name],
    }
    pictures = [picture for section in sections.values() for picture in section]
    context = {
        "experiment": experiment,
        "table": table,
        "tables": tables,
        "heading": tables.COLUMNS,
        **sections,
        "savings": [found.sentence for found in saved],
        "outcomes": _outcome_words(table),
        "timings": _timings(results, experiment, pretraining, finetuning),
        "stages": [stage for stage in STAGES if any(result.eval == stage for result in results)],
        "stage_names": STAGE_NAMES,
        "settings": flatten(experiment.config),
        "changes": {arm.title: arm.changes for arm in experiment.arms if arm.changes},
        "data": {split: flat_values(values) for split, values in experiment.data.items()},
        "provenance": _provenance(results),
        "number": number_text,
        "notes": notes,
        "duration": duration,
        "drawing": {picture.name: figures.themed_svg(picture.figure, picture.name) for picture in pictures},
        "theme": {"light": figures.css_variables(False), "dark": figures.css_variables(True)},
    }
    files = {f"{picture.name}.png": figures.png(picture.figure) for picture in pictures}
    files["table.csv"] = tables.to_csv(table).encode()
    files["table.tex"] = tables.to_latex(table).encode()
    files["report.md"] = _markdown(experiment, table, context, pictures).encode()
    files["index.html"] = _template("page.html").render(context).encode()
    return files


def _failures(workdir: Path) -> list[str]:
    """The units that failed and were not done since, as their error.txt says."""
    found = []
    for path in sorted(workdir.glob("*/seed-*/error.txt")):
        try:
            reason = path.read_text(errors="replace").split("\n", 1)[0]
        except OSError as error:
            reason = str(error.strerror)
        found.append(f"Failed: {path.parent.parent.name}, {path.parent.name}: {reason.rstrip('.')}")
    return found


def _outcome_words(table: tables.Table) -> str:
    """How many comparisons came out how: `2 helped, 1 undecided`."""
    counts = {name: sum(verdict.outcome == name for verdict in table.verdicts) for name in tables.OUTCOMES}
    return ", ".join(f"{count} {tables.OUTCOMES[name][2:]}" for name, count in counts.items() if count)


def flatten(config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """A nested configuration as groups of settings: the top level's own under "", each nested one by its name.

    Args:
      config: Nested plain values; the names of deeper levels are joined by dots.
    """
    groups: dict[str, dict[str, str]] = {"": {}}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            groups[name] = flat_values(value)
        else:
            groups[""][name] = _value_text(value)
    return {name: values for name, values in groups.items() if values}


def flat_values(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested values as one level, names joined by dots."""
    if not isinstance(values, dict):
        return {prefix or "value": _value_text(values)}
    flat: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        flat |= flat_values(value, path) if isinstance(value, dict) and value else {path: _value_text(value)}
    return flat


def duration(seconds: float | int) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number_text(form: str, value: float | int | None) -> str:
    """A number in a `str.format` form with a true minus, or a dash."""
    return tables.NOTHING if value is None else form.format(value).replace("-", "−")


def _value_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "default"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _read_curves(workdir: Path, experiment: Experiment, stage: str) -> tuple[list[Curves], list[str]]:
    """The arms' logs of a stage, and notes of what in them is unreadable."""
    arms, notes = [], []
    for position, arm in enumerate(experiment.arms):
        seeds = {}
        for folder in sorted((workdir / arm.name).glob("seed-*")):
            number = folder.name.removeprefix("seed-")
            records, unreadable = read_log(folder / stage / "metrics.jsonl")
            if number.isdigit() and records:
                seeds[int(number)] = records
            if unreadable:
                lines = "1 unreadable line" if unreadable == 1 else f"{unreadable} unreadable lines"
                notes.append(f"{arm.name}/{folder.name}/{stage}/metrics.jsonl: {lines} left out")
        arms.append(Curves(arm.title, position, dict(sorted(seeds.items()))))
    return arms, notes


def _outcome_pictures(table: tables.Table) -> list[Picture]:
    candidates = [
        ("accuracy", figures.accuracy_points(table), f"{tables.capital(table.headline.noun)} of every arm and seed",
         "A dot is a seed, the stroke their mean; thin lines join the same seed through the arms."),
        ("difference", figures.difference_intervals(table), "Paired differences to the first arm with intervals",
         "Student's t intervals; filled where they and the bootstrap's leave zero out, hollow where not."),
    ]  # fmt: skip
    return [Picture(name, figure, *words) for name, figure, *words in candidates if figure is not None]


def _curve_pictures(
    pretraining: Sequence[Curves], finetuning: Sequence[Curves], experiment: Experiment
) -> list[Picture]:
    metric, noun = experiment.metric, experiment.headline.noun
    band = "Mean over seeds; the band reaches from the lowest to the highest seed."
    candidates = [
        ("loss", figures.loss_curves(pretraining), "Pretraining loss by epoch", f"{band} −1 is perfect agreement."),
        ("figure3", figures.figure3_curves(pretraining) if experiment.figure3 else None,
         "Similarity loss on test images by epoch of pretraining", f"The paper's Figure 3. {band}"),
        ("knn", figures.knn_curves(pretraining, metric), f"kNN {noun} by epoch of pretraining", band),
        ("spread", figures.spread_curves(pretraining), "Spread of z by epoch", f"{band} A fall to 0 is collapse."),
        ("finetune", figures.finetune_curves(finetuning, metric), f"Validation {noun} by epoch of fine-tuning", band),
    ]  # fmt: skip
    return [Picture(name, figure, *words) for name, figure, *words in candidates if figure is not None]


def _pairs_picture(workdir: Path) -> Picture | None:
    path = workdir / PAIRS_FILE
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        originals, view1, view2 = arrays["originals"], arrays["view1"], arrays["view2"]
    same = originals.ndim == view1.ndim == view2.ndim == 4 and len(originals) == len(view1) == len(view2) > 0
    if not same or originals.dtype != np.uint8 or {images.shape[-1] for images in (originals, view1, view2)} != {3}:
        raise ValueError("these are no pairs of images")
    return Picture(
        "pairs",
        figures.augmented_pairs(originals, view1.astype(np.float32), view2.astype(np.float32)),
        "Images beside their two augmented views",
        "What pretraining compares: the network is to give both views of an image the same representation.",
    )


def _timings(
    results: Sequence[Result], experiment: Experiment, pretraining: Sequence[Curves], finetuning: Sequence[Curves]
) -> list[Timing]:
    timings = []
    for position, arm in enumerate(experiment.arms):
        mine = [result for result in results if result.arm == arm.name]
        # All lines of a unit carry the unit's time.
        units = {(result.eval, result.seed): float(result.seconds) for result in mine}
        seconds = {
            stage: statistics.fmean(times)
            for stage in STAGES
            if (times := [time for (name, _), time in units.items() if name == stage])
        }
        # Of training its length and speed, of the held-out images how it ended.
        ended: dict[int, dict[str, float | int]] = {}
        for split in ("train", "validation"):
            for result in mine:
                if (result.eval, result.split) == ("pretrain", split):
                    ended[result.seed] = {**ended.get(result.seed, {}), **result.metrics}
        if seconds:
            timings.append(
                Timing(
                    label=arm.title,
                    position=position,
                    seconds=seconds,
                    pretrain_rate=_rate(pretraining[position]) or _mean_metric(ended, "images_per_second"),
                    finetune_rate=_rate(finetuning[position]),
                    updates=_mean_metric(ended, "updates"),
                    loss=_mean_metric(ended, "loss"),
                    z_spread=_mean_metric(ended, "z_spread"),
                )
            )
    return timings


def _rate(curves: Curves) -> float | None:
    """Median images a second over epochs and seeds: the first epoch's compilation does not move it."""
    rates = [rate for values in curves.by_epoch("images_per_second").values() for rate in values]
    return statistics.median(rates) if rates else None


def _mean_metric(by_seed: dict[int, dict[str, float | int]], name: str) -> float | None:
    values = [metrics[name] for metrics in by_seed.values() if name in metrics]
    return statistics.fmean(values) if values else None


def _provenance(results: Sequence[Result]) -> dict[str, dict[str, str]]:
    """Where the numbers were measured: each distinct value, for a run may be continued elsewhere."""
    versions: dict[str, list[str]] = {}
    for result in results:
        for package, version in result.versions.items():
            versions.setdefault(package, []).append(version)
    machine = {
        "device": [result.device for result in results],
        "backbone": [result.backbone for result in results],
        "git revision": [result.git_revision for result in results],
        "configuration": [result.config_hash for result in results],
    }
    groups = {"where and what": machine, "versions": versions}
    return {
        group: {name: ", ".join(dict.fromkeys(values)) for name, values in found.items()}
        for group, found in groups.items()
        if any(found.values())
    }


def _markdown(experiment: Experiment, table: tables.Table, context: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """The page's essence for a README or an issue; the settings are in experiment.json."""
    escape, timings = tables.escape_markdown, context["timings"]
    parts = [f"# {escape(experiment.title)}", escape(experiment.question)]
    parts += [f"**{escape(note)}.**" for note in context["notes"]]
    parts += [tables.to_markdown(table).rstrip(), *map(escape, context["savings"])]
    parts += [f"![{picture.alternative}]({picture.name}.png)" for picture in pictures]
    if context["changes"]:
        lines = [f"- {escape(arm)}: {'; '.join(map(escape, changes))}" for arm, changes in context["changes"].items()]
        parts.append("\n".join(["In which settings arms differ from the run:", "", *lines]))
    if timings:
        stages = [stage for stage in STAGES if any(stage in timing.seconds for timing in timings)]
        lines = ["| mean time a seed | " + " | ".join(STAGE_NAMES[stage] for stage in stages) + " | sum |"]
        lines.append("|---" + "|---:" * (len(stages) + 1) + "|")
        for timing in timings:
            cells = [duration(timing.seconds[stage]) if stage in timing.seconds else tables.NOTHING for stage in stages]
            lines.append("| " + " | ".join([escape(timing.label), *cells, duration(timing.total)]) + " |")
        parts.append("\n".join(lines))
    # A fence of tildes longer than any in the command: user text cannot close it.
    fence = "~" * (3 + experiment.command.count("~"))
    parts.append(f"{fence}\n{experiment.command}\n{fence}")
    data = {f"data, {split}": ", ".join(map(str, values.values())) for split, values in context["data"].items()}
    parts += [
        "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in values.items())
        for values in (data, *context["provenance"].values())
        if values
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A number stays in one line with its spread and its unit.
    environment.filters["unbroken"] = lambda text: text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
    return environment.get_template(name)


def _put_in_place(files: dict[str, bytes], report: Path) -> Path:
    """Writes every file beside the report, then renames them one by one, the page last."""
    report.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=report))
    try:
        for name, content in files.items():
            (building / name).write_bytes(content)
        for name in files:
            os.replace(building / name, report / name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for name in PICTURES:
        if f"{name}.png" not in files:  # of an earlier state of the run
            (report / f"{name}.png").unlink(missing_ok=True)
    return report / "index.html"
