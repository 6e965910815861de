import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simsiam_jax.losses import cross_entropy
from simsiam_jax.settings.schema import OptimizerConfig, ScheduleConfig
from simsiam_jax.train.optimizer import accumulated, create_optimizer, learning_rates, scale_updates


def _descend(optimizer, params, gradients, rate):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: u * rate, updates))
    return params


def test_adam_decays_weights_through_the_gradient():
    # Kingma and Ba 2015, algorithm 1, with L2 regularisation added to the gradient, as torch.optim.Adam has it.
    rate, decay, gradients = 0.1, 0.01, [0.3, -0.2, 0.5]
    weight, first, second = 2.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        total = gradient + decay * weight
        first = 0.9 * first + 0.1 * total
        second = 0.999 * second + 0.001 * total**2
        weight -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
    optimizer = create_optimizer(OptimizerConfig(name="adam", weight_decay=decay))
    got = _descend(optimizer, jnp.array(2.0), [jnp.array(g) for g in gradients], rate)
    assert float(got) == pytest.approx(weight, rel=1e-5)


def test_sgd_has_momentum_and_coupled_decay():
    # torch.optim.SGD: v = momentum v + (g + decay w); w -= rate v.
    rate, decay, gradients = 0.1, 0.01, [0.3, -0.2, 0.5]
    weight, velocity = 2.0, 0.0
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + decay * weight
        weight -= rate * velocity
    optimizer = create_optimizer(OptimizerConfig(name="sgd", weight_decay=decay))
    got = _descend(optimizer, jnp.array(2.0), [jnp.array(g) for g in gradients], rate)
    assert float(got) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd", "adamw", "lars"])
def test_accumulated_gradients_make_the_update_of_their_mean(name):
    params = {"w": jnp.array([1.0, -2.0, 0.5])}
    gradients = [{"w": jax.random.normal(jax.random.key(k), (3,))} for k in range(4)]
    config = OptimizerConfig(name=name)
    mean = jax.tree.map(lambda *g: sum(g) / 4, *gradients)
    whole = _descend(create_optimizer(config), params, [mean], 0.1)
    optimizer = accumulated(create_optimizer(config), 4)
    parts = _descend(optimizer, params, gradients, 0.1)
    np.testing.assert_allclose(parts["w"], whole["w"], rtol=1e-6)
    unfinished = _descend(optimizer, params, gradients[:3], 0.1)
    np.testing.assert_array_equal(unfinished["w"], params["w"])


def test_micro_batches_make_the_update_of_one_large_batch_where_no_batch_norm_is_involved():
    layer = nn.Dense(3)
    images = jax.random.normal(jax.random.key(0), (32, 7))
    labels = jnp.arange(32) % 3
    params = layer.init(jax.random.key(1), images)["params"]

    def gradient(rows):
        return jax.grad(lambda p: cross_entropy(layer.apply({"params": p}, images[rows]), labels[rows]))(params)

    config = OptimizerConfig(name="adam", weight_decay=1e-2)
    whole = _descend(create_optimizer(config), params, [gradient(slice(0, 32))], 0.1)
    parts = [gradient(slice(start, start + 8)) for start in range(0, 32, 8)]
    got = _descend(accumulated(create_optimizer(config), 4), params, parts, 0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, whole)


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine():
    config = ScheduleConfig(learning_rate=1e-3, scaling_batch="effective", warmup_epochs=2.0, schedule="cosine")
    peak = config.peak(micro_batch=64, accumulation=8)
    assert peak == pytest.approx(2e-3)  # 1e-3 × 512 / 256
    rates = learning_rates(config, peak=peak, updates_per_epoch=10, epochs=12)
    np.testing.assert_allclose(rates[:20], peak * np.arange(1, 21) / 20, rtol=1e-5)
    np.testing.assert_allclose(rates[20:], peak * 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100)), rtol=1e-4)


def test_a_warm_up_longer_than_training_leaves_half_of_it_for_the_decay():
    config = ScheduleConfig(warmup_epochs=5.0, schedule="cosine")
    rates = learning_rates(config, peak=1e-3, updates_per_epoch=10, epochs=2)
    assert np.argmax(rates) in (9, 10)
    assert rates[-1] < 0.05 * rates.max()


