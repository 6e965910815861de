"""The numbers of an ablation: mean and spread over seeds, paired differences to the first arm, and verdicts.

Seeds are paired: arms with the same seed saw the same labels and views, so their difference is free of what the
seed does to both. An interval is Student's t over the paired differences with n - 1 degrees of freedom: with two
or three seeds a bootstrap could only reshuffle the two or three values and would be far too narrow.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text
from scipy.special import stdtrit

from simsiam_jax.report.results import Experiment, Headline, Result

CONFIDENCE = 0.95
# (eval, split): heading. Test columns also get a difference to the first arm and a verdict.
COLUMNS = {
    ("finetune", "validation"): "fine-tune, validation",
    ("finetune", "test"): "fine-tune, test",
    ("linear", "test"): "linear probe, test",
    ("knn", "test"): "kNN, test",
}
SPOKEN = {"finetune": "fine-tuned test", "linear": "linear-probe test", "knn": "kNN test"}
# What result lines hold of attributes (`metrics.scores`).
ATTRIBUTE_NUMBERS = {
    f"{average}_{name}": f"{average} {words}"
    for average in ("macro", "micro")
    for name, words in (("jaccard", "Jaccard"), ("accuracy", "accuracy"), ("auc", "AUC"), ("average_precision", "AP"))
}
DETAILS_CAPTION = (
    "Every number of the test images in %. Macro: the mean over the attributes; micro: all attributes pooled. "
    "Accuracy counts right answers, Jaccard the present among those present or predicted; "
    "AUC is the area under the ROC curve, AP average precision."
)
NOTHING = "–"

Key = tuple[str, str]


@dataclass(frozen=True)
class Score:
    """One arm's numbers in percent, by seed; `std` is the sample standard deviation (n - 1)."""

    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds, in percent."""
        return statistics.fmean(self.by_seed.values())

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds, in points; None for one seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms over the `n` seeds that both have, in points.

    `low` and `high` bound the 95 % interval; they and `std` are None for one seed.
    """

    mean: float
    n: int
    std: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies wholly above or below zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Verdict:
    """What one difference says, in words. `outcome`: helped, hurt, open (too few seeds to tell) or missing."""

    arm: str
    reference: str
    eval: str
    outcome: str
    finding: str
    conclusion: str

    def __str__(self) -> str:
        return f"“{self.arm}” {self.finding}: {self.conclusion}."


@dataclass(frozen=True)
class Row:
    """One arm: its scores and its differences to the first arm by (eval, split), both only where measured."""

    name: str
    label: str
    scores: dict[Key, Score]
    differences: dict[Key, Difference]
    paper: dict[str, float | int]


