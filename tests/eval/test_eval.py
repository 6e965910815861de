import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import _QUERIES_PER_CALL, knn_outputs, knn_scores, neighbours_for
from simsiam_jax.eval.linear import PENALTIES, _fit, fit_probe
from simsiam_jax.metrics import headline_score, scores


def _clusters(count, *, seed, classes=4, dim=8, noise=1.0):
    centres = np.random.default_rng(0).normal(size=(classes, dim)) * 2
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count).astype(np.int32)
    return (centres[labels] + noise * draw.normal(size=(count, dim))).astype(np.float32), labels


def test_knn_scores_are_those_of_a_plain_loop():
    # Wu et al. 2018, section 3.4, written out: weights exp(cosine / temperature) of the k nearest.
    bank, labels = _clusters(30, seed=1)
    queries, _ = _clusters(5, seed=2)
    got = np.asarray(knn_scores(bank, labels, queries, num_classes=4, k=7, temperature=0.1))
    for query, votes in zip(queries, got, strict=True):
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:7]
        expected = np.zeros(4)
        for row in nearest:
            expected[labels[row]] += np.exp((cosine[row] - cosine.max()) / 0.1)
        np.testing.assert_allclose(votes, expected, rtol=1e-4, atol=1e-6)


def test_knn_finds_each_point_as_its_own_nearest_neighbour():
    bank, labels = _clusters(50, seed=1, noise=5.0)
    assert headline_score(knn_outputs(bank, labels, bank, num_classes=4, k=1), labels) == 1.0


def test_knn_does_not_depend_on_the_length_of_features():
    bank, labels = _clusters(40, seed=1)
    queries, _ = _clusters(30, seed=2, noise=3.0)
    scale = np.random.default_rng(3).uniform(0.1, 10, (40, 1)).astype(np.float32)
    plain = knn_outputs(bank, labels, queries, num_classes=4, k=5)
    np.testing.assert_allclose(knn_outputs(bank * scale, labels, queries, num_classes=4, k=5), plain, rtol=1e-4)


def test_a_bank_smaller_than_k_votes_as_a_whole():
    bank, labels = _clusters(10, seed=1)
    queries, _ = _clusters(20, seed=2)
    whole = knn_outputs(bank, labels, queries, num_classes=4, k=10)
    np.testing.assert_array_equal(knn_outputs(bank, labels, queries, num_classes=4, k=200), whole)


def test_as_many_neighbours_vote_as_a_class_has_labelled_images():
    assert neighbours_for(np.arange(100) % 5, num_classes=5) == 20
    assert neighbours_for(np.array([0, 0, 0, 1, -1]), num_classes=2) == 2
    assert neighbours_for(np.zeros(5000, int), num_classes=10) == 200  # of 500 at most 200
    assert neighbours_for(np.array([0]), num_classes=10) == 1
    # 3 and 1 images have the two attributes, 2 on average; unknown and absent ones do not count.
    assert neighbours_for(np.array([[1, 0], [1, -1], [1, 1], [0, 0]]), num_classes=2) == 2


def test_knn_outputs_of_many_queries_are_those_of_single_calls():
    bank, labels = _clusters(40, seed=1)
    queries, _ = _clusters(_QUERIES_PER_CALL + 9, seed=2, noise=3.0)
    outputs = knn_outputs(bank, labels, queries, num_classes=4, k=5)
    assert outputs.shape == (_QUERIES_PER_CALL + 9, 4)
    for part in (slice(0, 3), slice(-3, None)):
        expected = knn_scores(bank, labels, queries[part], num_classes=4, k=5)
        np.testing.assert_allclose(outputs[part], expected, rtol=1e-4)


def test_knn_outputs_of_attributes_are_the_weighted_shares_of_a_plain_loop():
    bank, _ = _clusters(30, seed=1)
    queries, _ = _clusters(5, seed=2)
    labels = np.random.default_rng(3).integers(-1, 2, (30, 3)).astype(np.int32)
    labels[:, 2] = -1  # known of none: nothing is said, 0.5
    got = knn_outputs(bank, labels, queries, num_classes=3, k=7, temperature=0.1)
    for query, shares in zip(queries, got, strict=True):
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:7]
        weights = np.exp(cosine[nearest] / 0.1)
        for attribute in (0, 1):
            values = labels[nearest, attribute]
            expected = weights[values == 1].sum() / weights[values >= 0].sum()
            assert shares[attribute] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert shares[2] == 0.5


