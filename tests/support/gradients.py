"""Compares two functions in value and gradient."""

import jax
import numpy as np


def assert_same_value_and_gradients(fast, reference, *operands):
    """Asserts that values and gradients agree within 2e-5, relative and absolute.

    Args:
      fast: Function of `operands` to test.
      reference: Function that gives the expected values.
      *operands: float32 arrays; the gradients with respect to each are compared.
    """
    weights = jax.random.normal(jax.random.key(9), jax.eval_shape(reference, *operands).shape)
    results = []
    for function in (fast, reference):

        def value_and_gradients(*operands, function=function):
            value, pullback = jax.vjp(function, *operands)
            return (value, *pullback(weights))

        results.append(jax.jit(value_and_gradients)(*operands))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
