"""The numbers of an ablation: mean and spread over seeds, paired differences within groups of arms, and verdicts.

A group's first arm is what its others are compared with; without groups all arms are one. A verdict needs both
intervals of `seeds`, Student's t and the bootstrap, to leave out zero.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from simsiam_jax.records.experiment import ArmRecord, Experiment, Headline
from simsiam_jax.records.results import Result
from simsiam_jax.report.collapse import spreads, summary
from simsiam_jax.report.paper_form import Cell, PaperForm, best_arms, paper_form
from simsiam_jax.report.seeds import Difference, Key, Score, paired_difference, scores_by_arm

# (eval, split): heading. Test columns also get a difference to the first arm and a verdict; where test images were not
# read, validation's do.
COLUMNS = {
    ("finetune", "validation"): "fine-tune, validation",
    ("finetune", "test"): "fine-tune, test",
    ("linear", "validation"): "linear probe, validation",
    ("linear", "test"): "linear probe, test",
    ("knn", "validation"): "kNN, validation",
    ("knn", "test"): "kNN, test",
}
_SHOWN = tuple(key for key in COLUMNS if key[1] == "test" or key[0] == "finetune")
SPOKEN = {"finetune": "fine-tuned", "linear": "linear-probe", "knn": "kNN"}
# What result lines hold of classes and of attributes (`metrics.scores`).
CLASS_NUMBERS = {"top1": "top-1 accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC"}
ATTRIBUTE_NUMBERS = {
    f"{average}_{name}": f"{average} {words}"
    for average in ("macro", "micro")
    for name, words in (("jaccard", "Jaccard"), ("accuracy", "accuracy"), ("auc", "AUC"), ("average_precision", "AP"))
}
_AUC_WORDS = "AUC is the area under the ROC curve"
_CAPTIONS = {
    "classes": "Balanced accuracy: the mean over the classes of the share that is recognised; "
    f"{_AUC_WORDS} of the second class against the first.",
    "attributes": "Macro: the mean over the attributes; micro: all attributes pooled. Accuracy counts right answers, "
    f"Jaccard the present among those present or predicted; {_AUC_WORDS}, AP average precision.",
}
NOTHING = "–"
NOT_RUN = "not run"
OUTCOMES = {"helped": "▲ helped", "hurt": "▼ hurt", "open": "○ undecided", "missing": "· missing"}
INTERVALS_CAPTION = (
    "Both intervals claim 95 %. Student's t supposes normal differences; the percentile bootstrap supposes nothing, "
    "but of a few seeds it can only reshuffle the few values: for normal differences it holds the truth in 76, 84 and "
    "90 of 100 cases with 3, 5 and 10 seeds, where t does in 95. So an arm helped or hurt only where both leave out "
    "zero. Each interval stands alone: of twenty, one errs by chance."
)


@dataclass(frozen=True)
class Verdict:
    """What one difference says, in words.

    `outcome`: helped, hurt, open (too few seeds to tell) or missing; `arm` is the arm's title.
    """

    arm: str
    eval: str
    outcome: str
    finding: str
    conclusion: str

    def __str__(self) -> str:
        return f"“{self.arm}” {self.finding}: {self.conclusion}."


@dataclass(frozen=True)
class Row:
    """One arm: its scores and its differences to its reference by (eval, split), both only where measured.

    Attributes:
      arm: What experiment.json says of it.
      scores: Of the headline.
      differences: To the first arm of its group; {} for that one.
      best: Columns in which it is clearly above all others of its group.
      flag: That it collapsed, in how many seeds; None where it did not.
      reference: What it is compared with; None for the first arm of a group.
    """

    arm: ArmRecord
    scores: dict[Key, Score]
    differences: dict[Key, Difference]
    best: frozenset[Key] = frozenset()
    flag: str | None = None
    reference: ArmRecord | None = None

    @property
    def name(self) -> str:
        """The arm's folder."""
        return self.arm.name

    @property
    def label(self) -> str:
        """What tells the arm from every other one."""
        return self.arm.title