def test_each_attribute_gets_the_regression_that_scikit_learn_gives_it_alone():
    features, classes = _clusters(120, seed=1, noise=2.0)
    labels = np.stack([classes % 2, classes // 2, classes == 3], axis=1).astype(np.int32)
    penalty = 0.01
    start = {"weights": np.zeros((8, 3), np.float32), "bias": np.zeros(3, np.float32)}
    fitted = _fit(features, labels, start, np.float32(penalty))
    ours = features @ np.asarray(fitted["weights"]) + np.asarray(fitted["bias"])
    for attribute in range(3):
        reference = LogisticRegression(C=1 / (len(features) * penalty), tol=1e-8, max_iter=2000)
        theirs = reference.fit(features, labels[:, attribute]).decision_function(features)
        np.testing.assert_allclose(ours[:, attribute], theirs, atol=5e-3)


def test_probe_of_attributes_learns_nothing_from_missing_values():
    features, classes = _clusters(90, seed=1)
    labels = np.stack([classes % 2, classes // 2], axis=1).astype(np.int32)
    # The second attribute is known of the first 30 images: for it the others might as well not be there.
    labels[30:60, 1] = -1
    start = {"weights": np.zeros((8, 2), np.float32), "bias": np.zeros(2, np.float32)}
    before = np.asarray(_fit(features[:60], labels[:60], start, np.float32(0.01))["weights"])
    # Copies: jax reads the arrays that it is given where they lie, and perhaps later.
    labels, features = labels.copy(), features.copy()
    labels[30:60, 0] = 1 - labels[30:60, 0]
    features[30:60] *= 2
    after = _fit(features[:60], labels[:60], start, np.float32(0.01))["weights"]
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=2e-3)
    assert not np.allclose(after[:, 0], before[:, 0], atol=0.1)


def test_probe_of_attributes_gives_probabilities_and_takes_the_penalty_of_the_best_jaccard():
    features, classes = _clusters(300, seed=1, noise=3.0)
    labels = np.stack([classes % 2, classes // 2], axis=1).astype(np.int32)
    labels[np.random.default_rng(2).random(labels.shape) < 0.2] = -1
    train, validation, test = slice(0, 60), slice(60, 180), slice(180, 300)
    probe = fit_probe(features[train], labels[train], features[validation], labels[validation], num_classes=2)
    outputs = probe.outputs(features[test])
    assert outputs.dtype == np.float32
    assert np.all((outputs >= 0) & (outputs <= 1))
    assert scores(outputs, labels[test])["macro_auc"] > 0.6  # chance: 0.5 ± 0.05
    assert probe.validation_score == scores(probe.outputs(features[validation]), labels[validation])["macro_jaccard"]
    standard = (features - probe.mean) * probe.scale
    start = {"weights": np.zeros((8, 2), np.float32), "bias": np.zeros(2, np.float32)}
    jaccards = []
    for penalty in PENALTIES:
        fitted = _fit(standard[train], labels[train], start, penalty)
        logits = standard[validation] @ np.asarray(fitted["weights"]) + np.asarray(fitted["bias"])
        jaccards.append(headline_score((logits >= 0).astype(np.float32), labels[validation]))
    assert len(set(jaccards)) > 1
    assert probe.validation_score == pytest.approx(max(jaccards))


def test_a_validation_of_which_nothing_is_known_still_gives_a_probe():
    features, classes = _clusters(60, seed=1)
    labels = np.stack([classes % 2, classes // 2], axis=1).astype(np.int32)
    probe = fit_probe(features[:40], labels[:40], features[40:], np.full((20, 2), -1, np.int32), num_classes=2)
    assert math.isnan(probe.validation_score)
    assert probe.penalty == PENALTIES[-1]


def test_probe_reaches_the_solution_of_scikit_learn():
    features, labels = _clusters(120, seed=1, noise=2.0)
    penalty = 0.01
    start = {"weights": np.zeros((8, 4), np.float32), "bias": np.zeros(4, np.float32)}
    fitted = _fit(features, labels, start, np.float32(penalty))
    # scikit-learn minimises the sum of the losses + |W|² / (2 C): C = 1 / (n × penalty).
    reference = LogisticRegression(C=1 / (len(features) * penalty), tol=1e-8, max_iter=2000).fit(features, labels)
    ours = features @ np.asarray(fitted["weights"]) + np.asarray(fitted["bias"])
    theirs = reference.decision_function(features)
    np.testing.assert_allclose(
        ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean(axis=1, keepdims=True), atol=5e-3
    )


def test_probe_takes_the_penalty_that_validation_prefers():
    # Two features tell the classes apart; two hundred of noise let a weak penalty learn 40 images by heart.
    draw = np.random.default_rng(0)
    labels = np.arange(240, dtype=np.int32) % 2
    features = draw.normal(size=(240, 202)).astype(np.float32)
    features[:, :2] += 2.0 * (2 * labels[:, None] - 1)
    probe = fit_probe(features[:40], labels[:40], features[40:140], labels[40:140], num_classes=2)
    top1 = {}
    for penalty in PENALTIES:
        standard = (features - features[:40].mean(0)) / features[:40].std(0)
        start = {"weights": np.zeros((202, 2), np.float32), "bias": np.zeros(2, np.float32)}
        fitted = _fit(standard[:40].astype(np.float32), labels[:40], start, penalty)
        logits = standard[40:140] @ np.asarray(fitted["weights"]) + np.asarray(fitted["bias"])
        top1[float(penalty)] = float(np.mean(np.argmax(logits, axis=1) == labels[40:140]))
    assert probe.validation_score == pytest.approx(max(top1.values()))
    assert probe.penalty == max(penalty for penalty, score in top1.items() if score == max(top1.values()))
    assert headline_score(probe.outputs(features[140:]), labels[140:]) > 0.65  # chance: 0.5 ± 0.05


def test_a_feature_that_never_varies_does_no_harm():
    features, labels = _clusters(60, seed=1)
    features[:, 0] = 3.0
    probe = fit_probe(features[:40], labels[:40], features[40:], labels[40:], num_classes=4)
    assert np.all(np.isfinite(probe.weights))
    assert probe.validation_score > 0.7


def test_only_the_backbone_is_handed_on():
    variables = {
        "params": {"backbone": {"w": 1}, "projector": {"w": 2}, "predictor": {"w": 3}},
        "batch_stats": {"backbone": {"m": 4}, "projector": {"m": 5}},
    }
    assert backbone_variables(variables) == {"params": {"w": 1}, "batch_stats": {"m": 4}}
