"""Numbers that are reported: accuracies, what is said of attributes, and the spread that betrays a collapse."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from simsiam_jax.losses import l2_normalize

# Measured values by name, as result files hold them.
Numbers = dict[str, float | int]

# The number of each kind of label by which epochs and penalties are chosen and that tables show: for attributes the
# one that the paper's Table 3 leads with, under the name of macro accuracy (PAPER.md, "Accuracy in Table 3").
# It counts present attributes alone, where accuracy would flatter whoever never predicts a rare one.
HEADLINE = {"classes": "top1", "attributes": "macro_jaccard"}

# Classes are unequal, and their balanced accuracy leads, where the largest has over so many times the images that the
# others have on average.
UNEQUAL = 2.0


def top1(scores: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The share, in 0..1, of rows whose largest score stands at the label."""
    return jnp.mean(jnp.argmax(scores, axis=-1) == labels)


def z_spread(z: Float[Array, "n dim"], axis_name: str | None = None) -> Float[Array, ""]:
    """How far the l2-normalised outputs are from a collapse (Chen and He 2021, section 4.1).

    The standard deviation over the samples of each coordinate of z/|z|, averaged and multiplied by sqrt(dim):
    near 1 for directions spread evenly over the sphere, 0 where all samples share one direction.

    Args:
      z: Outputs of the projector.
      axis_name: Axis of devices that hold equally many of the samples each; None where all samples are in `z`.
    """

    def mean(values: Float[Array, "n dim"]) -> Float[Array, " dim"]:
        own = jnp.mean(values, axis=0)
        return own if axis_name is None else jax.lax.pmean(own, axis_name)

    directions = l2_normalize(z)
    deviations = jnp.sqrt(mean(jnp.square(directions - mean(directions))))
    return jnp.mean(deviations) * jnp.sqrt(float(z.shape[-1]))


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


Labels = Int[np.ndarray, " n"] | Int[np.ndarray, "n k"]
Threshold = float | Float[np.ndarray, " k"]


class Scores(NamedTuple):
    """Every number that is reported of a split.

    Attributes:
      numbers: The numbers by name, as `scores` gives them.
      attributes: Those of each attribute by name, in the order of the attributes: `jaccard`, `accuracy`, `auc` and
        `average_precision`, NaN where one is not defined. Empty for classes.
    """

    numbers: Numbers
    attributes: dict[str, Float[np.ndarray, " k"]]


