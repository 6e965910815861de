import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    jaccard_score,
    roc_auc_score,
)

from simsiam_jax.metrics import (
    HEADLINE,
    all_scores,
    choose_thresholds,
    effective_rank,
    headline_score,
    leading_class,
    scores,
    top1,
    z_spread,
)


def _draw(images, attributes, *, missing=0.0, seed=0):
    """Probabilities in steps of 1/20, so that there are ties and values at the threshold, and labels they tell of."""
    draw = np.random.default_rng(seed)
    outputs = (draw.integers(0, 21, (images, attributes)) / 20).astype(np.float32)
    labels = (draw.random((images, attributes)) < 0.1 + 0.8 * outputs).astype(np.int32)
    return outputs, np.where(draw.random(labels.shape) < missing, -1, labels).astype(np.int32)


def test_spread_is_near_one_for_directions_all_over_the_sphere():
    # A coordinate of a uniform direction in d dimensions has standard deviation 1 / sqrt(d).
    z = jax.random.normal(jax.random.key(0), (4000, 32))
    assert float(z_spread(z)) == pytest.approx(1.0, abs=0.02)


def test_spread_over_devices_is_that_of_all_their_samples():
    z = jax.random.normal(jax.random.key(1), (4, 6, 32)) + jnp.arange(4.0)[:, None, None]
    apart = jax.vmap(lambda each: z_spread(each, "devices"), axis_name="devices")(z)
    np.testing.assert_allclose(apart, z_spread(z.reshape(24, 32)), rtol=1e-6)
    # The last device's own samples differ less: they share a large mean.
    assert float(z_spread(z[3])) < 0.5 * float(apart[0])


def test_spread_is_zero_for_collapsed_outputs_of_any_length():
    z = jnp.linspace(1.0, 9.0, 50)[:, None] * jnp.arange(1.0, 9.0)
    assert float(z_spread(z)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("count", [10, 500])
def test_effective_rank_counts_directions_of_equal_variance(count):
    # An orthogonal frame of three directions, far from the origin, in 64 dimensions: rank 3, whatever the offset.
    frame, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 3)))
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(count, 4)))
    centred = basis - basis.mean(axis=0)
    directions = np.linalg.qr(centred)[0][:, :3]
    features = (directions @ frame.T + 5.0).astype(np.float32)
    assert effective_rank(features) == pytest.approx(3.0, rel=1e-3)
    assert effective_rank(10 * features) == pytest.approx(3.0, rel=1e-3)


def test_effective_rank_is_the_exponential_of_the_entropy_of_the_shares_of_variance():
    # Variances 3:1 in two directions: exp(-(0.75 ln 0.75 + 0.25 ln 0.25)).
    angles = np.arange(8) * np.pi / 4
    features = np.stack([np.sqrt(3) * np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert effective_rank(features) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), rel=1e-5)


def test_features_that_do_not_vary_have_no_rank():
    assert effective_rank(np.ones((5, 3), np.float32)) == 0.0


def test_top1_counts_the_rows_whose_largest_score_is_at_the_label():
    scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert float(top1(scores, jnp.array([1, 0, 0, 1]))) == 0.5


def test_top1_of_classes_is_the_share_of_right_answers():
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], np.float32)
    # Of the second class one of one is found, of the first one of two; its score 0.9 is above both others'.
    assert scores(outputs, np.array([1, 0, 0])) == {"top1": 2 / 3, "balanced_accuracy": 0.75, "auc": 1.0}
    assert headline_score(outputs, np.array([1, 0, 0])) == 2 / 3


def test_balanced_accuracy_and_area_of_two_classes_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    labels = (draw.random(200) < 0.2).astype(np.int32)
    outputs = draw.normal(0, 1, (200, 2)).astype(np.float32)
    outputs[:, 1] += labels - 0.5
    found = scores(outputs, labels)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, outputs.argmax(1)))
    assert found["auc"] == pytest.approx(roc_auc_score(labels, outputs[:, 1] - outputs[:, 0]))
    for name, value in found.items():
        assert headline_score(outputs, labels, metric=name) == pytest.approx(value)


def test_who_calls_everything_by_the_commonest_name_is_not_flattered():
    labels = np.array([0] * 9 + [1], np.int32)
    found = scores(np.tile([1.0, 0.0], (10, 1)).astype(np.float32), labels)
    assert found == {"top1": 0.9, "balanced_accuracy": 0.5, "auc": 0.5}


def test_of_one_class_alone_there_is_no_area():
    found = scores(np.eye(2, dtype=np.float32)[[0, 0, 1]], np.zeros(3, np.int32))
    assert np.isnan(found["auc"])
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert "auc" not in scores(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32))