@dataclass(frozen=True)
class Table:
    """An ablation's numbers, ready to be shown.

    `pretrainings` counts the finished ones. `details` holds what is measured beside the headline as rows of text,
    headings first, and `details_caption` how to read it; both are empty where nothing is. `form` is the table in the
    paper's form, `collapse` says how pretrainings ended. `compared` are the columns that get a difference.
    """

    title: str
    headline: Headline
    columns: tuple[Key, ...]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    seeds: tuple[int, ...]
    units_done: int
    units_expected: int
    pretrainings: int
    details: tuple[tuple[str, ...], ...] = ()
    details_caption: str = ""
    paper_source: str | None = None
    form: PaperForm | None = None
    collapse: str = ""
    compared: tuple[Key, ...] = ()

    @property
    def others(self) -> tuple[tuple[int, Row], ...]:
        """The rows that are compared with another one, with their position."""
        return tuple((place, row) for place, row in enumerate(self.rows) if row.reference is not None)

    @property
    def reference(self) -> str:
        """What the others are compared with, in words."""
        titles = list(dict.fromkeys(row.reference.title for _, row in self.others if row.reference is not None))
        return f"“{titles[0]}”" if len(titles) == 1 else "the first arm of each group"

    @property
    def absences(self) -> tuple[str, ...]:
        """Which arms were not run, and why; arms of the same reason in one sentence."""
        absent = sorted((row.arm for row in self.rows if row.arm.absent), key=lambda arm: str(arm.absent))
        by_reason = {reason: [arm.title for arm in arms] for reason, arms in groupby(absent, lambda arm: arm.absent)}
        return tuple(f"Not run: {', '.join(titles)} ({reason})." for reason, titles in by_reason.items())

    @property
    def progress(self) -> str:
        """How much of the run is done, in words; a unit is one evaluation of one arm and seed."""
        if not self.columns:
            return (
                f"{self.pretrainings} {'pretraining' if self.pretrainings == 1 else 'pretrainings'} done, no evaluation"
            )
        done, expected = self.units_done, self.units_expected
        return f"all {expected} evaluations done" if done == expected else f"{done} of {expected} evaluations done"


def summarise(results: Sequence[Result], experiment: Experiment) -> Table:
    """Mean, spread and paired differences of an ablation's headline (Tables 1 to 3 of arXiv 2112.02297).

    Differs from the paper: it gives one run each; here every number is over seeds, with paired intervals.

    Args:
      results: The lines of results.jsonl; of two for the same arm, seed, eval and split the later counts.
      experiment: Says the order of the rows, their groups and what a finished run holds.
    """
    scores = scores_by_arm(results, experiment, experiment.metric)
    here = [result for result in results if result.arm in scores]
    evaluated = [result for result in here if result.eval in SPOKEN]
    # A search leaves the test images alone.
    searching = bool(evaluated) and all(result.split != "test" for result in evaluated)
    judged = "validation" if searching else "test"
    measured = {key for columns in scores.values() for key in columns}
    columns = tuple(
        key
        for key in COLUMNS
        if (key in measured if searching else key in _SHOWN and (key[0] in experiment.evals or key in measured))
    )
    compared = tuple(key for key in columns if key[1] == judged)
    references = {group: arms[0] for group, arms in experiment.groups.items()}
    best = {key: best_arms(scores, experiment, key) for key in columns}
    ended = spreads(results, experiment)
    flags = {each.arm.name: each.flag for each in ended}
    rows = tuple(
        Row(
            arm=arm,
            scores={key: score for key, score in scores[arm.name].items() if key in columns},
            differences={}
            if arm is (reference := references[arm.group])
            else _differences(scores[arm.name], scores[reference.name]),
            best=frozenset(key for key, names in best.items() if arm.name in names),
            flag=flags.get(arm.name),
            reference=None if arm is reference else reference,
        )
        for arm in experiment.arms
    )
    seeds = tuple(sorted({*experiment.seeds, *(result.seed for result in here)}))
    evals = {key[0] for key in columns}
    done = {
        (result.arm, result.seed, result.eval) for result in here if result.split == judged and result.eval in evals
    }
    details = _details(results, experiment, seeds)
    return Table(
        title=experiment.title,
        headline=experiment.headline,
        columns=columns,
        rows=rows,
        verdicts=tuple(
            _verdict(row, row.reference, key, experiment.headline.noun)
            for key in compared
            for row in rows
            if row.reference is not None and not row.arm.absent
        ),
        seeds=seeds,
        units_done=len(done),
        units_expected=sum(not arm.absent for arm in experiment.arms) * len(seeds) * len(evals),
        pretrainings=len({(result.arm, result.seed) for result in here if result.eval == "pretrain"}),
        details=details,
        details_caption=f"Every number of the test images in %. {_CAPTIONS[_label_kind(experiment)]}"
        if details
        else "",
        paper_source=experiment.paper_source if any(arm.published for arm in experiment.arms) else None,
        form=paper_form(results, experiment),
        collapse=summary(ended, experiment),
        compared=compared,
    )


