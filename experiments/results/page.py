"""The text of this folder's README, made from the recorded runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmark.audit import table as table_of_audits
from experiments.benchmark.table import markdown_table, read_records
from experiments.results import practice
from experiments.results.claims import CLAIMS, long_table
from experiments.results.recorded import (
    NOT_RUN,
    NOTHING,
    RESULTS,
    STAGE_WORDS,
    Difference,
    Recorded,
    efficiency,
    escape_markdown,
    interval_text,
    score_text,
)

SEARCHES = ("search_augmentation-fashion_mnist", "search_augmentation-solar_cells")
# On which side of zero an interval lies, as `Difference.sign`.
MARKS = {1: "▲", -1: "▼", 0: "○"}


@dataclass(frozen=True)
class Chapter:
    """A run in the README.

    Attributes:
      run: Name of the run's folder.
      heading: Heading of the chapter.
      note: What a reader should know beside the numbers.
      picture: Name of a figure in the run's folder, with its alternative text; None for no picture.
      paper: Whether the paper's numbers stand beside these: its data set is the same.
    """

    run: str
    heading: str
    note: str = ""
    picture: tuple[str, str] | None = None
    paper: bool = False


CHAPTERS = (
    Chapter(
        "table1_cifar10-small",
        "Table 1 on CIFAR-10",
        "The images are CIFAR-10's as a public copy keeps them, as JPEG. The paper has the full width and 100 epochs "
        "of pretraining in batches of 512; here it is a quarter of the width and 8 epochs in batches of 64, by the "
        "recipe `practice` as it was with Adam (today `--optimizer=adam --learning_rate=5e-4 --weight_decay=1e-5` "
        "beside it). Fine-tuning takes 5 epochs of all labels, or 25 epochs of 1 % of them, each of 10 draws. The "
        "noise is 1,000 images here as there, of 224 pixels there and 32 here, seen for 1,500 updates instead of "
        "200. Both numbers of labels are primary comparisons. Random images are further arms, which the plan lets "
        "count only where both primary comparisons helped or hurt. Seeds begin at 1: seed 0 was run under a plan "
        "that asked of all labels alone, and is not counted.",
        paper=True,
    ),
    Chapter(
        "table1_fashion_mnist-small",
        "Table 1 on Fashion-MNIST",
        "The paper's Table 1 is measured on CIFAR-10, with all labels and a network of full width. A run by the "
        "plan and the recipe `practice` has begun: [its report](table1_fashion_mnist-practice/report.md) tells how far "
        "it is.",
    ),
    Chapter(
        "table2_digits-small",
        "Table 2 on digits",
        "Each backbone has its own settings of the recipe `practice`, and learns from three labels of each class in "
        "60 updates, each of 10 draws of them. All four comparisons are primary: the plan shares its 5 % among them. "
        "EfficientNet-B0 and PiT-Ti were decided at the first look, ResNet-18 and ViT-S at the second. All four gain. "
        "EfficientNet-B0 and ViT-S gain most: without pretraining, 60 updates of fine-tuning hardly teach them "
        "anything. ViT-S has its last two seeds from another machine, where they waited for other work, which the "
        "minutes count. Figure 3 shows the other seeds.",
        ("figure3.png", "Similarity loss on test images by epoch of pretraining: Figure 3 on digits"),
    ),
    Chapter(
        "table2_solar_cells-small",
        "Table 2 on solar cells",
        "Is a photographed solar cell defective? Epochs are chosen by AUC, because calling every cell functional "
        "would already be right for two thirds of them. Balanced accuracy and top-1 stand in the report; at the "
        "threshold that training left, some seeds call everything by one name. This run had the recipe `paper`, "
        "colour jitter, one draw of labels and no plan; the table of claims asks its question of digits instead.",
        ("figure3.png", "Similarity loss on test images by epoch of pretraining: Figure 3 on solar cells"),
    ),
    Chapter(
        "table3_solar_attributes-small",
        "Table 3 on attributes of solar cells",
        "Macro Jaccard is what the paper calls macro accuracy. It counts at the threshold ½, which few neighbours of "
        "kNN reach; so read kNN's differences with care, and look at AUC in the report. The attributes are "
        "`monocrystalline` (cut from a single crystal), `any_defect`, `likely_defect` and `certain_defect` "
        "(probability of a defect above 0, above ½, and 1).",
    ),
    Chapter(
        "label_efficiency-small",
        "How many labels does pretraining save?",
        "Each pair of arms has the same share of the labels and the same number of updates of fine-tuning.",
        ("labels-linear.png", "Accuracy of the linear probe against the number of labels"),
    ),
    Chapter(
        "ablate_simsiam-small",
        "What of SimSiam is needed?",
        "Where SimSiam's paper sees a collapse the spread of z falls here too, and the loss goes towards −1, but in "
        "so few updates it does not arrive at 0; the next chapter has more. With batch norm of scale and bias on "
        "z, as the paper's code has it, a collapse leads over the bias, which has to outgrow the scale. Preset "
        "`full` has the full length; it needs a GPU.",
        ("spread.png", "Spread of z by epoch, one curve an arm"),
    ),
    Chapter(
        "ablate_simsiam-digits",
        "Where SimSiam collapses",
        "Digits by the recipe `paper`, but 160 epochs, which are 2,880 updates: collapse takes that long here. It is a "
        "collapse of z, the projector's output. kNN and the probe see the backbone, which keeps what its first layers "
        "let through; untrained features already tell digits apart, so neither falls to chance. The run was stopped "
        "after its second look, at which the primary comparison, the probe without stop-gradient, was still open.",
        ("spread.png", "Spread of z by epoch, one curve an arm, on digits"),
    ),
    Chapter("demo-small", "Digits, `make demo`"),
)


def read_runs(root: Path = RESULTS) -> dict[str, Recorded]:
    """The recorded runs that the README shows, by the names of their folders.

    Raises:
      InputError: If a file of a run is missing or damaged.
    """
    chapters, claims = (chapter.run for chapter in CHAPTERS), (claim.run for claim in CLAIMS)
    names = dict.fromkeys((*chapters, *claims, *SEARCHES, *practice.DEMOS, *practice.SEARCHES))
    return {name: Recorded.read(name, root) for name in names}


def text(runs: Mapping[str, Recorded]) -> str:
    """The README of this folder.

    Args:
      runs: From `read_runs`.
    """
    lines = [
        "# Recorded results",
        "",
        "This file is made from the result files beside it by `python -m experiments.results`. Do not edit it: CI "
        "fails where it differs.",
        "",
        "Each number is a mean ± standard deviation over seeds, of test images, in %. Δ is the paired difference to "
        "the first arm (of its group, where there are groups), in points, with its 95 % interval by Student's t. "
        f"The interval leaves out zero above ({MARKS[1]}) or below ({MARKS[-1]}), or includes it ({MARKS[0]}). All "
        "runs but the demo's, Table 1 on CIFAR-10, the collapse on digits and the search for a recipe were made before "
        "runs had a plan of what decides, and with one draw of labels a seed: each interval stands alone, and of "
        "twenty, one errs by chance. Each run's `report.md` has validation images and further numbers.",
        "",
        "All runs are far smaller than the paper's, and all but one on other data. They do not speak against its "
        "numbers.",
        "",
        "## The paper's claims",
        "",
        *long_table(runs),
        "",
    ]
    for chapter in CHAPTERS:
        lines += _chapter(chapter, runs[chapter.run])
    lines += practice.demo_section([runs[name] for name in practice.DEMOS])
    lines += practice.search_section([runs[name] for name in practice.SEARCHES])
    lines += _search([runs[name] for name in SEARCHES])
    root = next(iter(runs.values())).folder.parent
    lines += [*_speed(root), *_audit(root)]
    return "\n".join(lines).rstrip() + "\n"


def _chapter(chapter: Chapter, run: Recorded) -> list[str]:
    table = run.table
    lines = [f"## {chapter.heading}", "", f"*{escape_markdown(run.experiment.question)}*", "", *_facts(run), ""]
    lines += _table(run, paper=chapter.paper)
    said = [*table.findings]
    said += [
        found.sentence for stage in ("linear", "finetune") if (found := efficiency(run.results, run.experiment, stage))
    ]
    lines += ["", *(f"- {escape_markdown(words)}" for words in said if words), ""]
    if chapter.note:
        lines += [chapter.note, ""]
    if chapter.picture is not None:
        name, words = chapter.picture
        lines += [f"![{words}]({run.name}/{name})", ""]
    return lines


def _facts(run: Recorded) -> list[str]:
    files = ("report.md", "results.jsonl", "experiment.json")
    present = [f"[{name}]({run.name}/{name})" for name in files if (run.folder / name).exists()]
    return [
        "```",
        run.experiment.command,
        "```",
        "",
        f"- {escape_markdown(run.size)}; {run.table.headline.name} in %",
        f"- {len(run.table.seeds)} seeds, {run.minutes:.0f} minutes in all; {run.table.progress}",
        f"- {run.device}; {run.versions}; revision {run.revision}",
        f"- {', '.join(present)}",
    ]


def _table(run: Recorded, *, paper: bool) -> list[str]:
    columns = run.table.compared
    names = [STAGE_WORDS[key[0]].heading for key in columns]
    more = ["fine-tune in the paper"] if paper else []
    lines = [f"| pretraining | {' | '.join([*names, *(f'Δ {name}' for name in names), *more])} |"]
    lines.append("|---" + "|---:" * (2 * len(columns) + len(more)) + "|")
    for row in run.table.rows:
        cells = [escape_markdown(row.label)]
        for key in columns:
            score = row.scores.get(key)
            cells.append(score_text(score) if score else NOT_RUN if row.arm.absent else NOTHING)
        cells += [_difference_text(row.differences.get(key)) for key in columns]
        if paper:
            cells.append(f"{row.arm.published['test']:.2f}" if "test" in row.arm.published else NOTHING)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference_text(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{MARKS[difference.sign]} {interval_text(difference)}"


def _search(runs: list[Recorded]) -> list[str]:
    key = ("linear", "validation")
    lines = [
        "## Which augmentation?",
        "",
        "The views of each data set were chosen among five candidates by the linear probe on *validation* images; "
        "test images were not read. Bold is the best mean, which the data set got. The best and the second best are "
        "within the seeds' spread. Solar cells lost the colour jitter on top of it, by the search for a recipe "
        "above.",
        "",
        "```",
        *(run.experiment.command for run in runs),
        "```",
        "",
        *(
            f"- {escape_markdown(run.experiment.dataset)}: {escape_markdown(run.size)}; {len(run.table.seeds)} seeds, "
            f"{run.minutes:.0f} minutes; {run.device}; revision {run.revision}; "
            f"[results.jsonl]({run.name}/results.jsonl)"
            for run in runs
        ),
        "",
        "| candidate | "
        + " | ".join(f"{escape_markdown(run.experiment.dataset)}, {run.table.headline.noun}" for run in runs)
        + " |",
        "|---" + "|---:" * len(runs) + "|",
    ]
    best = [max(score[key].mean for score in run.scores.values()) for run in runs]
    for arm in runs[0].experiment.arms:
        scores = [run.scores[arm.name][key] for run in runs]
        cells = [
            f"**{score_text(score)}**" if score.mean == top else score_text(score)
            for score, top in zip(scores, best, strict=True)
        ]
        lines.append(f"| {' | '.join([escape_markdown(arm.words), *cells])} |")
    return [*lines, ""]


def _speed(root: Path) -> list[str]:
    records = read_records(root)
    speed = json.loads((root / "data_speed" / "speed.json").read_text())
    return [
        "## Speed beside PyTorch",
        "",
        "Our pretraining and PyTorch's take turns on the same device. A ratio above 1 means that ours is faster; the "
        "lowest and the highest round stand in brackets. Memory is the peak of the process; compile time is without "
        "a cache. Each row's command stands in its file, `benchmark-*.json`. [The benchmark's "
        "README](../benchmark/README.md) says what is measured and why.",
        "",
        *markdown_table(records).splitlines(),
        "",
        "## Speed of the data",
        "",
        "| what | rate |",
        "|---|---:|",
        f"| random images of 32×32 prepared | {speed['prepared_per_second']:,.0f} images/s |",
        f"| the same decoded into the cache | {speed['cached_per_second']:,.0f} images/s |",
        f"| images of 96×96 streamed from the cache, no training | {speed['streamed_per_second']:,.0f} images/s |",
        f"| the same with steps of ResNet-18 | {speed['pairs_per_second']:.1f} pairs/s |",
        f"| share of that time in which the device waited | {speed['idle']:.2%} |",
        "",
        "```",
        "python -m experiments.benchmark.data_speed --workdir=experiments/results/data_speed",
        "```",
        "",
        f"{speed['device']}; revision {speed['git_revision'][:7]}; [speed.json](data_speed/speed.json)",
    ]


def _audit(root: Path) -> list[str]:
    columns = {"kernels": 1, "bytes": 1e6, "seconds": 1e-6}
    lines = [
        "",
        "## The program of an H100, compiled where there is none",
        "",
        "These are estimates: nothing has run on a card. XLA compiles pretraining for an H100, and the numbers are "
        "counted in the compiled program, for a micro-step of 64 pairs of views. The roofline time takes each kernel's "
        "bytes at 3.35 TB/s or its arithmetic at the card's peak, whichever is longer. Until revision bc07001 each "
        "micro-batch passed by itself, and the optimiser ran with each; now the eight of an update pass at once.",
        "",
        "| program | kernels before | now | MB before | now | roofline µs before | now |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    before, now = (table_of_audits.read_records(root / folder) for folder in ("audit-before", "audit"))
    steps_before = {table_of_audits.what(each): each["step"] for each in before}
    for record in now:
        program, step, cells = table_of_audits.what(record), record["step"], []
        earlier = steps_before.get(program)
        for name, unit in columns.items():
            cells += [f"{earlier[name] / unit:,.0f}" if earlier else "", f"{step[name] / unit:,.0f}"]
        lines.append(f"| {program} | {' | '.join(cells)} |")
    lines += ["", "All that is counted now:", ""]
    lines += table_of_audits.markdown_table(now).splitlines()
    return [
        *lines,
        "",
        "```",
        'pip install -e ".[audit]"',
        "python -m experiments.benchmark.audit --stem=paper32 --out=experiments/results/audit",
        "python -m experiments.benchmark.audit --backbone=vit_s --image_size=96 --out=experiments/results/audit",
        "```",
    ]
