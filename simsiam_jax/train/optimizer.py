"""Optimisers as in the paper: coupled weight decay, linear warm-up, cosine decay, accumulation.

The optimiser gives the update for a learning rate of one; the step multiplies it by a rate that it is handed. So one
compiled step serves every length of training, and the schedule is a plain array that can be logged.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from simsiam_jax.settings.schema import OptimizerConfig, ScheduleConfig


def create_optimizer(config: OptimizerConfig, *, accumulation: int = 1) -> optax.GradientTransformation:
    """Adam or SGD at a learning rate of one, with coupled weight decay.

    Weight decay is added to the gradient, as `torch.optim.Adam(weight_decay=...)` has it, on all parameters
    (PAPER.md, "Learning rate").

    Args:
      config: The optimiser.
      accumulation: Micro-batches whose gradients are averaged for one update; the others give zero updates.
    """
    step = optax.scale_by_adam() if config.name == "adam" else optax.trace(decay=config.momentum)
    chained = optax.chain(optax.add_decayed_weights(config.weight_decay), step, optax.scale(-1.0))
    if accumulation == 1:
        return chained
    return optax.MultiSteps(chained, every_k_schedule=accumulation).gradient_transformation()


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


def scale_updates(updates: Any, learning_rate: Any, *, constant: Callable[[Any], bool], constant_rate: Any) -> Any:
    """Multiplies updates by the learning rate, and some of them by a constant one (SimSiam, section 4.2).

    Args:
      updates: Tree of updates for a learning rate of one.
      learning_rate: The scheduled rate, a scalar.
      constant: Tells from a leaf's path whether `constant_rate` applies to it.
      constant_rate: The rate of those leaves, a scalar.
    """

    def scale(path, update):
        return update * (constant_rate if constant(path) else learning_rate)

    return jax.tree_util.tree_map_with_path(scale, updates)
