"""Convolution and batch normalisation as every backbone uses them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# The share of the old running statistics that each batch keeps. Flax's 0.9 is PyTorch's momentum of 0.1.
BATCH_NORM_MOMENTUM = 0.9

_NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """The convolution that all backbones go through: `lax.conv_general_dilated`, or what is faster here.

    On a CPU, XLA turns a convolution whose output is smaller than its kernel into one with the operands swapped,
    at a fiftieth of the usual speed; that is every 3×3 convolution on the 2×2 and 1×1 maps at the end of a
    small-image ResNet. There it is written as a sum of matrix products, equal up to rounding.

    Args:
      lhs: Images, [batch, height, width, channels].
      rhs: Kernel, [kernel height, kernel width, channels / groups, features].
      window_strides: Vertical and horizontal stride in pixels.
      padding: Zeros before and after, in pixels, for height and width.
      lhs_dilation: As in lax.
      rhs_dilation: As in lax.
      dimension_numbers: As in lax; NHWC is what the fast form takes.
      feature_group_count: As in lax.
      precision: As in lax.

    Returns:
      [batch, out height, out width, features].
    """
    plain = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ()))) and feature_group_count == 1
    nhwc = dimension_numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    if plain and nhwc and jax.default_backend() == "cpu" and _smaller_than_kernel(lhs, rhs, window_strides, padding):
        return sum_of_matrix_products(lhs, rhs, window_strides, padding, precision=precision)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    return (size + sum(padding) - kernel) // stride + 1


def _smaller_than_kernel(lhs, rhs, strides, padding) -> bool:
    return any(
        _output_size(lhs.shape[axis + 1], rhs.shape[axis], strides[axis], padding[axis]) < rhs.shape[axis]
        for axis in (0, 1)
    )


def sum_of_matrix_products(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
) -> jax.Array:
    """A 2-D NHWC convolution as one matrix product for each kernel element, summed.

    Each product covers only the outputs whose input lies inside the image, so nothing is multiplied by the
    padding: on a 2×2 map a 3×3 kernel needs 16 products of a pixel and a matrix instead of 36.
    """
    sizes = [_output_size(lhs.shape[axis + 1], rhs.shape[axis], strides[axis], padding[axis]) for axis in (0, 1)]
    total = jnp.zeros((lhs.shape[0], *sizes, rhs.shape[3]), lhs.dtype)
    for row in range(rhs.shape[0]):
        rows = _outputs_inside(row, lhs.shape[1], sizes[0], strides[0], padding[0][0])
        for col in range(rhs.shape[1]):
            cols = _outputs_inside(col, lhs.shape[2], sizes[1], strides[1], padding[1][0])
            if rows is None or cols is None:
                continue
            pixels = lhs[:, rows.inputs, cols.inputs, :]
            product = jnp.einsum("bhwc,cf->bhwf", pixels, rhs[row, col], precision=precision)
            total = total + jnp.pad(product, ((0, 0), rows.around, cols.around, (0, 0)))
    return total


class _Inside(NamedTuple):
    """The outputs of one kernel row (or column) whose input is a pixel: their inputs, and how many lie around."""

    inputs: slice
    around: tuple[int, int]


def _outputs_inside(offset: int, size: int, outputs: int, stride: int, before: int) -> _Inside | None:
    # Output o reads input o * stride + offset - before, which must lie in 0..size-1.
    first = max(0, math.ceil((before - offset) / stride))
    last = min(outputs - 1, (size - 1 + before - offset) // stride)
    if last < first:
        return None
    start = first * stride + offset - before
    stop = last * stride + offset - before + 1
    return _Inside(slice(start, stop, stride), (first, outputs - 1 - last))


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    dtype: Any,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution without bias, He-initialised by its fan-out (He et al. 2015, as torchvision's ResNet).

    Args:
      features: Output channels.
      kernel: Side of the kernel in pixels.
      stride: In pixels, both ways.
      padding: Zeros on each side in pixels; None keeps the size at stride 1.
      dtype: Compute type; parameters are float32.
      name: The module's name.
    """
    around = kernel // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((around, around), (around, around)),
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
        conv_general_dilated=convolve,
        name=name,
    )


def batch_norm(
    *, train: bool, dtype: Any, axis_name: str | None, affine: bool = True, name: str | None = None
) -> nn.BatchNorm:
    """Batch normalisation with float32 statistics, synchronised over `axis_name` where there is one.

    Args:
      train: Whether the batch's own statistics are used (and the running ones updated).
      dtype: Compute type of the output.
      axis_name: The axis of the enclosing `pmap`, or None outside of one.
      affine: Whether scale and bias are learned.
      name: The module's name.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
        use_bias=affine,
        use_scale=affine,
        name=name,
    )


def max_pool_3x3_by_2(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """The 3×3 maximum with stride 2 and a border of one pixel that never wins (torchvision's ResNet)."""
    border: Any = ((1, 1), (1, 1))  # flax declares only the names of paddings
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=border)
