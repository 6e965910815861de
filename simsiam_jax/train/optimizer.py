"""Optimisers, the paper's and two more: weight decay, linear warm-up, cosine decay, accumulation.

The optimiser gives the update for a learning rate of one; the step multiplies it by a rate that it is handed. So one
compiled step serves every length of training, and the schedule is a plain array that can be logged.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from simsiam_jax.settings.schema import OptimizerConfig, ScheduleConfig

# Length of an update of lars relative to its parameter's at a learning rate of one, without momentum.
TRUST_COEFFICIENT = 0.001


def create_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """An optimiser at a learning rate of one.

    `adam` and `sgd` add weight decay to the gradient, as `torch.optim.Adam(weight_decay=...)` has it, on all parameters
    (PAPER.md, "Learning rate").

    `adamw` adds it to Adam's update instead (Loshchilov and Hutter 2019, algorithm 2), on all parameters. The
    learning rate then multiplies both, as in `torch.optim.AdamW` and `optax.adamw`.

    `lars` is SGD whose gradient g, with coupled weight decay, is scaled by the trust ratio 0.001 |w| / |g| of each
    parameter w before it enters the momentum (You et al. 2017, equation 6; there |g| is the sum of the lengths of
    gradient and decay, here it is the length of their sum, as in `optax.lars`). Parameters of one dimension, which are
    biases and those of norms, have neither weight decay nor a trust ratio. Differs from `optax.lars` and from You et
    al., algorithm 1, where the learning rate changes: there an update enters the momentum times the rate of its own
    step; here the momentum is of updates at a rate of one, and the rate of the present step multiplies it, as in
    `torch.optim.SGD`. At a constant rate both are equal.

    Args:
      config: The optimiser.
    """
    decay = optax.add_decayed_weights(config.weight_decay)
    match config.name:
        case "adam":
            steps = (decay, optax.scale_by_adam())
        case "adamw":
            steps = (optax.scale_by_adam(), decay)
        case "sgd":
            steps = (decay, optax.trace(decay=config.momentum))
        case "lars":
            steps = (
                optax.add_decayed_weights(config.weight_decay, mask=_of_many_dimensions),
                optax.masked(optax.scale_by_trust_ratio(trust_coefficient=TRUST_COEFFICIENT), _of_many_dimensions),
                optax.trace(decay=config.momentum),
            )
    return optax.chain(*steps, optax.scale(-1.0))


def accumulated(optimizer: optax.GradientTransformation, accumulation: int) -> optax.GradientTransformation:
    """The optimiser with the mean gradient of so many micro-batches; all but the last of them give zero updates."""
    if accumulation == 1:
        return optimizer
    return optax.MultiSteps(optimizer, every_k_schedule=accumulation).gradient_transformation()


def _of_many_dimensions(params: Any) -> Any:
    """Whether each parameter has more than one dimension, as a tree."""
    return jax.tree.map(lambda param: param.ndim > 1, params)


def learning_rates(config: ScheduleConfig, *, peak: float, updates_per_epoch: int, epochs: int) -> np.ndarray:
    """The learning rate of every update: linear warm-up from zero, then cosine decay to zero, or constant.

    Args:
      config: The schedule.
      peak: Learning rate at the end of warm-up, from `ScheduleConfig.peak`.
      updates_per_epoch: Updates in an epoch.
      epochs: Length of training in epochs.

    Returns:
      float32 [epochs × updates_per_epoch].
    """
    total = epochs * updates_per_epoch
    # A run shorter than its warm-up still gets to see the decay.
    warmup = min(round(config.warmup_epochs * updates_per_epoch), total // 2)
    if config.schedule == "cosine":
        after: optax.Schedule = optax.cosine_decay_schedule(peak, total - warmup)
    else:
        after = optax.constant_schedule(peak)
    schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])
    # The first update of a warm-up is one step up the ramp, not a wasted one at zero.
    counts = np.arange(total) + (np.arange(total) < warmup)
    return np.asarray(jax.vmap(schedule)(counts), np.float32)


def scale_updates(updates: Any, rate_of: Callable[[Any], Any]) -> Any:
    """Multiplies each update by the learning rate of its parameter.

    Args:
      updates: Tree of updates for a learning rate of one.
      rate_of: Gives the rate of a leaf, a scalar, from its path.
    """
    return jax.tree_util.tree_map_with_path(lambda path, update: update * rate_of(path), updates)
