"""XLA's slow paths on a CPU, and the forms that replace them there.

Every form has the value and the gradients of what it replaces, up to rounding. Speeds were measured with jaxlib 0.10.2.
"""

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

_LAX_EVERYWHERE = contextvars.ContextVar("lax_everywhere", default=False)


@contextlib.contextmanager
def lax_form() -> Iterator[None]:
    """A context in which traced programs use lax's own convolutions and poolings on a CPU too, for comparisons.

    Jax does not see the difference between contexts: a function that it has traced before stays as it was.
    """
    before = _LAX_EVERYWHERE.set(True)
    try:
        yield
    finally:
        _LAX_EVERYWHERE.reset(before)


def is_lax_form() -> bool:
    """Whether `lax_form` is open."""
    return _LAX_EVERYWHERE.get()


def on_cpu(form: Callable[..., jax.Array], usual: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """form(*operands) in a program for a CPU, and usual(*operands) in one for any other platform.

    What a program is lowered for decides, so one process can trace for a platform that it does not have.
    """
    return usual(*operands) if _LAX_EVERYWHERE.get() else lax.platform_dependent(*operands, cpu=form, default=usual)


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
    """The convolution of all backbones: `lax.conv_general_dilated`, or on a CPU a faster form of it.

    There XLA swaps the operands of a convolution whose output is smaller than its kernel. The result runs at a
    fiftieth of the usual speed. This concerns every 3×3 convolution on the 2×2 and 1×1 maps at the end of a ResNet for
    small images, and the gradient of the strided one before. These convolutions become sums of matrix products, and so
    do convolutions that cut an image into patches. Depthwise convolutions, which are slower still, become sums of
    shifted products.

    Args:
      lhs: Images, [batch, height, width, channels].
      rhs: Kernel, [kernel height, kernel width, channels / groups, features].
      window_strides: Vertical and horizontal stride in pixels.
      padding: Numbers of zeros before and after, in pixels, for height and width.
      lhs_dilation: Dilation of the images as in `lax.conv_general_dilated`; with one, lax computes.
      rhs_dilation: Dilation of the kernel as in `lax.conv_general_dilated`; with one, lax computes.
      dimension_numbers: Axes' meaning as in `lax.conv_general_dilated`; for other axes than NHWC, lax computes.
      feature_group_count: Number of groups of channels that do not see each other.
      precision: Precision of the products as in `lax.conv_general_dilated`.

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
    undilated = all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    nhwc = dimension_numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    if not (undilated and nhwc):
        return usual(lhs, rhs)
    form = _fastest(usual, lhs.shape, rhs.shape, tuple(window_strides), padding, feature_group_count, precision)
    if form is usual and lhs.dtype == jnp.float32:
        return usual(lhs, rhs)

    def summed_in_float32(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        # A convolution sums its products in float32, and so do its gradients; in bfloat16 each addition would round.
        total = form(lhs.astype(jnp.float32), rhs.astype(jnp.float32))
        return total.astype(lhs.dtype) if form is usual else _with_gradient_stored(total.astype(lhs.dtype))

    return on_cpu(summed_in_float32, usual, lhs, rhs)


def _fastest(
    usual: Callable[[jax.Array, jax.Array], jax.Array],
    lhs: tuple[int, ...],
    rhs: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    groups: int,
    precision: Any,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The form that is fastest on a CPU for operands of these shapes."""
    sizes, kernel = lhs[1:3], rhs[:2]
    whole = not any(size % stride for size, stride in zip((*sizes, *kernel), strides * 2, strict=True))
    smaller = any(_output_size(*each) < each[1] for each in zip(sizes, kernel, strides, padding, strict=True))
    if groups == lhs[-1] > 1:
        return functools.partial(sum_of_shifted_products, strides=strides, padding=padding)
    if groups > 1:
        return usual
    if whole and max(strides) > 1 and not any(map(any, padding)):
        return functools.partial(products_of_patches, strides=strides, padding=padding, precision=precision)
    if kernel == (1, 1) or smaller:
        return functools.partial(sum_of_matrix_products, strides=strides, padding=padding, precision=precision)
    return usual


def stored(x: jax.Array) -> jax.Array:
    """x divided by ones that XLA cannot see to be ones, for programs on a CPU.

    XLA computes a cheap value again wherever it is used. In the transposition at the start of a kernel's gradient, a
    batch norm and a ReLU take several times as long as reading their stored result. A division is too expensive for
    XLA to repeat. An `optimization_barrier` would not help: on a CPU it is gone before XLA decides.
    """
    return x / jnp.where(jnp.isnan(x), jnp.nan, 1.0).astype(x.dtype)


@jax.custom_vjp
def _with_gradient_stored(x: Any) -> Any:
    return x


_with_gradient_stored.defvjp(lambda x: (x, None), lambda _, gradient: (stored(gradient),))


def _output_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> int:
    return (size + sum(padding) - kernel) // stride + 1


def dense_product(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
) -> jax.Array:
    """The product of a transformer's dense layers: `lax.dot_general`, or on a CPU a form whose gradients are faster.

    Args:
      lhs: Rows of any shape, [..., channels].
      rhs: Weights, [channels, features]; both float32, or `lax.dot_general` computes.
      dimension_numbers: As `lax.dot_general` takes them: the last axis of `lhs` with the first of `rhs`.
      precision: Precision of the products as in `lax.dot_general`.

    Returns:
      [..., features].
    """
    usual = functools.partial(lax.dot_general, dimension_numbers=dimension_numbers, precision=precision)
    if lhs.dtype != jnp.float32 or rhs.dtype != jnp.float32:
        return usual(lhs, rhs)
    return on_cpu(functools.partial(product_of_rows, precision), usual, lhs, rhs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product_of_rows(precision: Any, rows: jax.Array, weights: jax.Array) -> jax.Array:
    """rows @ weights. For the weights' gradient no operand is transposed.

    XLA sums that gradient over one axis. Where the rows have several, it transposes an operand by a copy that jumps
    through the memory and computes again what led to each value: ten times the time of the product itself.

    Args:
      precision: Precision of the products as in `lax.dot_general`.
      rows: [..., channels].
      weights: [channels, features].

    Returns:
      [..., features].
    """
    return lax.dot(_flat(rows), weights, precision=precision).reshape(*rows.shape[:-1], weights.shape[1])


def _gradients_of_rows(
    precision: Any, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, weights = operands
    gradient = _flat(stored(gradient))
    of_rows = lax.dot_general(gradient, weights, (((1,), (1,)), ((), ())), precision=precision)
    of_weights = lax.dot_general(_flat(rows), gradient, (((0,), (0,)), ((), ())), precision=precision)
    return of_rows.reshape(rows.shape), of_weights


product_of_rows.defvjp(lambda *given: (product_of_rows(*given), given[1:]), _gradients_of_rows)


def _flat(rows: jax.Array) -> jax.Array:
    return rows.reshape(-1, rows.shape[-1])


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """Attention of all transformers: `jax.nn.dot_product_attention`, or on a CPU the same with heads before tokens.

    There each matrix of a product then lies in one piece. Forward and backward pass take three quarters of the time.

    Args:
      queries: [batch, tokens, heads, channels].
      keys: The same shape and type.
      values: The same shape and type.

    Returns:
      [batch, tokens, heads, channels]; the softmax is taken in float32.
    """
    return on_cpu(_attend_by_head, jax.nn.dot_product_attention, queries, keys, values)


def _attend_by_head(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    queries, keys, values = (
        rearrange(each, "batch token head channel -> batch head token channel") for each in (queries, keys, values)
    )
    scaled = queries / math.sqrt(queries.shape[-1])
    alike = jnp.einsum("bhqc,bhkc->bhqk", scaled, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(alike, axis=-1).astype(values.dtype)
    mixed = jnp.einsum("bhqk,bhkc->bhqc", weights, values)
    return rearrange(mixed, "batch head token channel -> batch token head channel")


def sum_of_matrix_products(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    precision: Any = None,
) -> jax.Array:
    """A 2-D NHWC convolution as one matrix product for each kernel element, summed.

    Each product covers only the outputs whose input lies inside the image, so nothing is multiplied by the padding:
    on a 2×2 map a 3×3 kernel needs 16 products of a pixel and a matrix instead of 36.

    Args:
      lhs: Images, [batch, height, width, channels].
      rhs: Kernel, [kernel height, kernel width, channels, features].
      strides: Vertical and horizontal stride in pixels.
      padding: Numbers of zeros before and after, in pixels, for height and width.
      precision: Precision of the products as in `lax.conv_general_dilated`.

    Returns:
      [batch, out height, out width, features].
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

    The pixels of each stride become channels, and the kernel then moves by one. A single matrix product is left where
    stride and kernel are equal. Arguments and result are those of `sum_of_matrix_products`.
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
      lhs: Images, [batch, height, width, channels].
      rhs: Kernel, [kernel height, kernel width, 1, channels × multiplier]; a channel's `multiplier` outputs are
        neighbours.
      strides: Vertical and horizontal stride in pixels.
      padding: Numbers of zeros before and after, in pixels, for height and width.

    Returns:
      [batch, out height, out width, channels × multiplier].
    """
    multiplier = rhs.shape[3] // lhs.shape[3]
    pixels = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    if multiplier > 1:
        pixels = jnp.repeat(pixels, multiplier, axis=-1)
    pixels = stored(pixels)
    sizes = [_output_size(lhs.shape[axis + 1], rhs.shape[axis], strides[axis], padding[axis]) for axis in (0, 1)]

    def seen_by(row: int, col: int) -> jax.Array:
        rows, cols = (slice(at, at + (size - 1) * stride + 1, stride)
                      for at, size, stride in zip((row, col), sizes, strides, strict=True))  # fmt: skip
        return pixels[:, rows, cols, :]

    kernel = [(row, col) for row in range(rhs.shape[0]) for col in range(rhs.shape[1])]
    return sum((seen_by(row, col) * rhs[row, col, 0] for row, col in kernel), jnp.zeros((), lhs.dtype))


class _Inside(NamedTuple):
    """The outputs for which a kernel row (or column) reads a pixel and no padding.

    Attributes:
      inputs: Rows (or columns) of the image that these outputs read.
      around: Numbers of other outputs before and after them.
    """

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
