"""The answer says what was asked, what came out, how sure it is and what it cost, and claims only what was planned."""

import io

import pytest
from rich.console import Console

from simsiam_jax.report.page import write_report
from simsiam_jax.report.render import format_terminal, to_csv, to_markdown
from simsiam_jax.report.seeds import planned_differences
from simsiam_jax.report.summary import summarise
from tests.support.made_up import (
    grouped_experiment,
    make_arm,
    make_experiment,
    make_plan,
    make_result,
    make_scores,
    write_results,
)

OWN = make_arm("own", "digits images, no labels")
NONE = make_arm("none", "no pretraining")
BASE = [0.70, 0.72, 0.77]


def answer_of(own, none=BASE, **changes):
    fields = {"plan": make_plan(evaluation="linear"), "question": "Does it help?"} | changes
    experiment = make_experiment((NONE, OWN), ("linear",), **fields)
    results = make_scores("none", none, eval="linear", seconds=60) + make_scores("own", own, eval="linear", seconds=64)
    return summarise(results, experiment).answer


def test_a_help_is_said_with_its_interval_its_seeds_and_draws_and_its_cost():
    assert answer_of([0.73, 0.76, 0.79], label_draws={"linear": 20}) == (
        "Does it help? Yes: digits images, no labels, raised linear-probe test accuracy by +3.0 points over "
        "no pretraining (95 % interval +0.5 to +5.5, 3 seeds × 20 draws of labels, 6 min 12 s)."
    )


def test_a_loss_is_said_as_a_no():
    assert answer_of([0.67, 0.68, 0.75]) == (
        "Does it help? No: digits images, no labels, lowered linear-probe test accuracy by 3.0 points against "
        "no pretraining (95 % interval −5.5 to −0.5, 3 seeds, 6 min 12 s)."
    )


def test_an_effect_that_does_not_matter_is_said_as_a_no():
    plan = make_plan(evaluation="linear", smallest_effect=1.0)
    assert answer_of([0.701, 0.72, 0.769], plan=plan) == (
        "Does it help? No: the effect of digits images, no labels, on linear-probe test accuracy is too small to "
        "matter, 0.0 points against no pretraining, and 1 point or more is ruled out "
        "(95 % interval −0.2 to +0.2, 3 seeds, 6 min 12 s)."
    )


@pytest.mark.parametrize(
    ("looks", "lead", "end"),
    [
        ((3,), "Undecided after 3 seeds: ", "."),
        ((3, 5), "Undecided so far: ", "; the next look is at 5 seeds."),
        ((5,), "Undecided so far: ", "; the first look is at 5 seeds."),
    ],
)
def test_what_is_undecided_says_where_the_run_stands(looks, lead, end):
    said = answer_of([0.71, 0.73, 0.82], plan=make_plan(evaluation="linear", looks=looks))
    assert said.startswith(f"Does it help? {lead}digits images, no labels, changed linear-probe test accuracy by +2.3")
    assert said.endswith(end)


def test_nothing_measured_and_no_plan_are_no_answer():
    experiment = make_experiment((NONE, OWN), plan=make_plan())
    assert summarise([], experiment).answer == "Does it help? Nothing is measured yet."
    assert answer_of([0.73, 0.76, 0.79], plan=None) == ""


def test_several_questions_have_an_answer_each():
    experiment = grouped_experiment(plan=make_plan(("A-own", "B-own")))
    clear = {"A-none": BASE, "A-own": [0.801, 0.82, 0.869], "B-none": BASE, "B-own": [0.71, 0.73, 0.82]}
    said = summarise([each for arm, values in clear.items() for each in make_scores(arm, values)], experiment).answer
    # Two primary arms: A is tested at 2.5 %, and B at 5 % once A has helped.
    assert "A: yes, own raised fine-tuned test accuracy by +10.0 points over none (97.5 % interval" in said
    assert "B: undecided after 3 seeds, own changed fine-tuned test accuracy by +2.3 points against none" in said
    assert "(95 % interval −3.4 to +8.1, 3 seeds)" in said
    assert said.endswith("All of it took 18 s.")


def test_comparisons_without_a_question_are_counted():
    results = make_scores("none", BASE) + make_scores("a", [0.801, 0.82, 0.869]) + make_scores("b", [0.71, 0.73, 0.82])
    table = summarise(results, make_experiment(("none", "a", "b"), plan=make_plan(())))
    assert table.answer == "Does it help? Of 2 comparisons: 1 helped, 1 undecided (3 seeds, 14 s)."


def test_another_arm_does_not_count_before_the_question_is_answered():
    results = make_scores("none", BASE) + make_scores("own", [0.71, 0.73, 0.82]) + make_scores("a", [0.8, 0.82, 0.87])
    verdicts = summarise(results, make_experiment(("none", "own", "a"), plan=make_plan())).verdicts
    assert [verdict.outcome for verdict in verdicts] == ["undecided", "undecided"]
    assert verdicts[1].conclusion == "undecided, because it counts only once every primary comparison helped or hurt"


def test_the_answer_opens_every_form_of_the_report(tmp_path):
    experiment = make_experiment((NONE, OWN), plan=make_plan())
    results = make_scores("none", BASE) + make_scores("own", [0.73, 0.76, 0.79])
    table = summarise(results, experiment)
    opening = "Does it help? Yes: digits images, no labels, raised fine-tuned test accuracy by +3.0 points"
    file = io.StringIO()
    Console(file=file, width=1000).print(format_terminal(table))
    assert file.getvalue().startswith(opening)
    assert to_markdown(table).startswith(f"**{opening}")
    assert "Only fine-tune, test decides" in to_markdown(table)
    experiment.write(tmp_path)
    write_results(tmp_path, results)
    page = write_report(tmp_path).read_text()
    assert f'<p class="answer">{opening}' in page
    assert page.index('class="answer"') < page.index("<table")


def test_the_csv_has_the_outcome_of_the_column_that_decides_alone():
    results = make_scores("none", BASE) + make_scores("own", [0.73, 0.76, 0.79])
    lines = to_csv(summarise(results, make_experiment(plan=make_plan()))).splitlines()
    place = lines[0].split(",").index("outcome")
    assert [line.split(",")[place] for line in lines[1:]] == ["", "", "", "helped"]


def test_planned_differences_are_paired_within_groups_and_leave_out_what_cannot_run():
    arms = [make_arm(f"{group}-{name}", name, group=group) for group in "AB" for name in ("none", "own")]
    arms.append(make_arm("B-imagenet", group="B", absent="no weights"))
    experiment = make_experiment(arms, plan=make_plan(("A-own",)))
    results = [
        *make_scores("A-none", [0.5, 0.6]),
        *make_scores("A-own", [0.55, 0.7]),
        *make_scores("B-none", [0.1]),
        make_result(1, "B-own", metrics={"top1": 0.2}),
    ]
    found = planned_differences(results, experiment)
    assert found == {"A-own": {0: pytest.approx(5), 1: pytest.approx(10)}, "B-own": {}}
