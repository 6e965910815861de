"""What the settings of the method do to a step of pretraining, on a network of a few layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simsiam_jax.data.feed import Batch
from simsiam_jax.data.views import several_views, two_views
from simsiam_jax.losses import negative_cosine_similarity, simsiam_loss
from simsiam_jax.models import SimSiam, create_backbone, train_on_batches
from simsiam_jax.models.layers import BATCH_NORM_MOMENTUM, BatchNorm
from simsiam_jax.settings.schema import HeadConfig, MethodConfig, OptimizerConfig, ViewSpec
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.epochs import compile_step
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.outputs import bind, compile_outputs, heldout_outputs
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import Hyper, micro_step, pretraining

SIZE = 8
SPEC = ViewSpec(SIZE, jitter_probability=0.0, greyscale_probability=0.0, blur_probability=0.0)
SGD = OptimizerConfig("sgd", weight_decay=0.1)
HYPER = Hyper(np.float32(0.1), np.float32(0.4), np.uint32(3), np.int32(5))
BATCH = Batch(
    np.random.default_rng(0).integers(0, 256, (1, 6, SIZE, SIZE, 3), dtype=np.uint8),
    np.zeros((1, 6), np.int32),
    np.arange(6, dtype=np.int32)[None],
)


class Patches(nn.Module):
    """A backbone of a patch embedding, a norm and a mean."""

    @nn.compact
    def __call__(self, images, train=False, keys=None):
        x = nn.Conv(5, (4, 4), strides=(4, 4), name="patch_embed")(images)
        return jnp.mean(BatchNorm(train, axis_name=AXIS, name="norm")(x), axis=(1, 2))


MODEL = SimSiam(Patches(), HeadConfig(projector_dim=8, projector_layers=2, predictor_dim=4), axis_name=AXIS)


@functools.cache
def variables():
    images = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.jit(MODEL.init)(jax.random.key(0), images, images)


def stepped(method, config=SGD, steps=1):
    """The state after some steps on one device, and the last metrics."""
    optimizer = create_optimizer(config)
    step = compile_step(
        micro_step(pretraining(model=MODEL, optimizer=optimizer, views=SPEC, method=method)), jax.local_devices()[:1]
    )
    state, metrics = create_state(variables(), optimizer), {}
    for _ in range(steps):
        state, metrics = step(state, BATCH, HYPER)
    return jax.device_get((state, metrics))


@functools.cache
def default_step():
    return stepped(MethodConfig())


def test_a_step_at_the_defaults_is_that_of_equation_3_to_the_bit():
    optimizer = create_optimizer(SGD)

    def plain(state, batch, hyper):
        view1, view2 = two_views(batch.images, batch.sample_ids, seed=hyper.seed, epoch=hyper.epoch, spec=SPEC)

        def loss_of(params):
            values = {"params": params, "batch_stats": state.batch_stats}

            def branch(view):
                return MODEL.apply(values, view, train=True, method="branch", mutable=["batch_stats"])

            (p, z), updated = jax.vmap(branch)(jnp.stack([view1, view2]))
            z1, z2 = jax.lax.stop_gradient((z[0], z[1]))
            loss = 0.5 * negative_cosine_similarity(p[0], z2) + 0.5 * negative_cosine_similarity(p[1], z1)
            return loss, jax.tree.map(
                lambda old, new: new[1] + BATCH_NORM_MOMENTUM * (new[0] - old),
                state.batch_stats,
                updated["batch_stats"],
            )

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        unscaled, opt_state = optimizer.update(jax.lax.pmean(gradients, AXIS), state.opt_state, state.params)
        updates = {
            part: jax.tree.map(lambda u, part=part: u * (hyper[1] if part == "predictor" else hyper[0]), tree)
            for part, tree in unscaled.items()
        }
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state), loss

    expected, loss = compile_step(plain, jax.local_devices()[:1])(create_state(variables(), optimizer), BATCH, HYPER)
    state, metrics = default_step()
    expected = jax.device_get(expected)
    jax.tree.map(np.testing.assert_array_equal, state.replace(batch_stats={}), expected.replace(batch_stats={}))
    # The running statistics of both views are summed in one formula, which rounds otherwise.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7), state.batch_stats, expected.batch_stats)
    assert metrics["loss"] == loss


@pytest.mark.parametrize("constant", [True, False])
def test_the_predictors_rate_is_multiplied_and_no_other(constant):
    start = jax.device_get(variables()["params"])
    state, _ = stepped(MethodConfig(predictor_rate=10.0, constant_predictor=constant))
    plain, _ = default_step()

    def moved(state, part):
        return jax.tree.map(lambda after, before: after - before, state.params[part], start[part])

    for part in ("backbone", "projector"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], plain.params[part])
    # The constant rate is 4 times the scheduled one here.
    factor = 10.0 if constant else 2.5
    jax.tree.map(
        lambda got, expected: np.testing.assert_allclose(got, factor * expected, rtol=1e-4, atol=1e-5),
        moved(state, "predictor"),
        moved(plain, "predictor"),
    )


@pytest.mark.parametrize("name", ["adam", "sgd", "adamw", "lars"])
def test_a_frozen_patch_embedding_keeps_its_bits_and_all_else_is_trained(name):
    config = OptimizerConfig(name, weight_decay=0.1)
    state, _ = stepped(MethodConfig(frozen_patch_embedding=True), config, steps=2)
    start = jax.device_get(variables()["params"])
    jax.tree.map(
        np.testing.assert_array_equal, state.params["backbone"].pop("patch_embed"), start["backbone"]["patch_embed"]
    )
    before = {**start, "backbone": {"norm": start["backbone"]["norm"]}}
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, before)))


def test_freezing_changes_the_first_step_of_no_other_parameter():
    state, metrics = stepped(MethodConfig(frozen_patch_embedding=True))
    plain, plain_metrics = default_step()
    assert metrics["loss"] == pytest.approx(plain_metrics["loss"], rel=1e-6)
    for part in ("projector", "predictor"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params[part], plain.params[part]
        )


@pytest.mark.parametrize("backbone", ["vit_s", "vit_s_2021", "pit_ti"])
def test_every_transformer_has_its_patch_embedding_under_the_frozen_name(backbone):
    module = create_backbone(backbone, 32, width=0.125, patch_size=8)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    (layer,) = params["patch_embed"].values()
    assert layer["kernel"].shape[:3] == (8, 8, 3)


def test_a_step_with_three_views_has_the_loss_of_their_outputs():
    _, metrics = stepped(MethodConfig(target_views=3))

    def loss(batch):
        drawn = several_views(batch.images, batch.sample_ids, seed=3, epoch=5, spec=SPEC, count=3)
        (p, z), _ = train_on_batches(MODEL, variables(), jnp.stack(drawn))
        return simsiam_loss(*p, *z)

    expected = jax.jit(jax.vmap(loss, axis_name=AXIS))(BATCH)
    assert metrics["loss"] == pytest.approx(float(expected[0]), abs=1e-5)
    assert metrics["loss"] != default_step()[1]["loss"]


def test_the_held_out_loss_compares_as_many_views_as_training():
    losses = []
    for count in (2, 3):
        method = MethodConfig(target_views=count)
        compiled = compile_outputs(bind(heldout_outputs, model=MODEL, views=SPEC, method=method))
        batch = jax.tree.map(lambda part: np.repeat(part, jax.local_device_count(), axis=0), BATCH)
        outputs = jax.device_get(compiled(variables(), batch, np.uint32(0)))
        assert outputs["loss"].shape == (jax.local_device_count(), 6)
        losses.append(outputs)
    np.testing.assert_array_equal(losses[0]["z"], losses[1]["z"])
    assert np.all(losses[0]["loss"] != losses[1]["loss"])
