"""The table's numbers and verdicts are those of the results, checked against numbers computed by hand."""

import dataclasses

import pytest

from simsiam_jax.records.failures import Failure
from simsiam_jax.report.figures import accuracy_points
from simsiam_jax.report.render import cell_text, to_markdown
from simsiam_jax.report.summary import summarise
from simsiam_jax.report.words import score_text
from tests.support.made_up import (
    grouped_experiment,
    grouped_scores,
    make_arm,
    make_ends,
    make_experiment,
    make_plan,
    make_result,
    make_scores,
)

FINETUNE, LINEAR, KNN = ("finetune", "test"), ("linear", "test"), ("knn", "test")


def test_mean_and_sample_deviation_are_those_computed_by_hand():
    # 70, 72, 77: mean 73; squared deviations 9 + 1 + 16 = 26, over n - 1 = 2: 13.
    table = summarise(make_scores("none", [0.70, 0.72, 0.77]), make_experiment())
    score = table.rows[0].scores[FINETUNE]
    assert score.mean == pytest.approx(73)
    assert score.std == pytest.approx(13**0.5)
    assert score_text(score, table.seeds) == "73.00 ± 3.61"


def test_paired_difference_and_interval_are_those_computed_by_hand():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    difference = summarise(results, make_experiment()).rows[1].differences[FINETUNE]
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
    table = summarise(results, make_experiment())
    difference = table.rows[1].differences[FINETUNE]
    assert (difference.mean, difference.n) == (pytest.approx(3), 2)  # (62 - 60, 74 - 70), without seeds 0 and 9
    assert table.seeds == (0, 1, 2, 9)
    assert "(3 seeds)" in to_markdown(table)


def test_arms_without_a_common_seed_have_no_difference():
    results = [make_result(0, "none"), make_result(1, "own")]
    table = summarise(results, make_experiment())
    assert table.rows[1].differences == {}
    assert table.verdicts[0].outcome == "missing"


def test_a_repeated_unit_counts_once_with_its_later_line():
    results = [make_result(0, metrics={"top1": 0.1}), make_result(0, metrics={"top1": 0.9})]
    table = summarise(results, make_experiment())
    assert table.rows[0].scores[FINETUNE].by_seed == {0: pytest.approx(90)}
    assert (table.units_done, table.units_expected) == (1, 2)


@pytest.mark.parametrize(
    ("own", "outcome", "change", "interval", "conclusion"),
    [
        ([0.73, 0.76, 0.79], "helped", "+3.00 ± 1.00", "95 % interval +0.52 to +5.48, 3 seeds", "it helped"),
        ([0.67, 0.68, 0.75], "hurt", "−3.00 ± 1.00", "95 % interval −5.48 to −0.52, 3 seeds", "it hurt"),
        ([0.71, 0.72, 0.76], "undecided", "0.00 ± 1.00", "95 % interval −2.48 to +2.48, 3 seeds", "undecided"),
        # Three of one sign do not make a difference.
        ([0.71, 0.73, 0.82], "undecided", "+2.33 ± 2.31", "95 % interval −3.40 to +8.07, 3 seeds", "undecided"),
        ([0.90], "undecided", "+20.00", "no interval, 1 seed", "undecided, the first look is at 3 seeds"),
    ],
)  # fmt: skip
def test_the_verdict_is_the_plans_decision(own, outcome, change, interval, conclusion):
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", own)
    (verdict,) = summarise(results, make_experiment(plan=make_plan())).verdicts
    assert verdict.outcome == outcome
    words = f"“own” changed fine-tuned test accuracy by {change} points against “none” ({interval}): {conclusion}."
    assert str(verdict) == words


@pytest.mark.parametrize("arm", ["own", "none"])
def test_of_an_arm_that_diverged_in_one_seed_of_three_no_verdict_is_drawn(arm):
    measured = {"none": [0.70, 0.72, 0.77], "own": [0.73, 0.76, 0.79]}
    results = [each for name, scores in measured.items() for each in make_scores(name, scores)]
    results += [each for name, scores in measured.items() for each in make_scores(name, scores, eval="linear")]
    experiment = make_experiment(evals=("finetune", "linear"), plan=make_plan(), seeds=(0, 1, 2))
    assert summarise(results, experiment).verdicts[0].outcome == "helped"
    # The failed unit has no result of the planned evaluation. The other two seeds alone would say: helped.
    results = [each for each in results if (each.arm, each.seed, each.eval) != (arm, 1, "finetune")]
    failure = Failure(arm, 1, "diverged at update 12: the loss is nan in epoch 2 of own seed 1 pretrain")
    table = summarise(results, experiment, [failure])
    assert {row.name: row.flag for row in table.rows} == {"none": None, "own": None} | {
        arm: "diverged at update 12 of seed 1"
    }
    assert not any(row.best for row in table.rows)
    decided, described = table.verdicts
    why = f"“{arm}” diverged at update 12 of seed 1"
    assert (decided.outcome, decided.conclusion) == ("undecided", f"undecided, {why}")
    assert (described.outcome, described.conclusion) == ("descriptive", f"no verdict, {why}")
    assert table.answer.startswith(f"Does it help? Undecided: {why} (")
    several = summarise(results, experiment, [failure, dataclasses.replace(failure, seed=2)])
    assert f"“{arm}” diverged in 2 of 3 seeds" in several.answer
    broken = summarise(results, experiment, [Failure(arm, 1, "ValueError: out of luck")])
    assert f"“{arm}” failed in seed 1" in broken.answer


