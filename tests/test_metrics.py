import jax
import jax.numpy as jnp
import pytest

from simsiam_jax.metrics import top1, z_spread


def test_spread_is_near_one_for_directions_all_over_the_sphere():
    # A coordinate of a uniform direction in d dimensions has standard deviation 1 / sqrt(d).
    z = jax.random.normal(jax.random.key(0), (4000, 32))
    assert float(z_spread(z)) == pytest.approx(1.0, abs=0.02)


def test_spread_is_zero_for_collapsed_outputs_of_any_length():
    z = jnp.linspace(1.0, 9.0, 50)[:, None] * jnp.arange(1.0, 9.0)
    assert float(z_spread(z)) == pytest.approx(0.0, abs=1e-5)


def test_top1_counts_the_rows_whose_largest_score_is_at_the_label():
    scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert float(top1(scores, jnp.array([1, 0, 0, 1]))) == 0.5
