"""XLA's slow paths on a CPU, and what replaces them."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")

FORMULATION = contextvars.ContextVar("formulation", default="fastest")


@contextlib.contextmanager
def _formulation(name: str) -> Iterator[None]:
    before = FORMULATION.set(name)
    try:
        yield
    finally:
        FORMULATION.reset(before)


def portable() -> contextlib.AbstractContextManager[None]:
    """While it is open, what is traced suits every platform: `convolve` leaves its choice to where the program runs.

    jax does not see the difference: a function that it has traced before stays as it was.
    """
    return _formulation("portable")


def plain() -> contextlib.AbstractContextManager[None]:
    """While it is open, what is traced is written with lax's own convolutions and poolings, to compare with.

    As for `portable`, a function that jax has traced before stays as it was.
    """
    return _formulation("plain")


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
    small-image ResNet, and the gradient of the strided one before. These are written as sums of matrix products,
    equal up to rounding; so are convolutions that cut an image into patches. Depthwise convolutions, slower still,
    are written as sums of shifted products.

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
    usual = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    form = FORMULATION.get()
    undilated = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    nhwc = dimension_numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    ours = form == "portable" or (form == "fastest" and jax.default_backend() == "cpu")
    if not (ours and undilated and nhwc):
        return usual(lhs, rhs)
    on_cpu = _on_cpu(usual, lhs.shape, rhs.shape, tuple(window_strides), padding, feature_group_count, precision)
    if form == "portable":
        return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=usual)
    return on_cpu(lhs, rhs)


def _on_cpu(
    usual: Callable[[jax.Array, jax.Array], jax.Array],
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    groups: int,
    precision: Any,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What is fastest on a CPU for operands of these shapes (measured with jaxlib 0.10.2)."""
    sizes, kernel = lhs[1:3], rhs[:2]
    whole = not any(size % stride for size, stride in zip((*sizes, *kernel), strides * 2, strict=True))
    smaller = any(_output_size(*each) < each[1] for each in zip(sizes, kernel, strides, padding, strict=True))
    if groups == lhs[-1] > 1:
        form = functools.partial(sum_of_shifted_products, strides=strides, padding=padding)
    elif groups > 1:
        return usual
    elif whole and max(strides) > 1 and not any(map(any, padding)):
        form = functools.partial(products_of_patches, strides=strides, padding=padding, precision=precision)
    elif kernel == (1, 1) or smaller:
        form = functools.partial(sum_of_matrix_products, strides=strides, padding=padding, precision=precision)
    else:
        form = usual

    def summed_in_float32(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        # As a convolution sums its products, its gradients' too; in bfloat16 each addition would round.
        total = form(lhs.astype(jnp.float32), rhs.astype(jnp.float32))
        return _with_gradient_computed_once(total.astype(lhs.dtype))

    return summed_in_float32


def computed_once(x: jax.Array) -> jax.Array:
    """x itself, on a CPU divided by ones that XLA cannot see to be ones.

    XLA computes what is cheap again wherever it is used. In the transposition that the gradient of a kernel begins
    with, a batch norm and a ReLU are several times as slow as reading their result; a division is too dear for that. An
    `optimization_barrier` is gone on a CPU before XLA gets there.
    """
    if FORMULATION.get() != "fastest" or jax.default_backend() != "cpu":
        return x
    return x / jnp.where(jnp.isnan(x), jnp.nan, 1.0).astype(x.dtype)


@jax.custom_vjp
def _with_gradient_computed_once(x: Any) -> Any:
    return x


_with_gradient_computed_once.defvjp(lambda x: (x, None), lambda _, gradient: (computed_once(gradient),))


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    return (size + sum(padding) - kernel) // stride + 1


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


def products_of_patches(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
) -> jax.Array:
    """A 2-D NHWC convolution whose kernel and image are whole numbers of strides, as in a transformer's patches.

    The pixels of each stride become channels, over which the kernel moves by one: where stride and kernel agree,
    a single matrix product is left.
    """
    rows, cols = strides
    pixels = rearrange(lhs, "b (h row) (w col) c -> b h w (row col c)", row=rows, col=cols)
    weights = rearrange(rhs, "(h row) (w col) c f -> h w (row col c) f", row=rows, col=cols)
    return sum_of_matrix_products(pixels, weights, (1, 1), padding, precision=precision)


def sum_of_shifted_products(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """A depthwise 2-D NHWC convolution as one elementwise product for each kernel element, summed.

    Args:
      lhs: [batch, height, width, channels].
      rhs: [kernel height, kernel width, 1, channels × multiplier]; each channel has `multiplier` outputs in a row.
      strides: Vertical and horizontal, in pixels.
      padding: Zeros before and after, in pixels, for height and width.
    """
    multiplier = rhs.shape[3] // lhs.shape[3]
    pixels = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    if multiplier > 1:
        pixels = jnp.repeat(pixels, multiplier, axis=-1)
    pixels = computed_once(pixels)
    sizes = [_output_size(lhs.shape[axis + 1], rhs.shape[axis], strides[axis], padding[axis]) for axis in (0, 1)]

    def seen_by(row: int, col: int) -> jax.Array:
        rows, cols = (slice(at, at + (size - 1) * stride + 1, stride)
                      for at, size, stride in zip((row, col), sizes, strides, strict=True))  # fmt: skip
        return pixels[:, rows, cols, :]

    kernel = [(row, col) for row in range(rhs.shape[0]) for col in range(rhs.shape[1])]
    return sum((seen_by(row, col) * rhs[row, col, 0] for row, col in kernel), jnp.zeros((), lhs.dtype))


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
