"""Label efficiency on made-up results whose answer is known."""

import numpy as np
import pytest

from simsiam_jax.report import labels
from simsiam_jax.report.style import themed_svg
from tests.support.made_up import make_arm, make_experiment, make_result

COUNTS = (10, 100, 1000)


def made_up(without, pretrained, seeds=3):
    """A run whose accuracies are `without(labels, seed)` and `pretrained(labels, seed)`, 0..1."""
    arms = [
        make_arm(f"{name}-{count}", name, pretrain=name, labels=count, group=str(count))
        for count in COUNTS
        for name in (labels.NONE, labels.IN_DOMAIN)
    ]
    results = [
        make_result(
            seed, arm.name, metrics={"top1": (without if arm.pretrain == labels.NONE else pretrained)(arm.labels, seed)}
        )
        for arm in arms
        for seed in range(seeds)
    ]
    return results, make_experiment(arms)


def decades(count):
    """Accuracy that rises by 0.2 with each tenfold of the labels."""
    return 0.2 * np.log10(count)


def test_a_curve_that_is_shifted_by_a_factor_saves_that_factor():
    # Twice the labels inside the curve; at its end only that the last are not enough is known.
    needed, beyond = labels.labels_needed(
        np.array(COUNTS, float), decades(np.array(COUNTS)), decades(2.0 * np.array(COUNTS))
    )
    np.testing.assert_allclose(needed, [20, 200, 1000], rtol=1e-9)
    np.testing.assert_array_equal(beyond, [0, 0, 1])


def test_labels_that_add_nothing_are_not_needed():
    needed, beyond = labels.labels_needed(np.array(COUNTS, float), np.array([0.3, 0.3, 0.5]), np.array([0.3, 0.3, 0.5]))
    np.testing.assert_allclose(needed, [10, 10, 1000])
    assert not beyond.any()


def test_the_saving_is_stated_with_its_intervals():
    results, experiment = made_up(
        lambda count, seed: decades(count) + 0.01 * seed, lambda count, seed: decades(2 * count) + 0.011 * seed
    )
    found = labels.efficiency(results, experiment)
    assert [point.labels for point in found.points] == list(COUNTS)
    assert [point.beyond for point in found.points] == [0, 0, 3]
    # Twice, twice, and once at the end: the geometric mean is 4 ** (1/3).
    assert found.factor == pytest.approx(4 ** (1 / 3), rel=0.02)
    assert "saved 37 % of the labels" in found.sentence
    assert "3 seeds" in found.sentence
    assert "beyond" in found.sentence


def test_a_saving_that_changes_its_sign_with_the_seed_is_none():
    results, experiment = made_up(
        lambda count, _: decades(count), lambda count, seed: decades(count) + 0.1 * (seed - 1)
    )
    found = labels.efficiency(results, experiment)
    assert found.saving.sign == 0
    assert "saved no labels that 3 seeds can show" in found.sentence


def test_labels_can_be_lost():
    results, experiment = made_up(
        lambda count, seed: decades(count) + 0.001 * seed, lambda count, seed: decades(count / 2) + 0.002 * seed
    )
    found = labels.efficiency(results, experiment)
    assert found.saving.sign < 0
    assert "it cost some" in found.sentence


def test_one_seed_cannot_tell():
    results, experiment = made_up(lambda count, _: decades(count), lambda count, _: decades(3 * count), seeds=1)
    assert "one seed cannot tell" in labels.efficiency(results, experiment).sentence


def test_a_run_of_one_number_of_labels_has_no_label_efficiency():
    results, experiment = made_up(lambda count, _: decades(count), lambda count, _: decades(count))
    assert labels.efficiency(results, make_experiment(experiment.arms[:2])) is None


def test_the_figure_shows_both_curves_with_bands():
    results, experiment = made_up(lambda count, seed: decades(count) + 0.01 * seed, lambda count, _: decades(2 * count))
    figure = labels.figure(labels.efficiency(results, experiment))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.get_lines()] == ["no pretraining", "in-domain pretraining"]
    assert len(axes.collections) == 2
    assert "<svg" in themed_svg(figure, "labels")
