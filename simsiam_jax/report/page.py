"""One self-contained page, `report/index.html`, from the files that a run leaves, finished or not."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from simsiam_jax.errors import InputError
from simsiam_jax.files import disk_is_full, locked
from simsiam_jax.records.experiment import STAGES, Experiment, read_experiment
from simsiam_jax.records.failures import Failure, failed_arms, read_failures
from simsiam_jax.records.results import Result, read_results
from simsiam_jax.report import attributes, labels, render, words
from simsiam_jax.report.advice import Step, advice
from simsiam_jax.report.browse import Mistakes, Query, mistakes, neighbour_leaves
from simsiam_jax.report.curves import curve_pictures, read_curves
from simsiam_jax.report.exhibits import exhibit_pictures
from simsiam_jax.report.figures import outcome_pictures
from simsiam_jax.report.style import Picture, css_variables, png, themed_svg
from simsiam_jax.report.summary import COLUMNS, Table, summarise
from simsiam_jax.report.timings import Timing, arm_timings, provenance

# Every picture that a report may have.
PICTURES = (
    *("accuracy", "difference", "labels-finetune", "labels-linear"),
    *("loss", "figure3", "knn", "spread", "rank", "finetune"),
    *("samples", "pairs", "neighbours", "map", "confusion"),
)


@dataclass(frozen=True)
class Content:
    """What a report says, whichever form it is said in.

    Attributes:
      experiment: What the run is.
      table: The numbers and verdicts.
      pictures: The pictures of each section of the page, by the section's name.
      notes: What failed or cannot be read, in words.
      savings: How many labels pretraining saved, in words.
      timings: What each arm cost.
      provenance: Where the numbers were measured, as texts by group and name.
      advice: What to do next.
      neighbours: Leaves of test images with their nearest labelled images.
      mistaken_by: The evaluation whose mistakes are shown; empty where none are.
      mistakes: Test images that were told wrong, of each arm.
    """

    experiment: Experiment
    table: Table
    pictures: Mapping[str, Sequence[Picture]]
    notes: Sequence[str]
    savings: Sequence[str]
    timings: Sequence[Timing]
    provenance: Mapping[str, Mapping[str, str]]
    advice: Sequence[Step] = ()
    neighbours: Sequence[Sequence[Query]] = ()
    mistaken_by: str = ""
    mistakes: Sequence[Mistakes] = ()

    @property
    def all_pictures(self) -> list[Picture]:
        """The pictures of all sections."""
        return [picture for section in self.pictures.values() for picture in section]

    @property
    def stages(self) -> list[str]:
        """The stages that took time."""
        return [stage for stage in STAGES if any(stage in timing.seconds for timing in self.timings)]

    @property
    def changes(self) -> dict[str, tuple[str, ...]]:
        """The settings in which arms differ from the run, by the arm's title."""
        return {arm.title: arm.changes for arm in self.experiment.arms if arm.changes}

    @property
    def data(self) -> dict[str, dict[str, str]]:
        """The facts about each split, as texts."""
        return {split: words.flat_values(values) for split, values in self.experiment.data.items()}

    @property
    def outcomes(self) -> str:
        """How many comparisons came out how, such as `2 helped, 1 undecided`."""
        counts = {name: sum(each.outcome == name for each in self.table.verdicts) for name in words.OUTCOMES}
        return ", ".join(f"{count} {words.OUTCOMES[name][2:]}" for name, count in counts.items() if count)


def write_report(workdir: Path, out: Path | None = None) -> Path:
    """Writes index.html, report.md, table.tex, table.csv and the figures as PNG, and returns the page's path.

    All files are built before any is put in place, so that a rebuild that fails leaves the former report.

    Args:
      workdir: The run's folder. It holds at least experiment.json.
      out: The folder to write to; by default `report` in the workdir.

    Raises:
      InputError: If the folder holds no run, a file in it is damaged, or the report cannot be written.
    """
    read_experiment(workdir)  # refuses a folder that holds no run before anything is made
    report = Path(workdir) / "report" if out is None else Path(out)
    flag = f"--workdir={workdir}" if out is None else f"--out={out}"
    try:
        report.mkdir(parents=True, exist_ok=True)
        # Of two processes that end at once, the one that writes last must have read last.
        with locked(report.with_name(f".{report.name}.lock")):
            return _put_in_place(_files(Path(workdir)), report)
    except OSError as error:
        if disk_is_full(error):
            raise
        raise InputError(f"{flag}: the report cannot be written ({error.strerror})") from None


def _files(workdir: Path) -> dict[str, bytes]:
    """The files of a report by name."""
    content = read_content(workdir, read_experiment(workdir), read_results(workdir), read_failures(workdir))
    # Each drawing of a figure settles its layout a little more: the page before the PNGs, always.
    page = _page(content)
    files = {f"{picture.name}.png": png(picture.figure) for picture in content.all_pictures}
    files["table.csv"] = render.to_csv(content.table).encode()
    files["table.tex"] = render.to_latex(content.table).encode()
    files["report.md"] = _markdown(content).encode()
    files["index.html"] = page.encode()
    return files


