"""The similarity loss of SimSiam and the classification loss of the evaluations."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

_SMALLEST_NORM = 1e-12


def l2_normalize(x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
    """x / |x| along the last axis in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST_NORM**2))


def negative_cosine_similarity(p: Float[Array, "batch dim"], z: Float[Array, "batch dim"]) -> Float[Array, ""]:
    """Equation (2): the mean over the batch of -<p/|p|, z/|z|>, in -1..1.

    The gradient flows into both arguments; `simsiam_loss` is where it is stopped.

    Args:
      p: Predictions, of any float type.
      z: Targets, of any float type.

    Returns:
      A float32 scalar.
    """
    return -jnp.mean(jnp.sum(l2_normalize(p) * l2_normalize(z), axis=-1))


def simsiam_loss(
    p1: Float[Array, "batch dim"],
    p2: Float[Array, "batch dim"],
    z1: Float[Array, "batch dim"],
    z2: Float[Array, "batch dim"],
) -> Float[Array, ""]:
    """Equation (3): D(p1, stopgrad z2) / 2 + D(p2, stopgrad z1) / 2.

    Args:
      p1: The predictor's output for the first view.
      p2: The same for the second.
      z1: The projector's output for the first view; no gradient reaches it.
      z2: The same for the second.

    Returns:
      A float32 scalar in -1..1.
    """
    first = negative_cosine_similarity(p1, jax.lax.stop_gradient(z2))
    second = negative_cosine_similarity(p2, jax.lax.stop_gradient(z1))
    return 0.5 * first + 0.5 * second


def cross_entropy(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """The mean softmax cross-entropy in nats, for integer labels in 0..classes-1."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return jnp.mean(losses)
