import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.losses import cross_entropy, l2_normalize, negative_cosine_similarity, simsiam_loss


def _draw(seed, shape=(6, 5)):
    return jax.random.normal(jax.random.key(seed), shape)


def test_similarity_of_hand_computed_vectors():
    # cos(0°) = 1, cos(90°) = 0, cos(60°) = 1/2: the mean of the negatives is -0.5.
    p = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    z = jnp.array([[3.0, 0.0], [5.0, 0.0], [1.0, 3**0.5]])
    assert float(negative_cosine_similarity(p, z)) == pytest.approx(-0.5, abs=1e-6)


def test_similarity_is_minus_one_for_equal_and_one_for_opposite_directions():
    p = _draw(0)
    assert float(negative_cosine_similarity(p, 7.0 * p)) == pytest.approx(-1.0, abs=1e-6)
    assert float(negative_cosine_similarity(p, -p)) == pytest.approx(1.0, abs=1e-6)


def test_loss_is_the_symmetric_mean_of_equation_3():
    p1, p2, z1, z2 = (_draw(seed) for seed in range(4))

    def similarity(a, b):  # equation (2), written out in numpy
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return -np.mean(np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))

    expected = (similarity(p1, z2) + similarity(p2, z1)) / 2
    assert float(simsiam_loss(p1, p2, z1, z2)) == pytest.approx(expected, abs=1e-6)


def test_no_gradient_reaches_the_target_branch():
    p1, p2, z1, z2 = (_draw(seed) for seed in range(4))
    gradients = jax.grad(simsiam_loss, argnums=(0, 1, 2, 3))(p1, p2, z1, z2)
    assert all(float(jnp.abs(g).max()) > 0 for g in gradients[:2])
    assert all(float(jnp.abs(g).max()) == 0 for g in gradients[2:])


def test_gradient_is_orthogonal_to_the_prediction():
    # The loss does not depend on the length of p, so its gradient has no component along p.
    p, z = _draw(0), _draw(1)
    gradient = jax.grad(negative_cosine_similarity)(p, z)
    np.testing.assert_allclose(np.sum(gradient * p, axis=-1), 0.0, atol=1e-6)


def test_zero_vectors_give_a_finite_loss_and_gradient():
    zero = jnp.zeros((3, 4))
    loss, gradient = jax.value_and_grad(negative_cosine_similarity)(zero, jnp.ones((3, 4)))
    assert float(loss) == 0.0
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_bfloat16_inputs_are_normalised_in_float32():
    x = _draw(0, (4, 64)).astype(jnp.bfloat16)
    assert l2_normalize(x).dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(l2_normalize(x), axis=-1), 1.0, rtol=1e-6)


def test_cross_entropy_of_uniform_logits_is_log_of_the_classes():
    assert float(cross_entropy(jnp.zeros((3, 10)), jnp.array([0, 5, 9]))) == pytest.approx(np.log(10), rel=1e-6)
