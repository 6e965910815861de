"""The similarity loss of SimSiam and the classification losses of the evaluations."""

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
    *,
    stop_gradient: bool = True,
    symmetric: bool = True,
) -> Float[Array, ""]:
    """Equation (3): D(p1, stopgrad z2) / 2 + D(p2, stopgrad z1) / 2.

    SimSiam's sections 4.1 and 4.6 take its two parts away.

    Args:
      p1: The predictor's output for the first view.
      p2: The predictor's output for the second view.
      z1: The projector's output for the first view; a target.
      z2: The projector's output for the second view; a target.
      stop_gradient: Whether no gradient reaches z.
      symmetric: Whether both terms count, or the first alone, whole.

    Returns:
      A float32 scalar in -1..1.
    """
    if stop_gradient:
        z1, z2 = jax.lax.stop_gradient((z1, z2))
    first = negative_cosine_similarity(p1, z2)
    return 0.5 * first + 0.5 * negative_cosine_similarity(p2, z1) if symmetric else first


def cross_entropy(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """The mean softmax cross-entropy in nats, for integer labels in 0..classes-1."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return jnp.mean(losses)


def binary_cross_entropy(
    logits: Float[Array, "batch attributes"], targets: Int[Array, "batch attributes"]
) -> Float[Array, ""]:
    """The mean binary cross-entropy in nats over the known entries (PAPER.md, "Fine-tuning").

    Args:
      logits: Logits of the attributes, of any float type.
      targets: 1, 0, or -1 where the attribute is not known.

    Returns:
      A float32 scalar; 0, with a zero gradient, where nothing is known.
    """
    known = targets >= 0
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets == 1)
    return jnp.sum(jnp.where(known, losses, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def classification_loss(
    logits: Float[Array, "batch outputs"], labels: Int[Array, " batch"] | Int[Array, "batch outputs"]
) -> Float[Array, ""]:
    """`cross_entropy` for labels [batch], `binary_cross_entropy` for labels [batch, attributes]."""
    return cross_entropy(logits, labels) if labels.ndim == 1 else binary_cross_entropy(logits, labels)
