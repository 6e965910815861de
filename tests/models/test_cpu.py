import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simsiam_jax.models import cpu, create_backbone, layers
from tests.support.gradients import assert_same_value_and_gradients

NHWC = ("NHWC", "HWIO", "NHWC")


def _both(size, kernel, stride, padding, multiplier=None):
    keys = jax.random.split(jax.random.key(size * 100 + kernel * 10 + stride), 3)
    lhs = jax.random.normal(keys[0], (3, size, size, 4))
    rhs = jax.random.normal(
        keys[1], (kernel, kernel, 4, 5) if multiplier is None else (kernel, kernel, 1, 4 * multiplier)
    )
    strides, pads = (stride, stride), (padding, padding)

    def fast(lhs, rhs):
        form = cpu.sum_of_matrix_products if multiplier is None else cpu.sum_of_shifted_products
        return form(lhs, rhs, strides, pads)

    def of_lax(lhs, rhs):
        groups = 1 if multiplier is None else 4
        return lax.conv_general_dilated(lhs, rhs, strides, pads, dimension_numbers=NHWC, feature_group_count=groups)

    weights = jax.random.normal(keys[2], of_lax(lhs, rhs).shape)
    results = []
    for function in (fast, of_lax):

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
    for fast, of_lax in zip(*_both(size, kernel, stride, padding), strict=True):
        np.testing.assert_allclose(fast, of_lax, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "multiplier"),
    [
        (8, 3, 1, (1, 1), 1),
        (8, 5, 2, (2, 2), 1),
        (7, 5, 2, (2, 2), 1),
        (2, 5, 1, (2, 2), 1),
        (1, 3, 1, (1, 1), 1),
        (11, 3, 2, (1, 1), 2),
        (6, 2, 3, (0, 1), 3),
    ],
)
def test_sum_of_shifted_products_is_the_depthwise_convolution_in_value_and_gradient(
    size, kernel, stride, padding, multiplier
):
    for fast, of_lax in zip(*_both(size, kernel, stride, padding, multiplier), strict=True):
        np.testing.assert_allclose(fast, of_lax, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(32, 16, 16), (32, 16, 8), (12, 4, 2), (8, 4, 4)]
)  # patches of ViT, overlapping ones of PiT, and smaller ones
def test_products_of_patches_are_the_convolution_in_value_and_gradient(size, kernel, stride):
    lhs = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    rhs = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 5)) / kernel
    settings = {"padding": ((0, 0), (0, 0))}

    def fast(lhs, rhs):
        return cpu.products_of_patches(lhs, rhs, strides=(stride, stride), **settings)

    def of_lax(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, (stride, stride), **settings, dimension_numbers=NHWC)

    assert_same_value_and_gradients(fast, of_lax, lhs, rhs)


def _of_lax(function):
    def run(*operands):
        with cpu.lax_form():
            return function(*operands)

    return run


def test_what_is_stored_is_the_same_to_the_bit():
    values = jnp.array([0.0, -0.0, 1.2e-38, -3.3e38, jnp.inf, -jnp.inf, jnp.nan, 0.1])
    np.testing.assert_array_equal(jax.jit(cpu.stored)(values), values)