@dataclass(frozen=True)
class Table:
    """An ablation's numbers, ready to be shown.

    `best` names the one arm to emphasise in a column, if any. `pretrainings` counts the finished ones. `details`
    holds what is measured of attributes beside the headline as rows of text, headings first; it is empty for classes.
    """

    title: str
    headline: Headline
    columns: tuple[Key, ...]
    rows: tuple[Row, ...]
    best: dict[Key, str]
    verdicts: tuple[Verdict, ...]
    seeds: tuple[int, ...]
    units_done: int
    units_expected: int
    pretrainings: int
    details: tuple[tuple[str, ...], ...] = ()
    paper_source: str | None = None

    @property
    def test_columns(self) -> tuple[Key, ...]:
        """The columns that get a difference."""
        return tuple(key for key in self.columns if key[1] == "test")

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
    """Mean, spread and paired differences of an ablation's accuracies (Tables 1 to 3 of arXiv 2112.02297).

    Differs from the paper: it gives one run each; here every number is over seeds, with a paired interval.

    Args:
      results: The lines of results.jsonl; of two for the same arm, seed, eval and split the later counts.
      experiment: Says the order of the rows, the reference (its first arm) and what a finished run holds.
    """
    accuracies = _by_seed(results, experiment, experiment.metric)
    measured = {key for columns in accuracies.values() for key in columns}
    columns = tuple(key for key in COLUMNS if key[0] in experiment.evals or key in measured)
    reference = experiment.arms[0]
    rows = tuple(
        Row(
            name=arm.name,
            label=" ".join(arm.label.split()) or arm.name,
            scores={key: Score(dict(sorted(accuracies[arm.name][key].items()))) for key in accuracies[arm.name]},
            differences={} if arm is reference else _differences(accuracies[arm.name], accuracies[reference.name]),
            paper=arm.paper,
        )
        for arm in experiment.arms
    )
    seeds = tuple(sorted({*experiment.seeds, *(result.seed for result in results if result.arm in accuracies)}))
    evals = {key[0] for key in columns}
    done = {(r.arm, r.seed, r.eval) for r in results if r.arm in accuracies and r.split == "test" and r.eval in evals}
    return Table(
        title=experiment.title,
        headline=experiment.headline,
        columns=columns,
        rows=rows,
        best={key: name for key in columns if (name := _best(key, rows))},
        verdicts=tuple(
            _verdict(row, rows[0].label, key, experiment.headline.noun)
            for row in rows[1:]
            for key in columns
            if key[1] == "test"
        ),
        seeds=seeds,
        units_done=len(done),
        units_expected=len(rows) * len(seeds) * len(evals),
        pretrainings=len({(r.arm, r.seed) for r in results if r.arm in accuracies and r.eval == "pretrain"}),
        details=_details(results, experiment, rows, seeds),
        paper_source=experiment.paper_source if any(arm.paper for arm in experiment.arms) else None,
    )


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours minus theirs over the seeds that both have, with a 95 % Student t interval; None without a common seed.

    Args:
      ours: Accuracy in percent by seed.
      theirs: The same for the arm to compare with.
    """
    values = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Difference(mean=mean, n=1)
    std = statistics.stdev(values)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * std / math.sqrt(n)
    return Difference(mean=mean, n=n, std=std, low=mean - half, high=mean + half)


def format_terminal(table: Table) -> Group:
    """The table for `rich.console.Console().print`; it fits 80 columns and needs no colour.

    Args:
      table: From `summarise`.
    """
    heading = Text.assemble(
        (table.title, "bold"),
        "\n",
        (f"{capital(table.headline.name)} in %, {_spread_words()}; {table.progress}", "dim"),
    )
    accuracy = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.columns)])
    for row in table.rows:
        cells = [
            Text(
                score_text(row.scores.get(key), table.seeds).replace(" (", "\n("),
                style="bold" if table.best.get(key) == row.name else "",
            )
            for key in table.columns
        ]
        accuracy.add_row(Text(row.label), *cells)
    parts = [heading, accuracy]
    if len(table.rows) > 1:
        parts.append(
            Text(f"\nDifference to “{table.rows[0].label}” in points, paired over seeds, 95 % interval", style="dim")
        )
        differences = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.test_columns)])
        for row in table.rows[1:]:
            cells = [difference_lines(row.differences.get(key)) for key in table.test_columns]
            differences.add_row(Text(row.label), *(Text("\n".join(filter(None, lines))) for lines in cells))
        parts.append(differences)
    if table.paper_source:
        parts.append(Text(f"\nThe paper's own numbers, on other data: {table.paper_source}", style="dim"))
        paper = _rich_table(["", *(f"paper, {split}" for split in paper_splits(table))])
        for row in table.rows:
            paper.add_row(Text(row.label), *(Text(paper_text(row, split)) for split in paper_splits(table)))
        parts.append(paper)
    parts.append(Text(""))
    parts += [Text(f"{_SYMBOLS[verdict.outcome]} {verdict}") for verdict in table.verdicts]
    return Group(*parts)


def to_markdown(table: Table) -> str:
    """The table as Markdown: accuracies, differences and the paper's numbers side by side, verdicts, and details.

    Args:
      table: From `summarise`.
    """
    if not table.columns:
        return f"{capital(table.progress)}.\n"
    splits = paper_splits(table)
    headings = ["pretraining", *(COLUMNS[key] for key in table.columns)]
    headings += [f"Δ {COLUMNS[key]}" for key in table.test_columns] if len(table.rows) > 1 else []
    headings += [f"paper, {split} (other data)" for split in splits]
    lines = _markdown_head(headings)
    for row in table.rows:
        cells = [escape_markdown(row.label)]
        for key in table.columns:
            text = score_text(row.scores.get(key), table.seeds)
            cells.append(f"**{text}**" if table.best.get(key) == row.name else text)
        if len(table.rows) > 1:
            for key in table.test_columns:
                first, second = difference_lines(row.differences.get(key))
                cells.append(f"{first} {second}".strip())
        cells += [paper_text(row, split) for split in splits]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", escape_markdown(caption(table))]
    if table.paper_source:
        lines += ["", f"The paper's columns are {escape_markdown(table.paper_source)}, on other data."]
    lines += ["", *(f"- {escape_markdown(str(verdict))}" for verdict in table.verdicts)]
    if table.details:
        lines += ["", *_markdown_head(table.details[0])]
        lines += ["| " + " | ".join([escape_markdown(label), *cells]) + " |" for label, *cells in table.details[1:]]
        lines += ["", DETAILS_CAPTION]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV, a line an arm, eval and split, in full precision; accuracies in percent.

    Args:
      table: From `summarise`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("difference", "difference_std", "difference_low", "difference_high")
    writer.writerow(
        ["arm", "label", "eval", "split", "seeds", "mean", "std", "difference_seeds", *names, "paper_other_data"]
    )
    for row in table.rows:
        for key in table.columns:
            score, difference = row.scores.get(key), row.differences.get(key)
            cells: list[object] = [row.name, row.label, *key]
            cells += [len(score.by_seed), score.mean, score.std] if score else [0, None, None]
            if difference:
                cells += [difference.n, difference.mean, difference.std, difference.low, difference.high]
            else:
                cells += [None] * 5
            writer.writerow([*cells, row.paper.get(key[1]) if key[0] == "finetune" else None])
    return text.getvalue()


def caption(table: Table) -> str:
    """How to read the table, in plain words."""
    words = f"{capital(table.headline.name)} in %{table.headline.note}, {_spread_words()}. "
    if len(table.rows) > 1:
        words += (
            f"Δ is the difference to “{table.rows[0].label}” in points, paired over common seeds, "
            "with its standard deviation and a 95 % Student t interval; each interval stands alone, and of twenty "
            "such intervals one errs by chance. "
        )
        words += "Bold: better than every other arm, each paired interval excluding zero. "
    return words + f"{capital(table.progress)}."


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def score_text(score: Score | None, seeds: Sequence[int]) -> str:
    """`91.20 ± 0.41`; the number of seeds is added where it is not that of the whole table."""
    if score is None:
        return NOTHING
    text = f"{score.mean:.2f}" + ("" if score.std is None else f" ± {score.std:.2f}")
    return text if len(score.by_seed) == len(seeds) else f"{text} ({_seeds(len(score.by_seed))})"


def difference_lines(difference: Difference | None) -> tuple[str, str]:
    """`+3.10 ± 0.80` and `[+1.11, +5.09]`; the second is empty where one seed gives no interval."""
    if difference is None:
        return NOTHING, ""
    if difference.std is None or difference.low is None or difference.high is None:
        return f"{signed(difference.mean)} (1 seed)", ""
    return f"{signed(difference.mean)} ± {difference.std:.2f}", f"[{signed(difference.low)}, {signed(difference.high)}]"


def paper_splits(table: Table) -> tuple[str, ...]:
    """The splits that the paper has numbers for."""
    if not table.paper_source:
        return ()
    named = {split for row in table.rows for split in row.paper}
    return tuple(sorted(named, key=lambda split: (split != "validation", split != "test", split)))


def paper_text(row: Row, split: str) -> str:
    """The paper's number for an arm, or a dash."""
    return f"{row.paper[split]:.2f}" if split in row.paper else NOTHING


