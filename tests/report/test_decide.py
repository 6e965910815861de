"""Decisions keep what they promise: simulated through the rule that decides, with looks after 3, 5, 8 and 12 seeds."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import stdtrit

from simsiam_jax.records.experiment import AnalysisPlan
from simsiam_jax.report.decide import Decision, boundaries, decide, decide_studies, next_look, open_arms

LOOKS = (3, 5, 8, 12)
STUDIES = 40_000
PLAN = AnalysisPlan("linear", ("own",), LOOKS, smallest_effect=0.0)
UNDECIDED, HELPED, HURT, TOO_SMALL = range(4)


def studies(seed, arms=1, effect=0.0, count=STUDIES):
    """Paired differences with a standard deviation of 1 point, and the same mean in every arm."""
    return np.random.default_rng(seed).normal(effect, 1.0, (count, arms, LOOKS[-1]))


def values(*numbers, first_seed=0):
    return {first_seed + place: number for place, number in enumerate(numbers)}


def test_boundaries_are_those_of_pococks_spending():
    assert boundaries(LOOKS, 0.05) == pytest.approx((7.36, 4.41, 3.22, 2.79), abs=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_one_look_has_students_quantile(seeds):
    assert boundaries((seeds,), 0.05) == (pytest.approx(stdtrit(seeds - 1, 0.975), rel=1e-12),)
    assert boundaries((seeds,), 0.05, 1) == (pytest.approx(stdtrit(seeds - 1, 0.95), rel=1e-12),)


def test_a_look_of_one_seed_never_stops_and_leaves_its_error_to_the_next():
    assert boundaries((1,), 0.05) == (math.inf,)
    assert boundaries((1, 4), 0.05) == (math.inf, pytest.approx(stdtrit(3, 0.975)))


@pytest.mark.parametrize("sides", [1, 2])
def test_boundaries_fall_as_the_level_rises(sides):
    for m in (2, 3, 4, 5, 6):
        strict, easy = (boundaries(LOOKS, 0.05 / arms, sides) for arms in (m, m - 1))
        assert all(one > other for one, other in zip(strict, easy, strict=True))


@pytest.mark.parametrize("primary", [(True,), (True, False, False), (True, True, True), (False, False, False)], ids=str)
def test_all_looks_and_arms_together_err_in_one_study_of_twenty(primary):
    found = decide_studies(studies(len(primary), len(primary)), primary, LOOKS, 0.05, 0.0)
    wrong = np.isin(found.outcome, (HELPED, HURT)).any(axis=1).mean()
    assert wrong <= 0.053
    assert wrong >= 0.04  # the error that is allowed is used


def test_a_real_effect_in_the_primary_arm_does_not_raise_the_error_of_the_others():
    differences = studies(7, 3)
    differences[:, 0] += 2.5
    found = decide_studies(differences, (True, False, False), LOOKS, 0.05, 0.0)
    assert np.isin(found.outcome[:, 1:], (HELPED, HURT)).any(axis=1).mean() <= 0.053


def test_a_real_effect_in_one_primary_arm_does_not_raise_the_error_of_the_other():
    differences = studies(8, 3)
    differences[:, 0] += 2.5
    found = decide_studies(differences, (True, True, True), LOOKS, 0.05, 0.0)
    wrong = np.isin(found.outcome[:, 1:], (HELPED, HURT)).any(axis=1).mean()
    assert 0.035 <= wrong <= 0.053


@pytest.mark.parametrize(("effect", "power", "seeds"), [(1.5, 0.985, 7.3), (2.0, 1.0, 5.8), (3.0, 1.0, 4.5)])
def test_power_and_mean_number_of_seeds_are_those_planned_with(effect, power, seeds):
    found = decide_studies(studies(3, effect=effect), (True,), LOOKS, 0.05, 0.0)
    assert (found.outcome == HELPED).mean() == pytest.approx(power, abs=0.01)
    assert np.array(LOOKS)[found.look].mean() == pytest.approx(seeds, abs=0.1)


@pytest.mark.parametrize("primary", [(True,), (True, True, True)], ids=str)
@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_an_effect_that_just_matters_is_rarely_called_too_small(margin, primary):
    found = decide_studies(studies(4, len(primary), effect=margin), primary, LOOKS, 0.05, margin)
    assert (found.outcome == TOO_SMALL).any(axis=1).mean() <= 0.053


def test_no_effect_is_called_too_small_where_the_margin_is_wide():
    found = decide_studies(studies(5), (True,), LOOKS, 0.05, 2.0)
    assert (found.outcome == TOO_SMALL).mean() > 0.95


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_interval_of_a_decision_holds_the_truth(effect, margin):
    found = decide_studies(studies(6, effect=effect), (True,), LOOKS, 0.05, margin)
    assert ((found.low <= effect) & (effect <= found.high)).mean() >= 0.947


def test_a_decision_is_that_of_the_rule_for_many_studies():
    differences = studies(9, 3, effect=1.0, count=300)
    names = ("own", "random", "noise")
    plan = dataclasses.replace(PLAN, smallest_effect=0.5)
    many = decide_studies(differences, (True, False, False), LOOKS, 0.05, 0.5)
    for study, numbers in enumerate(differences):
        found = decide({name: values(*arm) for name, arm in zip(names, numbers, strict=True)}, plan)
        for place, name in enumerate(names):
            words = ("undecided", "helped", "hurt", "too_small")[many.outcome[study, place]]
            assert (found[name].outcome, found[name].look) == (words, many.look[study, place])
            assert found[name].low == many.low[study, place]


def test_a_single_look_is_the_plain_t_test():
    plan = AnalysisPlan("linear", ("own",), (3,), smallest_effect=0.0)
    # Differences 3, 4, 2: mean 3, standard deviation 1; t(0.975, 2) = 4.302653 from the printed tables, / sqrt 3.
    found = decide({"own": values(3.0, 4.0, 2.0)}, plan)["own"]
    assert found.low == pytest.approx(3 - 4.302653 / 3**0.5, abs=1e-5)
    assert found == Decision("own", "helped", found.mean, found.low, found.high, 3, 0, 0.05, True, True)
    assert found.mean == pytest.approx(3)
    assert decide({"own": values(-3.0, -4.0, -2.0)}, plan)["own"].outcome == "hurt"
    assert decide({"own": values(1.0, 3.0, 12.0)}, plan)["own"].outcome == "undecided"


def test_before_the_first_look_nothing_is_decided():
    found = decide({"own": values(3.0, 3.1), "random": {}}, PLAN)
    own, random = found["own"], found["random"]
    assert (own.outcome, own.mean, own.low, own.n, own.look, own.final) == (
        "undecided", pytest.approx(3.05), None, 2, None, False,
    )  # fmt: skip
    assert (random.outcome, random.mean, random.n, random.final) == ("missing", None, 0, False)
    assert decide({}, PLAN) == {}


def test_a_missing_seed_or_one_that_is_no_number_holds_an_arm_at_the_look_before_it():
    numbers = values(3.0, -3.1, 2.9, -3.2, 2.8, -3.0, 3.1, -2.9)  # nothing crosses
    assert decide({"own": numbers}, PLAN)["own"].look == 2
    assert decide({"own": {**numbers, 4: math.nan}}, PLAN)["own"].look == 0
    assert decide({"own": {seed: each for seed, each in numbers.items() if seed != 1}}, PLAN)["own"].look is None


def test_of_an_arm_that_failed_nothing_is_decided_and_the_others_err_no_more_often():
    clear = values(3.0, 3.1, 2.9)
    found = decide({"own": clear, "random": clear}, PLAN, {"own": "own diverged"})
    own = found["own"]
    assert (own.outcome, own.low, own.look, own.n, own.final) == ("undecided", None, None, 3, True)
    assert own.failed == "own diverged"
    # It still counts for Holm's rule: the second arm comes only after the primary one.
    assert found["random"].outcome == "undecided"
    assert decide({"own": clear, "random": clear}, PLAN)["random"].outcome == "helped"
    assert open_arms(found, PLAN, {}) == ()


def test_seeds_count_from_the_plans_first_one():
    plan = dataclasses.replace(PLAN, first_seed=100)
    assert decide({"own": values(3.0, 3.1, 2.9)}, plan)["own"].outcome == "missing"
    assert decide({"own": values(3.0, 3.1, 2.9, first_seed=100)}, plan)["own"].outcome == "helped"


def test_an_arm_that_was_decided_keeps_its_decision_and_interval():
    first = decide({"own": values(3.0, 3.1, 2.9)}, PLAN)["own"]
    later = decide({"own": values(3.0, 3.1, 2.9, -20.0, 9.0)}, PLAN)["own"]
    assert first.outcome == "helped"
    assert later == first


def test_other_arms_count_only_once_every_primary_arm_is_decided_by_a_test():
    clear, unclear = (3.0, 3.1, 2.9), (3.0, -3.1, 2.9)
    closed = decide({"own": values(*unclear), "random": values(*clear)}, PLAN)
    assert closed["random"].outcome == "undecided"
    opened = decide({"own": values(*clear), "random": values(*clear)}, PLAN)
    assert opened["random"].outcome == "helped"
    # The other arm got no more seeds than the first look's, and the gate opens at the second.
    late = decide({"own": values(3.0, 3.0, 1.0, 3.0, 3.0), "random": values(*clear)}, PLAN)
    assert (late["own"].look, late["random"].look) == (1, 0)
    assert late["random"].outcome == "helped"
    plan = dataclasses.replace(PLAN, smallest_effect=1.0)
    none = decide({"own": values(0.01, 0.0, -0.01), "random": values(*clear)}, plan)
    assert (none["own"].outcome, none["random"].outcome) == ("too_small", "undecided")


def test_a_rejection_raises_the_level_of_the_arms_that_are_left():
    plan = AnalysisPlan("linear", ("a", "b"), (5,), smallest_effect=0.0)
    # t of 3.2 lies between the quantiles at 0.05 (2.78) and at 0.025 (3.50).
    spread = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    close = values(*(3.2 * spread.std(ddof=1) / 5**0.5 + spread))
    alone = decide({"a": close, "b": values(*spread)}, plan)
    assert [each.outcome for each in alone.values()] == ["undecided", "undecided"]
    assert alone["a"].level == 0.025
    helped = decide({"a": close, "b": values(*(9 + spread))}, plan)
    assert [each.outcome for each in helped.values()] == ["helped", "helped"]
    assert [each.level for each in helped.values()] == [0.05, 0.025]
    assert helped["a"].low > 0


@pytest.mark.parametrize(
    ("numbers", "margin", "outcome"),
    [
        ((2.0, 2.0, 2.0), 1.0, "helped"),
        ((-2.0, -2.0, -2.0), 1.0, "hurt"),
        ((0.5, 0.5, 0.5), 1.0, "too_small"),
        ((0.5, 0.5, 0.5), 0.0, "helped"),
        ((0.0, 0.0, 0.0), 0.0, "undecided"),
        ((0.0, 0.0, 0.0), 1.0, "too_small"),
        ((1e-14, -1e-14, 3e-14), 0.0, "undecided"),
    ],
)
def test_seeds_that_agree_are_decided_by_their_difference(numbers, margin, outcome):
    found = decide({"own": values(*numbers)}, dataclasses.replace(PLAN, smallest_effect=margin))["own"]
    assert found.outcome == outcome
    assert found.low == found.high == pytest.approx(numbers[0], abs=1e-9)


def test_one_seed_decides_nothing():
    plan = AnalysisPlan("linear", ("own",), (1,))
    found = decide({"own": values(30.0)}, plan)["own"]
    assert (found.outcome, found.mean, found.low, found.look, found.final) == ("undecided", 30.0, None, 0, True)


def decision(arm, outcome, look, primary):
    final = outcome != "undecided" or look == 3
    return Decision(arm, outcome, 1.0, 0.5, 1.5, LOOKS[look], look, 0.05, primary, final)


def test_seeds_are_added_in_the_groups_whose_question_is_open():
    groups = {"A-own": "A", "A-random": "A", "B-own": "B", "B-random": "B", "C-random": "C"}
    plan = AnalysisPlan("linear", ("A-own", "B-own"), LOOKS)

    def ask(a, b, look=1):
        found = {
            "A-own": decision("A-own", a, 0, True),
            "A-random": decision("A-random", "undecided", 0, False),
            "B-own": decision("B-own", b, look, True),
            "B-random": decision("B-random", "helped", look, False),
            "C-random": decision("C-random", "undecided", 0, False),
        }
        return open_arms(found, plan, groups), next_look(found, plan, groups)

    assert ask("helped", "undecided") == (("B-own", "B-random", "C-random"), 8)
    assert ask("undecided", "undecided") == (tuple(groups), 5)
    assert ask("helped", "too_small") == ((), None)
    assert ask("helped", "undecided", look=3) == ((), None)


def test_without_a_primary_arm_each_arm_is_on_its_own():
    plan = AnalysisPlan("linear", (), LOOKS)
    found = {"a": decision("a", "helped", 0, False), "b": decision("b", "undecided", 1, False)}
    assert open_arms(found, plan, {}) == ("b",)
    assert next_look(found, plan, {}) == 8
    assert next_look(decide({"a": {}, "b": {}}, plan), plan, {}) == 3