def test_scores_of_attributes_are_those_of_scikit_learn():
    outputs, labels = _draw(300, 7)
    predicted = (outputs >= 0.5).astype(int)
    assert scores(outputs, labels) == pytest.approx(
        {
            "macro_jaccard": jaccard_score(labels, predicted, average="macro"),
            "micro_jaccard": jaccard_score(labels, predicted, average="micro"),
            "macro_accuracy": np.mean([accuracy_score(labels[:, k], predicted[:, k]) for k in range(7)]),
            "micro_accuracy": accuracy_score(labels.ravel(), predicted.ravel()),
            "macro_auc": roc_auc_score(labels, outputs, average="macro"),
            "micro_auc": roc_auc_score(labels, outputs, average="micro"),
            "macro_average_precision": average_precision_score(labels, outputs, average="macro"),
            "micro_average_precision": average_precision_score(labels, outputs, average="micro"),
        },
        abs=1e-12,
    )


def _auc(outputs, labels):
    """The share of pairs of a present and an absent entry that are in order, ties counting half."""
    present, absent = outputs[labels == 1], outputs[labels == 0]
    difference = present[:, None] - absent[None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def _average_precision(outputs, labels):
    """The sum over falling thresholds of precision times the recall gained."""
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(outputs)[::-1]:
        taken = labels[outputs >= threshold]
        recall = np.sum(taken == 1) / np.sum(labels == 1)
        total += np.mean(taken == 1) * (recall - recall_before)
        recall_before = recall
    return total


def test_scores_with_missing_values_are_the_definitions_over_the_known_entries():
    outputs, labels = _draw(120, 4, missing=0.3)
    columns = [(outputs[labels[:, k] >= 0, k], labels[labels[:, k] >= 0, k]) for k in range(4)]
    pooled = np.concatenate([column[0] for column in columns]), np.concatenate([column[1] for column in columns])
    got = scores(outputs, labels)
    for name, score in (
        ("auc", _auc),
        ("average_precision", _average_precision),
        ("accuracy", lambda p, y: np.mean((p >= 0.5) == (y == 1))),
        ("jaccard", lambda p, y: len(p[(p >= 0.5) & (y == 1)]) / len(p[(p >= 0.5) | (y == 1)])),
    ):
        assert got[f"macro_{name}"] == pytest.approx(np.mean([score(*column) for column in columns]), abs=1e-12)
        assert got[f"micro_{name}"] == pytest.approx(score(*pooled), abs=1e-12)


def test_scores_of_four_images_are_those_computed_by_hand():
    outputs = np.array([[0.9, 0.5], [0.6, 0.4], [0.2, 0.7], [0.8, 0.1]], np.float32)
    labels = np.array([[1, 1], [0, 1], [1, 0], [-1, 0]])
    # First attribute, known of three: one of {1, 2, 3} is both predicted and present. Predicted right: the first.
    # Ranked 1, 0, 1: one pair of two in order; precision 1 and 2/3 where the recall rises by a half.
    # Second (0.5 counts as predicted): one of {1, 2, 3} is both; right: the first and last. Ranked 0, 1, 1, 0: two
    # pairs of four; precision 1/2 and 2/3.
    # Pooled, by falling output, without the missing one: 1, 0, 0 | 1, 1, 1, 0 for 0.9, 0.7, 0.6 | 0.5, 0.4, 0.2, 0.1.
    assert scores(outputs, labels) == pytest.approx(
        {
            "macro_jaccard": 1 / 3,
            "micro_jaccard": 2 / 6,
            "macro_accuracy": (1 / 3 + 1 / 2) / 2,
            "micro_accuracy": 3 / 7,
            "macro_auc": 1 / 2,
            "micro_auc": (3 + 1 + 1 + 1) / 12,
            "macro_average_precision": ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2,
            "micro_average_precision": (1 + 2 / 4 + 3 / 5 + 4 / 6) / 4,
        }
    )


def test_the_threshold_moves_the_predictions_alone():
    outputs, labels = _draw(200, 3)
    low, high = scores(outputs, labels, threshold=0.3), scores(outputs, labels, threshold=0.7)
    expected = jaccard_score(labels, outputs >= np.float32(0.3), average="macro")
    assert low["macro_jaccard"] == pytest.approx(expected) == headline_score(outputs, labels, threshold=0.3)
    assert {name for name in low if low[name] == high[name]} == {
        "macro_auc", "micro_auc", "macro_average_precision", "micro_average_precision",
    }  # fmt: skip


def test_attributes_of_one_value_are_left_out_of_what_needs_two():
    outputs, labels = _draw(60, 5)
    labels[:, 1], labels[:, 3], labels[:, 4] = 1, 0, -1
    outputs[:, 3] = 0.1  # neither present nor predicted: its Jaccard is 0, as scikit-learn has it
    got = scores(outputs, labels)
    assert got["macro_auc"] == pytest.approx(np.mean([_auc(outputs[:, k], labels[:, k]) for k in (0, 2)]))
    precision = np.mean([_average_precision(outputs[:, k], labels[:, k]) for k in (0, 2)])
    assert got["macro_average_precision"] == pytest.approx(precision)
    known = slice(0, 4)  # of the last attribute nothing is known: there is nothing to be wrong about
    plain = jaccard_score(labels[:, known], outputs[:, known] >= 0.5, average="macro", zero_division=0)
    assert got["macro_jaccard"] == pytest.approx(plain)
    assert got["macro_accuracy"] == pytest.approx(np.mean((outputs >= 0.5)[:, known] == labels[:, known]))
    assert got["micro_auc"] == pytest.approx(_auc(outputs[:, known].ravel(), labels[:, known].ravel()))


def test_what_nothing_is_known_of_is_nan():
    outputs, labels = _draw(20, 3)
    assert all(math.isnan(value) for value in scores(outputs, np.full_like(labels, -1)).values())
    absent = scores(outputs, np.zeros_like(labels))
    assert absent["macro_jaccard"] == absent["micro_jaccard"] == 0
    assert math.isnan(absent["macro_auc"])
    assert math.isnan(absent["micro_average_precision"])


def test_a_diverged_network_predicts_and_ranks_nothing():
    outputs, labels = _draw(20, 3)
    got = scores(np.full_like(outputs, np.nan), labels)
    assert got["macro_jaccard"] == 0
    assert all(math.isnan(value) == name.endswith(("auc", "precision")) for name, value in got.items())


def test_the_headline_is_one_of_the_scores():
    outputs, labels = _draw(50, 3, missing=0.2)
    assert headline_score(outputs, labels) == scores(outputs, labels)[HEADLINE["attributes"]]
    assert headline_score(outputs, labels[:, 0] % 3) == scores(outputs, labels[:, 0] % 3)[HEADLINE["classes"]]


def test_the_numbers_of_an_attribute_are_what_it_would_have_alone():
    outputs, labels = _draw(120, 4, missing=0.3)
    labels[:, 2], labels[:, 3] = 1, -1  # always present; known of no image
    found = all_scores(outputs, labels).attributes
    for name, values in found.items():
        for k, value in enumerate(values):
            alone = scores(outputs[:, [k]], labels[:, [k]])[f"macro_{name}"]
            assert value == pytest.approx(alone, nan_ok=True)
    assert [math.isnan(value) for value in found["auc"]] == [False, False, True, True]
    assert all_scores(outputs, labels[:, 0] % 2).attributes == {}


def test_a_chosen_threshold_has_the_best_jaccard_of_all_and_is_the_nearest_of_these_to_a_half():
    outputs, labels = _draw(60, 5, missing=0.2)
    outputs = outputs.round(1)  # many ties, which no threshold can part
    grid = np.linspace(0, 1, 2001)  # finer than the gaps, which are 0.1
    for k, chosen in enumerate(choose_thresholds(outputs, labels)):
        known = labels[:, k] >= 0
        found = [jaccard_score(labels[known, k], outputs[known, k] >= t, zero_division=0) for t in (*grid, chosen)]
        assert found[-1] == max(found)
        nearest = np.abs(grid[np.array(found[:-1]) == max(found)] - 0.5).min()
        # The middle of a gap: at most half of one further away than its nearer end.
        assert abs(chosen - 0.5) <= nearest + 0.05 + 1e-6


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 1, 0], 0.2),  # between 0.3 and 0.1
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.5),  # a half is as good as any
        ([0.9, 0.8, 0.3, 0.1], [1, 1, -1, 0], 0.5),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], 0.75),
        ([0.2, 0.1, 0.1], [1, 1, 1], 0.05),  # all of them
        ([0.2, 0.1], [0, 0], 0.5),
        ([0.2, 0.1], [-1, -1], 0.5),
        ([np.nan, 0.1], [1, 0], 0.5),
    ],
)
def test_thresholds_chosen_by_hand(outputs, labels, expected):
    found = choose_thresholds(np.array(outputs, np.float32)[:, None], np.array(labels)[:, None])
    assert found == pytest.approx([expected])


def test_each_attribute_is_predicted_from_its_own_threshold_on():
    outputs = np.array([[0.2, 0.6], [0.1, 0.6], [0.3, 0.8]], np.float32)
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    assert scores(outputs, labels, threshold=np.array([0.15, 0.7]))["macro_jaccard"] == 1.0
    assert scores(outputs, labels)["macro_jaccard"] == pytest.approx((0 + 1 / 3) / 2)
    assert headline_score(outputs, labels, threshold=None) == 1.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 40, 2000), (2, 2000 / 2043)),
        ((10, 10, 10), None),
        ((20, 10, 10), None),  # exactly twice is not over it
        ((21, 10, 10), (0, 21 / 41)),
        ((5, 0), (0, 1.0)),
        ((7,), None),
    ],
)
def test_a_class_leads_with_over_twice_the_mean_of_the_others(counts, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    found = leading_class(np.append(labels, -1), len(counts))
    assert found == (None if expected is None else pytest.approx(expected))
