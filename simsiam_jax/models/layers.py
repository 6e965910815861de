"""The layers of all backbones: convolution, batch normalisation, ReLU, max pooling and stochastic depth."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from simsiam_jax.models import cpu

# The share of the old running statistics that each batch keeps. What Flax calls 0.9 PyTorch calls a momentum of 0.1.
BATCH_NORM_MOMENTUM = 0.9


@jax.custom_vjp
def relu(x: Any) -> Any:
    """max(x, 0), whose gradient at 0 is 0. For the gradient, a CPU stores the result and does not compute it again."""
    return jnp.maximum(x, 0)


def _relu_forward(x: Any) -> Any:
    kept = cpu.on_cpu(cpu.stored, lambda x: x, jnp.maximum(x, 0))
    return kept, kept


relu.defvjp(_relu_forward, lambda kept, gradient: (jnp.where(kept > 0, gradient, 0),))


@jax.custom_vjp
def silu(x: Any) -> Any:
    """x times the logistic function of x (Elfwing et al. 2018). For the gradient, x alone is kept."""
    return x * jax.nn.sigmoid(x)


def _silu_backward(x: Any, gradient: Any) -> tuple[Any]:
    whole = x.astype(jnp.float32)
    share = jax.nn.sigmoid(whole)
    return ((gradient * share * (1 + whole * (1 - share))).astype(x.dtype),)


silu.defvjp(lambda x: (silu(x), x), _silu_backward)


@jax.custom_vjp
def gelu(x: Any) -> Any:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016). For the gradient, x alone is kept."""
    return nn.gelu(x, approximate=False)