def signed(value: float) -> str:
    """A difference with its sign, a true minus, and no sign on what rounds to zero."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def escape_markdown(text: str) -> str:
    """User text that stays text inside a Markdown table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in text)


def _by_seed(results: Sequence[Result], experiment: Experiment, name: str) -> dict[str, dict[Key, dict[int, float]]]:
    """A number in percent by arm, column and seed, where it was measured."""
    found: dict[str, dict[Key, dict[int, float]]] = {arm.name: {} for arm in experiment.arms}
    for result in results:
        value = result.metrics.get(name, math.nan)
        if result.arm in found and (result.eval, result.split) in COLUMNS and math.isfinite(value):
            found[result.arm].setdefault((result.eval, result.split), {})[result.seed] = 100 * value
    return found


def _details(
    results: Sequence[Result], experiment: Experiment, rows: Sequence[Row], seeds: Sequence[int]
) -> tuple[tuple[str, ...], ...]:
    if experiment.metric not in ATTRIBUTE_NUMBERS:
        return ()
    numbers = [_by_seed(results, experiment, name) for name in ATTRIBUTE_NUMBERS]
    body = [
        (row.label, heading, *(score_text(Score(cell) if cell else None, seeds) for cell in cells))
        for key, heading in COLUMNS.items()
        for row in rows
        if key[1] == "test" and any(cells := [number[row.name].get(key) for number in numbers])
    ]
    return (("pretraining", "evaluation", *ATTRIBUTE_NUMBERS.values()), *body) if body else ()


