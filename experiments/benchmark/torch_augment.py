"""SimSiam's augmentation in PyTorch, batched on the device, in the semantics of `simsiam_jax.data.augment`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from simsiam_jax.settings.schema import ViewSpec

LUMA = (0.2989, 0.587, 0.114)
CROP_TRIES = 10
# The hues opposite to red, green and blue, in sixths of the circle.
OPPOSITE_HUES = (3.0, 5.0, 1.0)


class Draws(NamedTuple):
    """The random numbers of a batch's views: one value for each image, and one order for the batch.

    Attributes:
      boxes: Crops as (top, left, height, width) in pixels, float32 [batch, 4].
      flips: Which views are mirrored, bool [batch].
      jittered: Which views get the colour jitter, bool [batch].
      factors: Strengths of brightness, contrast, saturation and hue, float32 [batch, 4].
      order: The order of these four operations.
      grey: Which views become grey, bool [batch].
      blurred: Which views are blurred, bool [batch].
      sigma: Standard deviations of the blur in pixels, float32 [batch].
    """

    boxes: Any
    flips: Any
    jittered: Any
    factors: Any
    order: Sequence[int]
    grey: Any
    blurred: Any
    sigma: Any


class Augment:
    """Draws two views of a batch of uint8 images, with SimSiam's operations as batched functions on the device.

    Args:
      spec: How views are drawn.
      device: The device that holds the images.
      compiled: A function that compiles an operation. Each has its own call, as their order is drawn for each batch.
    """

    def __init__(
        self,
        spec: ViewSpec,
        device: Any,
        compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda each: each,
    ):
        self.spec = spec
        # They are made once, because sending a constant to a GPU waits for the GPU.
        constant = functools.partial(torch.tensor, device=device)
        strengths = (spec.brightness, spec.contrast, spec.saturation)
        self.low = constant([*(max(0.0, 1 - strength) for strength in strengths), -spec.hue])
        self.high = constant([*(1 + strength for strength in strengths), spec.hue])
        self.mean, self.std, self.opposite = (
            constant(values)[:, None, None] for values in (spec.mean, spec.std, OPPOSITE_HUES)
        )
        self.draw_numbers, self.crop, self.finish = compiled(self._draw), compiled(self._crop), compiled(self._finish)
        self.colour = [compiled(each) for each in (adjust_brightness, adjust_contrast, adjust_saturation, self._hue)]

    def __call__(self, images: Any) -> tuple[Any, Any]:
        """Both views, normalised float32 [batch, 3, size, size], channels last."""
        views = self.apply(torch.cat([images, images]), self.draw(2 * len(images), images))
        return views[: len(images)], views[len(images) :]

    def draw(self, count: int, images: Any) -> Draws:
        """Draws the random numbers of `count` views of images [batch, 3, height, width]."""
        _, _, height, width = images.shape
        numbers = torch.rand(count, 2 * CROP_TRIES + 11, device=images.device)
        boxes, flips, jittered, factors, grey, blurred, sigma = self.draw_numbers(numbers, height, width)
        order = torch.randperm(len(self.colour)).tolist()
        return Draws(boxes, flips, jittered, factors, order, grey, blurred, sigma)

    def apply(self, images: Any, draws: Draws) -> Any:
        """Makes normalised views [batch, 3, size, size] of uint8 images [batch, 3, height, width]."""
        cropped = self.crop(images, draws.boxes, draws.flips)
        result = cropped
        if self.spec.jitter_probability > 0:
            for index in draws.order:
                result = self.colour[index](result, draws.factors[:, index, None, None, None])
        return self.finish(cropped, result, draws.jittered, draws.grey, draws.blurred, draws.sigma)

    def _draw(self, numbers: Any, height: int, width: int) -> tuple[Any, ...]:
        spec, first = self.spec, 2 * CROP_TRIES + 2
        boxes = crop_boxes(numbers[:, :first], height, width, spec.crop_scale, spec.crop_ratio)
        flip, jitter, grey, blur, sigma = numbers[:, first : first + 5].unbind(1)
        return (
            boxes,
            flip < spec.flip_probability,
            jitter < spec.jitter_probability,
            self.low + (self.high - self.low) * numbers[:, first + 5 : first + 9],
            grey < spec.greyscale_probability,
            blur < spec.blur_probability,
            spec.blur_sigma[0] + (spec.blur_sigma[1] - spec.blur_sigma[0]) * sigma,
        )

    def _crop(self, images: Any, boxes: Any, flips: Any) -> Any:
        _, _, height, width = images.shape
        top, left, box_height, box_width = boxes.unbind(1)
        rows = resize_filters(top, box_height, height, self.spec.image_size)
        columns = resize_filters(left, box_width, width, self.spec.image_size)
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
        return rows[:, None] @ (images.float() / 255) @ columns[:, None].mT

    def _hue(self, images: Any, shift: Any) -> Any:
        return adjust_hue(images, shift, self.opposite)

    def evaluation_view(self, images: Any) -> Any:
        """uint8 images as evaluation sees them: shorter side resized, centre cropped, normalised."""
        images, size = images.float() / 255, self.spec.image_size
        shorter = min(images.shape[2:])
        if shorter != size or images.shape[2] != images.shape[3]:
            resized = [size * side // shorter for side in images.shape[2:]]
            images = F.interpolate(images, resized, mode="bilinear", antialias=True)
            top, left = (round((side - size) / 2) for side in resized)
            images = images[:, :, top : top + size, left : left + size]
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _finish(self, cropped: Any, result: Any, jittered: Any, grey: Any, blurred: Any, sigma: Any) -> Any:
        spec = self.spec
        result = torch.where(_each(jittered), result, cropped)
        if spec.greyscale_probability > 0:
            result = torch.where(_each(grey), luma(result).expand_as(result), result)
        if spec.blur_probability > 0 and spec.blur_kernel > 1:
            blurs = blur_matrices(sigma, spec.blur_kernel, spec.image_size)[:, None]
            result = torch.where(_each(blurred), blurs @ result @ blurs.mT, result)
        return ((result - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _each(values: Any) -> Any:
    return values[:, None, None, None]


def crop_boxes(numbers: Any, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """Boxes of torchvision's RandomResizedCrop, all ten tries at once.

    Args:
      numbers: Uniform numbers in 0..1, [batch, 22]: area and ratio of each try, then top and left.
      height: Height of the images in pixels.
      width: Width of the images in pixels.
      scale: Lowest and highest area of a box as a fraction of the image's.
      ratio: Lowest and highest width / height of a box.

    Returns:
      Boxes (top, left, height, width) in pixels, float32 [batch, 4].
    """
    tries = numbers[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * tries[..., 1])
    heights, widths = torch.sqrt(area / aspect).round(), torch.sqrt(area * aspect).round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    # Where no try fits, torchvision takes the largest central box of an allowed ratio.
    central = (min(height, round(width / ratio[0])), min(width, round(height * ratio[1])))
    box_height = torch.where(found, heights.gather(1, first)[:, 0], central[0])
    box_width = torch.where(found, widths.gather(1, first)[:, 0], central[1])
    above, beside = height - box_height, width - box_width
    top = torch.where(found, torch.minimum((numbers[:, -2] * (above + 1)).floor(), above), (above / 2).floor())
    left = torch.where(found, torch.minimum((numbers[:, -1] * (beside + 1)).floor(), beside), (beside / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1)


def resize_filters(start: Any, length: Any, input_size: int, output_size: int) -> Any:
    """Antialiased bilinear resampling of [start, start + length) as matrices [batch, output, input]."""
    start, length = start[:, None, None], length[:, None, None]
    pixels = torch.arange(input_size, device=start.device) - start
    outputs = torch.arange(output_size, device=start.device)[:, None]
    distance = ((2 * pixels + 1) * output_size - (2 * outputs + 1) * length).abs()
    weights = (2 * length.clamp(min=output_size) - distance).clamp(min=0) * ((pixels >= 0) & (pixels < length))
    return weights / weights.sum(-1, keepdim=True)


def luma(images: Any) -> Any:
    """Grey levels [batch, 1, height, width] of images [batch, 3, height, width]."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def adjust_brightness(images: Any, factor: Any) -> Any:
    """Scales images: factor 0 gives black, 1 the image; the result is clamped to 0..1."""
    return (images * factor).clamp(0, 1)


