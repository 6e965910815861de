"""The README of the recorded results, and the table of claims in the main one, say what the result files say."""

import dataclasses
import json
import shutil

import pytest

from experiments.results.__main__ import BEGIN, END, between_markers, generated
from experiments.results.claims import CLAIMS, DECIDED, Claim, answer
from experiments.results.page import read_runs, text
from experiments.results.recorded import RESULTS, Difference, Recorded, interval_text
from simsiam_jax.errors import InputError


@pytest.fixture(scope="module")
def runs():
    return read_runs()


def test_the_readme_files_are_those_that_the_recorded_runs_give():
    for path, words in generated().items():
        assert path.read_text() == words, f"{path.name} differs: run python -m experiments.results"


def test_a_changed_result_changes_the_readme(runs, tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results")
    path = tmp_path / "results" / "table1_fashion_mnist-small" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if (line["arm"], line["eval"], line["split"], line["seed"]) == ("in_domain", "finetune", "test", 0):
            line["metrics"]["top1"] += 0.01
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert text(read_runs(tmp_path / "results")) != text(runs)


def test_an_answer_is_yes_or_no_only_where_the_interval_leaves_out_zero(runs):
    for claim in CLAIMS:
        words, _, _ = answer(claim, runs[claim.run])
        difference = runs[claim.run].difference(claim.arm, claim.reference, claim.stage)
        if difference is None:
            assert words == "not run"
            continue
        assert difference.low is not None
        if "plan" in words:
            continue
        said = words.split(" (")[0]
        assert said == (
            "**yes**" if difference.low > 0 else "**no**, the other way round" if difference.high < 0 else "undecided"
        )


def test_an_answer_agrees_with_what_the_report_says_of_the_interval(runs):
    for claim in CLAIMS:
        run = runs[claim.run]
        words, _, _ = answer(claim, run)
        references = [row.reference.name for row in run.table.rows if row.reference and row.name == claim.arm]
        said = [
            (verdict.outcome, verdict.conclusion)
            for verdict in run.table.verdicts
            if verdict.arm == run.arm(claim.arm).title and verdict.eval == claim.stage
        ]
        if words != "not run" and references == [claim.reference]:
            if "plan" in words:
                ((outcome, _),) = said
                assert words == DECIDED[outcome]
            else:
                side = words.split(" (")[1].rstrip(")")
                assert said == [("descriptive", f"descriptive, the {side}")]


def test_an_answer_is_turned_where_the_claim_is_that_the_first_arm_is_better(runs):
    """Where own images hurt by the plan, no pretraining is better."""
    run = runs["demo-small"]
    decision = dataclasses.replace(run.table.decisions["in_domain"], outcome="hurt")
    table = dataclasses.replace(run.table, decisions={"in_domain": decision})
    turned = Recorded(run.folder, run.experiment, run.results)
    vars(turned)["table"] = table
    words, difference, seeds = answer(Claim("", run.name, "", "none", "in_domain", "linear"), turned)
    planned = run.planned("in_domain")
    assert (words, seeds) == (DECIDED["helped"], str(decision.n))
    assert difference == interval_text(Difference(-planned.mean, planned.n, None, -planned.high, -planned.low))


def test_lines_stand_between_the_markers_and_nowhere_else():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_markers(page, ["new"]) == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("page", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(InputError, match="put them around the table"):
        between_markers(page, ["new"])


def test_only_what_a_readme_shows_is_kept():
    kept = {"experiment.json", "results.jsonl", "report.md"}
    pages = "".join(path.read_text() for path in (RESULTS / "README.md", RESULTS.parents[1] / "README.md"))
    for folder in RESULTS.iterdir():
        if (folder / "experiment.json").exists():
            for path in folder.rglob("*"):
                assert path.name in kept or f"{folder.name}/{path.name}" in pages, path
