"""A table says the same on the terminal, in Markdown, in LaTeX and as CSV, whatever arms are called."""

import csv
import dataclasses
import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from simsiam_jax.records.experiment import Column, LabelCounts, Layout
from simsiam_jax.report.render import format_terminal, to_csv, to_latex, to_markdown
from simsiam_jax.report.summary import summarise
from tests.support.made_up import (
    grouped_experiment,
    grouped_scores,
    make_arm,
    make_experiment,
    make_result,
    make_scores,
)

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


def unequal(**changes):
    """Three in four training images are cats, and half of the test images; balanced accuracy leads."""
    fields = {
        "class_names": ("dog", "cat"),
        "label_kind": "classes",
        "label_counts": {"train": LabelCounts((10, 30)), "test": LabelCounts((20, 20))},
        "metric": "balanced_accuracy",
        "metric_reason": "because one class holds 75 % of the training images",
    }
    return make_experiment(**fields | changes)


def balanced_scores():
    return [
        make_result(seed, arm, metrics={"top1": top1, "balanced_accuracy": top1 - 0.1})
        for arm, top1 in (("none", 0.7), ("own", 0.75))
        for seed in (0, 1, 2)
    ]


def texts_of(table):
    file = io.StringIO()
    Console(file=file, width=80).print(format_terminal(table))
    return {"terminal": file.getvalue(), "markdown": to_markdown(table), "latex": to_latex(table)}


def test_every_form_says_what_the_largest_class_alone_would_score_and_why_a_number_leads():
    texts = texts_of(summarise(balanced_scores(), unequal()))
    for form, text in texts.items():
        assert re.search(r"always “cat”\W+(?:–|--)\W+50\.00", text), form
        assert "leads because one class holds 75" in " ".join(text.split()).replace("\\", ""), form
    # Every number: by top-1 accuracy, of equally many test images, and by balanced accuracy.
    assert "| always “cat” | – | 50.00 | 50.00 |" in texts["markdown"]
    table = summarise(balanced_scores(), unequal(metric="top1", metric_reason=""))
    assert {row["majority"] for row in csv.DictReader(io.StringIO(to_csv(table)))} == {"", "50.0"}


@pytest.mark.parametrize("counts", [{}, {"train": LabelCounts((21, 20)), "test": LabelCounts((9, 9))}])
def test_of_equal_classes_and_of_older_runs_no_majority_is_told(counts):
    texts = texts_of(summarise(balanced_scores(), unequal(label_counts=counts, metric="top1", metric_reason="")))
    assert all("always" not in text and "leads" not in text for text in texts.values())


def attribute_table(count):
    """Attributes whose Jaccard falls from 0.90 by 0.01, and of "own" is 0.05 above; their AUC is not defined."""
    base = 0.9 - 0.01 * np.arange(count)
    results = [
        make_result(
            seed, arm, metrics={"macro_jaccard": 0.5},
            attributes={"jaccard": tuple((base + plus).tolist()), "accuracy": (0.8,) * count,
                        "auc": (math.nan,) * count, "threshold": (0.25,) * count},
        )
        for arm, plus in (("none", 0.0), ("own", 0.05))
        for seed in (0, 1)
    ]  # fmt: skip
    experiment = make_experiment(
        metric="macro_jaccard", label_kind="attributes", class_names=tuple(f"a{place}|[red]" for place in range(count)),
        label_counts={"test": LabelCounts((5,) * count, (20,) * count)},
    )  # fmt: skip
    return summarise(results, experiment)


def test_a_terminal_shows_each_attribute_or_the_best_and_the_worst():
    few, many = (texts_of(attribute_table(count))["terminal"] for count in (12, 13))
    # share, Jaccard, accuracy, AUC, AP, and the change of Jaccard against the first arm
    assert re.search(r"^a0\|\[red\] +25\.0 +95\.0 +80\.0 +– +– +\+5\.0$", few, re.MULTILINE)
    assert max(map(len, few.splitlines())) <= 80
    assert [f"a{place}|" in few for place in range(12)] == [True] * 12
    assert [f"a{place}|" in many for place in range(13)] == [True] * 5 + [False] * 3 + [True] * 5
    assert "the best 5 and the worst 5 of 13" in many


def test_a_report_tells_every_attribute_of_every_arm():
    lines = to_markdown(attribute_table(13)).splitlines()
    assert r"| a12\|\[red\] | 25.0 | none | 78.0 | 80.0 | – | – | 0.25 |" in lines
    assert "|  |  | own | 83.0 | 80.0 | – | – | 0.25 |" in lines