def adjust_contrast(images: Any, factor: Any) -> Any:
    """Blends images with their mean grey level: factor 0 gives the mean, 1 the image; clamped to 0..1."""
    return torch.lerp(luma(images.mean((2, 3), keepdim=True)), images, factor).clamp(0, 1)


def adjust_saturation(images: Any, factor: Any) -> Any:
    """Blends images with their grey levels: factor 0 gives grey, 1 the image; clamped to 0..1."""
    return torch.lerp(luma(images), images, factor).clamp(0, 1)


def adjust_hue(images: Any, shift: Any, opposite: Any) -> Any:
    """Rotates the hue, each channel from its distance to the hue opposite to it.

    Args:
      images: Images in 0..1, [batch, 3, height, width].
      shift: Turns of the circle, -0.5..0.5, [batch, 1, 1, 1].
      opposite: `OPPOSITE_HUES` as [3, 1, 1] on the images' device.
    """
    value, lowest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - lowest
    divisor = torch.where(chroma == 0, 1.0, chroma)
    red, green, blue = (channel[:, None] for channel in images.unbind(1))
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    distance = hue + 6 * shift - opposite
    distance = distance - 6 * (distance / 6).round()
    return value - chroma * (2 - distance.abs()).clamp(0, 1)


def blur_matrices(sigma: Any, kernel_size: int, size: int) -> Any:
    """Gaussian blur along an axis, mirrored at its ends, as matrices [batch, size, size].

    In eager PyTorch at 224 pixels, products with these matrices take an eighth of the time of a sum of shifted images,
    and a little less than grouped convolutions.
    """
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    sources = (torch.arange(size, device=sigma.device)[:, None] + offsets).abs()
    sources = torch.where(sources >= size, 2 * (size - 1) - sources, sources)  # [size, kernel]
    shape = (len(sigma), size, kernel_size)
    return taps.new_zeros(len(sigma), size, size).scatter_add(2, sources.expand(shape), taps[:, None].expand(shape))
