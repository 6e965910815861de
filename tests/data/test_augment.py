"""Image operations against torchvision's on fixed parameters; torchvision's float tensor path is the reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.data import augment
from tests.support.torchvision_import import import_torchvision

# Measured: at most 1.3e-6 on 0..1 for the operations below (float32 rounding); a grey level is 4e-3.
TOLERANCE = 3e-6

# Compiled whole, as the views use them; operation by operation they would take several times as long.
crop_boxes = jax.jit(augment.crop_boxes, static_argnames=("height", "width", "scale", "ratio"))
crop_and_resize = jax.jit(augment.crop_and_resize, static_argnums=3)
resize_and_centre_crop = jax.jit(augment.resize_and_centre_crop, static_argnums=1)
gaussian_blur = jax.jit(augment.gaussian_blur, static_argnums=2)


@pytest.fixture(scope="module")
def functional():
    return import_torchvision().transforms.v2.functional


@pytest.fixture(scope="module")
def images():
    """Noise, a smooth ramp, black, white and a pure colour: hue and saturation have corner cases."""
    noise = np.random.default_rng(0).random((3, 24, 24, 3), np.float32)
    ramp = np.linspace(0, 1, 24, dtype=np.float32)
    smooth = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 0.3), axis=-1)
    red = np.broadcast_to(np.array([1, 0, 0], np.float32), (24, 24, 3))
    return np.stack([*noise, smooth, np.zeros_like(smooth), np.ones_like(smooth), red]).astype(np.float32)


def with_torchvision(operation, images, *parameters):
    """Applies a torchvision function of (image, *parameters) image by image, NHWC in and out."""
    import torch

    results = []
    for image, *values in zip(images, *parameters, strict=True):
        result = operation(torch.tensor(np.asarray(image)).permute(2, 0, 1), *values)
        results.append(result.permute(1, 2, 0).numpy())
    return np.stack(results)


@pytest.mark.parametrize(("height", "width", "output_size"), [(8, 8, 16), (32, 32, 32), (28, 40, 24), (224, 180, 32)])
def test_crop_and_resize_is_torchvisions_antialiased_resized_crop(functional, height, width, output_size):
    rng = np.random.default_rng(height)
    images = rng.random((12, height, width, 3), np.float32)
    heights, widths = rng.integers(1, height + 1, 12), rng.integers(1, width + 1, 12)
    heights[0], widths[0] = height, width  # the whole image
    heights[1], widths[1] = 1, 1  # a single pixel
    tops, lefts = rng.integers(0, height - heights + 1), rng.integers(0, width - widths + 1)
    boxes = np.stack([tops, lefts, heights, widths], axis=1).astype(np.int32)
    flips = np.arange(12) % 2 == 1

    def reference(image, box, flip):
        size = [output_size, output_size]
        result = functional.resized_crop(image, *(int(value) for value in box), size=size, antialias=True)
        return functional.horizontal_flip(result) if flip else result

    ours = crop_and_resize(jnp.array(images), jnp.array(boxes), jnp.array(flips), output_size)
    np.testing.assert_allclose(ours, with_torchvision(reference, images, boxes, flips), atol=TOLERANCE)


def test_pixels_outside_the_box_do_not_reach_the_crop():
    images = np.zeros((1, 16, 16, 3), np.float32)
    images[:, 4:12, 4:12] = 0.5
    surrounded = np.where(images == 0, np.float32(1.0), images)
    boxes, flips = jnp.array([[4, 4, 8, 8]]), jnp.array([False])
    for image in (images, surrounded):
        np.testing.assert_array_equal(crop_and_resize(jnp.array(image), boxes, flips, 3), 0.5)


def test_resize_filter_rows_sum_to_one_and_stay_in_the_box():
    start, length = jnp.array([0, 3, 7]), jnp.array([8, 5, 1])
    filters = np.asarray(augment.resize_filters(start, length, 8, 5))
    np.testing.assert_allclose(filters.sum(axis=-1), 1, atol=1e-6)
    assert (filters[1, :, :3] == 0).all()
    assert (filters[2, :, 7] == 1).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (30, 47), (64, 33)])
def test_evaluation_resize_is_torchvisions_resize_and_centre_crop(functional, height, width):
    images = np.random.default_rng(1).random((2, height, width, 3), np.float32)

    def reference(image):
        return functional.center_crop(functional.resize(image, [20], antialias=True), [20, 20])

    ours = resize_and_centre_crop(jnp.array(images), 20)
    np.testing.assert_allclose(ours, with_torchvision(reference, images), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factor_operations_are_torchvisions(functional, images, name):
    factors = np.array([0.0, 0.37, 1.0, 1.4, 1.9, 0.6, 1.3], np.float32)
    ours = jax.jit(getattr(augment, f"adjust_{name}"))(jnp.array(images), jnp.array(factors))
    theirs = with_torchvision(getattr(functional, f"adjust_{name}"), images, factors.tolist())
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_hue_is_torchvisions(functional, images):
    for shifts in np.linspace(-0.5, 0.5, 21, dtype=np.float32).reshape(3, 7):
        ours = jax.jit(augment.adjust_hue)(jnp.array(images), jnp.array(shifts))
        theirs = with_torchvision(functional.adjust_hue, images, shifts.tolist())
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_a_third_of_a_turn_of_hue_permutes_the_channels(images):
    # 120 degrees carry red to green, green to blue and blue to red.
    turned = jax.jit(augment.adjust_hue)(jnp.array(images), jnp.full(len(images), 1 / 3))
    np.testing.assert_allclose(turned, np.roll(images, 1, axis=-1), atol=TOLERANCE)


def test_greyscale_is_torchvisions(functional, images):
    theirs = with_torchvision(lambda image: functional.rgb_to_grayscale(image, 3), images)
    np.testing.assert_allclose(augment.greyscale(jnp.array(images)), theirs, atol=TOLERANCE)


@pytest.mark.parametrize(("size", "kernel_size"), [((24, 24), 3), ((24, 24), 9), ((13, 20), 23)])
def test_gaussian_blur_is_torchvisions(functional, size, kernel_size):
    images = np.random.default_rng(2).random((4, *size, 3), np.float32)
    sigmas = np.array([0.1, 0.5, 1.1, 2.0], np.float32)
    theirs = with_torchvision(
        lambda image, sigma: functional.gaussian_blur(image, [kernel_size] * 2, [sigma] * 2), images, sigmas.tolist()
    )
    ours = gaussian_blur(jnp.array(images), jnp.array(sigmas), kernel_size)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_blur_of_kernel_one_changes_nothing(images):
    np.testing.assert_array_equal(gaussian_blur(jnp.array(images), jnp.ones(len(images)), 1), images)


def test_normalise_is_torchvisions(functional, images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = with_torchvision(lambda image: functional.normalize(image, mean, std), images)
    np.testing.assert_allclose(augment.normalise(jnp.array(images), mean, std), theirs, atol=1e-5)


def test_colour_jitter_applies_the_operations_in_the_order_given(functional, images):
    operations = [augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue]
    theirs = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
              functional.adjust_hue]  # fmt: skip
    factors = np.random.default_rng(3).uniform(0.6, 1.4, (len(images), 4)).astype(np.float32)
    factors[:, 3] -= 1
    jitter = jax.jit(lambda order: augment.colour_jitter(jnp.array(images), operations, jnp.array(factors), order))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        expected = images
        for index in order:
            expected = with_torchvision(theirs[index], expected, factors[:, index].tolist())
        np.testing.assert_allclose(jitter(jnp.array(order)), expected, atol=2 * TOLERANCE)


BOX_CASES = [
    (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),  # SimSiam's
    (40, 28, (0.2, 1.0), (3 / 4, 4 / 3)),
    (32, 32, (0.8, 1.2), (3 / 4, 4 / 3)),  # the study's fine-tuning: areas over 1, often no box fits
    (90, 16, (0.9, 1.0), (3 / 4, 4 / 3)),  # too tall: falls back to the largest central box
    (16, 90, (0.9, 1.0), (3 / 4, 4 / 3)),  # too wide
]


@pytest.mark.parametrize(("height", "width", "scale", "ratio"), BOX_CASES)
def test_crop_boxes_are_torchvisions_from_the_same_random_numbers(monkeypatch, height, width, scale, ratio):
    torchvision = import_torchvision()
    import torch

    numbers = np.random.default_rng(4).random((300, augment.CROP_NUMBERS), np.float32)
    drawn: list[float] = []

    def uniform(tensor, low, high):
        return tensor.fill_(float(low) + (float(high) - float(low)) * drawn.pop(0))

    def randint(low, high, size):
        return torch.full(size, low + math.floor((high - low) * placement.pop(0)))

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
    monkeypatch.setattr(torch, "randint", randint)
    expected = []
    for row in numbers.astype(float).tolist():
        drawn[:], placement = row[:-2], row[-2:]
        image = torch.empty(3, height, width)
        get_params = torchvision.transforms.RandomResizedCrop.get_params
        expected.append(get_params(image, list(scale), list(ratio)))
    boxes = crop_boxes(jnp.array(numbers), height=height, width=width, scale=scale, ratio=ratio)
    same = (np.asarray(boxes) == np.array(expected)).all(axis=1)
    # torchvision computes in float64: a size within 1e-6 of half a pixel may round the other way.
    assert same.mean() > 0.99


@pytest.mark.parametrize(("height", "width", "scale", "ratio"), BOX_CASES)
def test_crop_boxes_lie_inside_the_image(height, width, scale, ratio):
    numbers = jax.random.uniform(jax.random.key(0), (4000, augment.CROP_NUMBERS))
    top, left, box_height, box_width = crop_boxes(
        numbers.at[0].set(0.0).at[1].set(1 - 2**-24), height=height, width=width, scale=scale, ratio=ratio
    ).T
    assert (box_height.min() >= 1) & (box_width.min() >= 1)
    assert (top.min() >= 0) & (left.min() >= 0)
    assert (top + box_height).max() <= height
    assert (left + box_width).max() <= width


def test_crop_boxes_are_distributed_as_torchvisions():
    """Two-sample Kolmogorov-Smirnov distances of 5,000 boxes of each; 0.039 is the 0.1 % point for two samples."""
    torchvision = import_torchvision()
    import torch

    count, height, width, scale, ratio = 5000, 64, 48, (0.2, 1.0), (3 / 4, 4 / 3)
    numbers = jax.random.uniform(jax.random.key(1), (count, augment.CROP_NUMBERS))
    ours = crop_boxes(numbers, height=height, width=width, scale=scale, ratio=ratio)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    theirs = [get_params(image, list(scale), list(ratio)) for _ in range(count)]
    torch.random.set_rng_state(state)

    def statistics(boxes):
        top, left, box_height, box_width = np.array(boxes, float).T
        return {
            "area": box_height * box_width / (height * width),
            "ratio": box_width / box_height,
            "top": top / height,
            "left": left / width,
        }

    for (name, mine), other in zip(statistics(ours).items(), statistics(theirs).values(), strict=True):
        values = np.unique(np.concatenate([mine, other]))
        below = [np.searchsorted(np.sort(sample), values, side="right") / count for sample in (mine, other)]
        assert np.abs(below[0] - below[1]).max() < 0.039, name