def test_an_effect_within_the_smallest_that_matters_is_too_small():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.701, 0.72, 0.769])
    (verdict,) = summarise(results, make_experiment(plan=make_plan(smallest_effect=1.0))).verdicts
    assert verdict.outcome == "too_small"
    assert verdict.conclusion == "too small to matter, 1 point or more is ruled out"


@pytest.mark.parametrize(
    ("own", "conclusion"),
    [
        ([0.73, 0.76, 0.79], "descriptive, the interval leaves out 0"),
        ([0.71, 0.73, 0.82], "descriptive, the interval includes 0"),
        ([0.90], "descriptive"),
    ],
)
def test_without_a_plan_a_comparison_describes(own, conclusion):
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", own)
    (verdict,) = summarise(results, make_experiment()).verdicts
    assert (verdict.outcome, verdict.conclusion) == ("descriptive", conclusion)


def test_only_the_column_of_the_plan_decides():
    results = [
        result
        for name in ("knn", "finetune")
        for arm, values in (("none", [0.70, 0.72, 0.77]), ("own", [0.73, 0.76, 0.79]))
        for result in make_scores(arm, values, eval=name)
    ]
    table = summarise(results, make_experiment(evals=("knn", "finetune"), plan=make_plan()))
    assert [(each.eval, each.outcome) for each in table.verdicts] == [("finetune", "helped"), ("knn", "descriptive")]
    assert table.verdicts[1].conclusion == "descriptive"


def test_seeds_beyond_the_look_that_decided_do_not_move_the_decision():
    plan = make_plan(looks=(3, 5, 8))
    results = make_scores("none", [0.70, 0.72, 0.77, 0.7]) + make_scores("own", [0.80, 0.821, 0.869, 0.5])
    table = summarise(results, make_experiment(plan=plan))
    assert table.decisions["own"].outcome == "helped"
    difference = table.rows[1].differences[FINETUNE]
    assert (difference.mean, difference.n) == (pytest.approx(10), 3)
    assert difference.low == table.decisions["own"].low


def test_a_run_that_may_stop_early_expects_the_seeds_that_it_has():
    experiment = make_experiment(plan=make_plan(looks=(3, 5, 8)), seeds=tuple(range(8)))
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.8, 0.82])
    table = summarise(results, experiment)
    assert table.progress == "5 of 6 evaluations done"
    assert table.seeds == (0, 1, 2)
    assert summarise([], experiment).progress == "0 of 6 evaluations done"


def test_groups_that_stop_at_looks_of_their_own_are_each_expected_to_have_their_seeds():
    experiment = grouped_experiment(plan=make_plan(("A-own", "B-own"), (3, 5)))
    results = grouped_scores() + [make_result(seed, arm) for arm in ("B-none", "B-own") for seed in (3, 4)]
    assert summarise(results, experiment).progress == "all 16 evaluations done"


def test_every_other_arm_gets_a_verdict_for_each_evaluation():
    experiment = make_experiment(("none", "noise", "own"), ("knn", "linear", "finetune"))
    table = summarise([], experiment)
    assert {(verdict.arm, verdict.eval) for verdict in table.verdicts} == {
        (arm, name) for arm in ("noise", "own") for name in ("knn", "linear", "finetune")
    }
    assert table.columns == (("finetune", "validation"), FINETUNE, LINEAR, KNN)


def emphasised(results, experiment):
    return {row.name for row in summarise(results, experiment).rows if FINETUNE in row.best}


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
    table = summarise(clear, experiment)
    assert table.absences == ("Not run: ImageNet (no weights at hand).",)
    assert (table.units_done, table.units_expected) == (6, 6)
    assert cell_text(table.rows[2], FINETUNE, table) == "not run"
    assert {verdict.arm for verdict in table.verdicts} == {"own"}