_SYMBOLS = {"helped": "▲", "hurt": "▼", "open": "○", "missing": "·"}


def _differences(
    ours: Mapping[Key, Mapping[int, float]], theirs: Mapping[Key, Mapping[int, float]]
) -> dict[Key, Difference]:
    found = {key: paired_difference(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()}
    return {key: difference for key, difference in found.items() if difference is not None}


def _best(key: Key, rows: Sequence[Row]) -> str | None:
    """The arm whose paired interval against every other one lies above zero, if there is such an arm."""
    scores = {row.name: row.scores[key].by_seed for row in rows if key in row.scores}
    for name, ours in scores.items():
        rivals = [paired_difference(ours, theirs) for other, theirs in scores.items() if other != name]
        if len(scores) == len(rows) > 1 and all(rival is not None and rival.sign > 0 for rival in rivals):
            return name
    return None


def _verdict(row: Row, reference: str, key: Key, noun: str) -> Verdict:
    spoken = f"{SPOKEN[key[0]]} {noun}"
    difference = row.differences.get(key)
    if difference is None:
        finding = f"and “{reference}” have no finished seed in common for {spoken}"
        return Verdict(row.label, reference, key[0], "missing", finding, "nothing to compare yet")
    finding = f"changed {spoken} by {signed(difference.mean)}"
    if difference.low is None or difference.high is None or difference.std is None:
        finding += f" points against “{reference}” (1 seed, no interval)"
        return Verdict(row.label, reference, key[0], "open", finding, "one seed cannot tell")
    interval = f"95 % interval {signed(difference.low)} to {signed(difference.high)}"
    finding += f" ± {difference.std:.2f} points against “{reference}” ({interval}, {_seeds(difference.n)})"
    outcome, conclusion = {
        1: ("helped", "it helped"),
        -1: ("hurt", "it hurt"),
        0: ("open", f"no difference that {_seeds(difference.n)} can show"),
    }[difference.sign]
    return Verdict(row.label, reference, key[0], outcome, finding, conclusion)


def _markdown_head(headings: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _spread_words() -> str:
    return "mean ± standard deviation over seeds"


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
