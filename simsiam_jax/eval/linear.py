"""The linear probe: logistic regression on frozen features, multinomial for classes, one for each attribute.

Differs from the paper: SimSiam trains this layer by SGD for 90 epochs and has a learning rate to tune for each
backbone. The problem is convex: L-BFGS solves it, the strength of its L2 penalty is chosen on validation, and what
remains to compare is the features.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int
from scipy.special import expit

from simsiam_jax.losses import classification_loss
from simsiam_jax.metrics import Threshold, headline_score

PENALTIES = np.logspace(-5, 1, 7).astype(np.float32)
ITERATIONS = 100


class Probe(NamedTuple):
    """A linear classifier on standardised features.

    Attributes:
      weights: Weights of the linear layer, float32 [dim, classes].
      bias: Bias of the linear layer, float32 [classes].
      mean: Mean of the features that it was fitted on, float32 [dim].
      scale: Factors that centred features are multiplied by, float32 [dim].
      multilabel: Whether its classes are attributes, of which an image can have several.
      penalty: The chosen strength of the L2 penalty.
      validation_score: The `headline_score` in 0..1 that chose the penalty.
    """

    weights: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]
    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    multilabel: bool
    penalty: float
    validation_score: float

    def outputs(self, features: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n classes"]:
        """Logits of the classes, or probabilities of the attributes in 0..1."""
        logits = (features - self.mean) * self.scale @ self.weights + self.bias
        return expit(logits) if self.multilabel else logits


@jax.jit
def _fit(features, labels, start, penalty):
    # The loss is a mean over the attributes. So is the penalty: each gets the regression that it would get alone.
    share = 1 if labels.ndim == 1 else labels.shape[1]

    def objective(params):
        logits = features @ params["weights"] + params["bias"]
        return classification_loss(logits, labels) + 0.5 * penalty * jnp.sum(params["weights"] ** 2) / share

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
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n classes"],
    validation_features: Float[np.ndarray, "m dim"],
    validation_labels: Int[np.ndarray, " m"] | Int[np.ndarray, "m classes"],
    *,
    num_classes: int,
    metric: str | None = None,
    threshold: Threshold | None = 0.5,
) -> Probe:
    """Fits a probe for each penalty and returns the one that does best on validation (the strongest among equals).

    Args:
      features: Features of the labelled training images.
      labels: Classes of these images, 0..num_classes-1; or their attributes, 1, 0, or -1 where not known.
      validation_features: Features of the images that the penalty is chosen on.
      validation_labels: Classes or attributes of those images.
      num_classes: Number of classes or attributes.
      metric: Name of the number that chooses the penalty, of `metrics.scores`; None takes `metrics.HEADLINE`'s.
      threshold: Probability from which on an attribute counts as predicted; None takes each one's best on validation.
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
        probe = Probe(fitted["weights"], fitted["bias"], mean, scale, labels.ndim > 1, float(penalty), 0.0)
        outputs = probe.outputs(validation_features)
        score = headline_score(outputs, validation_labels, metric=metric, threshold=threshold)
        probes.append(probe._replace(validation_score=score))
    return max(
        reversed(probes), key=lambda probe: -1.0 if math.isnan(probe.validation_score) else probe.validation_score
    )
