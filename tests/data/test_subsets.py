"""Few-label subsets and hold-outs: stratified, deterministic, nested, disjoint."""

import numpy as np
import pytest

from simsiam_jax.data import stratified_split, stratified_subset
from simsiam_jax.data.subsets import label_counts
from simsiam_jax.errors import InputError


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


def test_a_class_with_fewer_images_than_asked_for_gives_all_that_it_has():
    labels = np.repeat([0, 1, 2], [3, 40, 200])
    chosen = stratified_subset(labels, per_class=20, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 20, 20]
    assert set(chosen) < set(stratified_subset(labels, per_class=41, seed=0).tolist())


def test_more_labels_than_any_class_has_names_flag_class_and_count():
    labels = np.repeat([0, 1, 2], [3, 40, 200])
    with pytest.raises(InputError, match=r"--labels_per_class=201 is more than any class has: at most 200, of dog$"):
        stratified_subset(labels, per_class=201, seed=0, names=["cat", "cow", "dog"])


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


@pytest.fixture
def attributes():
    # Three attributes present in about 10, 50 and 80 % of 400 images, a tenth of the entries missing, and 20 images
    # of which nothing is known.
    draw = np.random.default_rng(1)
    values = (draw.random((400, 3)) < [0.1, 0.5, 0.8]).astype(np.int32)
    values[draw.random(values.shape) < 0.1] = -1
    values[draw.choice(400, 20, replace=False)] = -1
    return values


def _fewest(labels, value):
    return (labels == value).sum(axis=0).min()


def test_few_labels_show_every_attribute_present_and_absent_often_enough(attributes):
    for count in (1, 5, 12):
        chosen = attributes[stratified_subset(attributes, per_class=count, seed=0)]
        # The rarest value decides when to stop, and no image more is taken.
        assert min(_fewest(chosen, 1), _fewest(chosen, 0)) == count
        assert (chosen >= 0).any(axis=1).all()


def test_the_images_with_attributes_are_a_prefix_of_one_random_order(attributes):
    known = np.flatnonzero((attributes >= 0).any(axis=1))
    sizes, smaller = [], set()
    for count in range(1, 20):
        larger = set(stratified_subset(attributes, per_class=count, seed=5).tolist())
        assert smaller <= larger
        # As many images by fraction are the same images: the labels had no say in the order.
        assert larger == set(stratified_subset(attributes, fraction=len(larger) / len(known), seed=5).tolist())
        sizes.append(len(larger))
        smaller = larger
    assert sizes[0] < sizes[5] < sizes[-1]


def test_few_labels_of_attributes_keep_their_natural_frequencies():
    values = (np.random.default_rng(0).random((20_000, 2)) < [0.05, 0.6]).astype(np.int32)
    chosen = values[stratified_subset(values, per_class=100, seed=0)]
    # About 2,000 images; three standard deviations are 0.015 and 0.033.
    np.testing.assert_allclose(chosen.mean(axis=0), [0.05, 0.6], atol=0.033)


def test_a_fraction_of_images_with_attributes_leaves_the_unlabelled_out(attributes):
    known = np.flatnonzero((attributes >= 0).any(axis=1))
    assert stratified_subset(attributes, fraction=1.0, seed=0).tolist() == known.tolist()
    assert len(stratified_subset(attributes, fraction=0.1, seed=0)) == round(0.1 * len(known))
    assert len(stratified_subset(attributes, fraction=0.0001, seed=0)) == 1


def test_choices_among_attributes_are_the_same_on_every_machine(attributes):
    # Recorded from the first implementation, as above.
    assert stratified_subset(attributes, fraction=0.02, seed=0).tolist() == [3, 11, 92, 113, 150, 196, 269, 340]
    assert set(stratified_subset(attributes, per_class=5, seed=0)) != set(
        stratified_subset(attributes, per_class=5, seed=1)
    )


def test_an_attribute_with_fewer_images_than_asked_for_gives_all_that_it_has():
    values = np.zeros((100, 2), int)
    values[:50, 0], values[[90, 95], 1] = 1, 1
    chosen = values[stratified_subset(values, per_class=10, seed=0)]
    assert (chosen == 1).sum(axis=0)[1] == 2
    assert (chosen == 1).sum(axis=0)[0] >= 10


def test_more_labels_than_any_attribute_has_names_flag_attribute_and_count():
    values = np.array([[1, 0], [1, 1], [1, -1]])
    with pytest.raises(InputError, match=r"--labels_per_class=4 .* any attribute has: at most 3, of bald present$"):
        stratified_subset(values, per_class=4, seed=0, names=["bald", "old"])


def test_labels_are_counted_by_name():
    assert label_counts(np.array([1, 0, 1, -1]), ["cat", "dog"]) == {"cat": 1, "dog": 2}
    assert label_counts(np.array([[1], [0], [-1], [0]]), ["bald"]) == {"bald present": 1, "bald absent": 2}


def test_images_of_which_no_attribute_is_known_are_no_choice():
    with pytest.raises(InputError, match="no labelled images"):
        stratified_subset(np.full((3, 2), -1), per_class=1, seed=0)
    with pytest.raises(InputError, match="--seed"):
        stratified_subset(np.zeros((3, 2), int), per_class=1, seed=-1)


def test_a_split_of_images_with_attributes_is_disjoint_covering_and_drawn_from_all(attributes):
    rest, held_out = stratified_split(attributes, 0.2, 0)
    assert sorted([*rest, *held_out]) == list(range(400))
    assert len(held_out) == 80
    np.testing.assert_array_equal(held_out, stratified_split(attributes, 0.2, 0)[1])
    np.testing.assert_array_equal(held_out, stratified_split(1 - attributes, 0.2, 0)[1])  # whatever the labels
    assert set(held_out) != set(stratified_split(attributes, 0.2, 1)[1])
    with pytest.raises(InputError, match="empty"):
        stratified_split(attributes, 0.001, 0)


def test_draws_of_one_seed_are_functions_of_seed_and_draw_and_differ():
    classes = np.random.default_rng(0).integers(0, 5, 500).astype(np.int32)
    attributes = np.random.default_rng(1).integers(0, 2, (500, 3)).astype(np.int32)
    for labels in (classes, attributes):
        drawn = [tuple(stratified_subset(labels, per_class=3, seed=4, draw=draw)) for draw in range(20)]
        assert len(set(drawn)) == 20
        assert drawn[0] == tuple(stratified_subset(labels, per_class=3, seed=4))
        assert drawn[7] == tuple(stratified_subset(labels, per_class=3, seed=4, draw=7))
        assert drawn[7] != tuple(stratified_subset(labels, per_class=3, seed=5, draw=7))
        # The choices of a draw are nested, too.
        assert set(drawn[7]) < set(stratified_subset(labels, per_class=9, seed=4, draw=7).tolist())
