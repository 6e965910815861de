"""The weighted nearest-neighbour classifier of Wu et al. (2018), as SimSiam monitors with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simsiam_jax.losses import l2_normalize

# More neighbours than these never vote unless they are asked for (Wu et al. 2018, on ImageNet).
MOST_NEIGHBOURS = 200
_QUERIES_PER_CALL = 512


def neighbours_for(labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n classes"], *, num_classes: int) -> int:
    """How many neighbours vote: as many as a class has labelled images on average, from 1 to `MOST_NEIGHBOURS`.

    With more, other classes outvote the right one however near its images are.

    Args:
      labels: Classes of the labelled images, -1 where not known; or their attributes, 1, 0, or -1 where not known. Of
        an attribute the images that have it count.
      num_classes: Number of classes or attributes, at least 1.
    """
    labelled = np.count_nonzero(labels >= 0 if labels.ndim == 1 else labels == 1)
    return min(max(round(labelled / num_classes), 1), MOST_NEIGHBOURS)


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def knn_scores(
    labelled: Float[Array, "labelled dim"],
    labels: Int[Array, " labelled"] | Int[Array, "labelled classes"],
    queries: Float[Array, "queries dim"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, "queries classes"]:
    """The votes of the k nearest labelled images, each with the weight exp(cosine / temperature).

    Args:
      labelled: Features of labelled images, of any scale.
      labels: Classes of these images, 0..num_classes-1; or their attributes, 1, 0, or -1 where not known.
      queries: Features to classify.
      num_classes: Number of classes or attributes.
      k: Number of neighbours that vote, at most the number of labelled images.
      temperature: Temperature of the weights, above 0.

    Returns:
      The weight of each class; or each attribute's share, 0..1, of the weight of the neighbours of which it is known,
      0.5 where it is known of none.
    """
    cosine = l2_normalize(queries) @ l2_normalize(labelled).T
    nearest, rows = jax.lax.top_k(cosine, k)
    # Relative to the nearest: the same classes win, and no small temperature overflows.
    # Not nearest[:, :1]: XLA would merge that slice with top_k's own, and sort all of them (20 times slower on CPU).
    weights = jnp.exp((nearest - nearest.max(axis=1, keepdims=True)) / temperature)
    if labels.ndim == 1:
        votes = jax.nn.one_hot(labels[rows], num_classes)
        return jnp.einsum("qk,qkc->qc", weights, votes)
    values = labels[rows]  # [queries, k, attributes]
    present, known = (jnp.einsum("qk,qka->qa", weights, chosen) for chosen in (values == 1, values >= 0))
    return jnp.where(known > 0, present / jnp.where(known > 0, known, 1.0), 0.5)


def knn_outputs(
    labelled: Float[np.ndarray, "labelled dim"],
    labels: Int[np.ndarray, " labelled"] | Int[np.ndarray, "labelled classes"],
    queries: Float[np.ndarray, "queries dim"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Float[np.ndarray, "queries classes"]:
    """`knn_scores` of any number of queries; fewer labelled images than `k` vote all of them."""
    parts = [queries[start : start + _QUERIES_PER_CALL] for start in range(0, len(queries), _QUERIES_PER_CALL)]
    settings = {"num_classes": num_classes, "k": min(k, len(labelled)), "temperature": temperature}
    return np.concatenate([np.asarray(knn_scores(labelled, labels, part, **settings)) for part in parts])
