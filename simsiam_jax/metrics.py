"""Numbers that are reported: accuracies, what is said of attributes, and the spread that betrays a collapse."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.metrics import average_precision_score, roc_auc_score

from simsiam_jax.losses import l2_normalize

# Measured values by name, as result files hold them.
Numbers = dict[str, float | int]

# The number of each kind of label by which epochs and penalties are chosen and that tables show: for attributes the
# one that the paper's Table 3 leads with, under the name of macro accuracy (PAPER.md, "Accuracy in Table 3").
# It counts present attributes alone, where accuracy would flatter whoever never predicts a rare one.
HEADLINE = {"classes": "top1", "attributes": "macro_jaccard"}


def top1(scores: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The share, in 0..1, of rows whose largest score stands at the label."""
    return jnp.mean(jnp.argmax(scores, axis=-1) == labels)


def z_spread(z: Float[Array, "n dim"]) -> Float[Array, ""]:
    """How far the l2-normalised outputs are from a collapse (Chen and He 2021, section 4.1).

    The standard deviation over the samples of each coordinate of z/|z|, averaged and multiplied by sqrt(dim):
    near 1 for directions spread evenly over the sphere, 0 where all samples share one direction.
    """
    directions = l2_normalize(z)
    return jnp.mean(jnp.std(directions, axis=0)) * jnp.sqrt(float(z.shape[-1]))


def effective_rank(features: Float[np.ndarray, "n dim"]) -> float:
    """How many dimensions features use: exp of the entropy of the shares of variance (RankMe, arXiv 2210.02885).

    It is 1 where all features lie on a line, and at most min(n - 1, dim) where every direction varies alike.
    Differs from RankMe: features are centred, and the shares are those of the squared singular values, which are the
    variances, so that the many directions of little variance count for little.

    Args:
      features: Features of images, of any scale.

    Returns:
      The effective rank, at least 1; 0 where nothing varies.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    # The smaller of the two Gram matrices has the same eigenvalues other than zero.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    variances = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    total = variances.sum()
    if not total > 0:
        return 0.0
    shares = variances[variances > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def scores(
    outputs: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n k"],
    *,
    threshold: float = 0.5,
) -> Numbers:
    """Every number that is reported of a split, each in 0..1.

    For classes `top1`; `balanced_accuracy`, the mean over the classes that occur of how many of each are recognised,
    which does not flatter whoever calls everything by the commonest name; and of two classes `auc`, the area under the
    ROC curve of the second's score above the first's, NaN where only one occurs.

    For attributes, macro (mean over the attributes) and micro (all entries as one attribute): `jaccard`, what the paper
    calls accuracy; `accuracy`; `auc`; and `average_precision`. All over the known entries, as scikit-learn defines
    them. An attribute that is known of no image is left out of the macro means; one that is always or never present, so
    that nothing can be ranked, of the last two. NaN where nothing is left.

    Args:
      outputs: Scores of the classes, of any scale; or probabilities of the attributes, 0..1.
      labels: The classes; or for each attribute 1, 0, or -1 where it is not known.
      threshold: Probability from which on an attribute counts as predicted.
    """
    if labels.ndim == 1:
        right = np.argmax(outputs, axis=-1) == labels
        recalls = [np.mean(right[labels == label]) for label in np.unique(labels)]
        numbers: Numbers = {"top1": float(np.mean(right)), "balanced_accuracy": float(np.mean(recalls))}
        return numbers | ({"auc": _area(outputs[:, 1] - outputs[:, 0], labels)} if outputs.shape[1] == 2 else {})
    return {
        **_jaccard(outputs, labels, threshold),
        **_accuracy(outputs, labels, threshold),
        **_ranking(outputs, labels),
    }


def headline_score(
    outputs: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n k"],
    *,
    metric: str | None = None,
    threshold: float = 0.5,
) -> float:
    """The one number of `scores` by this name, or that `HEADLINE` names, without the cost of the others."""
    metric = metric or HEADLINE["classes" if labels.ndim == 1 else "attributes"]
    if metric.endswith("jaccard"):
        return _jaccard(outputs, labels, threshold)[metric]
    return float(scores(outputs, labels, threshold=threshold)[metric])


def _area(ranks: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The area under the ROC curve, NaN where one class is missing or a network has diverged."""
    defined = len(np.unique(labels)) == 2 and np.isfinite(ranks).all()
    return float(roc_auc_score(labels, ranks)) if defined else math.nan


def _jaccard(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"], threshold: float) -> dict[str, float]:
    """Entries both predicted and present, of those that are either; 0 for an attribute without any."""
    known, present, predicted = labels >= 0, labels == 1, outputs >= threshold
    both = np.sum(present & predicted, axis=0)
    either = np.sum(known & (present | predicted), axis=0)
    of_each = both / np.maximum(either, 1)
    return {
        "macro_jaccard": _mean(of_each[known.any(axis=0)]),
        "micro_jaccard": float(both.sum() / max(either.sum(), 1)) if known.any() else math.nan,
    }


def _accuracy(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"], threshold: float) -> dict[str, float]:
    known = labels >= 0
    right = known & ((outputs >= threshold) == (labels == 1))
    count = known.sum(axis=0)
    return {
        "macro_accuracy": _mean(right.sum(axis=0)[count > 0] / count[count > 0]),
        "micro_accuracy": _mean(right[known]),
    }


def _ranking(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"]) -> dict[str, float]:
    known = labels >= 0
    rankable = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    finite = bool(np.isfinite(outputs).all())  # a network that has diverged ranks nothing
    pooled = labels[known]
    numbers = {}
    for name, score in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        columns = np.flatnonzero(rankable) if finite else []
        numbers[f"macro_{name}"] = _mean([score(labels[known[:, k], k], outputs[known[:, k], k]) for k in columns])
        defined = finite and 0 < pooled.sum() < len(pooled)
        numbers[f"micro_{name}"] = float(score(pooled, outputs[known])) if defined else math.nan
    return numbers


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean, or NaN, without NumPy's warning, of nothing."""
    return float(np.mean(values)) if len(values) else math.nan
