"""The report's numbers are those of the result lines, and the page stands on its own."""

import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simsiam_jax.errors import InputError
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.records.results import gather_results
from simsiam_jax.report import figures, page, tables
from tests.support.made_up import (
    made_up_workdir,
    make_arm,
    make_experiment,
    make_result,
    make_scores,
    write_log,
    write_results,
)

FINETUNE, LINEAR, KNN = ("finetune", "test"), ("linear", "test"), ("knn", "test")


def write_run(workdir, experiment, results, logs=True):
    experiment.write(workdir)
    write_results(workdir, results)
    for arm in experiment.arms if logs else ():
        for stage, values in (
            ("pretrain", {"loss": -0.9, "heldout_loss": -0.8, "z_spread": 0.9, "knn_top1": 0.5}),
            ("finetune", {"loss": 0.5, "validation_top1": 0.7}),
        ):
            lines = [{"epoch": epoch, "images_per_second": 100.0 * epoch, **values} for epoch in (1, 2, 3)]
            write_log(workdir / arm.name / "seed-0" / stage, lines)


def test_mean_and_sample_deviation_are_those_computed_by_hand():
    # 70, 72, 77: mean 73; squared deviations 9 + 1 + 16 = 26, over n - 1 = 2: 13.
    table = tables.summarise(make_scores("none", [0.70, 0.72, 0.77]), make_experiment())
    score = table.rows[0].scores[FINETUNE]
    assert score.mean == pytest.approx(73)
    assert score.std == pytest.approx(13**0.5)
    assert tables.score_text(score, table.seeds) == "73.00 ± 3.61"


def test_paired_difference_and_interval_are_those_computed_by_hand():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    difference = tables.summarise(results, make_experiment()).rows[1].differences[FINETUNE]
    # Differences 3, 4, 2: mean 3, standard deviation 1; t(0.975, 2) = 4.302653 from the printed tables, / sqrt 3.
    assert (difference.mean, difference.n) == (pytest.approx(3), 3)
    assert difference.std == pytest.approx(1)
    assert difference.low == pytest.approx(3 - 4.302653 / 3**0.5, abs=1e-5)
    assert difference.high == pytest.approx(3 + 4.302653 / 3**0.5, abs=1e-5)


def test_a_difference_pairs_common_seeds_only():
    results = [
        *make_scores("none", [0.5, 0.6, 0.7]),
        make_result(1, "own", metrics={"top1": 0.62}),
        make_result(2, "own", metrics={"top1": 0.74}),
        make_result(9, "own", metrics={"top1": 0.99}),
    ]
    table = tables.summarise(results, make_experiment())
    difference = table.rows[1].differences[FINETUNE]
    assert (difference.mean, difference.n) == (pytest.approx(3), 2)  # (62 - 60, 74 - 70), without seeds 0 and 9
    assert table.seeds == (0, 1, 2, 9)
    assert "(3 seeds)" in tables.to_markdown(table)


def test_arms_without_a_common_seed_have_no_difference():
    results = [make_result(0, "none"), make_result(1, "own")]
    table = tables.summarise(results, make_experiment())
    assert table.rows[1].differences == {}
    assert table.verdicts[0].outcome == "missing"


def test_a_repeated_unit_counts_once_with_its_later_line():
    results = [make_result(0, metrics={"top1": 0.1}), make_result(0, metrics={"top1": 0.9})]
    table = tables.summarise(results, make_experiment())
    assert table.rows[0].scores[FINETUNE].by_seed == {0: pytest.approx(90)}
    assert (table.units_done, table.units_expected) == (1, 2)


