import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import knn_scores, knn_top1
from simsiam_jax.eval.linear import PENALTIES, _fit, fit_probe


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
    for query, scores in zip(queries, got, strict=True):
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:7]
        expected = np.zeros(4)
        for row in nearest:
            expected[labels[row]] += np.exp((cosine[row] - cosine.max()) / 0.1)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_knn_finds_each_point_as_its_own_nearest_neighbour():
    bank, labels = _clusters(50, seed=1, noise=5.0)
    assert knn_top1(bank, labels, bank, labels, num_classes=4, k=1) == 1.0


def test_knn_does_not_depend_on_the_length_of_features():
    bank, labels = _clusters(40, seed=1)
    queries, query_labels = _clusters(30, seed=2, noise=3.0)
    scale = np.random.default_rng(3).uniform(0.1, 10, (40, 1)).astype(np.float32)
    plain = knn_top1(bank, labels, queries, query_labels, num_classes=4, k=5)
    assert knn_top1(bank * scale, labels, queries, query_labels, num_classes=4, k=5) == plain


def test_a_bank_smaller_than_k_votes_as_a_whole():
    bank, labels = _clusters(10, seed=1)
    queries, query_labels = _clusters(20, seed=2)
    whole = knn_top1(bank, labels, queries, query_labels, num_classes=4, k=10)
    assert knn_top1(bank, labels, queries, query_labels, num_classes=4, k=200) == whole


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
    scores = {}
    for penalty in PENALTIES:
        standard = (features - features[:40].mean(0)) / features[:40].std(0)
        start = {"weights": np.zeros((202, 2), np.float32), "bias": np.zeros(2, np.float32)}
        fitted = _fit(standard[:40].astype(np.float32), labels[:40], start, penalty)
        logits = standard[40:140] @ np.asarray(fitted["weights"]) + np.asarray(fitted["bias"])
        scores[float(penalty)] = float(np.mean(np.argmax(logits, axis=1) == labels[40:140]))
    assert probe.validation_top1 == pytest.approx(max(scores.values()))
    assert probe.penalty == max(penalty for penalty, score in scores.items() if score == max(scores.values()))
    assert probe.top1(features[140:], labels[140:]) > 0.65  # chance: 0.5 ± 0.05


def test_a_feature_that_never_varies_does_no_harm():
    features, labels = _clusters(60, seed=1)
    features[:, 0] = 3.0
    probe = fit_probe(features[:40], labels[:40], features[40:], labels[40:], num_classes=4)
    assert np.all(np.isfinite(probe.weights))
    assert probe.validation_top1 > 0.7


def test_only_the_backbone_is_handed_on():
    variables = {
        "params": {"backbone": {"w": 1}, "projector": {"w": 2}, "predictor": {"w": 3}},
        "batch_stats": {"backbone": {"m": 4}, "projector": {"m": 5}},
    }
    assert backbone_variables(variables) == {"params": {"w": 1}, "batch_stats": {"m": 4}}
