"""SimSiam's image operations as batched, stateless functions of arrays, in torchvision's semantics.

Images are float32 in 0..1, NHWC, RGB. No operation draws random numbers: each takes its parameters, one value for each
image, so that it can be tested on fixed ones; `views.py` draws them. Nothing gathers: crop, resize and flip are
products with small matrices, the blur is a sum of shifted images, and the rest works pixel by pixel.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Bool, Float, Int

CROP_TRIES = 10
"""How often RandomResizedCrop draws a box before it falls back to a central one."""

CROP_NUMBERS = 2 * CROP_TRIES + 2
"""How many uniform numbers `crop_boxes` takes for an image: an area and a ratio for each try, then top and left."""

# ITU-R 601-2 luma, rounded as torchvision rounds it.
LUMA = (0.2989, 0.587, 0.114)

# A device's default may be TF32 or bfloat16, whose 8 to 11 bits cost up to a grey level; the products are too
# small to be worth that.
PRECISION = Precision.HIGHEST

Images = Float[Array, "batch height width 3"]


def crop_boxes(
    numbers: Float[Array, "batch numbers"],
    *,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int[Array, "batch 4"]:
    """Boxes (top, left, height, width), drawn as by torchvision's `RandomResizedCrop.get_params`.

    Ten tries of an area uniform in `scale` and a ratio log-uniform in `ratio`; the first box that fits into
    the image is placed uniformly. Where none fits, the largest central box of an allowed ratio is taken.

    Args:
      numbers: `CROP_NUMBERS` uniform numbers in 0..1 for each image.
      height: Height of the source images in pixels.
      width: Width of the source images in pixels.
      scale: Smallest and largest area of a box as a fraction of the image's. It may exceed 1: some tries still fit.
      ratio: Smallest and largest width / height of a box in pixels.

    Returns:
      Boxes in whole pixels. Every box lies inside the image and holds at least one pixel.
    """
    tries = numbers[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + (high - low) * tries[..., 1])
    # Both languages round half to even, so the boxes agree with torchvision's to the pixel.
    heights = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)

    first = fits & (jnp.cumsum(fits, axis=1) == 1)  # One-hot over the tries, or all false.
    found = first.any(axis=1)
    central_height, central_width = _central_box(height, width, ratio)
    box_height = jnp.where(found, (heights * first).sum(axis=1), central_height)
    box_width = jnp.where(found, (widths * first).sum(axis=1), central_width)

    def place(number: Float[Array, "batch"], room: Int[Array, "batch"]) -> Int[Array, "batch"]:
        # The minimum guards the product's rounding: a number just below 1 must not become room + 1.
        return jnp.minimum((number * (room + 1)).astype(jnp.int32), room)

    room_above, room_left = height - box_height, width - box_width
    top = jnp.where(found, place(numbers[:, -2], room_above), room_above // 2)
    left = jnp.where(found, place(numbers[:, -1], room_left), room_left // 2)
    return jnp.stack([top, left, box_height, box_width], axis=1)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose ratio is allowed: torchvision's fallback."""
    if width / height < ratio[0]:
        return max(round(width / ratio[0]), 1), width
    if width / height > ratio[1]:
        return height, max(round(height * ratio[1]), 1)
    return height, width