@pytest.mark.parametrize(
    ("own", "outcome", "change", "interval", "conclusion"),
    [
        ([0.73, 0.76, 0.79], "helped", "+3.00 ± 1.00",
         "95 % interval +0.52 to +5.48, by bootstrap +2.00 to +4.00, 3 seeds", "it helped"),
        ([0.67, 0.68, 0.75], "hurt", "−3.00 ± 1.00",
         "95 % interval −5.48 to −0.52, by bootstrap −4.00 to −2.00, 3 seeds", "it hurt"),
        ([0.71, 0.72, 0.76], "open", "0.00 ± 1.00",
         "95 % interval −2.48 to +2.48, by bootstrap −1.00 to +1.00, 3 seeds", "no difference that 3 seeds can show"),
        # Three of one sign and the bootstrap sees a difference, Student's t does not: undecided.
        ([0.71, 0.73, 0.82], "open", "+2.33 ± 2.31",
         "95 % interval −3.40 to +8.07, by bootstrap +1.00 to +5.00, 3 seeds", "no difference that 3 seeds can show"),
        ([0.90], "open", "+20.00", "1 seed, no interval", "one seed cannot tell"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_interval(own, outcome, change, interval, conclusion):
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", own)
    (verdict,) = tables.summarise(results, make_experiment()).verdicts
    assert verdict.outcome == outcome
    words = f"“own” changed fine-tuned test accuracy by {change} points against “none” ({interval}): {conclusion}."
    assert str(verdict) == words


def test_every_other_arm_gets_a_verdict_for_each_evaluation():
    experiment = make_experiment(("none", "noise", "own"), ("knn", "linear", "finetune"))
    table = tables.summarise([], experiment)
    assert {(verdict.arm, verdict.eval) for verdict in table.verdicts} == {
        (arm, name) for arm in ("noise", "own") for name in ("knn", "linear", "finetune")
    }
    assert table.columns == (("finetune", "validation"), FINETUNE, LINEAR, KNN)


def emphasised(results, experiment):
    return {row.name for row in tables.summarise(results, experiment).rows if FINETUNE in row.best}


def test_only_an_arm_clearly_above_all_others_is_emphasised():
    base = make_scores("none", [0.70, 0.72, 0.77])
    clear = base + make_scores("own", [0.73, 0.76, 0.79])
    assert emphasised(clear, make_experiment()) == {"own"}
    assert emphasised(base + make_scores("own", [0.71, 0.73, 0.76]), make_experiment()) == set()
    rival = clear + make_scores("noise", [0.74, 0.75, 0.79])  # as good as "own": neither is best
    assert emphasised(rival, make_experiment(("none", "own", "noise"))) == set()
    worse = base + make_scores("own", [0.67, 0.68, 0.75])
    assert emphasised(worse, make_experiment()) == {"none"}


def test_an_arm_that_cannot_be_run_is_not_waited_for_and_one_that_is_missing_is():
    clear = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    assert emphasised(clear, make_experiment(("none", "own", "imagenet"))) == set()
    absent = make_arm("imagenet", "ImageNet", absent="no weights at hand")
    experiment = make_experiment(("none", "own", absent), seeds=(0, 1, 2))
    assert emphasised(clear, experiment) == {"own"}
    table = tables.summarise(clear, experiment)
    assert table.absences == ("Not run: ImageNet (no weights at hand).",)
    assert (table.units_done, table.units_expected) == (6, 6)
    assert tables.cell_text(table.rows[2], FINETUNE, table) == "not run"
    assert {verdict.arm for verdict in table.verdicts} == {"own"}


GROUPED = tuple(
    make_arm(f"{group}-{name}", name, {"test": paper}, group=group)
    for group, papers in (("A", (60.0, 70.0)), ("B", (65.0, 64.0)))
    for name, paper in zip(("none", "own"), papers, strict=True)
)


def grouped_results():
    values = {
        "A-none": [0.1, 0.2, 0.3],
        "A-own": [0.15, 0.26, 0.35],
        "B-none": [0.7, 0.8, 0.9],
        "B-own": [0.6, 0.8, 0.9],
    }
    return [result for arm, numbers in values.items() for result in make_scores(arm, numbers)]


def test_arms_are_compared_within_their_group_alone():
    table = tables.summarise(grouped_results(), make_experiment(GROUPED))
    assert [row.reference and row.reference.name for row in table.rows] == [None, "A-none", None, "B-none"]
    assert [row.name for row in table.rows if FINETUNE in row.best] == ["A-own"]
    assert [(verdict.arm, verdict.outcome) for verdict in table.verdicts] == [("A: own", "helped"), ("B: own", "open")]
    assert table.reference == "the first arm of each group"


def test_the_papers_form_turns_groups_into_lines_and_has_the_papers_numbers_below():
    layout = Layout((Column("test", "finetune", "test", "top1"),), pivot=True)
    experiment = make_experiment(GROUPED, layout=layout, paper_source="arXiv 2112.02297, Table 2")
    table = tables.summarise(grouped_results(), experiment)
    assert table.form.headings == ("none", "own")
    assert [label for label, _ in table.form.lines] == ["A", "B"]
    markdown = tables.to_markdown(table)
    assert "| A | 20.00 ± 10.00<br>paper 60.00 | **25.33 ± 10.02<br>paper 70.00** |" in markdown
    latex = tables.to_latex(table).splitlines()
    assert r"A & 20.00 $\pm$ 10.00 & \textbf{25.33 $\pm$ 10.02} \\" in latex
    assert r" & paper 60.00 & paper 70.00 \\" in latex
    assert latex[1] == r"\begin{tabular}{lrr}"
    flat = dataclasses.replace(layout, pivot=False)
    flat = tables.summarise(grouped_results(), dataclasses.replace(experiment, layout=flat))
    assert [label for label, _ in flat.form.lines] == ["A: none", "A: own", "B: none", "B: own"]


def test_latex_keeps_user_text_as_text():
    experiment = make_experiment((make_arm("none", r"50 % of $x_1$ & \input{a}"), "own"))
    line = tables.to_latex(tables.summarise(grouped_results(), experiment)).splitlines()[5]
    assert line.startswith(r"50 \% of \$x\_1\$ \& \textbackslash{}input\{a\} &")


def ended(arm, values):
    numbers = [{"loss": -0.9, "z_spread": value} for value in values]
    return [
        make_result(seed, arm, eval="pretrain", split="validation", metrics=each) for seed, each in enumerate(numbers)
    ]


def test_a_collapsed_pretraining_is_flagged_with_its_knn_beside_guessing():
    experiment = make_experiment(("none", "own"), ("knn",), class_names=tuple("abcd"))
    results = make_scores("none", [0.5, 0.6], eval="knn") + make_scores("own", [0.24, 0.26], eval="knn")
    healthy = tables.summarise(results + ended("own", [0.9, 0.8]), experiment)
    assert healthy.collapse == "No pretraining collapsed: the smallest spread of z × √d is 0.85 (“own”)."
    assert [row.flag for row in healthy.rows] == [None, None]
    fallen = tables.summarise(results + ended("own", [0.9, 0.02]), experiment)
    assert [row.flag for row in fallen.rows] == [None, "collapsed in 1 of 2 seeds"]
    assert "kNN accuracy 25.0 %; guessing gives 25 %" in fallen.collapse
    assert "collapsed in 1 of 2 seeds" in tables.to_markdown(fallen)
    halfway = tables.summarise(results + ended("own", [0.3, 0.02]), experiment)
    assert halfway.rows[1].flag == "collapsed in 1, partly collapsed in 1 of 2 seeds"
    assert "partly collapsed one below 0.45" in halfway.collapse


def test_a_search_on_validation_images_alone_shows_and_compares_those():
    results = make_scores("none", [0.5, 0.6, 0.7], eval="linear", split="validation")
    results += make_scores("own", [0.52, 0.62, 0.73], eval="linear", split="validation")
    table = tables.summarise(results, make_experiment(evals=("linear",)))
    assert table.columns == table.compared == (("linear", "validation"),)
    assert (table.units_done, table.units_expected) == (6, 6)
    assert "linear-probe validation accuracy" in str(table.verdicts[0])
    assert figures.accuracy_points(table).axes[0].get_title(loc="left") == "Validation accuracy, every seed"


def test_the_csv_holds_every_number_in_full():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    experiment = make_experiment((make_arm("none", "none", {"test": 75.23}), "own"), paper_source="Table 1")
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.summarise(results, experiment)))))
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
    Console(file=file, width=80).print(tables.format_terminal(tables.summarise(results, experiment)))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("73.00 ± 3.61") == 4
    assert "[red]" in text
    assert "75.23" in text
    assert "The paper's own numbers: arXiv 2112.02297, Table 1" in text


