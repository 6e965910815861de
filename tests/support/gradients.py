"""Compares two functions in value and gradient."""

import jax
import numpy as np


def assert_same_value_and_gradients(fast, plain, *operands):
    weights = jax.random.normal(jax.random.key(9), jax.eval_shape(plain, *operands).shape)
    results = []
    for function in (fast, plain):

        def value_and_gradients(*operands, function=function):
            value, pullback = jax.vjp(function, *operands)
            return (value, *pullback(weights))

        results.append(jax.jit(value_and_gradients)(*operands))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
