"""The linear probe: multinomial logistic regression on frozen features.

Differs from the paper: SimSiam trains this layer by SGD for 90 epochs and has a learning rate to tune for each
backbone. The problem is convex: L-BFGS solves it, the strength of its L2 penalty is chosen on validation, and what
remains to compare is the features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from simsiam_jax.losses import cross_entropy

PENALTIES = np.logspace(-5, 1, 7).astype(np.float32)
ITERATIONS = 100


class Probe(NamedTuple):
    """A linear classifier on standardised features.

    Attributes:
      weights: float32 [dim, classes].
      bias: float32 [classes].
      mean: float32 [dim], of the features it was fitted on.
      scale: float32 [dim], by which centred features are multiplied.
      penalty: The chosen strength of the L2 penalty.
      validation_top1: Accuracy in 0..1 by which it was chosen.
    """

    weights: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]
    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    penalty: float
    validation_top1: float

    def top1(self, features: Float[np.ndarray, "n dim"], labels: Int[np.ndarray, " n"]) -> float:
        """Accuracy in 0..1."""
        logits = (features - self.mean) * self.scale @ self.weights + self.bias
        return float(np.mean(np.argmax(logits, axis=-1) == labels))


@jax.jit
def _fit(features, labels, start, penalty):
    def objective(params):
        logits = features @ params["weights"] + params["bias"]
        return cross_entropy(logits, labels) + 0.5 * penalty * jnp.sum(params["weights"] ** 2)

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def step(carry, _):
        params, state = carry
        value, gradient = value_and_gradient(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, solver.init(start)), length=ITERATIONS)
    return params


def fit_probe(
    features: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    validation_features: Float[np.ndarray, "m dim"],
    validation_labels: Int[np.ndarray, " m"],
    *,
    num_classes: int,
) -> Probe:
    """Fits a probe for each penalty and returns the one that does best on validation (the strongest among equals).

    Args:
      features: Of the labelled training images.
      labels: Their classes, 0..num_classes-1.
      validation_features: Of images that the penalty may be chosen on.
      validation_labels: Their classes.
      num_classes: Number of classes.
    """
    mean = features.mean(axis=0)
    # A feature that never varies tells nothing, and must not be divided by zero.
    deviation = features.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0).astype(np.float32)
    start = {
        "weights": jnp.zeros((features.shape[1], num_classes)),
        "bias": jnp.zeros((num_classes,)),
    }
    standard = jnp.asarray((features - mean) * scale)
    probes = []
    for penalty in PENALTIES:
        fitted = jax.device_get(_fit(standard, jnp.asarray(labels), start, penalty))
        probe = Probe(fitted["weights"], fitted["bias"], mean, scale, float(penalty), 0.0)
        probes.append(probe._replace(validation_top1=probe.top1(validation_features, validation_labels)))
    return max(reversed(probes), key=lambda probe: probe.validation_top1)