def test_the_markdown_table_keeps_its_columns_whatever_an_arm_is_called():
    experiment = make_experiment(("none", make_arm("own", "a|b\n<b>*c*")))
    results = make_scores("none", [0.70, 0.72]) + make_scores("own", [0.73, 0.76])
    lines = tables.to_markdown(tables.summarise(results, experiment)).splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]]
    assert len(set(bars)) == 1
    assert r"a\|b &lt;b>\*c\*" in lines[3]


def test_curves_average_the_seeds_of_an_epoch_and_count_a_repeated_epoch_once():
    logs = {
        0: [{"epoch": 1, "loss": -0.2}, {"epoch": 2, "loss": -0.4}, {"epoch": 2, "loss": -0.6}],
        1: [{"epoch": 1, "loss": -0.4}, {"epoch": 2, "loss": float("nan")}],
    }
    figure = figures.loss_curves([figures.Curves("own", 2, logs)])
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [pytest.approx(-0.3), pytest.approx(-0.6)]
    assert line.get_color() == figures.THEME["arm-2"][0]


def test_an_arm_keeps_its_colour_in_every_figure():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    table = tables.summarise(results, make_experiment())
    logs = [
        figures.Curves(
            "own", 1, {0: [{"epoch": 1, "loss": 0.1, "z_spread": 1, "knn_top1": 0.5, "validation_top1": 0.5}]}
        )
    ]
    drawn = [
        figures.accuracy_points(table),
        figures.difference_intervals(table),
        figures.loss_curves(logs),
        figures.knn_curves(logs),
        figures.spread_curves(logs),
        figures.finetune_curves(logs),
    ]
    for figure in drawn:
        assert figures.THEME["arm-1"][0] in {line.get_color() for line in figure.axes[0].lines}


