"""A table's texts: for the terminal, as Markdown, as LaTeX and as CSV, with the captions that say how to read it."""

import csv
import io
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from simsiam_jax.report import attributes
from simsiam_jax.report.attributes import Attributes
from simsiam_jax.report.paper_form import Cell
from simsiam_jax.report.seeds import Key
from simsiam_jax.report.summary import COLUMNS, Row, Table
from simsiam_jax.report.words import (
    NOT_RUN,
    NOTHING,
    OUTCOMES,
    STAGE_WORDS,
    capital,
    cut,
    difference_lines,
    escape_latex,
    escape_markdown,
    number_text,
    score_text,
    signed,
)

INTERVALS_CAPTION = (
    "Intervals are Student's t over paired seeds. Each of them stands alone: of twenty, one errs by chance. They "
    "describe, and make no claim."
)
PLAN_CAPTION = (
    "Only {column} decides, as the run's plan says. There arms helped or hurt by tests that together claim an effect "
    "where there is none with a probability of {alpha:.3g} % at most, and intervals hold over all looks at results. "
    "Every other interval is Student's t over paired seeds and stands alone: of twenty, one errs by chance. Those "
    "describe, and make no claim."
)
PRECISION_HEADING = "What the interval is made of"
_SPREAD_WORDS = "mean ± standard deviation over seeds"


def format_terminal(table: Table) -> Group:
    """The table for `rich.console.Console().print`. It fits 80 columns and needs no colour."""
    heading = Text.assemble(
        (table.title, "bold"),
        "\n",
        (f"{capital(table.headline.name)} in %, {_SPREAD_WORDS}; {table.progress}", "dim"),
        (f"\nIt leads {table.metric_reason}." if table.metric_reason else "", "dim"),
    )
    accuracy = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.columns)])
    for row in table.rows:
        cells = [
            Text(cell_text(row, key, table).replace(" (", "\n("), style="bold" if key in row.best else "")
            for key in table.columns
        ]
        accuracy.add_row(Text(row.label if row.flag is None else f"{row.label}\n{row.flag}"), *cells)
    if table.majority is not None:
        accuracy.add_row(Text(table.majority.label), *map(Text, majority_texts(table)), style="dim")
    parts: list[Text | RichTable] = [Text(f"{table.answer}\n", style="bold")] if table.answer else []
    parts += [heading, accuracy]
    if table.others:
        words = f"\nDifference to {table.reference} in points, paired over seeds,\nwith intervals"
        parts.append(Text(words, style="dim"))
        differences = _rich_table(["", *(_two_lines(COLUMNS[key]) for key in table.compared)])
        for row in table.others:
            cells = [difference_lines(row.differences.get(key)) for key in table.compared]
            differences.add_row(Text(row.label), *(Text("\n".join(filter(None, lines))) for lines in cells))
        parts.append(differences)
    if table.paper_source:
        parts.append(Text(f"\nThe paper's own numbers: {table.paper_source}", style="dim"))
        splits = _published_splits(table)
        published = _rich_table(["", *(f"paper, {name}" for name in splits)])
        for row in table.rows:
            published.add_row(Text(row.label), *(Text(_published_text(row, name)) for name in splits))
        if splits:
            parts.append(published)
    if table.attributes is not None:
        parts += _terminal_attributes(table.attributes)
    parts.append(Text(""))
    parts += [Text(f"{OUTCOMES[verdict.outcome][0]} {verdict}") for verdict in table.verdicts]
    parts += [Text(words) for words in (*table.precision, *table.findings)]
    return Group(*parts)


