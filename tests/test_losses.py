import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.losses import (
    binary_cross_entropy,
    classification_loss,
    cross_entropy,
    l2_normalize,
    negative_cosine_similarity,
    simsiam_loss,
)


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


def test_without_stop_gradient_it_reaches_the_target_branch_and_the_loss_stays():
    outputs = [_draw(seed) for seed in range(4)]

    def loss(*outputs):
        return simsiam_loss(*outputs, stop_gradient=False)

    assert float(loss(*outputs)) == float(simsiam_loss(*outputs))
    gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*outputs)
    assert all(float(jnp.abs(g).max()) > 0 for g in gradients)


def test_the_asymmetric_loss_is_its_first_term_whole():
    p1, p2, z1, z2 = (_draw(seed) for seed in range(4))

    def loss(p1, p2):
        return simsiam_loss(p1, p2, z1, z2, symmetric=False)

    assert float(loss(p1, p2)) == pytest.approx(float(negative_cosine_similarity(p1, z2)), abs=1e-6)
    first, second = jax.grad(loss, argnums=(0, 1))(p1, p2)
    assert float(jnp.abs(first).max()) > 0
    assert float(jnp.abs(second).max()) == 0


def test_of_two_views_the_loss_and_its_gradients_are_equation_3_to_the_bit():
    outputs = [_draw(seed) for seed in range(4)]

    def plain(p1, p2, z1, z2):
        z1, z2 = jax.lax.stop_gradient((z1, z2))
        return 0.5 * negative_cosine_similarity(p1, z2) + 0.5 * negative_cosine_similarity(p2, z1)

    every = (0, 1, 2, 3)
    got = jax.jit(jax.value_and_grad(simsiam_loss, argnums=every))(*outputs)
    expected = jax.jit(jax.value_and_grad(plain, argnums=every))(*outputs)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_each_of_more_views_predicts_the_mean_direction_of_the_others():
    p, z = _draw(0, (4, 6, 5)), _draw(1, (4, 6, 5)) * jnp.array([1.0, 7.0, 0.1, 3.0]).reshape(4, 1, 1)

    def direction(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    directions, terms = direction(np.asarray(z, np.float64)), []
    for view in range(4):
        target = np.mean(np.delete(directions, view, axis=0), axis=0)
        terms.append(-np.mean(np.sum(direction(np.asarray(p[view], np.float64)) * direction(target), axis=-1)))
    assert float(simsiam_loss(*p, *z)) == pytest.approx(np.mean(terms), abs=1e-6)
    assert float(simsiam_loss(*p, *z, symmetric=False)) == pytest.approx(terms[0], abs=1e-6)


def test_of_more_views_no_gradient_reaches_the_targets_unless_asked():
    outputs = [_draw(seed) for seed in range(6)]
    for stopped in (True, False):
        gradients = jax.grad(functools.partial(simsiam_loss, stop_gradient=stopped), argnums=tuple(range(6)))(*outputs)
        assert all(float(jnp.abs(g).max()) > 0 for g in gradients[:3])
        assert all((float(jnp.abs(g).max()) == 0) == stopped for g in gradients[3:])


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


def test_binary_cross_entropy_is_the_mean_over_the_known_entries():
    # Logits log 3 and 0 are probabilities 3/4 and 1/2: -log 3/4, -log 1/4 and -log 1/2, by hand.
    logits = jnp.array([[np.log(3.0), np.log(3.0)], [0.0, 5.0]])
    targets = jnp.array([[1, 0], [1, -1]])
    expected = -(np.log(3 / 4) + np.log(1 / 4) + np.log(1 / 2)) / 3
    assert float(binary_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-6)
    gradient = jax.grad(binary_cross_entropy)(logits, targets)
    # The derivative is (probability - target) / known entries, and none for the missing one.
    np.testing.assert_allclose(gradient, np.array([[-1 / 4, 3 / 4], [-1 / 2, 0]]) / 3, atol=1e-6)


def test_binary_cross_entropy_of_nothing_known_is_zero_with_a_zero_gradient():
    loss, gradient = jax.value_and_grad(binary_cross_entropy)(_draw(0), jnp.full((6, 5), -1))
    assert float(loss) == 0.0
    assert bool(jnp.all(gradient == 0))


def test_binary_cross_entropy_of_large_logits_is_their_size():
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    loss, gradient = jax.value_and_grad(binary_cross_entropy)(logits, jnp.array([[0, 1], [1, 0]]))
    assert float(loss) == 5e3  # two entries cost 1e4, two nothing
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_binary_cross_entropy_of_bfloat16_is_computed_in_float32():
    logits = _draw(0).astype(jnp.bfloat16)
    targets = (_draw(1) > 0).astype(jnp.int32)
    loss = binary_cross_entropy(logits, targets)
    assert loss.dtype == jnp.float32
    assert float(loss) == float(binary_cross_entropy(logits.astype(jnp.float32), targets))


def test_the_shape_of_the_labels_chooses_the_loss():
    logits = _draw(0)
    classes, attributes = jnp.array([0, 1, 2, 3, 4, 0]), (_draw(1) > 0).astype(jnp.int32)
    assert float(classification_loss(logits, classes)) == float(cross_entropy(logits, classes))
    assert float(classification_loss(logits, attributes)) == float(binary_cross_entropy(logits, attributes))
