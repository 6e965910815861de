"""The similarity loss of SimSiam and the classification losses of the evaluations."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from simsiam_jax.errors import require

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
    *outputs: Float[Array, "batch dim"], stop_gradient: bool = True, symmetric: bool = True
) -> Float[Array, ""]:
    """Equation (3): D(p1, stopgrad z2) / 2 + D(p2, stopgrad z1) / 2, and its form for more than two views.

    With K views it is the mean over the views i of D(p_i, stopgrad t_i), where t_i is the mean of the other views' z
    (FastSiam, Pototzky et al. 2022). Differs from FastSiam: each z is normalised to length 1 before the mean is taken,
    so that all views count alike. SimSiam's sections 4.1 and 4.6 take away the stop-gradient and the symmetry.

    Args:
      *outputs: The predictor's outputs p of the K views, then the projector's outputs z of the same views, which are
        the targets: p1, p2, z1, z2 for two views.
      stop_gradient: Whether no gradient reaches z.
      symmetric: Whether all K terms count, or the first alone, whole.

    Returns:
      A float32 scalar in -1..1.

    Raises:
      InputError: For an odd number of arrays, a single view, or arrays of several shapes.
    """
    views = len(outputs) // 2
    require(
        views > 1 and len(outputs) % 2 == 0,
        f"simsiam_loss was given {len(outputs)} arrays: give p of every view, then z of every view; p1, p2, z1, z2",
    )
    shapes = [each.shape for each in outputs]
    require(len(set(shapes)) == 1, f"simsiam_loss was given the shapes {shapes}: p and z must have one [batch, dim]")
    p, z = outputs[:views], outputs[views:]
    if stop_gradient:
        z = jax.lax.stop_gradient(z)

    def term(view: int) -> Float[Array, ""]:
        return negative_cosine_similarity(p[view], _mean_direction(*z[:view], *z[view + 1 :]))

    if not symmetric:
        return term(0)
    share = 1 / views
    return sum((share * term(view) for view in range(1, views)), share * term(0))


def _mean_direction(*vectors: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """The mean of the vectors' directions; a single one comes back as it is, since D does not depend on its length."""
    if len(vectors) == 1:
        return vectors[0]
    return sum(map(l2_normalize, vectors[1:]), l2_normalize(vectors[0])) / len(vectors)


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