def to_markdown(table: Table) -> str:
    """The table as Markdown: the paper's form, accuracies and differences side by side, verdicts, and details."""
    if not table.columns:
        return f"{capital(table.progress)}.\n"
    lines = [f"**{escape_markdown(table.answer)}**", ""] if table.answer else []
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
    if table.majority is not None:
        cells = [escape_markdown(table.majority.label), *majority_texts(table)]
        lines.append("| " + " | ".join([*cells, *[""] * (len(headings) - len(cells))]) + " |")
    lines += ["", escape_markdown(caption(table))]
    if table.others:
        lines += ["", intervals_caption(table)]
    lines += ["", *(f"- {escape_markdown(str(verdict))}" for verdict in table.verdicts)]
    lines += [f"- {escape_markdown(words)}" for words in table.findings]
    if table.precision:
        lines += ["", PRECISION_HEADING + ":", "", *(f"- {escape_markdown(words)}" for words in table.precision)]
    if table.details:
        lines += ["", *_markdown_head(table.details[0])]
        lines += ["| " + " | ".join([escape_markdown(label), *cells]) + " |" for label, *cells in table.details[1:]]
        lines += ["", table.details_caption]
    if table.attributes is not None:
        headings, *body = attribute_lines(table.attributes)
        lines += ["", f"{attributes_title(table.attributes)}:", "", *_markdown_head(headings)]
        lines += ["| " + " | ".join(map(escape_markdown, cells)) + " |" for cells in body]
        lines += ["", attributes.CAPTION]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """The table in the paper's form for LaTeX with booktabs, the paper's numbers in a second line.

    A table that has no such form shows the columns of `Table.columns`.
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
    if table.form is None and table.majority is not None:
        lines += ["\\midrule", " & ".join(map(escape_latex, (table.majority.label, *majority_texts(table)))) + " \\\\"]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV in full precision: a line for each arm, eval and split, accuracies in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"difference{ending}" for ending in ("", "_std", "_low", "_high")]
    writer.writerow(
        [
            *("arm", "group", "label", "eval", "split", "seeds", "mean", "std", "difference_seeds", *names),
            *("outcome", "paper_other_data", "collapsed", "not_run", "majority"),
        ]
    )
    for row in table.rows:
        for key in table.columns:
            score, difference = row.scores.get(key), row.differences.get(key)
            cells: list[object] = [row.name, row.arm.group, row.arm.words, *key]
            cells += [len(score.by_seed), score.mean, score.std] if score else [0, None, None]
            if difference:
                cells += [difference.n, difference.mean, difference.std, difference.low, difference.high]
            else:
                cells += [None] * 5
            decision = table.decisions.get(row.name) if key == table.planned else None
            cells.append(None if decision is None else decision.outcome)
            published = row.arm.published.get(key[1]) if key[0] == "finetune" else None
            always = table.majority.numbers.get(key[1], {}).get(table.metric) if table.majority else None
            writer.writerow([*cells, published, row.flag, row.arm.absent, always])
    return text.getvalue()


def caption(table: Table) -> str:
    """How to read the table, in plain words."""
    words = f"{capital(table.headline.name)} in %{table.headline.note}, {_SPREAD_WORDS}. "
    words += f"It leads {table.metric_reason}. " if table.metric_reason else ""
    if table.others:
        words += (
            f"Δ is the difference to {table.reference} in points, paired over common seeds, with its standard "
            "deviation and an interval. Bold: better than every other arm of its group, each by Student's paired 95 % "
            "interval. "
        )
    return words + f"{capital(table.progress)}."


def intervals_caption(table: Table) -> str:
    """What the intervals of the differences promise."""
    if table.planned is None:
        return INTERVALS_CAPTION
    return PLAN_CAPTION.format(column=COLUMNS[table.planned], alpha=100 * table.alpha)


def form_caption(table: Table) -> str:
    """How to read the table in the paper's form."""
    words = f"Ours: {_SPREAD_WORDS}."
    if table.form is not None and table.form.has_published and table.paper_source:
        words += (
            f" Second line: the paper's one run, {table.paper_source}. On other data compare the order, not the height."
        )
    return words


def cell_text(row: Row, key: Key, table: Table) -> str:
    """The number of an arm in a column, or that the arm was not run."""
    score = row.scores.get(key)
    return NOT_RUN if score is None and row.arm.absent else score_text(score, table.seeds)


def majority_texts(table: Table) -> list[str]:
    """What it scores to always name the largest class, in each column of the table."""
    found = table.majority.numbers if table.majority else {}
    values = [found.get(split, {}).get(table.metric) for _, split in table.columns]
    return [number_text("{:.2f}", value) for value in values]


def attributes_title(found: Attributes) -> str:
    """What the numbers of each attribute are of."""
    return f"Each attribute, {STAGE_WORDS[found.evaluation].name}, test images"


def attribute_lines(found: Attributes) -> list[tuple[str, ...]]:
    """The numbers of each attribute and arm as rows of text, headings first."""
    headings = ("attribute", "share", "pretraining", *attributes.NUMBERS.values(), "predicted from")
    body = [
        (
            cut(each.name, 40) if place == 0 else "",
            number_text("{:.1f}", each.share) if place == 0 else "",
            arm.title,
            *(number_text("{:.1f}", each.numbers[arm.name].get(name)) for name in attributes.NUMBERS),
            number_text("{:.2f}", each.threshold.get(arm.name)),
        )
        for each in found.each
        for place, arm in enumerate(found.arms)
    ]
    return [headings, *body]


def _terminal_attributes(found: Attributes) -> list[Text | RichTable]:
    """The attributes of the arm that was asked about, the best and the worst where there are many."""
    words = f"\n{attributes_title(found)}, “{found.arm.title}”, in %"
    if len(found.some) < len(found.each):
        words += f";\nthe best {attributes.ENDS} and the worst {attributes.ENDS} of {len(found.each)} by Jaccard"
    if found.reference is not None:
        words += f";\nΔ: Jaccard against “{found.reference.title}”, in points"
    headings = ["", "share", *attributes.NUMBERS.values(), *(["Δ"] if found.reference else [])]
    shown = _rich_table(headings)
    for each in found.some:
        cells = [each.share, *(each.numbers[found.arm.name].get(name) for name in attributes.NUMBERS)]
        texts = [number_text("{:.1f}", value) for value in cells]
        if found.reference is not None:
            change = found.change(each)
            texts.append(NOTHING if change is None else signed(change, 1))
        shown.add_row(Text(cut(each.name, 24)), *map(Text, texts))
    return [Text(words, style="dim"), shown]


def form_lines(cell: Cell, table: Table) -> tuple[str, str]:
    """The two lines of a cell in the paper's form: our number, and the paper's, which is empty where it has none."""
    ours = NOT_RUN if cell.score is None and cell.absent else score_text(cell.score, table.seeds)
    return ours, "" if cell.published is None else f"paper {cell.published:.2f}"


def _published_splits(table: Table) -> list[str]:
    """The splits of which the paper has numbers of the headline."""
    named = {name for row in table.rows for name in row.arm.published if "/" not in name}
    return sorted(named, key=lambda split: (split != "validation", split != "test", split))


def _published_text(row: Row, split: str) -> str:
    return f"{row.arm.published[split]:.2f}" if split in row.arm.published else NOTHING


def _markdown_head(headings: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]


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
