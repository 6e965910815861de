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
    labels: Int[Array, " bank"],
    queries: Float[Array, "queries dim"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, "queries classes"]:
    """Scores of each class: the sum of exp(cosine / temperature) over its share of the k nearest of the bank.

    Args:
      bank: Features of labelled images, in any scale.
      labels: Their classes, 0..num_classes-1.
      queries: Features to classify.
      num_classes: Number of classes.
      k: Neighbours that vote, at most the size of the bank.
      temperature: Of the weights, positive.
    """
    cosine = l2_normalize(queries) @ l2_normalize(bank).T
    nearest, rows = jax.lax.top_k(cosine, k)
    # Relative to the nearest: the same classes win, and no small temperature overflows.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    votes = jax.nn.one_hot(labels[rows], num_classes)
    return jnp.einsum("qk,qkc->qc", weights, votes)


def knn_top1(
    bank: Float[np.ndarray, "bank dim"],
    bank_labels: Int[np.ndarray, " bank"],
    queries: Float[np.ndarray, "queries dim"],
    query_labels: Int[np.ndarray, " queries"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Top-1 accuracy in 0..1 of the queries; a bank smaller than `k` votes as a whole."""
    k = min(k, len(bank))
    correct = 0
    for start in range(0, len(queries), _QUERIES_PER_CALL):
        part = slice(start, start + _QUERIES_PER_CALL)
        scores = knn_scores(bank, bank_labels, queries[part], num_classes=num_classes, k=k, temperature=temperature)
        correct += int(np.sum(np.argmax(np.asarray(scores), axis=-1) == query_labels[part]))
    return correct / len(queries)