def resize_filters(
    start: Int[Array, "batch"], length: Int[Array, "batch"], input_size: int, output_size: int
) -> Float[Array, "batch {output_size} {input_size}"]:
    """Antialiased bilinear resampling of the pixels [start, start + length) along one axis, as matrices.

    The triangle filter of PIL's and torchvision's `antialias=True`: a tent one source pixel wide to each side
    of an output pixel's centre, or one output pixel where that is wider.

    Args:
      start: First source pixel of each box.
      length: Length of each box in source pixels, at least 1.
      input_size: Length of the source's whole axis in pixels.
      output_size: Length of the output's axis in pixels.

    Returns:
      Matrices whose rows sum to 1 and are zero outside the box.
    """
    start, length = start[:, None, None], length[:, None, None]
    pixels = jnp.arange(input_size) - start
    outputs = jnp.arange(output_size)[:, None]
    # Distances between centres in units of 1 / (2 output_size) source pixels are whole numbers, hence exact.
    distance = jnp.abs((2 * pixels + 1) * output_size - (2 * outputs + 1) * length)
    weights = jnp.maximum(0, 2 * jnp.maximum(length, output_size) - distance)
    # Without the mask the crop would see pixels that were cut away, which torchvision's does not.
    weights = jnp.where((pixels >= 0) & (pixels < length), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def crop_and_resize(
    images: Images, boxes: Int[Array, "batch 4"], flips: Bool[Array, "batch"], output_size: int
) -> Float[Array, "batch {output_size} {output_size} 3"]:
    """Cuts out boxes, resizes them (bilinear, antialiased) and mirrors some, as `rows @ image @ columns.T`.

    Args:
      images: Images with values of any range.
      boxes: Boxes (top, left, height, width) in pixels, inside the image.
      flips: Which results are mirrored left to right, by reversing the column filter.
      output_size: Height and width of the results in pixels.
    """
    _, height, width, _ = images.shape
    top, left, box_height, box_width = boxes.T
    rows = resize_filters(top, box_height, height, output_size)
    columns = resize_filters(left, box_width, width, output_size)
    columns = jnp.where(flips[:, None, None], columns[:, ::-1], columns)
    return _filter_both(images, rows, columns)


def _filter_both(
    images: Images,
    rows: Float[Array, "batch output_height height"],
    columns: Float[Array, "batch output_width width"],
) -> Float[Array, "batch output_height output_width 3"]:
    images = jnp.einsum("boh,bhwc->bowc", rows, images, precision=PRECISION)
    return jnp.einsum("bpw,bowc->bopc", columns, images, precision=PRECISION)


def resize_and_centre_crop(images: Images, output_size: int) -> Float[Array, "batch {output_size} {output_size} 3"]:
    """Resizes the shorter side and crops the centre, as torchvision's antialiased `Resize` and `CenterCrop`.

    Args:
      images: Images with values of any range.
      output_size: Height and width of the results in pixels.
    """
    _, height, width, _ = images.shape
    if height == width == output_size:
        return images
    shorter = min(height, width)

    def axis_filter(size: int) -> Float[Array, "output input"]:
        resized = output_size * size // shorter
        first = round((resized - output_size) / 2)
        filters = resize_filters(jnp.array([0]), jnp.array([size]), size, resized)
        return filters[0, first : first + output_size]

    # One filter serves the whole batch, so no batch axis on the matrices.
    images = jnp.einsum("oh,bhwc->bowc", axis_filter(height), images, precision=PRECISION)
    return jnp.einsum("pw,bowc->bopc", axis_filter(width), images, precision=PRECISION)


def greyscale(images: Images) -> Images:
    """Grey images with three equal channels, as torchvision's `rgb_to_grayscale`."""
    return jnp.broadcast_to(_luma(images), images.shape)


def _luma(images: Images) -> Float[Array, "batch height width 1"]:
    red, green, blue = images[..., 0:1], images[..., 1:2], images[..., 2:3]
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _each(values: Array) -> Array:
    """One value for each image, shaped to broadcast over its pixels."""
    return values[:, None, None, None]


def _blend(images: Images, other: Array, factor: Float[Array, "batch"]) -> Images:
    """Interpolates from `other` (factor 0) to the images (factor 1) and beyond, clamped to 0..1."""
    factor = _each(factor)
    return jnp.clip(factor * images + (1 - factor) * other, 0.0, 1.0)


def adjust_brightness(images: Images, factor: Float[Array, "batch"]) -> Images:
    """Scales images as torchvision's `adjust_brightness`: factor 0 gives black, 1 the image; clamped to 0..1."""
    return jnp.clip(images * _each(factor), 0.0, 1.0)


def adjust_contrast(images: Images, factor: Float[Array, "batch"]) -> Images:
    """Changes contrast as torchvision's `adjust_contrast`: factor 0 gives the mean luma, 1 the image; in 0..1."""
    _, height, width, _ = images.shape
    # The luma of the mean colour is the mean luma, and has a third of the values to weigh.
    colour = _pairwise_sum(_pairwise_sum(images, axis=1), axis=2) / (height * width)
    return _blend(images, _luma(colour), factor)


def _pairwise_sum(images: Images, axis: int) -> Float[Array, "batch _ _ 3"]:
    """The sum along an axis, kept with length 1, by adding halves.

    XLA's own reduction groups the terms by the size of the batch. A pixel's last bit would then depend on how many
    images it is computed with. It is also several times as slow here on a CPU.
    """
    while (size := images.shape[axis]) > 1:
        half = size // 2
        lower = jax.lax.slice_in_dim(images, 0, half, axis=axis)
        upper = jax.lax.slice_in_dim(images, half, 2 * half, axis=axis)
        odd = jax.lax.slice_in_dim(images, 2 * half, size, axis=axis)
        images = jnp.concatenate([lower + upper, odd], axis=axis) if size % 2 else lower + upper
    return images


def adjust_saturation(images: Images, factor: Float[Array, "batch"]) -> Images:
    """Changes saturation as torchvision's `adjust_saturation`: factor 0 gives grey, 1 the image; clamped to 0..1."""
    return _blend(images, _luma(images), factor)


def adjust_hue(images: Images, shift: Float[Array, "batch"]) -> Images:
    """Rotates the hue of the HSV form, as torchvision's `adjust_hue`; value and saturation stay.

    With value v, chroma c = v s and hue h in sixths of the circle, a channel is v - c clip(2 - |d|, 0, 1), d
    being the distance on the circle between h and the hue opposite to the channel: the usual six cases in one
    formula, without a table.

    Args:
      images: Images in 0..1.
      shift: Rotation of each image's hue in turns, -0.5..0.5.
    """
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma == 0, 1.0, chroma)  # Grey has no hue: any will do, as its chroma is 0.
    hue = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * shift[:, None, None]

    def channel(opposite: float) -> Float[Array, "batch height width"]:
        distance = hue - opposite
        distance = distance - 6 * jnp.round(distance / 6)  # This is ten times as fast as jnp.mod on a CPU.
        return value - chroma * jnp.clip(2 - jnp.abs(distance), 0.0, 1.0)

    return jnp.stack([channel(3.0), channel(5.0), channel(1.0)], axis=-1)