def format_terminal(table: Table) -> Group:
    """The table for `rich.console.Console().print`; it fits 80 columns and needs no colour.

    Args:
      table: From `summarise`.
    """
    heading = Text.assemble(
        (table.title, "bold"),
        "\n",
        (f"{capital(table.headline.name)} in %, {_SPREAD_WORDS}; {table.progress}", "dim"),
    )
    accuracy = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.columns)])
    for row in table.rows:
        cells = [
            Text(cell_text(row, key, table).replace(" (", "\n("), style="bold" if key in row.best else "")
            for key in table.columns
        ]
        accuracy.add_row(Text(row.label if row.flag is None else f"{row.label}\n{row.flag}"), *cells)
    parts: list[Text | RichTable] = [heading, accuracy]
    if table.others:
        words = f"\nDifference to {table.reference} in points, paired over seeds,\n95 % intervals: t and bootstrap"
        parts.append(Text(words, style="dim"))
        differences = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.compared)])
        for _, row in table.others:
            cells = [difference_lines(row.differences.get(key)) for key in table.compared]
            differences.add_row(Text(row.label), *(Text("\n".join(filter(None, lines))) for lines in cells))
        parts.append(differences)
    if table.paper_source:
        parts.append(Text(f"\nThe paper's own numbers: {table.paper_source}", style="dim"))
        paper = _rich_table(["", *(f"paper, {name}" for name in _paper_splits(table))])
        for row in table.rows:
            paper.add_row(Text(row.label), *(Text(_paper_text(row, name)) for name in _paper_splits(table)))
        if _paper_splits(table):
            parts.append(paper)
    parts.append(Text(""))
    parts += [Text(f"{OUTCOMES[verdict.outcome][0]} {verdict}") for verdict in table.verdicts]
    parts += [Text(words) for words in (*table.absences, table.collapse) if words]
    return Group(*parts)