def test_constant_schedule_stays_at_its_rate():
    rates = learning_rates(ScheduleConfig(learning_rate=0.5), peak=0.5, updates_per_epoch=3, epochs=4)
    np.testing.assert_array_equal(rates, np.full(12, 0.5, np.float32))


@pytest.mark.parametrize(("scaling", "peak"), [("none", 1e-3), ("effective", 2e-3), ("micro", 2.5e-4)])
def test_the_peak_rate_is_scaled_by_the_batch_that_is_named(scaling, peak):
    schedule = ScheduleConfig(learning_rate=1e-3, scaling_batch=scaling)
    assert schedule.peak(micro_batch=64, accumulation=8) == pytest.approx(peak)


def test_each_update_is_multiplied_by_the_rate_of_its_path():
    updates = {"predictor": {"w": jnp.ones(2)}, "backbone": {"w": jnp.ones(2)}}
    scaled = scale_updates(updates, lambda path: 3.0 if path[0].key == "predictor" else 0.1)
    np.testing.assert_allclose(scaled["predictor"]["w"], 3.0)
    np.testing.assert_allclose(scaled["backbone"]["w"], 0.1)


def _layer():
    """Weights, a bias and a norm's scale, and their gradients at four steps."""
    shapes = {"kernel": (4, 3), "bias": (3,), "scale": (3,)}

    def draw(seed):
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}

    return draw(0), [draw(seed) for seed in range(1, 5)]


def _assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_adamw_multiplies_its_weight_decay_by_the_learning_rate_as_optax_and_torch_do():
    params, gradients = _layer()
    ours = _descend(create_optimizer(OptimizerConfig("adamw", weight_decay=0.1)), params, gradients, 0.05)
    _assert_close(ours, _descend(optax.adamw(0.05, weight_decay=0.1), params, gradients, 1.0))
    coupled = _descend(create_optimizer(OptimizerConfig("adam", weight_decay=0.1)), params, gradients, 0.05)
    assert float(jnp.abs(coupled["kernel"] - ours["kernel"]).max()) > 1e-3

    torch = pytest.importorskip("torch")
    weights = {name: torch.nn.Parameter(torch.tensor(np.asarray(value))) for name, value in params.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.05, weight_decay=0.1)
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.tensor(np.asarray(gradient[name]))
        optimizer.step()
    _assert_close(ours, {name: weight.detach().numpy() for name, weight in weights.items()})


def test_lars_is_that_of_optax_at_a_constant_rate():
    params, gradients = _layer()

    def weights_alone(params):
        return {name: name == "kernel" for name in params}

    ours = _descend(create_optimizer(OptimizerConfig("lars", weight_decay=0.1)), params, gradients, 2.0)
    theirs = optax.lars(2.0, weight_decay=0.1, weight_decay_mask=weights_alone, trust_ratio_mask=weights_alone)
    _assert_close(ours, _descend(theirs, params, gradients, 1.0))


def test_lars_takes_the_trust_ratio_before_the_momentum_and_multiplies_the_momentum_by_the_present_rate():
    # You et al. 2017, equation 6, with torch.optim.SGD's place of the learning rate.
    params, gradients = _layer()
    optimizer = create_optimizer(OptimizerConfig("lars", weight_decay=0.1, momentum=0.8))
    state, got = optimizer.init(params), params
    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    velocity = dict.fromkeys(params, 0.0)
    for rate, gradient in zip([2.0, 1.0, 0.5, 0.1], gradients, strict=True):
        updates, state = optimizer.update(gradient, state, got)
        got = optax.apply_updates(got, jax.tree.map(lambda u, rate=rate: u * rate, updates))
        for name, weight in expected.items():
            step = np.asarray(gradient[name], np.float64)
            if weight.ndim > 1:
                step = step + 0.1 * weight
                step = step * 0.001 * np.linalg.norm(weight) / np.linalg.norm(step)
            velocity[name] = 0.8 * velocity[name] + step
            expected[name] = weight - rate * velocity[name]
    _assert_close(got, expected)