def _gelu_backward(x: Any, gradient: Any) -> tuple[Any]:
    whole = x.astype(jnp.float32)
    share = 0.5 * lax.erfc(-whole * math.sqrt(0.5))
    density = jnp.exp(-0.5 * jnp.square(whole)) / math.sqrt(2 * math.pi)
    return ((gradient * (share + whole * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Callable[..., jax.Array],
    dtype: Any,
    name: str | None = None,
) -> nn.Dense:
    """A fully connected layer over the last axis.

    Args:
      features: Number of output channels.
      use_bias: Whether to add a bias to each channel.
      kernel_init: Initialisation of the weights.
      dtype: Compute type; parameters are float32.
      name: Name of the parameters.
    """
    return nn.Dense(features, use_bias, dtype, kernel_init=kernel_init, dot_general=cpu.dense_product, name=name)


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Callable[..., jax.Array] | None = None,
    dtype: Any,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution.

    Args:
      features: Number of output channels.
      kernel: Side of the kernel in pixels.
      stride: Vertical and horizontal stride in pixels.
      padding: Number of zeros on each side in pixels; None keeps the size at stride 1.
      groups: Number of groups of channels that do not see each other; as many as channels make it depthwise.
      use_bias: Whether a bias is added.
      kernel_init: Initialisation of the kernel. None is He's by the fan-out of a group (He et al. 2015), as torchvision
        has it for ResNet and timm for EfficientNet.
      dtype: Compute type; parameters are float32.
      name: Name of the module.

    Returns:
      A module that maps [batch, height, width, channels] to [batch, out height, out width, features].
    """
    around = kernel // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((around, around), (around, around)),
        feature_group_count=groups,
        use_bias=use_bias,
        dtype=dtype,
        # Flax counts the outputs of all groups as fan-out; only one group's see an input.
        kernel_init=kernel_init or nn.initializers.variance_scaling(2.0 * groups, "fan_out", "truncated_normal"),
        conv_general_dilated=cpu.convolve,
        name=name,
    )


class BatchNorm(nn.Module):
    """Batch normalisation as in PyTorch (Ioffe and Szegedy 2015), with statistics in float32.

    It differs from `flax.linen.BatchNorm` in the running variance. That follows the unbiased variance of the batch,
    which is n / (n - 1) times the variance that the batch is normalised by. On the last maps of these networks n is
    small enough to matter.

    Attributes:
      train: Whether the batch's own statistics are used, and the running ones updated.
      dtype: Compute type of the output.
      axis_name: Axis of the enclosing `pmap` over which statistics are taken, or None outside of one.
      affine: Whether scale and bias are learned.
    """

    train: bool
    dtype: Any = jnp.float32
    axis_name: str | None = None
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Normalises each channel over all other axes."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if not self.train:
            return _scaled(x, running_mean.value, running_var.value, scale, bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        normalised: Any = _normalised(x, scale, bias, self.dtype, axis_name)
        y, mean, var = normalised
        if not self.is_initializing():
            count = x.size // channels * (lax.psum(1, axis_name) if axis_name else 1)
            keep, unbiased = BATCH_NORM_MOMENTUM, var * (count / max(count - 1, 1))
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y


def _inverse_deviation(var: jax.Array) -> jax.Array:
    return lax.rsqrt(var + 1e-5)


def _scaled(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """One multiplication and one addition for each value, in float32."""
    factor = scale * _inverse_deviation(var)
    return x * factor + (bias - mean * factor)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: Any, axis_name: str | None) -> Any:
    """x normalised by its own statistics, rounded once to `dtype`; the mean and the biased variance, in float32.

    The gradient takes one pass for its two sums and one for the result, as in PyTorch. Plain differentiation of the
    mean and the mean square takes a third. No gradient flows into the statistics, which only the running ones take.
    """
    return _normalised_forward(x, scale, bias, dtype, axis_name)[0]


def _mean_over_devices(values: jax.Array, axis_name: str | None) -> jax.Array:
    return values if axis_name is None else lax.pmean(values, axis_name)


def _normalised_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: Any, axis_name: str | None) -> Any:
    whole, others = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    moments = jnp.stack([jnp.mean(whole, others), jnp.mean(jnp.square(whole), others)])
    mean, square = _mean_over_devices(moments, axis_name)
    # Rounding can leave a constant channel with a variance just below zero.
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    return (_scaled(x, mean, var, scale, bias).astype(dtype), mean, var), (x, scale, mean, var)


def _normalised_backward(dtype: Any, axis_name: str | None, kept: Any, gradients: Any) -> Any:
    x, scale, mean, var = kept
    gradient, others = gradients[0].astype(jnp.float32), tuple(range(x.ndim - 1))
    inverse = _inverse_deviation(var)
    total, with_x = jnp.sum(gradient, others), jnp.sum(gradient * x, others)
    # The gradient of scale: the sum of the gradient times the normalised x, (x - mean) / deviation.
    with_normal = (with_x - mean * total) * inverse
    # Ioffe and Szegedy 2015, section 3: the gradient without what the mean and the variance take away.
    sums = jnp.stack([total, with_normal])
    of_mean, of_var = _mean_over_devices(sums, axis_name) / (x.size // x.shape[-1])
    factor, of_x = scale * inverse, -scale * inverse * inverse * of_var
    inputs = gradient * factor + (x * of_x - (factor * of_mean + mean * of_x))
    return inputs.astype(x.dtype), with_normal, total


_normalised.defvjp(_normalised_forward, _normalised_backward)


def drop_path(
    x: Float[Array, "batch *rest"], rate: float, keys: Key[Array, "batch"] | None, block: int
) -> Float[Array, "batch *rest"]:
    """Stochastic depth (Huang et al. 2016): drops a block's residual for whole images, and scales up the others'.

    Args:
      x: Residual of a block.
      rate: Probability that an image loses the residual, 0..1.
      keys: One key for each image, so that what is dropped depends on no other image and no device; None drops nothing.
      block: Number of the residual, because each has draws of its own.

    Returns:
      The residual, zero for some images and divided by 1 - `rate` for the others.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, block), 1 - rate))(keys)
    return x * (kept / (1 - rate)).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def max_pool_3x3_by_2(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """The 3×3 maximum with stride 2 and a border of one pixel that never wins (torchvision's ResNet).

    It is computed as a maximum along one axis and then along the other. XLA writes the gradient of lax's own pooling as
    a scatter. On a CPU that took a sixth of a ResNet-18 step; on a GPU it moves more bytes. Among equal pixels the
    gradient goes to the first in reading order, as in lax and PyTorch.
    """
    if cpu.is_lax_form():
        border: Any = ((1, 1), (1, 1))  # flax declares only the names of paddings
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=border)
    return _max_of_3_by_2(_max_of_3_by_2(x, 2), 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_3_by_2(x: jax.Array, axis: int) -> jax.Array:
    before, at, after = _taps(x, axis)
    return jnp.maximum(jnp.maximum(before, at), after)


def _taps(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three pixels that each output sees of a window of 3 with stride 2: one before its own, its own, one after."""
    lowest = jnp.array(-jnp.inf, x.dtype)
    if x.shape[axis] % 2:
        x = lax.pad(x, lowest, _edges(x, axis, 0, 1))
    at, after = (lax.slice_in_dim(x, first, None, 2, axis) for first in (0, 1))
    return lax.pad(after, lowest, _edges(x, axis, 1, -1)), at, after


def _edges(x: jax.Array, axis: int, low: int, high: int) -> list[tuple[int, int, int]]:
    """The argument of `lax.pad` that adds pixels at the ends of one axis, or takes them away if negative."""
    return [(low, high, 0) if each == axis else (0, 0, 0) for each in range(x.ndim)]


def _max_forward(x: jax.Array, axis: int) -> Any:
    highest = _max_of_3_by_2(x, axis)
    return highest, (x, highest)


def _max_backward(axis: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    x, highest = kept
    before, at, _ = _taps(x, axis)
    won_before = before == highest
    won_at = (at == highest) & ~won_before
    none = jnp.zeros((), gradient.dtype)
    to_before = lax.pad(jnp.where(won_before, gradient, none), none, _edges(x, axis, -1, 1))
    to_after = jnp.where(won_before | won_at, none, gradient) + to_before
    # A pixel at an even place is a window's own. A pixel at an odd place lies after one window's and before the next's.
    pairs = jnp.stack([jnp.where(won_at, gradient, none), to_after], axis=axis + 1)
    flat = pairs.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return (lax.slice_in_dim(flat, 0, x.shape[axis], axis=axis),)


_max_of_3_by_2.defvjp(_max_forward, _max_backward)