def test_a_legend_of_many_arms_leaves_the_curves_their_room():
    arms = [
        figures.Curves(f"an arm with a long name, number {place}", place, {0: [{"epoch": 1, "z_spread": 0.5}]})
        for place in range(16)
    ]
    figure = figures.spread_curves(arms)
    assert figure is not None
    figure.draw_without_rendering()
    plot, legend = figure.axes[0].get_window_extent(), figure.legends[0].get_window_extent()
    assert plot.height > 150
    assert legend.y1 <= plot.y0


def test_figures_without_anything_to_draw_are_left_out():
    empty = [figures.Curves("none", 0, {})]
    table = tables.summarise([], make_experiment())
    assert figures.loss_curves(empty) is figures.knn_curves(empty) is figures.finetune_curves(empty) is None
    assert figures.spread_curves(empty) is figures.accuracy_points(table) is figures.difference_intervals(table) is None


def test_the_sheet_shows_the_pairs_themselves():
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    view = np.linspace(0, 1, 3 * 2 * 2 * 3, dtype=np.float32).reshape(3, 2, 2, 3)
    figure = figures.augmented_pairs(images, view, 1 - view, limit=2)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[0], images[0])
    np.testing.assert_allclose(shown[4], view[1])
    np.testing.assert_allclose(shown[5], 1 - view[1])


def test_a_drawing_follows_the_pages_theme():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    drawing = figures.themed_svg(figures.accuracy_points(tables.summarise(results, make_experiment())), "accuracy")
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing))
    assert colours == set()
    assert {"ink", "muted", "arm-0", "arm-1"} <= set(re.findall(r"var\(--([\w-]+)\)", drawing))
    ids = set(re.findall(r'\bid="([^"]+)"', drawing))
    assert all(name.startswith("accuracy-") for name in ids)
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", drawing)) <= ids


