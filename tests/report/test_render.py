"""A table says the same on the terminal, in Markdown, in LaTeX and as CSV, whatever arms are called."""

import csv
import dataclasses
import io
import re

import pytest
from rich.console import Console

from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.report.render import format_terminal, to_csv, to_latex, to_markdown
from simsiam_jax.report.summary import summarise
from tests.support.made_up import grouped_experiment, grouped_scores, make_arm, make_experiment, make_scores

FINETUNE, LINEAR, KNN = ("finetune", "test"), ("linear", "test"), ("knn", "test")


def test_the_papers_form_turns_groups_into_lines_and_has_the_papers_numbers_below():
    layout = Layout((Column("test", "finetune", "test", "top1"),), pivot=True)
    experiment = grouped_experiment(layout=layout, paper_source="arXiv 2112.02297, Table 2")
    table = summarise(grouped_scores(), experiment)
    assert table.form.headings == ("none", "own")
    assert [label for label, _ in table.form.lines] == ["A", "B"]
    markdown = to_markdown(table)
    assert "| A | 20.00 ± 10.00<br>paper 60.00 | **25.33 ± 10.02<br>paper 70.00** |" in markdown
    latex = to_latex(table).splitlines()
    assert r"A & 20.00 $\pm$ 10.00 & \textbf{25.33 $\pm$ 10.02} \\" in latex
    assert r" & paper 60.00 & paper 70.00 \\" in latex
    assert latex[1] == r"\begin{tabular}{lrr}"
    flat = dataclasses.replace(layout, pivot=False)
    flat = summarise(grouped_scores(), dataclasses.replace(experiment, layout=flat))
    assert [label for label, _ in flat.form.lines] == ["A: none", "A: own", "B: none", "B: own"]


def test_latex_keeps_user_text_as_text():
    experiment = make_experiment((make_arm("none", r"50 % of $x_1$ & \input{a}"), "own"))
    line = to_latex(summarise(grouped_scores(), experiment)).splitlines()[5]
    assert line.startswith(r"50 \% of \$x\_1\$ \& \textbackslash{}input\{a\} &")


def test_the_csv_holds_every_number_in_full():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    experiment = make_experiment((make_arm("none", "none", {"test": 75.23}), "own"), paper_source="Table 1")
    rows = list(csv.DictReader(io.StringIO(to_csv(summarise(results, experiment)))))
    by_place = {(row["arm"], row["eval"], row["split"]): row for row in rows}
    own = by_place["own", "finetune", "test"]
    assert float(own["mean"]) == pytest.approx(76)
    assert float(own["difference"]) == pytest.approx(3)
    assert float(own["difference_low"]) == pytest.approx(3 - 4.302653 / 3**0.5, abs=1e-5)
    assert by_place["none", "finetune", "test"]["paper_other_data"] == "75.23"
    assert by_place["none", "finetune", "validation"]["mean"] == ""


def test_the_terminal_table_fits_eighty_columns_and_keeps_labels_as_text():
    arms = (
        make_arm("none", "[red]no pretraining[/red] at all, a long name", {"test": 75.23, "validation": 75.68}),
        "own",
    )
    experiment = make_experiment(arms, ("knn", "linear", "finetune"), paper_source="arXiv 2112.02297, Table 1")
    results = [
        result
        for name, split in (("finetune", "validation"), FINETUNE, LINEAR, KNN)
        for arm, values in (("none", [0.70, 0.72, 0.77]), ("own", [0.73, 0.76]))
        for result in make_scores(arm, values, eval=name, split=split)
    ]
    file = io.StringIO()
    Console(file=file, width=80).print(format_terminal(summarise(results, experiment)))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("73.00 ± 3.61") == 4
    assert "[red]" in text
    assert "75.23" in text
    assert "The paper's own numbers: arXiv 2112.02297, Table 1" in text


def test_the_markdown_table_keeps_its_columns_whatever_an_arm_is_called():
    experiment = make_experiment(("none", make_arm("own", "a|b\n<b>*c*")))
    results = make_scores("none", [0.70, 0.72]) + make_scores("own", [0.73, 0.76])
    lines = to_markdown(summarise(results, experiment)).splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]]
    assert len(set(bars)) == 1
    assert r"a\|b &lt;b>\*c\*" in lines[3]
