import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.models import cpu, layers
from tests.support.gradients import assert_same_value_and_gradients


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("distinct", [3, 10_000])
def test_the_maximum_of_pixels_is_laxs_in_value_and_gradient_also_among_equal_pixels(size, distinct):
    # Of three different values most windows hold their maximum several times.
    image = jax.random.randint(jax.random.key(size), (2, size, size, 5), 0, distinct).astype(jnp.float32)

    def of_lax(image):
        with cpu.lax_form():
            return layers.max_pool_3x3_by_2(image)

    np.testing.assert_array_equal(layers.max_pool_3x3_by_2(image), of_lax(image))
    assert_same_value_and_gradients(layers.max_pool_3x3_by_2, of_lax, image)


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_silu_and_gelu_are_those_of_jax_in_value_and_gradient(name):
    ours = getattr(layers, name)
    theirs = jax.nn.silu if name == "silu" else functools.partial(jax.nn.gelu, approximate=False)
    assert_same_value_and_gradients(ours, theirs, jnp.linspace(-8.0, 8.0, 101))
    half = jnp.linspace(-8.0, 8.0, 101).astype(jnp.bfloat16)
    assert jax.grad(lambda x: jnp.sum(ours(x).astype(jnp.float32)))(half).dtype == jnp.bfloat16


@pytest.mark.parametrize("affine", [True, False])
def test_the_gradient_of_batch_norm_is_that_of_its_formula(affine):
    x = 3 * jax.random.normal(jax.random.key(0), (4, 3, 3, 5)) + jnp.arange(5.0)
    norm = layers.BatchNorm(train=True, affine=affine)
    variables = norm.init(jax.random.key(1), x)
    scale, bias = jax.random.normal(jax.random.key(2), (2, 5)) + 1

    def ours(x, scale, bias):
        values = {**variables, "params": {"scale": scale, "bias": bias}} if affine else variables
        return norm.apply(values, x, mutable=["batch_stats"])[0]

    def plain(x, scale, bias):
        normal = (x - jnp.mean(x, (0, 1, 2))) / jnp.sqrt(jnp.var(x, (0, 1, 2)) + 1e-5)
        return normal * scale + bias if affine else normal

    assert_same_value_and_gradients(ours, plain, x, scale, bias)


def test_relu_is_that_of_jax_in_value_and_gradient():
    assert_same_value_and_gradients(layers.relu, jax.nn.relu, jnp.array([-1.0, -0.0, 0.0, 1e-3, 2.0]))


def test_kernels_are_he_initialised_by_their_fan_out():
    # Variance 2 / (3 * 3 * 64), He et al. 2015; 64 * 32 * 9 samples leave about 1 % of noise.
    conv = layers.conv(64, 3, dtype=jnp.float32)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 32)))["params"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


def test_depthwise_kernels_count_one_groups_outputs_as_fan_out():
    # Variance 2 / (5 * 5): each input reaches one output through 25 elements.
    conv = layers.conv(256, 5, groups=256, dtype=jnp.float32)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 256)))["params"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx((2 / 25) ** 0.5, rel=0.03)


def test_batch_norm_normalises_by_the_biased_and_remembers_the_unbiased_variance():
    x = jax.random.normal(jax.random.key(0), (3, 2, 1, 5)) * 2 + 7
    norm = layers.BatchNorm(train=True)
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    flat = np.asarray(x).reshape(6, 5)
    np.testing.assert_allclose(y.reshape(6, 5), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-4)
    # PyTorch's running statistics start at 0 and 1, and take a tenth of the batch's.
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)


def test_batch_norm_over_two_devices_is_that_of_the_whole_batch():
    x = jax.random.normal(jax.random.key(0), (6, 2, 2, 5)) + jnp.arange(6.0).reshape(6, 1, 1, 1)
    alone, shared = layers.BatchNorm(train=True), layers.BatchNorm(train=True, axis_name="device")
    variables = alone.init(jax.random.key(0), x)
    y, updated = alone.apply(variables, x, mutable=["batch_stats"])

    def on_device(part):
        return shared.apply(variables, part, mutable=["batch_stats"])

    parts, copies = jax.pmap(on_device, axis_name="device")(x.reshape(2, 3, 2, 2, 5))
    np.testing.assert_allclose(parts.reshape(x.shape), y, rtol=1e-4, atol=1e-5)
    for name, expected in updated["batch_stats"].items():
        for copy in copies["batch_stats"][name]:
            np.testing.assert_allclose(copy, expected, rtol=1e-5)


def test_a_constant_channel_stays_finite():
    x = jnp.full((4, 3), 1e3)
    norm = layers.BatchNorm(train=True)
    y, _ = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, jnp.zeros_like(x))
