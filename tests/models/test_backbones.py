"""What every backbone must do to take part: train on several devices, in bfloat16, and with stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.data.feed import Batch
from simsiam_jax.models import BACKBONES, Classifier, SimSiam, create_backbone
from simsiam_jax.models.layers import drop_path
from simsiam_jax.settings.schema import HeadConfig, MethodConfig, OptimizerConfig, ViewSpec
from simsiam_jax.train.devices import AXIS, on_every_device
from simsiam_jax.train.epochs import compile_step
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import Hyper, micro_step, pretraining
from tests.support.sharding import shard


def _at_length(names):
    """A test of all these backbones that takes long with any but the first; CI has PiT, with convolutions, for them."""
    first, *others = names
    marks = {name: pytest.mark.slow if name == "pit_ti" else pytest.mark.exhaustive for name in others}
    return pytest.mark.parametrize("name", [first, *(pytest.param(name, marks=mark) for name, mark in marks.items())])


# The two ViTs differ in numbers only.
KINDS = [name for name in BACKBONES if name != "vit_s_2021"]
STOCHASTIC = [name for name in KINDS if name != "resnet18"]


def _batch(size, count, number=0):
    draw = np.random.default_rng(number)
    images = draw.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    ids = np.arange(count, dtype=np.int32)
    return Batch(images=images, labels=ids % 2, sample_ids=ids)


def _simsiam(name, size, dtype=jnp.float32, **fields):
    backbone = create_backbone(name, size, axis_name=AXIS, dtype=dtype, **fields)
    return SimSiam(backbone, HeadConfig(projector_dim=32, predictor_dim=8), dtype=dtype, axis_name=AXIS)


def _initialiser(model, size):
    image = jnp.zeros((1, size, size, 3))
    return jax.jit(lambda key: model.init(key, image, image))


def _initial(model, size):
    return _initialiser(model, size)(jax.random.key(0))


def _hyper(rate, epoch=0):
    return Hyper(np.float32(rate), np.float32(rate), np.uint32(0), np.int32(epoch))


@_at_length(BACKBONES)
def test_pretrains_at_96_pixels_on_two_devices_that_stay_equal(name):
    assert jax.local_device_count() == 2
    model = _simsiam(name, 96)
    # Grey and without blur: nothing but crops to compile beside the network.
    spec = ViewSpec(96, jitter_probability=0.0, greyscale_probability=0.0, blur_probability=0.0)
    optimizer = create_optimizer(OptimizerConfig())
    step = micro_step(pretraining(model=model, optimizer=optimizer, views=spec, method=MethodConfig()))
    # Training takes one device's copy of the state (out_axes=None); here both come back.
    compiled = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(0, 0))
    before = state = jax.device_get(create_state(_initial(model, 96), optimizer))
    for number in range(3):
        copies, metrics = jax.device_get(compiled(state, shard(_batch(96, 8, number)), _hyper(1e-3)))
        assert np.isfinite(metrics["loss"]).all()
        for leaf in jax.tree.leaves((copies, metrics)):
            np.testing.assert_array_equal(leaf[0], leaf[1])
        state = jax.tree.map(lambda leaf: leaf[0], copies)
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params), strict=True):
        assert np.isfinite(new).all()
        assert (np.asarray(old) != np.asarray(new)).any()


def _randomised(variables):
    """Variables with nothing left at its initial zero or one, as a trained network has them."""
    draw = np.random.default_rng(0)

    def change(path, leaf):
        name = path[-1].key
        if name == "mean":
            return draw.normal(0, 0.1, leaf.shape)
        if name == "var":
            return draw.uniform(0.5, 1.5, leaf.shape)
        if name == "cls_token":
            return draw.normal(0, 0.5, leaf.shape)
        return leaf + draw.normal(0, 0.1, leaf.shape) if leaf.ndim == 1 else leaf

    return jax.tree_util.tree_map_with_path(lambda *each: jnp.asarray(change(*each), jnp.float32), variables)


@_at_length(KINDS)
def test_bfloat16_features_stay_within_two_percent_of_float32(name):
    images = jax.random.normal(jax.random.key(1), (4, 64, 64, 3))
    half, full = (create_backbone(name, 64, width=0.5, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    variables = _randomised(jax.jit(full.init)(jax.random.key(0), images))
    features, expected = (jax.jit(module.apply)(variables, images) for module in (half, full))
    assert features.dtype == jnp.bfloat16
    assert expected.dtype == jnp.float32
    error = jnp.linalg.norm(features.astype(jnp.float32) - expected, axis=1) / jnp.linalg.norm(expected, axis=1)
    assert float(jnp.max(error)) < 0.02


def _loss_drop(name, dtype, starts):
    """By how much 30 steps on 32 images of coloured squares lower SimSiam's loss, from the first to the last five.

    The mean over so many initialisations.
    """
    size, patches = 32, {} if name in ("resnet18", "efficientnet_b0") else {"patch_size": 8}
    model = _simsiam(name, size, dtype, width=0.125, **patches)
    spec = ViewSpec(size, (0.6, 1.0), jitter_probability=0.0, greyscale_probability=0.0, blur_probability=0.0)
    optimizer = create_optimizer(OptimizerConfig())
    step = micro_step(pretraining(model=model, optimizer=optimizer, views=spec, method=MethodConfig()))
    compiled, initial = compile_step(step), _initialiser(model, size)
    squares = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3)).astype(np.uint8)
    ids = np.arange(32, dtype=np.int32)
    batch = shard(Batch(images=squares.repeat(8, axis=1).repeat(8, axis=2), labels=ids % 2, sample_ids=ids))
    drops = []
    for start in range(starts):
        state, losses = on_every_device(create_state(initial(jax.random.key(start)), optimizer)), []
        for epoch in range(30):
            state, metrics = compiled(state, batch, _hyper(5e-3, epoch))
            losses.append(float(metrics["loss"]))
        drops.append(losses[0] - np.mean(losses[-5:]))
    return np.mean(drops)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", KINDS)
def test_training_in_bfloat16_lowers_the_loss_as_float32_does(name):
    # Rounding alone moves so small a ResNet's drop between 0.1 and 0.5, so that one start would say little.
    starts = 5 if name == "resnet18" else 1
    full, half = (_loss_drop(name, dtype, starts) for dtype in (jnp.float32, jnp.bfloat16))
    assert full > 0.15
    assert half > 0.6 * full


def test_stochastic_depth_drops_whole_images_and_scales_up_the_others():
    keys = jax.random.split(jax.random.key(0), 4000)
    x = jnp.ones((4000, 3, 2))
    dropped = np.asarray(drop_path(x, 0.25, keys, block=3))
    # Kept images are divided by 0.75; every image is whole.
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert (dropped == dropped[:, :1, :1]).all()
    # Binomial: 0.75 with a standard deviation of 0.007.
    assert (dropped[:, 0, 0] > 0).mean() == pytest.approx(0.75, abs=0.03)
    other = np.asarray(drop_path(x, 0.25, keys, block=4))
    assert 0.5 < (dropped[:, 0, 0] == other[:, 0, 0]).mean() < 0.75
    np.testing.assert_array_equal(drop_path(x, 0.0, keys, 3), x)
    np.testing.assert_array_equal(drop_path(x, 0.25, None, 3), x)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_what_stochastic_depth_drops_of_an_image_depends_on_its_key_alone(name):
    fields = {"width": 0.125, "drop_path": 0.5}
    backbone = create_backbone(name, 32, **fields)
    images = jax.random.normal(jax.random.key(1), (6, 32, 32, 3))
    variables = jax.jit(backbone.init)(jax.random.key(0), images)

    @jax.jit
    def trained(images, keys):
        return backbone.apply(variables, images, train=True, keys=keys, mutable=["batch_stats"])[0]

    keys = jax.random.split(jax.random.key(2), 6)
    features = trained(images, keys)
    # Batch norm sees the same batch in another order.
    np.testing.assert_allclose(trained(images[::-1], keys[::-1])[::-1], features, rtol=1e-3, atol=1e-3)
    assert not np.allclose(trained(images, keys[::-1]), features, atol=1e-2)


def test_a_head_of_1000_classes_completes_the_published_parameter_counts():
    # timm's and torchvision's counts at 224 pixels, as in issue and paper; ViT-S is 384 wide, 12 deep.
    published = {
        "resnet18": (11_176_512, 11_689_512),
        "efficientnet_b0": (4_007_548, 5_288_548),
        "vit_s": (21_665_664, 22_050_664),
        "pit_ti": (4_590_272, 4_847_272),
    }
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for name, counts in published.items():
        backbone = create_backbone(name, 224)
        for module, count in zip((backbone, Classifier(backbone, 1000)), counts, strict=True):
            shapes = jax.eval_shape(module.init, jax.random.key(0), image)
            assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
