"""Few-label subsets and hold-outs: stratified, deterministic, nested, disjoint."""

import numpy as np
import pytest

from simsiam_jax.config import InputError
from simsiam_jax.data import stratified_split, stratified_subset


@pytest.fixture
def labels():
    # 30, 50 and 21 images of classes 0, 1 and 2 in mixed order.
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [30, 50, 21]))


def test_a_subset_has_the_asked_number_of_every_class(labels):
    chosen = stratified_subset(labels, per_class=7, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [7, 7, 7]
    assert (np.diff(chosen) > 0).all()


def test_a_fraction_takes_its_share_of_every_class_and_at_least_one(labels):
    # 10 % of 30, 50 and 21, to whole images; 1 % rounds to none, and one is kept.
    assert np.bincount(labels[stratified_subset(labels, fraction=0.1, seed=0)]).tolist() == [3, 5, 2]
    assert np.bincount(labels[stratified_subset(labels, fraction=0.01, seed=0)]).tolist() == [1, 1, 1]
    assert stratified_subset(labels, fraction=1.0, seed=0).tolist() == list(range(101))


def test_a_seed_gives_the_same_subset_again_and_another_seed_another(labels):
    first = stratified_subset(labels, per_class=10, seed=0)
    np.testing.assert_array_equal(first, stratified_subset(labels, per_class=10, seed=0))
    assert set(first) != set(stratified_subset(labels, per_class=10, seed=1))


def test_the_subset_of_a_seed_is_the_same_on_every_machine(labels):
    # Recorded from the first implementation: a changed choice would break comparisons with old results.
    assert stratified_subset(labels, per_class=2, seed=0).tolist() == [0, 11, 23, 31, 34, 70]


def test_more_labels_contain_all_that_fewer_chose(labels):
    smaller: set[int] = set()
    for count in range(1, 22):
        larger = set(stratified_subset(labels, per_class=count, seed=5).tolist())
        assert smaller < larger
        smaller = larger
    tenth = set(stratified_subset(labels, fraction=0.1, seed=5).tolist())
    assert tenth < set(stratified_subset(labels, fraction=0.15, seed=5).tolist())


def test_more_labels_than_exist_names_flag_class_and_count(labels):
    with pytest.raises(InputError, match=r"--labels_per_class=22 is more than class 2 has: 21$"):
        stratified_subset(labels, per_class=22, seed=0)


def test_unlabelled_images_are_refused():
    with pytest.raises(InputError, match="no label"):
        stratified_subset(np.array([-1, -1]), per_class=1, seed=0)
    with pytest.raises(InputError, match="no labelled images"):
        stratified_subset(np.array([], int), per_class=1, seed=0)


@pytest.mark.parametrize("arguments", [{"per_class": 0}, {"fraction": 0.0}, {"fraction": 1.5}])
def test_an_impossible_amount_is_refused(labels, arguments):
    with pytest.raises(InputError, match="must"):
        stratified_subset(labels, seed=0, **arguments)


def test_count_and_fraction_exclude_each_other(labels):
    with pytest.raises(TypeError, match="one of"):
        stratified_subset(labels, seed=0)
    with pytest.raises(TypeError, match="one of"):
        stratified_subset(labels, per_class=1, fraction=0.5, seed=0)


def test_a_split_is_disjoint_covering_and_stratified(labels):
    rest, held_out = stratified_split(labels, 0.2, 0)
    assert sorted([*rest, *held_out]) == list(range(101))
    # 20 of 101 in proportion are 5.94, 9.90 and 4.16: floors 5, 9, 4, and the two over go to the first two.
    assert np.bincount(labels[held_out]).tolist() == [6, 10, 4]


def test_a_split_that_leaves_a_part_empty_is_refused(labels):
    for fraction in (0.0, 0.001, 0.999, 1.0):
        with pytest.raises(InputError, match="empty"):
            stratified_split(labels, fraction, 0)