class Addresses(html.parser.HTMLParser):
    """Collects what the page would fetch or link to, its elements and its text."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name.split(":")[-1] in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        self.text += data


def read_page(path):
    parsed = Addresses()
    parsed.feed(path.read_text())
    return parsed


def full_run(workdir, logs=True, **changes):
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), **changes)
    results = [
        *make_scores("none", [0.70, 0.72, 0.77]),
        *make_scores("own", [0.73, 0.76, 0.79]),
        *make_scores("none", [0.5, 0.5, 0.6], eval="knn"),
        *make_scores("own", [0.6, 0.7, 0.7], eval="knn"),
        make_result(0, "own", eval="pretrain", split="train", seconds=100, metrics={"loss": -0.93, "updates": 540}),
    ]
    write_run(workdir, experiment, results, logs)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(workdir / "pairs.npz", originals=images, view1=images / np.float32(1), view2=images / np.float32(1))


def test_the_report_is_one_page_that_asks_nothing_of_the_network(tmp_path):
    full_run(tmp_path)
    path = page.write_report(tmp_path)
    assert path == tmp_path / "report" / "index.html"
    parsed = read_page(path)
    assert parsed.addresses  # the figures' own glyphs
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    text = path.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    drawn = ("accuracy", "difference", "loss", "knn", "spread", "finetune", "pairs")
    assert {file.name for file in path.parent.iterdir()} == {
        "index.html", "report.md", "table.csv", "table.tex", *(f"{name}.png" for name in drawn),
    }  # fmt: skip


def test_the_page_says_what_was_measured_and_how(tmp_path):
    full_run(tmp_path)
    text = read_page(page.write_report(tmp_path)).text.replace("\u00a0", " ")
    for words in (
        "Does it help?",
        "changed fine-tuned test accuracy by +3.00 ± 1.00 points against “none” (95 % interval +0.52 to +5.48",
        "all 12 evaluations done",
        "73.00 ± 3.61",
        "python -m experiments.demo",
        "optimizer.name",
        "abc123",
        "2 CPU cores",
        "3.11.2",
        "1 min 40 s",
        "540",
        "−0.930",
    ):
        assert words in text, words


def attribute_run(workdir):
    """Two arms with fine-tuning measured by all numbers of attributes: the n-th, of the base + n / 100."""
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), metric="macro_jaccard")
    results = [
        make_result(seed, arm, metrics={name: base + n / 100 for n, name in enumerate(tables.ATTRIBUTE_NUMBERS)})
        for arm, bases in (("none", (0.50, 0.52, 0.57)), ("own", (0.53, 0.56, 0.59)))
        for seed, base in enumerate(bases)
    ]
    results.append(make_result(0, "own", eval="knn", metrics={"macro_jaccard": 0.4, "macro_auc": math.nan}))
    write_run(workdir, experiment, results)
    for stage, name in (("pretrain", "knn_macro_jaccard"), ("finetune", "validation_macro_jaccard")):
        line = {"epoch": 1, "loss": 0.5, name: 0.5}
        (workdir / "own" / "seed-0" / stage / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return experiment, results


def test_a_report_of_attributes_speaks_of_jaccard_and_not_of_top1(tmp_path):
    attribute_run(tmp_path)
    parsed = read_page(page.write_report(tmp_path))
    text = parsed.text.replace("\u00a0", " ")
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "changed fine-tuned test macro Jaccard by +3.00 ± 1.00 points against “none”" in text
    for words in (text, markdown):
        assert words.count("Macro Jaccard in % (which the paper calls macro accuracy)") == 1
        assert "op-1" not in words
        assert "test accuracy" not in words
    assert "kNN macro Jaccard by epoch of pretraining" in markdown
    assert "Validation macro Jaccard by epoch of fine-tuning" in markdown


def test_a_report_of_attributes_tells_every_number_of_every_arm_and_evaluation(tmp_path):
    experiment, results = attribute_run(tmp_path)
    details = tables.summarise(results, experiment).details
    # 50, 52, 57 and 53, 56, 59: means 53 and 56, standard deviations 3.61 (the root of 13) and 3; a point a column.
    own = tuple(f"{56 + n:.2f} ± 3.00" for n in range(8))
    assert details == (
        ("pretraining", "evaluation", *tables.ATTRIBUTE_NUMBERS.values()),
        ("none", "fine-tune, test", *(f"{53 + n:.2f} ± 3.61" for n in range(8))),
        ("own", "fine-tune, test", *own),
        ("own", "kNN, test", "40.00 (1 seed)", *["–"] * 7),
    )
    text = read_page(page.write_report(tmp_path)).text
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "| own | fine-tune, test | " + " | ".join(own) + " |" in markdown
    for words in (text, markdown):
        assert "Jaccard the present among those present or predicted" in words
        assert all(number in words for number in own)
    assert tables.summarise(results, dataclasses.replace(experiment, metric="top1")).details == ()


def test_classes_have_details_where_more_than_their_accuracy_is_measured():
    results = [make_result(0, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.6, "auc": 0.8})]
    table = tables.summarise(results, make_experiment(metric="auc", seeds=(0,)))
    assert table.details[0] == ("pretraining", "evaluation", "top-1 accuracy", "balanced accuracy", "AUC")
    assert table.details[1] == ("none", "fine-tune, test", "70.00", "60.00", "80.00")
    assert table.rows[0].scores[FINETUNE].mean == pytest.approx(80)


def test_balanced_accuracy_is_not_told_again_where_classes_are_equally_frequent():
    same = [make_result(seed, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.7}) for seed in (0, 1)]
    assert tables.summarise(same, make_experiment(seeds=(0, 1))).details == ()
    other = [make_result(2, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.6})]
    assert "balanced accuracy" in tables.summarise(same + other, make_experiment(seeds=(0, 1, 2))).details[0]


def test_the_curves_of_attributes_are_those_of_their_number():
    logs = [figures.Curves("own", 1, {0: [{"epoch": 1, "knn_macro_jaccard": 0.4, "validation_macro_jaccard": 0.6}]})]
    assert figures.knn_curves(logs) is figures.finetune_curves(logs) is None
    knn, finetune = figures.knn_curves(logs, "macro_jaccard"), figures.finetune_curves(logs, "macro_jaccard")
    assert [figure.axes[0].lines[0].get_ydata().tolist() for figure in (knn, finetune)] == [[40.0], [60.0]]
    assert knn.axes[0].get_title(loc="left") == "kNN macro Jaccard while pretraining, %"


def test_pretraining_on_unlabelled_images_alone_gives_a_report(tmp_path):
    experiment = make_experiment(("own",), (), seeds=(0,))
    result = make_result(0, "own", eval="pretrain", split="train", metrics={"loss": -0.93, "updates": 540})
    write_run(tmp_path, experiment, [result], logs=False)
    line = {"epoch": 1, "loss": -0.5, "z_spread": 0.9, "images_per_second": 100.0}
    write_log(tmp_path / "own" / "seed-0" / "pretrain", [line])
    path = page.write_report(tmp_path)
    text = read_page(path).text
    assert "1 pretraining done, no evaluation" in text
    assert "−0.930" in text
    assert "Nothing has been measured" not in text
    assert "not finished" not in text
    assert "Accuracy" not in text
    assert {file.stem for file in path.parent.glob("*.png")} == {"loss", "spread"}
    markdown = (path.parent / "report.md").read_text()
    assert "1 pretraining done, no evaluation." in markdown
    assert "op-1" not in markdown
    assert len((path.parent / "table.csv").read_text().splitlines()) == 1


def test_user_text_stays_text(tmp_path):
    evil = '<script>alert("x")</script><img src=http://a.b/c>$x$ & _y'
    arms = (make_arm("none", "none"), make_arm("own", evil))
    experiment = make_experiment(arms, title=evil, question=evil, command=evil, config={evil: evil, "group": {evil: 1}},
                                 data={evil: {evil: evil}}, dataset=evil, paper_source=evil)  # fmt: skip
    results = make_scores("none", [0.7, 0.8]) + make_scores("own", [0.8, 0.8], device=evil)
    write_run(tmp_path, experiment, results)
    parsed = read_page(page.write_report(tmp_path))
    assert not parsed.tags & {"script", "img"}
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert parsed.text.count('<script>alert("x")</script>') >= 8
    assert "<script" not in (tmp_path / "report" / "report.md").read_text().split("~~~")[0]


def test_an_unfinished_run_says_how_much_is_done(tmp_path):
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), seeds=(0, 1, 2))
    write_run(tmp_path, experiment, make_scores("none", [0.7]), logs=False)
    text = read_page(page.write_report(tmp_path)).text
    assert "This run is not finished: 1 of 12 evaluations done." in text
    assert "Augmented pairs" not in text
    assert "kNN, test" in text


def test_a_run_without_any_result_still_gives_a_page(tmp_path):
    write_run(tmp_path, make_experiment(), [], logs=False)
    assert "Nothing has been measured yet." in read_page(page.write_report(tmp_path)).text


def test_damaged_extras_are_named_and_left_out(tmp_path):
    full_run(tmp_path)
    (tmp_path / "pairs.npz").write_bytes(b"no archive")
    with open(tmp_path / "own" / "seed-0" / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    text = read_page(page.write_report(tmp_path)).text
    assert "pairs.npz cannot be read" in text
    assert "own/seed-0/pretrain/metrics.jsonl: 1 unreadable line left out" in text
    assert not (tmp_path / "report" / "pairs.png").exists()


def test_a_rebuild_that_fails_leaves_the_former_report(tmp_path, monkeypatch):
    full_run(tmp_path, logs=False)
    report = page.write_report(tmp_path).parent
    before = {file.name: file.read_bytes() for file in report.iterdir()}
    write_results(tmp_path, make_scores("own", [0.1, 0.1, 0.1]))

    def fail(table):
        raise RuntimeError("half-way")

    monkeypatch.setattr(tables, "to_csv", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        page.write_report(tmp_path)
    assert {file.name: file.read_bytes() for file in report.iterdir()} == before
    monkeypatch.undo()
    page.write_report(tmp_path)
    assert (report / "table.csv").read_bytes() != before["table.csv"]


def test_a_rebuild_drops_the_pictures_that_no_longer_hold(tmp_path):
    full_run(tmp_path, logs=False)
    report = page.write_report(tmp_path).parent
    (tmp_path / "pairs.npz").unlink()
    (report / "mine.png").write_bytes(b"a user's own")
    page.write_report(tmp_path)
    assert not (report / "pairs.png").exists()
    assert (report / "mine.png").exists()


def test_equal_runs_give_equal_reports(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        full_run(folder)
    first, second = (page.write_report(folder).read_bytes() for folder in folders)
    assert first == second


def test_a_failed_unit_is_named(tmp_path):
    full_run(tmp_path)
    (tmp_path / "own" / "seed-2" / "error.txt").write_text("ValueError: out of luck\n\nTraceback ...\n")
    path = page.write_report(tmp_path)
    for text in (read_page(path).text, (path.parent / "report.md").read_text()):
        assert "Failed: own, seed-2: ValueError: out of luck." in text
        assert "Traceback" not in text


def test_the_timing_has_trainings_length_and_the_held_out_loss(tmp_path):
    ended = [
        make_result(0, "own", eval="pretrain", split=split, metrics=metrics)
        for split, metrics in (
            ("validation", {"loss": -0.8, "z_spread": 0.9}),
            ("train", {"loss": -0.7, "z_spread": 0.6, "images_per_second": 50.0, "updates": 123}),
        )
    ]
    write_run(tmp_path, make_experiment(seeds=(0,)), [*make_scores("own", [0.5]), *ended], logs=False)
    text = " ".join(read_page(page.write_report(tmp_path)).text.split())
    assert "50 – 123 −0.800 0.900" in text


def test_the_page_shows_every_section_of_a_whole_run(tmp_path):
    path = page.write_report(made_up_workdir(tmp_path / "run"))
    names = {file.stem for file in path.parent.glob("*.png")}
    assert names == {name for name in page.PICTURES if not name.startswith("labels-")}
    text = read_page(path).text
    for words in (
        "paper 60.00",
        "not run",
        "Not run: ResNet-18: ImageNet, ViT-S: ImageNet (no weights at hand).",
        "collapsed in 3 of 3 seeds",
        'backbone.name: "resnet18" -> "vit_s"',
        "What the features see",
    ):
        assert words in text, words


def test_a_report_can_be_written_elsewhere(tmp_path):
    (tmp_path / "run").mkdir()
    full_run(tmp_path / "run", logs=False)
    assert page.write_report(tmp_path / "run", tmp_path / "out") == tmp_path / "out" / "index.html"
    assert not (tmp_path / "run" / "report").exists()


def test_a_recorded_run_gives_the_same_report_as_its_stage_files(tmp_path):
    folders = [tmp_path / "run", tmp_path / "recorded"]
    for folder in folders:
        folder.mkdir()
        full_run(folder, logs=False)
    gather_results(folders[1])
    for path in folders[1].glob("*/seed-*/*/result.json"):
        path.unlink()
    first, second = (page.write_report(folder).read_bytes() for folder in folders)
    assert first == second


def test_an_empty_workdir_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"holds no experiment\.json") as caught:
        page.write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_report_that_cannot_be_written_is_one_clear_line(tmp_path):
    full_run(tmp_path, logs=False)
    (tmp_path / "report").write_text("a file in the way")
    with pytest.raises(InputError, match=r"--workdir=.*the report cannot be written"):
        page.write_report(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.24, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert page.duration(seconds) == words


def test_the_report_needs_no_jax():
    code = "import sys, simsiam_jax.report.page; print('jax' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