def to_markdown(table: Table) -> str:
    """The table as Markdown: the paper's form, accuracies and differences side by side, verdicts, and details.

    Args:
      table: From `summarise`.
    """
    if not table.columns:
        return f"{capital(table.progress)}.\n"
    lines: list[str] = []
    if table.form is not None:
        lines += _markdown_head([table.form.corner, *map(escape_markdown, table.form.headings)])
        for label, cells in table.form.lines:
            texts = ["<br>".join(filter(None, form_lines(cell, table))) for cell in cells]
            texts = [f"**{text}**" if cell.best else text for text, cell in zip(texts, cells, strict=True)]
            lines.append("| " + " | ".join([escape_markdown(label), *texts]) + " |")
        lines += ["", escape_markdown(form_caption(table)), ""]
    headings = ["pretraining", *(COLUMNS[key] for key in table.columns)]
    headings += [f"Δ {COLUMNS[key]}" for key in table.compared] if table.others else []
    lines += _markdown_head(headings)
    for row in table.rows:
        cells = [escape_markdown(row.label if row.flag is None else f"{row.label} ({row.flag})")]
        for key in table.columns:
            text = cell_text(row, key, table)
            cells.append(f"**{text}**" if key in row.best else text)
        if table.others:
            for key in table.compared:
                shown = difference_lines(row.differences.get(key))
                cells.append("<br>".join(filter(None, shown)))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", escape_markdown(caption(table))]
    if table.others:
        lines += ["", INTERVALS_CAPTION]
    lines += ["", *(f"- {escape_markdown(str(verdict))}" for verdict in table.verdicts)]
    lines += [f"- {escape_markdown(words)}" for words in (*table.absences, table.collapse) if words]
    if table.details:
        lines += ["", *_markdown_head(table.details[0])]
        lines += ["| " + " | ".join([escape_markdown(label), *cells]) + " |" for label, *cells in table.details[1:]]
        lines += ["", table.details_caption]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """The table in the paper's form for LaTeX with booktabs, the paper's numbers in a second line.

    Args:
      table: From `summarise`; without a paper's form its columns are those of `summarise`.
    """
    if table.form is not None:
        corner, headings = table.form.corner, table.form.headings
        body = [(label, [(form_lines(cell, table), cell.best) for cell in cells]) for label, cells in table.form.lines]
    else:
        corner, headings = "pretraining", tuple(COLUMNS[key] for key in table.columns)
        body = [
            (row.label, [((cell_text(row, key, table), ""), key in row.best) for key in table.columns])
            for row in table.rows
        ]
    lines = [
        "% \\usepackage{booktabs}; " + " ".join(f"{table.title}. {caption(table)}".split()),
        f"\\begin{{tabular}}{{l{'r' * len(headings)}}}",
        "\\toprule",
        " & ".join(map(escape_latex, (corner, *headings))) + " \\\\",
        "\\midrule",
    ]
    for label, cells in body:
        first = [f"\\textbf{{{escape_latex(text)}}}" if best else escape_latex(text) for (text, _), best in cells]
        lines.append(" & ".join([escape_latex(label), *first]) + " \\\\")
        if any(second for (_, second), _ in cells):
            lines.append(" & ".join(["", *(escape_latex(second) for (_, second), _ in cells)]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV, a line an arm, eval and split, in full precision; accuracies in percent.

    Args:
      table: From `summarise`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"difference{ending}" for ending in ("", "_std", "_low", "_high", "_bootstrap_low", "_bootstrap_high")]
    writer.writerow(
        [
            *("arm", "group", "label", "eval", "split", "seeds", "mean", "std", "difference_seeds", *names),
            *("paper_other_data", "collapsed", "not_run"),
        ]
    )
    for row in table.rows:
        for key in table.columns:
            score, difference = row.scores.get(key), row.differences.get(key)
            cells: list[object] = [row.name, row.arm.group, row.arm.words, *key]
            cells += [len(score.by_seed), score.mean, score.std] if score else [0, None, None]
            if difference:
                cells += [difference.n, difference.mean, difference.std, difference.low, difference.high]
                cells += [difference.bootstrap_low, difference.bootstrap_high]
            else:
                cells += [None] * 7
            paper = row.arm.published.get(key[1]) if key[0] == "finetune" else None
            writer.writerow([*cells, paper, row.flag, row.arm.absent])
    return text.getvalue()


def caption(table: Table) -> str:
    """How to read the table, in plain words."""
    words = f"{capital(table.headline.name)} in %{table.headline.note}, {_SPREAD_WORDS}. "
    if table.others:
        words += (
            f"Δ is the difference to {table.reference} in points, paired over common seeds, with its standard "
            "deviation and two 95 % intervals, Student's t and below it the bootstrap. "
            "Bold: better than every other arm of its group, both paired intervals leaving out zero. "
        )
    return words + f"{capital(table.progress)}."


def form_caption(table: Table) -> str:
    """How to read the table in the paper's form."""
    words = f"Ours: {_SPREAD_WORDS}."
    if table.form is not None and table.form.has_paper and table.paper_source:
        words += (
            f" Second line: the paper's one run, {table.paper_source}. On other data compare the order, not the height."
        )
    return words


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def score_text(score: Score | None, seeds: Sequence[int]) -> str:
    """`91.20 ± 0.41`; the number of seeds is added where it is not that of the whole table."""
    if score is None:
        return NOTHING
    text = f"{score.mean:.2f}" + ("" if score.std is None else f" ± {score.std:.2f}")
    return text if len(score.by_seed) == len(seeds) else f"{text} ({_seeds(len(score.by_seed))})"


def cell_text(row: Row, key: Key, table: Table) -> str:
    """The number of an arm in a column, or that the arm was not run."""
    score = row.scores.get(key)
    return NOT_RUN if score is None and row.arm.absent else score_text(score, table.seeds)


def form_lines(cell: Cell, table: Table) -> tuple[str, str]:
    """Our number, and the paper's where it has one."""
    ours = NOT_RUN if cell.score is None and cell.absent else score_text(cell.score, table.seeds)
    return ours, "" if cell.paper is None else f"paper {cell.paper:.2f}"


def difference_lines(difference: Difference | None) -> tuple[str, str, str]:
    """`+3.10 ± 0.80`, Student's interval `[+1.11, +5.09]` and the bootstrap's; one seed gives no interval."""
    if difference is None:
        return NOTHING, "", ""
    if difference.std is None:
        return f"{signed(difference.mean)} (1 seed)", "", ""
    return (
        f"{signed(difference.mean)} ± {difference.std:.2f}",
        _interval(difference.low, difference.high),
        _interval(difference.bootstrap_low, difference.bootstrap_high),
    )


def signed(value: float) -> str:
    """A difference with its sign, a true minus, and no sign on what rounds to zero."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def escape_markdown(text: str) -> str:
    """User text that stays text inside a Markdown table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in text)