ColourOperation = Callable[[Array, Array], Array]


def colour_jitter(
    images: Images,
    operations: Sequence[ColourOperation],
    factors: Float[Array, "batch operations"],
    order: Int[Array, "operations"],
) -> Images:
    """Applies colour operations one after another, as torchvision's `ColorJitter`.

    Differs from torchvision: one order serves the whole batch. A scalar picks the operation at each position, so that
    only one runs there. With an order for each image, all operations would run at every position.

    Args:
      images: Images in 0..1.
      operations: Functions of the images and one factor for each image.
      factors: Factors of each image, a column for each of `operations`.
      order: Index of the operation at each position.
    """

    def branch(column: int) -> Callable[[Array], Array]:
        return lambda x: operations[column](x, factors[:, column])

    branches = [branch(column) for column in range(len(operations))]
    for position in range(len(operations)):
        images = jax.lax.switch(order[position], branches, images)
    return images


def gaussian_blur(images: Images, sigma: Float[Array, "batch"], kernel_size: int) -> Images:
    """Blurs images as torchvision's `gaussian_blur`, with a sigma for each image and mirrored edges.

    It is a sum of shifted images: at 96 pixels six times as fast on a CPU as products with banded matrices.

    Args:
      images: Images with values of any range.
      sigma: Standard deviation of each image's blur in pixels, positive.
      kernel_size: Odd width of the kernel in pixels, less than twice the shorter side; 1 leaves the images as they are.
    """
    if kernel_size == 1:
        return images
    half = kernel_size // 2
    taps = jnp.exp(-0.5 * (jnp.arange(-half, half + 1) / sigma[:, None]) ** 2)  # [batch, kernel]
    taps = taps / taps.sum(axis=1, keepdims=True)
    return _blur_axis(_blur_axis(images, taps, axis=1), taps, axis=2)


def _blur_axis(images: Images, taps: Float[Array, "batch kernel"], axis: int) -> Images:
    kernel_size, size = taps.shape[1], images.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (kernel_size // 2, kernel_size // 2)
    # The barriers keep XLA from computing the padding, and what came before it, again for every tap.
    images = jax.lax.optimization_barrier(images)
    padded = jax.lax.optimization_barrier(jnp.pad(images, padding, mode="reflect"))
    # Width and channels as one axis make long contiguous lines, in which the next column is 3 values away.
    lines = padded.reshape(*padded.shape[:2], -1)  # [batch, height, 3 width]
    step = 3 if axis == 2 else 1
    blurred = jnp.zeros(())
    for tap in range(kernel_size):
        shifted = jax.lax.slice_in_dim(lines, tap * step, (tap + size) * step, axis=axis)
        blurred = blurred + taps[:, tap, None, None] * shifted
    return blurred.reshape(images.shape)


def normalise(images: Images, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Images:
    """Normalises each channel: (image - mean) / std."""
    return (images - jnp.array(mean)) / jnp.array(std)
