"""Augmented views: a function of (seed, epoch, sample id, view) alone, made as torchvision would make them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.data import augment, views
from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import ViewSpec
from tests.support.torchvision_import import import_torchvision

SIZE = 20  # the smallest size that blurs
SPEC = ViewSpec(SIZE)
# The whole image, untouched: what is switched on in a test then acts alone.
PLAIN = ViewSpec(
    SIZE,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip_probability=0.0,
    jitter_probability=0.0,
    greyscale_probability=0.0,
    blur_probability=0.0,
)
IDS = np.arange(100, 116)

two_views = jax.jit(views.two_views, static_argnames="spec")
augmented_view = jax.jit(views.augmented_view, static_argnames="spec")
evaluation_view = jax.jit(views.evaluation_view, static_argnames="spec")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pair(images):
    return two_views(images, IDS, seed=3, epoch=5, spec=SPEC)


def assert_equal_pairs(pair, other):
    for view, other_view in zip(pair, other, strict=True):
        np.testing.assert_array_equal(view, other_view)


def test_two_views_are_float32_batches_of_the_image_size(pair):
    for view in pair:
        assert (view.shape, view.dtype) == ((16, SIZE, SIZE, 3), jnp.float32)


def test_a_permuted_batch_gives_the_permuted_views(images, pair):
    order = np.random.default_rng(1).permutation(16)
    permuted = two_views(images[order], IDS[order], seed=3, epoch=5, spec=SPEC)
    assert_equal_pairs(permuted, [view[order] for view in pair])


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_smaller_batch_gives_the_same_views_to_the_bit(images, pair, size):
    part = slice(4, 4 + size)
    smaller = two_views(images[part], IDS[part], seed=3, epoch=5, spec=SPEC)
    assert_equal_pairs(smaller, [view[part] for view in pair])


def test_a_sample_alone_gives_the_same_views_up_to_the_rounding_of_the_crop(images, pair):
    # XLA writes the crop's batched matrix products as plain ones where the batch is one image, and on some processors
    # these add their 20 terms in another order. A sum of 20 terms in 0..1 rounds by at most 20 * 2**-24 = 1.2e-6. The
    # crop has two such products, contrast multiplies by at most 1.4, and normalising divides by 0.224 or more: 1.5e-5.
    for index in range(16):
        one = slice(index, index + 1)
        alone = two_views(images[one], IDS[one], seed=3, epoch=5, spec=SPEC)
        for view, whole in zip(alone, pair, strict=True):
            np.testing.assert_allclose(view, whole[one], rtol=0, atol=1.5e-5)


def test_a_scan_over_micro_batches_gives_the_same_views(images, pair):
    @jax.jit
    def scanned(images, ids):
        def step(_, batch):
            return None, views.two_views(*batch, seed=3, epoch=5, spec=SPEC)

        return jax.lax.scan(step, None, (images, ids))[1]

    result = scanned(images.reshape(4, 4, SIZE, SIZE, 3), IDS.reshape(4, 4))
    assert_equal_pairs([view.reshape(16, SIZE, SIZE, 3) for view in result], pair)


def test_seed_and_epoch_may_be_constants_or_traced(images, pair):
    # `pair` traced both as int32.
    mixed = jax.jit(lambda images, ids, epoch: views.two_views(images, ids, seed=3, epoch=epoch, spec=SPEC))
    assert_equal_pairs(mixed(images, IDS, jnp.uint32(5)), pair)


def test_augmented_view_is_one_of_the_two(images, pair):
    for view, expected in enumerate(pair):
        result = augmented_view(images, IDS, seed=3, epoch=5, view=view, spec=SPEC)
        np.testing.assert_array_equal(result, expected)


def test_the_views_of_an_image_do_not_depend_on_their_number_and_all_differ(images, pair):
    drawn = jax.jit(views.several_views, static_argnames=("spec", "count"))(
        images, IDS, seed=3, epoch=5, spec=SPEC, count=4
    )
    assert_equal_pairs(drawn[:2], pair)
    for first in range(4):
        for second in range(first):
            assert np.abs(drawn[first] - drawn[second]).mean(axis=(1, 2, 3)).min() > 0.05


def test_no_view_draws_by_the_keys_of_another_or_of_the_network():
    key = views._epoch_key(3, 5)
    drawing = [views._keys_of(key, IDS, views._use_of(view)) for view in range(8)]
    of_network = [views.sample_keys(IDS, seed=3, epoch=5, view=view) for view in range(8)]
    words = np.concatenate([jax.random.key_data(keys) for keys in drawing + of_network])
    assert len(np.unique(words, axis=0)) == 16 * len(IDS)


def test_views_differ_between_views_epochs_seeds_and_samples(images, pair):
    same_image = np.repeat(images[:1], 16, axis=0)
    others = {
        "view": pair[1],
        "epoch": two_views(images, IDS, seed=3, epoch=6, spec=SPEC)[0],
        "seed": two_views(images, IDS, seed=4, epoch=5, spec=SPEC)[0],
        # Swapped, seed and epoch must not give the same key.
        "swap": two_views(images, IDS, seed=5, epoch=3, spec=SPEC)[0],
    }
    for name, other in others.items():
        distances = np.abs(pair[0] - other).mean(axis=(1, 2, 3))
        assert distances.min() > 0.05, name
    samples = np.asarray(two_views(same_image, IDS, seed=3, epoch=5, spec=SPEC)[0])
    distances = np.abs(samples[:, None] - samples[None]).mean(axis=(2, 3, 4))[~np.eye(16, dtype=bool)]
    assert distances.min() > 0.05


def test_the_random_numbers_are_uniform_and_independent():
    """4,096 samples: a mean's standard error is 0.0045, a correlation's 0.016; the bounds are 5 of them."""
    draw = jax.jit(lambda ids, view: views._sample_numbers(views._epoch_key(0, 0), ids, view))
    numbers = np.hstack([draw(np.arange(4096), view) for view in (0, 1)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.0225)
    correlations = np.corrcoef(numbers.T)
    np.testing.assert_allclose(correlations, np.eye(len(correlations)), atol=0.08)


def test_every_order_of_the_colour_operations_is_drawn_about_equally_often():
    """2,400 epochs: each of 24 orders is expected 100 times, with a standard deviation of 10."""

    @jax.jit
    def order(epochs, view):
        return jax.vmap(lambda epoch: views._colour_order(views._epoch_key(0, epoch), view, [0, 1, 2, 3]))(epochs)

    orders = np.asarray(order(jnp.arange(2400), 0))
    distinct, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(distinct) == 24
    assert (np.abs(counts - 100) < 50).all()
    # Independent between the views: equal in a 24th of the epochs, 100 of them.
    assert abs((orders == np.asarray(order(jnp.arange(2400), 1))).all(axis=1).sum() - 100) < 50


def test_a_view_is_what_torchvision_makes_of_the_drawn_parameters():
    """The whole pipeline from non-square images; measured difference 1.6e-5 in units of normalised pixels."""
    functional = import_torchvision().transforms.v2.functional
    import torch

    spec = dataclasses.replace(SPEC, image_size=40, greyscale_probability=0.3)
    images = np.random.default_rng(2).integers(0, 256, (24, 48, 33, 3), dtype=np.uint8)
    ids = np.arange(24)
    ours = augmented_view(images, ids, seed=1, epoch=0, view=1, spec=spec)
    adjust = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
              functional.adjust_hue]  # fmt: skip

    @jax.jit
    def drawn(ids):
        key = views._epoch_key(1, 0)
        numbers = views._sample_numbers(key, ids, 1)
        boxes = augment.crop_boxes(
            numbers[:, views._CROP], height=48, width=33, scale=spec.crop_scale, ratio=spec.crop_ratio
        )
        factors = views._colour_factors(numbers[:, views._FACTORS], spec)
        return numbers, boxes, factors, views._colour_order(key, 1, [0, 1, 2, 3])

    numbers, boxes, factors, order = (values.tolist() for values in drawn(ids))
    applied = np.zeros(4, int)
    for index, row in enumerate(numbers):
        image = torch.tensor(images[index]).permute(2, 0, 1).float() / 255
        image = functional.resized_crop(image, *boxes[index], size=[40, 40], antialias=True)
        jitter, grey, blur, flip = (
            row[views._JITTER] < 0.8, row[views._GREYSCALE] < 0.3, row[views._BLUR] < 0.5, row[views._FLIP] < 0.5
        )  # fmt: skip
        applied += [jitter, grey, blur, flip]
        if jitter:
            for operation in order:
                image = adjust[operation](image, factors[index][operation])
        if grey:
            image = functional.rgb_to_grayscale(image, 3)
        if blur:
            sigma = 0.1 + 1.9 * row[views._SIGMA]
            image = functional.gaussian_blur(image, [5, 5], [sigma, sigma])  # 40 // 20 * 2 + 1
        if flip:
            image = functional.horizontal_flip(image)
        image = functional.normalize(image, spec.mean, spec.std)
        np.testing.assert_allclose(ours[index], image.permute(1, 2, 0).numpy(), atol=5e-5)
    # Each was applied to some of the views and not to others, or this would have shown nothing.
    assert ((applied > 0) & (applied < len(ids))).all()


def test_with_everything_off_a_view_is_the_normalised_image(images):
    expected = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    view = augmented_view(images, IDS, seed=0, epoch=0, view=0, spec=PLAIN)
    np.testing.assert_allclose(view, expected, atol=1e-6)
    np.testing.assert_allclose(evaluation_view(images, spec=SPEC), expected, atol=1e-6)


def test_flip_of_probability_one_mirrors_every_image(images):
    plain = augmented_view(images, IDS, seed=0, epoch=0, view=0, spec=PLAIN)
    spec = dataclasses.replace(PLAIN, flip_probability=1.0)
    flipped = augmented_view(images, IDS, seed=0, epoch=0, view=0, spec=spec)
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])


def test_greyscale_of_probability_one_greys_every_image(images):
    spec = dataclasses.replace(PLAIN, greyscale_probability=1.0)
    view = views.unnormalise(augmented_view(images, IDS, seed=0, epoch=0, view=0, spec=spec), spec)
    np.testing.assert_allclose(view, (images / 255 @ [0.2989, 0.587, 0.114])[..., None].repeat(3, -1), atol=1e-6)


def test_blur_of_probability_one_blurs_every_image(images):
    spec = dataclasses.replace(PLAIN, blur_probability=1.0, blur_sigma=(1.0, 1.0))
    view = views.unnormalise(augmented_view(images, IDS, seed=0, epoch=0, view=0, spec=spec), spec)
    expected = jax.jit(augment.gaussian_blur, static_argnums=2)(jnp.array(images) / 255, jnp.ones(16), 3)
    np.testing.assert_allclose(view, expected, atol=1e-6)


def test_switching_an_operation_off_leaves_the_others_draws_as_they_were(images, pair):
    spec = dataclasses.replace(SPEC, greyscale_probability=0.0)
    coloured = augmented_view(images, IDS, seed=3, epoch=5, view=0, spec=spec)
    numbers = jax.jit(lambda ids: views._sample_numbers(views._epoch_key(3, 5), ids, 0))(IDS)
    grey = np.asarray(numbers[:, views._GREYSCALE] < SPEC.greyscale_probability)
    assert 0 < grey.sum() < 16
    np.testing.assert_allclose(coloured[~grey], pair[0][~grey], atol=1e-5)
    assert (np.abs(coloured - pair[0]).max(axis=(1, 2, 3))[grey] > 0.01).all()


def test_operations_without_probability_or_strength_are_not_traced(images):
    def traced(spec):
        return str(jax.make_jaxpr(lambda x: views.augmented_view(x, IDS, seed=0, epoch=0, view=0, spec=spec))(images))

    without_strength = dataclasses.replace(
        PLAIN, jitter_probability=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    assert traced(without_strength) == traced(PLAIN)
    assert "cond" not in traced(PLAIN)
    assert "cond" in traced(dataclasses.replace(PLAIN, jitter_probability=1.0))
    # A single operation needs no choice of an order.
    only_hue = dataclasses.replace(without_strength, hue=0.1)
    assert "cond" not in traced(only_hue)
    # The barrier belongs to the blur, whose kernel is one pixel below 20 pixels.
    assert "optimization_barrier" not in traced(dataclasses.replace(PLAIN, image_size=19, blur_probability=1.0))
    assert "optimization_barrier" in traced(dataclasses.replace(PLAIN, blur_probability=1.0))


def test_colour_factors_reach_torchvisions_ranges():
    spec = dataclasses.replace(SPEC, brightness=1.5, contrast=0.4, saturation=0.2, hue=0.1)
    ends = views._colour_factors(jnp.array([[0.0] * 4, [1.0] * 4]), spec)
    np.testing.assert_allclose(ends, [[0.0, 0.6, 0.8, -0.1], [2.5, 1.4, 1.2, 0.1]], atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (60, 41)])
def test_sources_of_any_size_give_views_within_the_range_of_pixels(shape):
    images = np.random.default_rng(3).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    low = (0 - np.array(SPEC.mean)) / np.array(SPEC.std) - 1e-5
    high = (1 - np.array(SPEC.mean)) / np.array(SPEC.std) + 1e-5
    augmented = augmented_view(images, np.arange(4), seed=0, epoch=0, view=0, spec=SPEC)
    for view in (augmented, evaluation_view(images, spec=SPEC)):
        assert view.shape == (4, SIZE, SIZE, 3)
        assert ((view >= low) & (view <= high)).all()


def test_unnormalise_gives_the_pixels_back(images):
    pixels = views.unnormalise(evaluation_view(images, spec=SPEC), SPEC)
    np.testing.assert_allclose(pixels * 255, images, atol=1e-3)


def test_images_that_are_not_uint8_are_refused(images):
    # Under pytest, jaxtyping refuses the public functions' arguments before they are looked at.
    with pytest.raises(InputError, match=r"must be uint8 in 0\.\.255, not float32"):
        views.check_images(images.astype(np.float32) / 255)
