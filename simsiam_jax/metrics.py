"""Numbers that are reported: top-1 accuracy and the spread that betrays a collapse."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simsiam_jax.losses import l2_normalize

# Measured values by name, as result files hold them.
Numbers = dict[str, float | int]


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
