"""Pretraining and fine-tuning as pure functions of one device's share of an update, and the forms an update takes.

Parameters stand still between updates. So the micro-batches of an update may pass through the network one by one, all
at once, or some at a time: their gradients and statistics are the same up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from simsiam_jax.data.feed import Batch
from simsiam_jax.data.views import augmented_view, sample_keys, several_views
from simsiam_jax.losses import classification_loss, simsiam_loss
from simsiam_jax.metrics import top1, z_spread
from simsiam_jax.models import Classifier, SimSiam, train_on_batches
from simsiam_jax.settings.schema import MethodConfig, ViewSpec
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.optimizer import accumulated, scale_updates
from simsiam_jax.train.state import TrainState


class Hyper(NamedTuple):
    """What an update is told beside its images; scalars, or arrays with an entry for each update.

    Attributes:
      learning_rate: Scheduled learning rate, float32.
      constant_rate: Rate of the parameters that do not follow the schedule, float32.
      seed: Seed of the run, uint32.
      epoch: Epoch, counted from 0, int32.
    """

    learning_rate: Any
    constant_rate: Any
    seed: Any
    epoch: Any


class Passed(NamedTuple):
    """What passing micro-batches through the network gives.

    Attributes:
      gradients: This device's gradients, the mean over the micro-batches; a tree like the parameters'.
      batch_stats: Running statistics as if the micro-batches had passed in turn.
      metrics: This device's means over the micro-batches, float32 scalars by name.
    """

    gradients: Any
    batch_stats: Any
    metrics: dict[str, jax.Array]


# pass(params, batch_stats, group, hyper): a group is a `Batch` of arrays [micro-batches, local batch, ...].
Pass = Callable[[Any, Any, Batch, Hyper], Passed]
Step = Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Update:
    """A network's training: how micro-batches pass, and what the optimiser makes of their gradients.

    Attributes:
      passes: Passes any number of micro-batches at once.
      rates: Gives the function from a parameter's path to its learning rate, as in `scale_updates`.
      optimizer: Optimiser from `create_optimizer`, at a learning rate of one.
    """

    passes: Pass
    rates: Callable[[Hyper], Callable[[Any], Any]]
    optimizer: optax.GradientTransformation

    def apply(self, state: TrainState, gradients: Any, batch_stats: Any, hyper: Hyper) -> TrainState:
        """The state after the optimiser's step with the mean of the devices' gradients."""
        gradients = lax.pmean(gradients, AXIS)
        unscaled, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        updates = scale_updates(unscaled, self.rates(hyper))
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )


def pretraining(
    *, model: SimSiam, optimizer: optax.GradientTransformation, views: ViewSpec, method: MethodConfig
) -> Update:
    """SimSiam: the views of an image, equation (3), all parts of the network at their learning rates.

    The metrics are `loss` and `z_spread`.

    Args:
      model: The network, with `axis_name=AXIS`, so that batch statistics are those of the whole micro-batch.
      optimizer: Optimiser from `create_optimizer`.
      views: Distribution of the views.
      method: Number of the views, parts of equation (3) that are in force, and what has a learning rate of its own.
    """
    count = method.target_views

    def passes(params: Any, batch_stats: Any, group: Batch, hyper: Hyper) -> Passed:
        micro_batches = len(group.sample_ids)
        ids = rearrange(group.sample_ids, "micro batch -> (micro batch)")
        images = rearrange(group.images, "micro batch ... -> (micro batch) ...")
        draw = {"seed": hyper.seed, "epoch": hyper.epoch}
        drawn = several_views(images, ids, **draw, spec=views, count=count)
        keys = [sample_keys(ids, **draw, view=view) for view in range(count)]

        def in_turn(each):
            return rearrange(each, "view (micro batch) ... -> (micro view) batch ...", micro=micro_batches)

        batches, keys = in_turn(jnp.stack(drawn)), in_turn(jnp.stack(keys))

        def loss_of(params):
            variables = {"params": _without_frozen_gradients(params, method)}
            variables |= {"batch_stats": batch_stats} if batch_stats else {}
            outputs, updated = train_on_batches(model, variables, batches, keys=keys)
            p, z = (rearrange(each, "(micro view) ... -> view micro ...", view=count) for each in outputs)

            def loss(p, z):
                return simsiam_loss(*p, *z, stop_gradient=method.stop_gradient, symmetric=method.symmetric)

            losses = jax.vmap(loss, in_axes=1)(p, z)
            # Of all devices' samples: the spread of a few is another number.
            spread = jax.vmap(lambda each: z_spread(each, AXIS))(lax.stop_gradient(z[0]))
            return jnp.mean(losses), (updated, jnp.mean(spread))

        (loss, (updated, spread)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return Passed(gradients, updated, {"loss": loss, "z_spread": spread})

    return Update(passes, lambda hyper: _pretraining_rates(hyper, method), optimizer)


def _pretraining_rates(hyper: Hyper, method: MethodConfig) -> Callable[[Any], Any]:
    """The learning rate of a parameter by its path: the predictor may have its own (SimSiam, section 4.2)."""
    predictor = hyper.constant_rate if method.constant_predictor else hyper.learning_rate
    if method.predictor_rate != 1:
        predictor = predictor * method.predictor_rate

    def rate_of(path):
        if _is_frozen(path, method):
            return 0.0
        return predictor if path[0].key == "predictor" else hyper.learning_rate

    return rate_of


def _is_frozen(path: Any, method: MethodConfig) -> bool:
    """Whether a parameter is not trained: the patch embedding, where asked (Chen, Xie and He 2021, section 4)."""
    return method.frozen_patch_embedding and (path[0].key, path[1].key) == ("backbone", "patch_embed")


def _without_frozen_gradients(params: Any, method: MethodConfig) -> Any:
    """The parameters, with no gradient to those that are not trained."""
    if not method.frozen_patch_embedding:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, param: lax.stop_gradient(param) if _is_frozen(path, method) else param, params
    )


def finetuning(*, model: Classifier, optimizer: optax.GradientTransformation, views: ViewSpec) -> Update:
    """Supervised training of all weights: one view, (binary) cross-entropy, one micro-batch an update.

    The metrics are `loss`, and `top1` where labels are classes. Arguments are as in `pretraining`.
    """

    def passes(params: Any, batch_stats: Any, group: Batch, hyper: Hyper) -> Passed:
        batch = Batch(*(part[0] for part in group))
        draw = {"seed": hyper.seed, "epoch": hyper.epoch, "view": 0}
        view = augmented_view(batch.images, batch.sample_ids, **draw, spec=views)
        keys = sample_keys(batch.sample_ids, **draw)
        share = known_share(batch.labels)

        def loss_of(params):
            variables = {"params": params, "batch_stats": batch_stats}
            applied: Any = model.apply(variables, view, train=True, keys=keys, mutable=["batch_stats"])
            logits, updated = applied
            return share * classification_loss(logits, batch.labels), (updated.get("batch_stats", {}), logits)

        (loss, (updated, logits)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        accuracy = {"top1": top1(logits, batch.labels)} if batch.labels.ndim == 1 else {}
        return Passed(gradients, updated, {"loss": loss, **accuracy})

    return Update(passes, lambda hyper: lambda path: hyper.learning_rate, optimizer)


def known_share(labels: Int[Array, "batch *attributes"]) -> Float[Array, ""]:
    """This device's known labels relative to the devices' mean: 1 where all are known.

    A device's mean loss times this, averaged over the devices, is the mean over all known labels.
    """
    known = jnp.sum(labels >= 0).astype(jnp.float32)
    # Of no known label at all the loss is 0 in any case.
    return known / jnp.maximum(lax.pmean(known, AXIS), 1e-6)


def whole_update(update: Update, *, at_once: int | None = None) -> Step:
    """An update as one function of a group of micro-batches, arrays [micro-batches, local batch, ...].

    Args:
      update: The training.
      at_once: How many micro-batches pass at once; None: all of a group. With fewer, a scan over the parts of a group
        sums their gradients. It needs less memory, and more time where the parts are small for the device.
    """

    def step(state, group, hyper):
        micro_batches = len(group.sample_ids)
        each = at_once or micro_batches
        if each == micro_batches:
            passed = update.passes(state.params, state.batch_stats, group, hyper)
        else:
            passed = _summed(update, state, jax.tree.map(lambda part: _in_parts(part, each), group), hyper)
        new_state = update.apply(state, passed.gradients, passed.batch_stats, hyper)
        return new_state, lax.pmean(passed.metrics, AXIS)

    return step


def _in_parts(array: jax.Array, size: int) -> jax.Array:
    return rearrange(array, "(part micro) ... -> part micro ...", micro=size)


def _summed(update: Update, state: TrainState, parts: Batch, hyper: Hyper) -> Passed:
    """Passes the parts of a group, arrays [parts, micro-batches of a part, local batch, ...], one after the other."""

    def one(carried, part):
        batch_stats, total = carried
        passed = update.passes(state.params, batch_stats, part, hyper)
        return (passed.batch_stats, jax.tree.map(jnp.add, total, passed.gradients)), passed.metrics

    start = (state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
    (batch_stats, total), metrics = lax.scan(one, start, parts)
    gradients = jax.tree.map(lambda each: each / len(parts.sample_ids), total)
    return Passed(gradients, batch_stats, jax.tree.map(jnp.mean, metrics))


def _group_of(batch: Batch) -> Batch:
    """A micro-batch as a group of one."""
    return jax.tree.map(lambda part: part[None], batch)


def micro_step(update: Update, *, accumulation: int = 1) -> Step:
    """A step with one micro-batch, arrays [local batch, ...]; `optax.MultiSteps` updates once in `accumulation`.

    The optimiser's state is that of `accumulated(update.optimizer, accumulation)`.
    """
    stepped = Update(update.passes, update.rates, accumulated(update.optimizer, accumulation))
    whole = whole_update(stepped)

    def step(state, batch, hyper):
        return whole(state, _group_of(batch), hyper)

    return step


def add_micro_batch(update: Update) -> Callable[..., tuple[Any, Any, dict[str, jax.Array]]]:
    """The first of two functions that make an update from a loop: it adds one micro-batch's gradients to a sum.

    Returns:
      add(state, gradients, batch_stats, batch, hyper) -> (gradients, batch_stats, metrics), of arrays [local batch,
      ...]. The state stays as it is; the gradients are sums of this device's.
    """

    def add(state, gradients, batch_stats, batch, hyper):
        passed = update.passes(state.params, batch_stats, _group_of(batch), hyper)
        total = jax.tree.map(jnp.add, gradients, passed.gradients)
        return total, passed.batch_stats, lax.pmean(passed.metrics, AXIS)

    return add


def apply_sum(update: Update, *, accumulation: int) -> Callable[..., tuple[TrainState, Any]]:
    """The second: apply(state, gradients, batch_stats, hyper) -> (state after the update, gradients of zero)."""

    def apply(state, gradients, batch_stats, hyper):
        mean = jax.tree.map(lambda total: total / accumulation, gradients)
        return update.apply(state, mean, batch_stats, hyper), jax.tree.map(jnp.zeros_like, gradients)

    return apply
