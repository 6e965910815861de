"""The weighted nearest-neighbour classifier of Wu et al. (2018), as SimSiam monitors with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simsiam_jax.losses import l2_normalize

_QUERIES_PER_CALL = 512


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def knn_scores(
    bank: Float[Array, "bank dim"],
    labels: Int[Array, " bank"] | Int[Array, "bank classes"],
    queries: Float[Array, "queries dim"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, "queries classes"]:
    """What the k nearest of the bank say, each with the weight exp(cosine / temperature).

    Args:
      bank: Features of labelled images, in any scale.
      labels: Their classes, 0..num_classes-1; or their attributes, 1, 0, or -1 where not known.
      queries: Features to classify.
      num_classes: Number of classes or attributes.
      k: Neighbours that vote, at most the size of the bank.
      temperature: Of the weights, positive.

    Returns:
      The weight of each class; or each attribute's share, 0..1, of the weight of the neighbours of which it is known,
      0.5 where it is known of none.
    """
    cosine = l2_normalize(queries) @ l2_normalize(bank).T
    nearest, rows = jax.lax.top_k(cosine, k)
    # Relative to the nearest: the same classes win, and no small temperature overflows.
    # Not nearest[:, :1]: XLA would merge that slice with top_k's own, and sort the whole bank (20 times slower on CPU).
    weights = jnp.exp((nearest - nearest.max(axis=1, keepdims=True)) / temperature)
    if labels.ndim == 1:
        votes = jax.nn.one_hot(labels[rows], num_classes)
        return jnp.einsum("qk,qkc->qc", weights, votes)
    values = labels[rows]  # [queries, k, attributes]
    present, known = (jnp.einsum("qk,qka->qa", weights, chosen) for chosen in (values == 1, values >= 0))
    return jnp.where(known > 0, present / jnp.where(known > 0, known, 1.0), 0.5)


def knn_outputs(
    bank: Float[np.ndarray, "bank dim"],
    bank_labels: Int[np.ndarray, " bank"] | Int[np.ndarray, "bank classes"],
    queries: Float[np.ndarray, "queries dim"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Float[np.ndarray, "queries classes"]:
    """`knn_scores` of any number of queries; a bank smaller than `k` votes as a whole."""
    parts = [queries[start : start + _QUERIES_PER_CALL] for start in range(0, len(queries), _QUERIES_PER_CALL)]
    settings = {"num_classes": num_classes, "k": min(k, len(bank)), "temperature": temperature}
    return np.concatenate([np.asarray(knn_scores(bank, bank_labels, part, **settings)) for part in parts])