def read_content(
    workdir: Path, experiment: Experiment, results: Sequence[Result], failures: Sequence[Failure]
) -> Content:
    """What the report of a run says.

    Args:
      workdir: The folder that holds the logs and the files behind the pictures.
      experiment: What the run is.
      results: All results of the run.
      failures: The units that failed.

    Raises:
      InputError: If a log cannot be read.
    """
    table = summarise(results, experiment, failures)
    pretraining, bad_pretraining = read_curves(workdir, experiment, "pretrain")
    finetuning, bad_finetuning = read_curves(workdir, experiment, "finetune")
    exhibits, bad_exhibits = exhibit_pictures(workdir, experiment, results)
    leaves = neighbour_leaves(workdir, experiment, results, bad_exhibits)
    mistaken_by, mistaken = mistakes(workdir, experiment, results, bad_exhibits)
    failed = failed_arms(failures, experiment)
    sound = [result for result in results if result.arm not in failed]
    saved = [found for name in ("finetune", "linear") if (found := labels.efficiency(sound, experiment, name))]
    return Content(
        experiment=experiment,
        table=table,
        pictures={
            "outcome": outcome_pictures(table),
            "labels": [labels.picture(found) for found in saved],
            "curves": curve_pictures(pretraining, finetuning, experiment),
            "images": [picture for picture in exhibits if picture.name in ("samples", "pairs")],
            "features": [picture for picture in exhibits if picture.name in ("neighbours", "map", "confusion")],
        },
        notes=[*map(_failed, failures), *bad_pretraining, *bad_finetuning, *dict.fromkeys(bad_exhibits)],
        savings=[found.sentence for found in saved],
        timings=arm_timings(results, experiment, pretraining, finetuning),
        provenance=provenance(results),
        advice=advice(table, experiment, pretraining),
        neighbours=leaves,
        mistaken_by=mistaken_by,
        mistakes=mistaken,
    )


def _failed(failure: Failure) -> str:
    """That a unit failed, and why."""
    return f"Failed: {failure.arm}, seed-{failure.seed}: {failure.reason.rstrip('.')}"


def _markdown(content: Content) -> str:
    """The page's essence for a README or an issue. The settings are in experiment.json."""
    escape, experiment = words.escape_markdown, content.experiment
    parts = [f"# {escape(experiment.title)}", "" if content.table.answer else escape(experiment.question)]
    parts += [f"**{escape(note)}.**" for note in content.notes]
    parts += [render.to_markdown(content.table).rstrip(), *map(escape, content.savings)]
    parts += [f"![{picture.alternative}]({picture.name}.png)" for picture in content.all_pictures]
    if content.changes:
        lines = [f"- {escape(arm)}: {'; '.join(map(escape, changes))}" for arm, changes in content.changes.items()]
        parts.append("\n".join(["In which settings arms differ from the run:", "", *lines]))
    if content.timings:
        stages = content.stages
        lines = ["| mean time a seed | " + " | ".join(words.STAGE_WORDS[stage].name for stage in stages) + " | sum |"]
        lines.append("|---" + "|---:" * (len(stages) + 1) + "|")
        for timing in content.timings:
            cells = [
                words.duration(timing.seconds[stage]) if stage in timing.seconds else words.NOTHING for stage in stages
            ]
            lines.append("| " + " | ".join([escape(timing.label), *cells, words.duration(timing.total)]) + " |")
        parts.append("\n".join(lines))
    if content.advice:
        parts.append("What to do next:")
        for number, step in enumerate(content.advice, start=1):
            command = "" if step.command is None else f"\n\n{_fenced(step.command, '   ')}"
            parts.append(f"{number}. {escape(str(step))}{command}")
    parts.append(_fenced(experiment.command))
    data = {f"data, {split}": ", ".join(values.values()) for split, values in content.data.items()}
    parts += [
        "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in values.items())
        for values in (data, *content.provenance.values())
        if values
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fenced(command: str, indent: str = "") -> str:
    """A command as a block of code. Its fence of tildes is longer than any in it: user text cannot close it."""
    fence = "~" * (3 + command.count("~"))
    return "\n".join(f"{indent}{line}" for line in (fence, *command.splitlines(), fence))


def _page(content: Content) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A number stays in one line with its spread and its unit.
    environment.filters["unbroken"] = lambda text: text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
    return environment.get_template("page.html").render(
        content=content,
        experiment=content.experiment,
        table=content.table,
        pictures=content.pictures,
        settings=words.flatten(content.experiment.config),
        heading=COLUMNS,
        render=render,
        words=words,
        attributes=attributes,
        drawing={
            picture.name: themed_svg(picture.figure, picture.name)
            for picture in content.all_pictures
            if picture.name != "neighbours"  # they are browsed
        },
        theme={"light": css_variables(False), "dark": css_variables(True)},
    )


def _put_in_place(files: Mapping[str, bytes], report: Path) -> Path:
    """Writes every file beside the report, then renames them one by one, the page last."""
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