def escape_latex(text: str) -> str:
    """User text that stays text in LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"}
    return "".join(special.get(letter, letter) for letter in " ".join(text.split()))


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def _paper_splits(table: Table) -> list[str]:
    """The splits that the paper has numbers of the headline for."""
    named = {name for row in table.rows for name in row.arm.published if "/" not in name}
    return sorted(named, key=lambda split: (split != "validation", split != "test", split))


def _paper_text(row: Row, split: str) -> str:
    return f"{row.arm.published[split]:.2f}" if split in row.arm.published else NOTHING


def _label_kind(experiment: Experiment) -> str:
    return experiment.label_kind or ("attributes" if experiment.metric in ATTRIBUTE_NUMBERS else "classes")


def _details(results: Sequence[Result], experiment: Experiment, seeds: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    names = ATTRIBUTE_NUMBERS if _label_kind(experiment) == "attributes" else CLASS_NUMBERS
    numbers = {name: scores_by_arm(results, experiment, name) for name in names}
    shown = [name for name in names if any(key[1] == "test" for cells in numbers[name].values() for key in cells)]
    if "balanced_accuracy" in shown and _equal(numbers["balanced_accuracy"], numbers["top1"]):
        shown.remove("balanced_accuracy")  # the classes are equally frequent
    if len(shown) < 2:
        return ()
    body = [
        (arm.title, heading, *(score_text(numbers[name][arm.name].get(key), seeds) for name in shown))
        for key, heading in COLUMNS.items()
        for arm in experiment.arms
        if key[1] == "test" and any(key in numbers[name][arm.name] for name in shown)
    ]
    return (("pretraining", "evaluation", *(names[name] for name in shown)), *body)


def _equal(ours: Mapping[str, Mapping[Key, Score]], theirs: Mapping[str, Mapping[Key, Score]]) -> bool:
    """Whether two numbers agree, but for rounding, in every arm, evaluation and seed."""
    return all(
        math.isclose(value, theirs[arm][key].by_seed.get(seed, value), rel_tol=1e-9)
        for arm, cells in ours.items()
        for key, score in cells.items()
        if key[1] == "test" and key in theirs[arm]
        for seed, value in score.by_seed.items()
    )


_SPREAD_WORDS = "mean ± standard deviation over seeds"


def _differences(ours: Mapping[Key, Score], theirs: Mapping[Key, Score]) -> dict[Key, Difference]:
    found = {key: paired_difference(ours[key].by_seed, theirs[key].by_seed) for key in ours.keys() & theirs.keys()}
    return {key: difference for key, difference in found.items() if difference is not None}


def _verdict(row: Row, reference: ArmRecord, key: Key, noun: str) -> Verdict:
    spoken = f"{SPOKEN[key[0]]} {key[1]} {noun}"
    difference = row.differences.get(key)
    words = (row.label, key[0])
    if difference is None:
        finding = f"and “{reference.words}” have no finished seed in common for {spoken}"
        return Verdict(*words, "missing", finding, "nothing to compare yet")
    finding = f"changed {spoken} by {signed(difference.mean)}"
    if difference.std is None:
        finding += f" points against “{reference.words}” (1 seed, no interval)"
        return Verdict(*words, "open", finding, "one seed cannot tell")
    student, bootstrap = (
        f"{signed(low or 0.0)} to {signed(high or 0.0)}"
        for low, high in (
            (difference.low, difference.high),
            (difference.bootstrap_low, difference.bootstrap_high),
        )
    )
    finding += (
        f" ± {difference.std:.2f} points against “{reference.words}” "
        f"(95 % interval {student}, by bootstrap {bootstrap}, {_seeds(difference.n)})"
    )
    outcome, conclusion = {
        1: ("helped", "it helped"),
        -1: ("hurt", "it hurt"),
        0: ("open", f"no difference that {_seeds(difference.n)} can show"),
    }[difference.sign]
    return Verdict(*words, outcome, finding, conclusion)


def _markdown_head(headings: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _two_lines(heading: str) -> str:
    return heading.replace(", ", "\n")


def _rich_table(headings: Sequence[str]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, heading in enumerate(headings):
        # Labels may be long: they fold; numbers never do.
        table.add_column(
            Text(heading),
            justify="right" if index else "left",
            no_wrap=index > 0,
            overflow="fold",
            min_width=None if index else 12,
        )
    return table