# (size, kernel, stride, padding, groups of 8 channels): what the four backbones are made of.
_LAYERS = [(8, 3, 1, 1, 1), (4, 3, 2, 1, 1), (2, 3, 1, 1, 1), (8, 1, 2, 0, 1), (8, 1, 1, 0, 1), (16, 7, 2, 3, 1),
           (8, 5, 2, 2, 8), (8, 3, 1, 1, 8), (32, 16, 8, 0, 1), (32, 16, 16, 0, 1), (8, 3, 1, 1, 2)]  # fmt: skip


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "groups"), _LAYERS)
def test_every_layer_is_its_convolution_of_lax_in_value_and_gradient(size, kernel, stride, padding, groups):
    conv = layers.conv(16, kernel, stride=stride, padding=padding, groups=groups, dtype=jnp.float32)
    image = jax.random.normal(jax.random.key(0), (3, size, size, 8))
    params = conv.init(jax.random.key(1), image)["params"]

    def fast(image, kernel):
        return conv.apply({"params": {"kernel": kernel}}, image)

    assert_same_value_and_gradients(fast, _of_lax(fast), image, params["kernel"])


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "groups"), _LAYERS)
def test_every_layer_in_bfloat16_rounds_its_sums_once(size, kernel, stride, padding, groups):
    half, full = (
        layers.conv(16, kernel, stride=stride, padding=padding, groups=groups, dtype=dtype)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    image = jax.random.normal(jax.random.key(0), (64, size, size, 8)).astype(jnp.bfloat16)
    params = half.init(jax.random.key(1), image)["params"]["kernel"].astype(jnp.bfloat16)
    weights = jax.random.normal(
        jax.random.key(2), jax.eval_shape(half.init_with_output, jax.random.key(1), image)[0].shape
    )
    weights = weights.astype(jnp.bfloat16)

    def value_and_gradients(conv, *operands):
        value, pullback = jax.vjp(lambda image, kernel: conv.apply({"params": {"kernel": kernel}}, image), *operands)
        return (value, *pullback(weights.astype(value.dtype)))

    ours = jax.jit(functools.partial(value_and_gradients, half))(image, params)
    exact = jax.jit(functools.partial(value_and_gradients, full))(
        *(each.astype(jnp.float32) for each in (image, params))
    )
    for each, expected in zip(ours, exact, strict=True):
        assert each.dtype == jnp.bfloat16
        # Half of bfloat16's last of 8 bits, and float32's own rounding of sums that nearly cancel.
        np.testing.assert_allclose(each.astype(jnp.float32), expected, rtol=2**-8, atol=1e-4)


def _convolutions(size, kernel, stride, groups=1, padding=None, platforms=("cpu",)):
    """How many convolution instructions the program of one layer has on these platforms."""
    conv = layers.conv(8, kernel, stride=stride, groups=groups, padding=padding, dtype=jnp.float32)
    image = jnp.zeros((2, size, size, 4))
    variables = conv.init(jax.random.key(0), image)
    lowered = jax.jit(conv.apply).trace(variables, image).lower(lowering_platforms=platforms)
    return lowered.as_text().count("stablehlo.convolution")


def test_small_outputs_single_pixels_and_patches_leave_the_convolution_of_lax_on_a_cpu():
    assert _convolutions(size=2, kernel=3, stride=1) == 0
    assert _convolutions(size=4, kernel=3, stride=2) == 0
    assert _convolutions(size=4, kernel=1, stride=1) == 0
    assert _convolutions(size=64, kernel=4, stride=2, padding=0) == 0
    assert _convolutions(size=4, kernel=3, stride=1) == 1
    assert _convolutions(size=64, kernel=7, stride=2) == 1


def test_depthwise_convolutions_leave_lax_on_a_cpu_and_other_groups_do_not():
    assert _convolutions(size=8, kernel=3, stride=1, groups=4) == 0
    assert _convolutions(size=8, kernel=3, stride=1, groups=2) == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_program_traced_on_a_cpu_has_the_convolution_of_lax_on_another_platform(platform):
    assert _convolutions(size=2, kernel=3, stride=1, platforms=(platform,)) == 1
    assert _convolutions(size=8, kernel=3, stride=1, groups=4, platforms=(platform,)) == 1
    # One program for both holds both forms.
    assert _convolutions(size=2, kernel=3, stride=1, platforms=("cpu", platform)) > 0


def _slow_paths(program):
    """Counts, in a compiled program's text, what XLA runs slowly on a CPU.

    Convolutions whose operands it swapped, as it does where the output is smaller than the kernel, carry the image
    where the kernel should be; grouped ones, and the scatter of a pooling's gradient, carry their names.
    """
    convolutions = [line for line in program.splitlines() if " convolution(" in line]
    swapped = sum("dim_labels=01fb_o01i" in line for line in convolutions)
    grouped = sum("feature_group_count" in line or "batch_group_count" in line for line in convolutions)
    return {"convolutions": len(convolutions), "swapped": swapped, "grouped": grouped,
            "scatters": len(re.findall(r" (?:scatter|select-and-scatter)\(", program))}  # fmt: skip


def _compiled_gradient(stem, image_size):
    backbone = create_backbone("resnet18", image_size, stem=stem, width=0.125)
    images = jnp.zeros((2, image_size, image_size, 3))
    variables = backbone.init(jax.random.key(0), images)

    def gradient(variables, images):
        def loss(params):
            features, _ = backbone.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jnp.sum(features**2)

        return jax.grad(loss)(variables["params"])

    return jax.jit(gradient).lower(variables, images).compile().as_text()


@pytest.mark.parametrize(("stem", "image_size"), [("paper32", 32), ("cifar", 32), ("imagenet", 32), ("imagenet", 96)])
def test_no_convolution_of_resnets_stems_takes_a_slow_path_on_a_cpu(stem, image_size):
    found = _slow_paths(_compiled_gradient(stem, image_size))
    assert found["convolutions"] > 20
    assert found == {**found, "swapped": 0, "grouped": 0, "scatters": 0}


def test_the_network_of_lax_takes_slow_paths_so_that_they_would_be_counted():
    with cpu.lax_form():
        found = _slow_paths(_compiled_gradient("paper32", 32))
    assert found["swapped"] >= 7  # three 3×3 convolutions on 2×2 maps, both ways, and the strided one's gradient
    assert found["scatters"] >= 1


def _dense(rows, weights):
    def of_a_view(rows):
        return cpu.dense_product(rows, weights, (((rows.ndim - 1,), (0,)), ((), ())))

    return jax.vmap(of_a_view)(rows)


def _attention(queries, keys, values):
    return jax.vmap(cpu.attend)(queries, keys, values)


def _operands(*shapes, dtype=jnp.float32):
    return [jax.random.normal(jax.random.key(number), shape).astype(dtype) for number, shape in enumerate(shapes)]


@pytest.mark.parametrize("between", [(), (5,), (3, 5)])
def test_a_dense_layer_of_two_views_is_that_of_lax_in_value_and_gradient(between):
    assert_same_value_and_gradients(_dense, _of_lax(_dense), *_operands((2, *between, 8), (8, 6)))


def test_attention_of_two_views_is_jaxs_own_in_value_and_gradient():
    assert_same_value_and_gradients(_attention, _of_lax(_attention), *_operands(*[(2, 3, 7, 4, 8)] * 3))


def test_attention_and_dense_layers_in_bfloat16_are_jaxs_own():
    tokens = _operands(*[(2, 3, 7, 4, 8)] * 3, dtype=jnp.bfloat16)
    found, expected = (jax.jit(form)(*tokens) for form in (_attention, _of_lax(_attention)))
    assert found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(each, np.float32) for each in (found, expected)), atol=0.02)
    rows = _operands((2, 3, 8), (8, 6), dtype=jnp.bfloat16)
    np.testing.assert_array_equal(*(np.asarray(jax.jit(form)(*rows), np.float32) for form in (_dense, _of_lax(_dense))))


def _transpositions(function):
    """Counts the transpositions in the compiled gradient of a function's square by its second argument."""

    def gradient(rows, weights):
        return jax.grad(lambda weights: jnp.sum(function(rows, weights) ** 2))(weights)

    text = jax.jit(gradient).lower(*_operands((2, 16, 32, 64), (64, 48))).compile().as_text()
    return len(re.findall(r" transpose\(", text))


def test_the_gradient_of_dense_weights_transposes_nothing_on_a_cpu():
    assert _transpositions(_dense) == 0
    assert _transpositions(_of_lax(_dense)) > 0