def test_arms_are_compared_within_their_group_alone():
    table = summarise(grouped_scores(), grouped_experiment())
    assert [row.reference and row.reference.name for row in table.rows] == [None, "A-none", None, "B-none"]
    assert [row.name for row in table.rows if FINETUNE in row.best] == ["A-own"]
    assert [(verdict.arm, verdict.outcome) for verdict in table.verdicts] == [
        ("A: own", "descriptive"),
        ("B: own", "descriptive"),
    ]
    assert [row.differences[FINETUNE].sign for row in table.rows if row.reference] == [1, 0]
    assert table.reference == "the first arm of each group"


def test_a_collapsed_pretraining_is_flagged_with_its_knn_beside_guessing():
    experiment = make_experiment(("none", "own"), ("knn",), class_names=tuple("abcd"))
    results = make_scores("none", [0.5, 0.6], eval="knn") + make_scores("own", [0.24, 0.26], eval="knn")
    healthy = summarise(results + make_ends("own", z_spread=[0.9, 0.8]), experiment)
    assert healthy.collapse == "No pretraining collapsed: the smallest spread of z × √d is 0.85 (“own”)."
    assert [row.flag for row in healthy.rows] == [None, None]
    fallen = summarise(results + make_ends("own", z_spread=[0.9, 0.02]), experiment)
    assert [row.flag for row in fallen.rows] == [None, "collapsed in 1 of 2 seeds"]
    assert "kNN accuracy 25.0 %; guessing gives 25 %" in fallen.collapse
    assert "collapsed in 1 of 2 seeds" in to_markdown(fallen)
    halfway = summarise(results + make_ends("own", z_spread=[0.3, 0.02]), experiment)
    assert halfway.rows[1].flag == "collapsed in 1, partly collapsed in 1 of 2 seeds"
    assert "partly collapsed one below 0.45" in halfway.collapse


def test_lost_dimensions_are_flagged_with_their_numbers_beside_a_collapse():
    experiment = make_experiment(("none", "own"), ("knn",))
    ranks = {"untrained_rank": [12.0, 13.0, 12.5], "rank": [3.0, 3.8, 9.0]}
    lost = summarise(make_ends("own", z_spread=[0.9, 0.9, 0.9], **ranks), experiment)
    assert lost.rows[1].flag == "lost dimensions in 2 of 3 seeds"
    assert "“own” lost dimensions in 2 of 3 seeds (effective rank of the features 12.5 → 5.3)" in lost.dimensions
    assert "--recipe=practice" in lost.dimensions
    advised = summarise(
        make_ends("own", **ranks), make_experiment(("none", "own"), ("knn",), config={"recipe": "practice"})
    )
    assert advised.dimensions.endswith("Try one of these: a lower learning rate, more updates.")
    assert "No pretraining collapsed" in lost.collapse
    both = summarise(make_ends("own", z_spread=[0.02, 0.9, 0.9], **ranks), experiment)
    assert both.rows[1].flag == "collapsed in 1 of 3 seeds, lost dimensions in 2 of 3 seeds"
    kept = summarise(make_ends("own", untrained_rank=[12.0], rank=[6.0]), experiment)
    assert kept.rows[1].flag is None
    assert kept.dimensions.startswith("No pretraining lost dimensions")
    assert "“own” 12.0 → 6.0" in kept.dimensions
    assert summarise(make_ends("own", z_spread=[0.9]), experiment).dimensions == ""


def test_a_search_on_validation_images_alone_shows_and_compares_those():
    results = make_scores("none", [0.5, 0.6, 0.7], eval="linear", split="validation")
    results += make_scores("own", [0.52, 0.62, 0.73], eval="linear", split="validation")
    table = summarise(results, make_experiment(evals=("linear",)))
    assert table.columns == table.compared == (("linear", "validation"),)
    assert (table.units_done, table.units_expected) == (6, 6)
    assert "linear-probe validation accuracy" in str(table.verdicts[0])
    assert accuracy_points(table).axes[0].get_title(loc="left") == "Validation accuracy, every seed"


def test_classes_have_details_where_more_than_their_accuracy_is_measured():
    results = [make_result(0, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.6, "auc": 0.8})]
    table = summarise(results, make_experiment(metric="auc", seeds=(0,)))
    assert table.details[0] == ("pretraining", "evaluation", "top-1 accuracy", "balanced accuracy", "AUC")
    assert table.details[1] == ("none", "fine-tune, test", "70.00", "60.00", "80.00")
    assert table.rows[0].scores[FINETUNE].mean == pytest.approx(80)


def test_balanced_accuracy_is_not_told_again_where_classes_are_equally_frequent():
    same = [make_result(seed, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.7}) for seed in (0, 1)]
    assert summarise(same, make_experiment(seeds=(0, 1))).details == ()
    other = [make_result(2, "none", metrics={"top1": 0.7, "balanced_accuracy": 0.6})]
    assert "balanced accuracy" in summarise(same + other, make_experiment(seeds=(0, 1, 2))).details[0]
