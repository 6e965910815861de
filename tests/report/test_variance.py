"""The parts of an interval are told apart, and what is said to halve it does."""

import dataclasses

import numpy as np
import pytest
from scipy.special import stdtrit

from simsiam_jax.records.experiment import AnalysisPlan
from simsiam_jax.report.variance import Components, components, primary_components
from tests.support.made_up import make_experiment, make_result


def made_up_draws(rng, seeds, draws, between_seeds, between_draws):
    centres = rng.normal(2.0, between_seeds, seeds)
    return {seed: list(rng.normal(centre, between_draws, draws)) for seed, centre in enumerate(centres)}


@pytest.mark.parametrize(("between_seeds", "between_draws"), [(3.0, 4.0), (2.0, 1.0)])
def test_the_parts_of_made_up_studies_are_found(between_seeds, between_draws):
    rng = np.random.default_rng(0)
    found = [components(made_up_draws(rng, 12, 10, between_seeds, between_draws)) for _ in range(2000)]
    assert np.mean([each.between_seeds**2 for each in found]) == pytest.approx(between_seeds**2, rel=0.03)
    assert np.mean([each.between_draws**2 for each in found]) == pytest.approx(between_draws**2, rel=0.02)


def test_parts_are_those_computed_by_hand():
    # Within seeds: (1 + 1 + 1 + 1) / 2 = 2; means 2 and 7, whose variance is 12.5; 12.5 - 2 / 2 = 11.5.
    found = components({0: [1.0, 3.0], 1: [6.0, 8.0]}, 400, (80.0, 90.0))
    assert found.between_draws**2 == pytest.approx(2)
    assert found.between_seeds**2 == pytest.approx(11.5)
    # 80 % and 90 % of 400 images: (0.16 + 0.09) / 400 = 0.000625, whose root is 0.025.
    assert found.test_error == pytest.approx(2.5)


def test_draws_that_explain_all_leave_nothing_to_the_seeds():
    found = components({0: [0.0, 10.0], 1: [1.0, 9.0]})
    assert found.between_seeds == 0
    assert found.more_draws == 6  # 4 times the 2 draws halve a standard error
    assert not found.seeds_dominate


def test_the_seeds_that_are_said_to_halve_the_interval_do_and_one_fewer_does_not():
    def half(n):
        return stdtrit(n - 1, 0.975) / n**0.5

    for seeds in (2, 3, 5, 12):
        more = Components(seeds, 1.0, 1.0, None).more_seeds
        assert half(seeds + more) <= half(seeds) / 2 < half(seeds + more - 1)


def test_the_draws_that_are_said_to_halve_the_interval_do_and_one_fewer_does_not():
    found = Components(5, 10.0, 1.0, 12.0)
    variance = [1 + 144 / (10 + added) for added in (0, found.more_draws, found.more_draws - 1)]
    assert variance[1] <= variance[0] / 4 < variance[2]


def test_draws_cannot_halve_what_the_seeds_make():
    found = Components(5, 20.0, 3.0, 4.0)
    assert found.more_draws is None
    assert found.seeds_dominate
    assert "Between draws of labelled images 4.0 points: more draws alone cannot halve the interval." in found.sentences


def test_each_part_is_one_sentence():
    assert Components(3, 10.0, 0.5, 4.3, 400, 0.8).sentences == (
        "Between seeds 0.5 points: 2 more seeds would halve the interval.",
        "Between draws of labelled images 4.3 points: 58 more draws a seed would halve the interval.",
        "400 test images: a standard error of at most 0.8 points, whatever the seeds: "
        "4 times as many images would halve it.",
    )
    assert len(Components(1, 10.0, None, 4.3).sentences) == 1


def test_the_parts_of_a_run_are_those_of_its_primary_comparison():
    plan = AnalysisPlan("linear", ("own",), (3, 5))
    experiment = make_experiment(("none", "random", "own"), ("linear",), plan=plan, data={"test": {"images": 100}})
    draws = {"none": ((0.5, 0.6), (0.5, 0.7)), "random": ((0.5, 0.5), (0.5, 0.5)), "own": ((0.6, 0.8), (0.7, 0.8))}
    results = [
        make_result(seed, arm, eval="linear", metrics={"top1": sum(each) / 2}, draws=each)
        for arm, seeds in draws.items()
        for seed, each in enumerate(seeds)
    ]
    found = primary_components(results, experiment)
    wanted = components({0: [10.0, 20.0], 1: [20.0, 10.0]}, 100, (72.5, 57.5))
    assert found.keys() == {"own"}
    assert found["own"].test_error == pytest.approx(wanted.test_error)
    assert found["own"].between_draws == pytest.approx(wanted.between_draws)
    ranked = dataclasses.replace(experiment, metric="auc")
    assert primary_components(results, ranked)["own"].test_error is None
    assert primary_components(results, dataclasses.replace(experiment, plan=None)) == {}
    assert primary_components([dataclasses.replace(each, draws=()) for each in results], experiment) == {}
