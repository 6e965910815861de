import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simsiam_jax.models import layers

NHWC = ("NHWC", "HWIO", "NHWC")


def _both(size, kernel, stride, padding):
    keys = jax.random.split(jax.random.key(size * 100 + kernel * 10 + stride), 3)
    lhs = jax.random.normal(keys[0], (3, size, size, 4))
    rhs = jax.random.normal(keys[1], (kernel, kernel, 4, 5))
    strides, pads = (stride, stride), (padding, padding)

    def fast(lhs, rhs):
        return layers.sum_of_matrix_products(lhs, rhs, strides, pads)

    def plain(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, strides, pads, dimension_numbers=NHWC)

    weights = jax.random.normal(keys[2], plain(lhs, rhs).shape)
    results = []
    for function in (fast, plain):

        @jax.jit
        def value_and_gradients(lhs, rhs, weights, function=function):
            value, pullback = jax.vjp(function, lhs, rhs)
            return (value, *pullback(weights))

        results.append(value_and_gradients(lhs, rhs, weights))
    return results


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (1, 3, 1, (1, 1)),
        (2, 3, 1, (1, 1)),
        (2, 3, 2, (1, 1)),
        (4, 3, 2, (1, 1)),
        (3, 3, 2, (0, 1)),
        (2, 7, 2, (3, 3)),
        (5, 2, 3, (0, 0)),
        (4, 1, 2, (0, 0)),
    ],
)
def test_sum_of_matrix_products_is_the_convolution_in_value_and_gradient(size, kernel, stride, padding):
    for fast, plain in zip(*_both(size, kernel, stride, padding), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)


def _convolutions(size, kernel, stride):
    """How many convolution instructions the traced program of one layer has."""
    conv = layers.conv(8, kernel, stride=stride, dtype=jnp.float32)
    image = jnp.zeros((2, size, size, 4))
    variables = conv.init(jax.random.key(0), image)
    return str(jax.make_jaxpr(conv.apply)(variables, image)).count("conv_general_dilated[")


def test_only_outputs_smaller_than_the_kernel_leave_the_convolution_of_lax_on_a_cpu():
    assert _convolutions(size=2, kernel=3, stride=1) == 0
    assert _convolutions(size=4, kernel=3, stride=2) == 0
    assert _convolutions(size=4, kernel=3, stride=1) == 1
    assert _convolutions(size=2, kernel=1, stride=1) == 1


def test_other_platforms_keep_the_convolution_of_lax(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert _convolutions(size=2, kernel=3, stride=1) == 1


def test_kernels_are_he_initialised_by_their_fan_out():
    # Variance 2 / (3 * 3 * 64), He et al. 2015; 64 * 32 * 9 samples leave about 1 % of noise.
    conv = layers.conv(64, 3, dtype=jnp.float32)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 8, 8, 32)))["params"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