def scores(outputs: Float[np.ndarray, "n k"], labels: Labels, *, threshold: Threshold = 0.5) -> Numbers:
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
      threshold: Probability from which on an attribute counts as predicted, 0..1, of all or of each.
    """
    return all_scores(outputs, labels, threshold=threshold).numbers


def all_scores(outputs: Float[np.ndarray, "n k"], labels: Labels, *, threshold: Threshold = 0.5) -> Scores:
    """`scores`, and of attributes those of each one.

    Args:
      outputs: Scores of the classes, of any scale; or probabilities of the attributes, 0..1.
      labels: The classes; or for each attribute 1, 0, or -1 where it is not known.
      threshold: Probability from which on an attribute counts as predicted, 0..1, of all or of each.
    """
    if labels.ndim == 1:
        right = np.argmax(outputs, axis=-1) == labels
        recalls = [np.mean(right[labels == label]) for label in np.unique(labels)]
        numbers: Numbers = {"top1": float(np.mean(right)), "balanced_accuracy": float(np.mean(recalls))}
        numbers |= {"auc": _area(outputs[:, 1] - outputs[:, 0], labels)} if outputs.shape[1] == 2 else {}
        return Scores(numbers, {})
    found = [
        _jaccard(outputs, labels, threshold),
        _accuracy(outputs, labels, threshold),
        *_rankings(outputs, labels),
    ]
    return Scores(
        {name: value for each in found for name, value in each.numbers.items()},
        {name: values for each in found for name, values in each.attributes.items()},
    )


def headline_score(
    outputs: Float[np.ndarray, "n k"],
    labels: Labels,
    *,
    metric: str | None = None,
    threshold: Threshold | None = 0.5,
) -> float:
    """The one number of `scores` by this name, or that `HEADLINE` names, without the cost of the others.

    Args:
      outputs: As `scores` takes them.
      labels: As `scores` takes them.
      metric: Name of the number.
      threshold: As `scores` takes it; None chooses each attribute's on these very labels, as validation images do.
    """
    metric = metric or HEADLINE["classes" if labels.ndim == 1 else "attributes"]
    if labels.ndim == 1:
        return float(scores(outputs, labels)[metric])
    threshold = choose_thresholds(outputs, labels) if threshold is None else threshold
    if metric.endswith("jaccard"):
        return float(_jaccard(outputs, labels, threshold).numbers[metric])
    if metric.endswith("accuracy"):
        return float(_accuracy(outputs, labels, threshold).numbers[metric])
    return float(scores(outputs, labels, threshold=threshold)[metric])


def choose_thresholds(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """The probability, 0..1, from which on each attribute is best predicted: it has the largest Jaccard index.

    The same threshold has the largest F1. Of thresholds between two outputs, which are all alike, the middle counts;
    of equally good ones that nearest to 0.5, which stays itself where it is as good as any. An attribute that is never
    present, or of which nothing is known, keeps 0.5; so does a network that has diverged.

    Args:
      outputs: Probabilities of the attributes, 0..1.
      labels: For each attribute 1, 0, or -1 where it is not known.
    """
    chosen = np.full(labels.shape[1], 0.5)
    for column in range(labels.shape[1]):
        known = labels[:, column] >= 0
        values, present = outputs[known, column].astype(np.float64), labels[known, column] == 1
        if present.any() and np.isfinite(values).all():
            chosen[column] = _best_threshold(values, present)
    return chosen


def _best_threshold(values: Float[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> float:
    order = np.argsort(-values, kind="stable")
    values, present = values[order], present[order]
    both, predicted = np.cumsum(present), np.arange(1, len(values) + 1)
    jaccard = both / (predicted + both[-1] - both)
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))  # a threshold cannot part equal outputs
    cuts, found = (values[last] + np.append(values[last[1:]], 0.0)) / 2, jaccard[last]
    above = np.count_nonzero(values >= 0.5)
    if above and jaccard[above - 1] == found.max():
        return 0.5
    best = cuts[found == found.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def leading_class(labels: Int[np.ndarray, " n"], num_classes: int) -> tuple[int, float] | None:
    """The class with over twice as many images as the others have on average, and its share; None without one.

    Where there is one, to name it always scores well in accuracy, but not in balanced accuracy.

    Args:
      labels: The classes, -1 where not known.
      num_classes: Number of classes.
    """
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    if len(counts) < 2:
        return None
    largest = int(counts.argmax())
    rest = (counts.sum() - counts[largest]) / (len(counts) - 1)
    return (largest, float(counts[largest] / counts.sum())) if counts[largest] > UNEQUAL * rest else None


def _area(ranks: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The area under the ROC curve, NaN where one class is missing or a network has diverged."""
    from sklearn.metrics import roc_auc_score  # here, because it takes seconds

    defined = len(np.unique(labels)) == 2 and np.isfinite(ranks).all()
    return float(roc_auc_score(labels, ranks)) if defined else math.nan


def _jaccard(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"], threshold: Threshold) -> Scores:
    """Entries both predicted and present, of those that are either; 0 for an attribute without any."""
    known, present, predicted = labels >= 0, labels == 1, outputs >= threshold
    both = np.sum(present & predicted, axis=0)
    either = np.sum(known & (present | predicted), axis=0)
    of_each = np.where(known.any(axis=0), both / np.maximum(either, 1), math.nan)
    pooled = float(both.sum() / max(either.sum(), 1)) if known.any() else math.nan
    return _summary("jaccard", of_each, pooled)


def _accuracy(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"], threshold: Threshold) -> Scores:
    known = labels >= 0
    right = known & ((outputs >= threshold) == (labels == 1))
    count = known.sum(axis=0)
    of_each = np.where(count > 0, right.sum(axis=0) / np.maximum(count, 1), math.nan)
    return _summary("accuracy", of_each, _mean(right[known]))


def _rankings(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"]) -> list[Scores]:
    """The AUC and the average precision."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # here, because it takes seconds

    known = labels >= 0
    rankable = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    finite = bool(np.isfinite(outputs).all())  # a network that has diverged ranks nothing
    pooled = labels[known]
    found = []
    for name, score in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        of_each = np.full(len(rankable), math.nan)
        for k in np.flatnonzero(rankable) if finite else []:
            of_each[k] = score(labels[known[:, k], k], outputs[known[:, k], k])
        defined = finite and 0 < pooled.sum() < len(pooled)
        found.append(_summary(name, of_each, float(score(pooled, outputs[known])) if defined else math.nan))
    return found


def _summary(name: str, of_each: Float[np.ndarray, " k"], pooled: float) -> Scores:
    """A number's macro mean over the attributes of which it is defined, its micro form, and that of each."""
    macro = _mean(of_each[~np.isnan(of_each)])
    return Scores({f"macro_{name}": macro, f"micro_{name}": pooled}, {name: of_each})


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean, or NaN, without NumPy's warning, of nothing."""
    return float(np.mean(values)) if len(values) else math.nan
