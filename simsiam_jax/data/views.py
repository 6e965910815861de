"""Augmented views of uint8 images, each a function of (seed, epoch, sample id, view).

No random state is carried along: a sample draws the same numbers whatever its batch, its place in it or the device. So
a resumed run, another batch size and every arm of an ablation see the same views. Compiled for a CPU, the pixels are
bit-equal in any batch of two or more; alone, between devices, or outside `jax.jit`, they agree to rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key, UInt8

from simsiam_jax.data import augment
from simsiam_jax.errors import require
from simsiam_jax.settings.schema import ViewSpec

Scalar = int | np.integer | Integer[Array, ""]
"""A seed, epoch or view, as a number of Python or traced inside a compiled step."""

# Every view draws all its numbers in one call, and the same ones whatever the settings: switching an operation off
# changes nothing for the others.
_CROP = slice(0, augment.CROP_NUMBERS)
_FLIP, _JITTER, _GREYSCALE, _BLUR, _SIGMA = range(augment.CROP_NUMBERS, augment.CROP_NUMBERS + 5)
_FACTORS = slice(_SIGMA + 1, _SIGMA + 5)
_NUMBERS = _FACTORS.stop

# The keys of a pair of views have four uses: its views, the even and the odd one, and what a network draws on each.
_USES_OF_A_PAIR, _NETWORK = 4, 2

# The order of the colour operations belongs to no sample. It is what a sample of this id would draw.
_NO_SAMPLE = 2**32 - 1

_COLOUR_OPERATIONS = (
    augment.adjust_brightness,
    augment.adjust_contrast,
    augment.adjust_saturation,
    augment.adjust_hue,
)


def two_views(
    images: UInt8[Array | np.ndarray, "batch height width 3"],
    sample_ids: Integer[Array | np.ndarray, "batch"],
    *,
    seed: Scalar,
    epoch: Scalar,
    spec: ViewSpec,
) -> tuple[Float[Array, "batch size size 3"], Float[Array, "batch size size 3"]]:
    """The two augmented views x1, x2 of each image (arXiv 2112.02297, section 2; SimSiam, appendix A).

    Args:
      images: Images in 0..255, all of one size.
      sample_ids: The images' numbers in their data set, 0..2**32 - 2.
      seed: Seed of the run.
      epoch: Number of the pass over the data.
      spec: Distribution of the views; static under `jax.jit`.

    Returns:
      Normalised float32 images, height and width `spec.image_size`.
    """
    view1, view2 = several_views(images, sample_ids, seed=seed, epoch=epoch, spec=spec, count=2)
    return view1, view2


def several_views(
    images: UInt8[Array | np.ndarray, "batch height width 3"],
    sample_ids: Integer[Array | np.ndarray, "batch"],
    *,
    seed: Scalar,
    epoch: Scalar,
    spec: ViewSpec,
    count: int,
) -> tuple[Float[Array, "batch size size 3"], ...]:
    """The first `count` augmented views of each image, 1 or more; the other arguments are as in `two_views`."""
    return tuple(
        augmented_view(images, sample_ids, seed=seed, epoch=epoch, view=view, spec=spec) for view in range(count)
    )


def augmented_view(
    images: UInt8[Array | np.ndarray, "batch height width 3"],
    sample_ids: Integer[Array | np.ndarray, "batch"],
    *,
    seed: Scalar,
    epoch: Scalar,
    view: Scalar,
    spec: ViewSpec,
) -> Float[Array, "batch size size 3"]:
    """One augmented view of each image: crop, colour jitter, greyscale, blur, flip, normalise.

    An operation of probability or strength 0 is left out when the function is traced, and costs nothing. The flip is
    part of the crop's column filter: the operations between, with the blur's symmetric kernel, do the same to a
    mirrored image, so that only rounding differs.

    Differs from torchvision: the order of the colour operations is drawn for each (seed, epoch, view) and shared by its
    samples (`augment.colour_jitter` says why); and pixels are not rounded to grey levels between the operations.

    Args:
      images: Images in 0..255, all of one size.
      sample_ids: The images' numbers in their data set, 0..2**32 - 2.
      seed: Seed of the run.
      epoch: Number of the pass over the data.
      view: Number of the view, 0 or more; fine-tuning, which needs one view, uses 0.
      spec: Distribution of the view; static under `jax.jit`.

    Returns:
      Normalised float32 images, height and width `spec.image_size`.
    """
    check_images(images)
    check_ids(sample_ids, len(images))
    _, height, width, _ = images.shape
    key = _epoch_key(seed, epoch)
    numbers = _sample_numbers(key, sample_ids, view)
    boxes = augment.crop_boxes(
        numbers[:, _CROP], height=height, width=width, scale=spec.crop_scale, ratio=spec.crop_ratio
    )
    flips = numbers[:, _FLIP] < spec.flip_probability
    result = augment.crop_and_resize(_unit_range(images), boxes, flips, spec.image_size)

    strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    if spec.jitter_probability > 0 and any(strengths):
        active = [index for index, strength in enumerate(strengths) if strength > 0]
        jittered = augment.colour_jitter(
            result,
            [_COLOUR_OPERATIONS[index] for index in active],
            _colour_factors(numbers[:, _FACTORS], spec)[:, np.array(active)],
            _colour_order(key, view, active),
        )
        result = _choose(numbers[:, _JITTER] < spec.jitter_probability, jittered, result)
    if spec.greyscale_probability > 0:
        grey = augment.greyscale(result)
        result = _choose(numbers[:, _GREYSCALE] < spec.greyscale_probability, grey, result)
    if spec.blur_probability > 0 and spec.blur_kernel > 1:
        low, high = spec.blur_sigma
        sigma = low + (high - low) * numbers[:, _SIGMA]
        blurred = augment.gaussian_blur(result, sigma, spec.blur_kernel)
        result = _choose(numbers[:, _BLUR] < spec.blur_probability, blurred, result)
    return augment.normalise(result, spec.mean, spec.std)


def sample_keys(
    sample_ids: Integer[Array | np.ndarray, "batch"], *, seed: Scalar, epoch: Scalar, view: Scalar
) -> Key[Array, "batch"]:
    """Keys for what a network draws by itself on a view (stochastic depth); arguments as in `augmented_view`."""
    return _keys_of(_epoch_key(seed, epoch), sample_ids, _use_of(view) + _NETWORK)


def evaluation_view(
    images: UInt8[Array | np.ndarray, "batch height width 3"], *, spec: ViewSpec
) -> Float[Array, "batch size size 3"]:
    """The images as evaluation sees them: shorter side resized to `image_size`, centre cropped, normalised.

    Args:
      images: Images in 0..255, all of one size.
      spec: Settings of which `image_size`, `mean` and `std` are used; static under `jax.jit`.
    """
    check_images(images)
    result = augment.resize_and_centre_crop(_unit_range(images), spec.image_size)
    return augment.normalise(result, spec.mean, spec.std)


def unnormalise(
    images: Float[Array | np.ndarray, "batch height width 3"], spec: ViewSpec
) -> Float[Array, "batch height width 3"]:
    """The pixels of normalised views as float32 in 0..1, for pictures of them."""
    return jnp.clip(images * jnp.array(spec.std) + jnp.array(spec.mean), 0.0, 1.0)


def check_images(images: Any) -> None:
    """Refuses what is no batch of images: another type, or another order of the axes.

    Raises:
      InputError: Saying what `images` is and what it should be.
    """
    require(
        hasattr(images, "dtype") and hasattr(images, "shape"),
        f"images is a {type(images).__name__}: give an array uint8 [n, height, width, 3]",
    )
    shape = tuple(images.shape)
    words = f"images has shape {shape}: give [n, height, width, 3]"
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        words += "; it looks like channels first: images.transpose(0, 2, 3, 1)"
    elif (len(shape) == 3 and shape[2] != 3) or (len(shape) == 4 and shape[3] == 1):
        grey = "images[..., None]" if len(shape) == 3 else "images"
        words += f"; it looks like grey images: np.repeat({grey}, 3, axis=-1) gives them three channels"
    elif len(shape) == 3:
        words += "; a single image is a batch of one: images[None]"
    require(len(shape) == 4 and shape[3] == 3 and 0 not in shape, words)
    # Images already in 0..1 would come out black, and nothing later would tell.
    require(images.dtype == np.uint8, f"images must be uint8 in 0..255, not {images.dtype}")


def check_ids(sample_ids: Any, count: int) -> None:
    """Refuses what are no numbers of so many images.

    Raises:
      InputError: Saying what `sample_ids` is and what it should be.
    """
    shape, kind = getattr(sample_ids, "shape", None), getattr(sample_ids, "dtype", type(sample_ids).__name__)
    wanted = f"give {count} whole numbers, one for each image"
    require(shape is not None and jnp.issubdtype(kind, jnp.integer), f"sample_ids is of type {kind}: {wanted}")
    require(shape == (count,), f"sample_ids has shape {shape}: {wanted}")


def _unit_range(images: Array | np.ndarray) -> Float[Array, "batch height width 3"]:
    return jnp.asarray(images).astype(jnp.float32) / 255


def _choose(chosen: Bool[Array, "batch"], changed: Array, unchanged: Array) -> Array:
    return jnp.where(chosen[:, None, None, None], changed, unchanged)


def _epoch_key(seed: Scalar, epoch: Scalar) -> Key[Array, ""]:
    # Named, because under jax's other generators a sample's numbers would depend on its batch.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)


def _use_of(view: Scalar) -> Scalar:
    """The use of keys that draws a view: 0, 1, 4, 5, 8, ... for the views 0, 1, 2, 3, 4, ..."""
    return view // 2 * _USES_OF_A_PAIR + view % 2


def _keys_of(
    epoch_key: Key[Array, ""], sample_ids: Integer[Array | np.ndarray, "batch"], use: Scalar
) -> Key[Array, "batch"]:
    """A key for each sample; `use` keeps the keys of the views and of the network apart."""

    def key_of(sample_id: Integer[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(epoch_key, sample_id), use)

    return jax.vmap(key_of)(jnp.asarray(sample_ids))


def _sample_numbers(
    epoch_key: Key[Array, ""], sample_ids: Integer[Array | np.ndarray, "batch"], view: Scalar
) -> Float[Array, "batch numbers"]:
    """All uniform numbers of a view in 0..1, each sample's from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (_NUMBERS,)))(_keys_of(epoch_key, sample_ids, _use_of(view)))


def _colour_factors(numbers: Float[Array, "batch 4"], spec: ViewSpec) -> Float[Array, "batch 4"]:
    """Factors of strength s in max(0, 1 - s)..1 + s, and the hue's in -s..s, as torchvision draws them."""
    strengths = (spec.brightness, spec.contrast, spec.saturation)
    low = jnp.array([*(max(0.0, 1 - strength) for strength in strengths), -spec.hue])
    high = jnp.array([*(1 + strength for strength in strengths), spec.hue])
    return low + (high - low) * numbers


def _colour_order(epoch_key: Key[Array, ""], view: Scalar, active: list[int]) -> Int[Array, "operations"]:
    """A uniformly random order of the active colour operations, as indices into `active`."""
    key = jax.random.fold_in(jax.random.fold_in(epoch_key, np.uint32(_NO_SAMPLE)), _use_of(view))
    # Four numbers always: the remaining operations keep their order when one is switched off.
    return jnp.argsort(jax.random.uniform(key, (len(_COLOUR_OPERATIONS),))[np.array(active)])
