"""The step functions, pure and per device, and the only `pmap` around them.

The state stays unreplicated (`in_axes=None`, `out_axes=None`): gradients and batch statistics are averaged over the
axis, so every device computes the same new state and one copy of it comes back.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int

from simsiam_jax.data.feed import Batch, in_batches
from simsiam_jax.data.views import augmented_view, evaluation_view, sample_keys, several_views
from simsiam_jax.losses import classification_loss, l2_normalize, simsiam_loss
from simsiam_jax.metrics import top1, z_spread
from simsiam_jax.models import Classifier, SimSiam, train_on_views
from simsiam_jax.settings.schema import MethodConfig, ViewSpec
from simsiam_jax.train.devices import AXIS, on_every_device, streamed
from simsiam_jax.train.optimizer import scale_updates
from simsiam_jax.train.state import TrainState

# Held-out views are drawn as an epoch that training never reaches, so they are the same at every measurement.
HELDOUT_EPOCH = 2**31 - 1

# Calls that may be under way before the host waits for one: enough to keep the devices busy.
_CALLS_IN_FLIGHT = 2


class Hyper(NamedTuple):
    """What a step is told beside its batch; scalars, or arrays with an entry for each micro-step.

    Attributes:
      learning_rate: Rate of the update that this micro-step belongs to, float32.
      constant_rate: Rate of the parameters that do not follow the schedule, float32.
      seed: Seed of the run, uint32.
      epoch: Epoch, counted from 0, int32.
    """

    learning_rate: Any
    constant_rate: Any
    seed: Any
    epoch: Any


Step = Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]


def _apply_gradients(
    state: TrainState,
    gradients: Any,
    batch_stats: Any,
    rate_of: Callable[[Any], Any],
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state after an optimiser step with the devices' mean gradient; `rate_of` as in `scale_updates`."""
    gradients = lax.pmean(gradients, AXIS)
    unscaled, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updates = scale_updates(unscaled, rate_of)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )


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


def pretrain_step(
    state: TrainState,
    batch: Batch,
    hyper: Hyper,
    *,
    model: SimSiam,
    optimizer: optax.GradientTransformation,
    views: ViewSpec,
    method: MethodConfig,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One micro-step of SimSiam: its views, equation (3), gradients averaged over the devices.

    Args:
      state: The state before the step, the same on every device.
      batch: This device's share, uint8 images [local batch, height, width, 3].
      hyper: Learning rates, seed and epoch as scalars.
      model: The network, with `axis_name=AXIS`, so that batch statistics are those of the whole micro-batch.
      optimizer: Optimiser from `create_optimizer`, with `MultiSteps` inside for accumulation.
      views: Distribution of the views.
      method: Number of the views, parts of equation (3) that are in force, and what has a learning rate of its own.

    Returns:
      The new state, and `loss` and `z_spread` as float32 scalars.
    """
    count, draw = method.target_views, {"seed": hyper.seed, "epoch": hyper.epoch}
    drawn = several_views(batch.images, batch.sample_ids, **draw, spec=views, count=count)
    keys = jnp.stack([sample_keys(batch.sample_ids, **draw, view=view) for view in range(count)])

    def loss_of(params):
        variables = {"params": _without_frozen_gradients(params, method)}
        variables |= {"batch_stats": state.batch_stats} if state.batch_stats else {}
        outputs, batch_stats = train_on_views(model, variables, *drawn, keys=keys)
        loss = simsiam_loss(*outputs, stop_gradient=method.stop_gradient, symmetric=method.symmetric)
        return loss, (batch_stats, z_spread(outputs[count]))

    (loss, (batch_stats, spread)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    state = _apply_gradients(state, gradients, batch_stats, _pretraining_rates(hyper, method), optimizer)
    return state, lax.pmean({"loss": loss, "z_spread": spread}, AXIS)


def finetune_step(
    state: TrainState,
    batch: Batch,
    hyper: Hyper,
    *,
    model: Classifier,
    optimizer: optax.GradientTransformation,
    views: ViewSpec,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of supervised training of all weights: one view, (binary) cross-entropy.

    Arguments are as in `pretrain_step`. Metrics are `loss`, and `top1` where labels are classes.
    """
    view = augmented_view(batch.images, batch.sample_ids, seed=hyper.seed, epoch=hyper.epoch, view=0, spec=views)
    keys = sample_keys(batch.sample_ids, seed=hyper.seed, epoch=hyper.epoch, view=0)
    share = known_share(batch.labels)

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        applied: Any = model.apply(variables, view, train=True, keys=keys, mutable=["batch_stats"])
        logits, updated = applied
        return share * classification_loss(logits, batch.labels), (updated.get("batch_stats", {}), logits)

    (loss, (batch_stats, logits)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    state = _apply_gradients(state, gradients, batch_stats, lambda path: hyper.learning_rate, optimizer)
    accuracy = {"top1": top1(logits, batch.labels)} if batch.labels.ndim == 1 else {}
    return state, lax.pmean({"loss": loss, **accuracy}, AXIS)


def known_share(labels: Int[Array, "batch *attributes"]) -> Float[Array, ""]:
    """This device's known labels relative to the devices' mean: 1 where all are known.

    A device's mean loss times this, averaged over the devices, is the mean over all known labels.
    """
    known = jnp.sum(labels >= 0).astype(jnp.float32)
    # Of no known label at all the loss is 0 in any case.
    return known / jnp.maximum(lax.pmean(known, AXIS), 1e-6)


def compile_step(
    step: Step, devices: Sequence[Any] | None = None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]:
    """`step` on all local devices (or on these): the batch has a leading device axis, the state is donated."""
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0, devices=devices
    )


def compile_scan(
    step: Step, devices: Sequence[Any] | None = None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, jax.Array]]]:
    """Many micro-steps in one call on all local devices (or on these): `lax.scan`, for accelerators.

    The compiled function takes the state, a `Batch` of arrays [devices, micro-steps, local batch, ...] and a `Hyper`
    of arrays [micro-steps]; its metrics are [micro-steps]. The state is donated. On a CPU XLA runs the same steps
    several times slower inside a scan; there `compile_step` is called in a loop.
    """

    def many(state, batches, hypers):
        return lax.scan(lambda state, inputs: step(state, *inputs), state, (batches, hypers))

    return jax.pmap(
        many, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0, devices=devices
    )


def heldout_outputs(
    variables: dict[str, Any], batch: Batch, seed: jax.Array, *, model: SimSiam, views: ViewSpec, method: MethodConfig
) -> dict[str, jax.Array]:
    """Each held-out image's loss, equation (3) with running statistics, and the direction of its first z."""
    count = method.target_views
    drawn = several_views(batch.images, batch.sample_ids, seed=seed, epoch=HELDOUT_EPOCH, spec=views, count=count)
    outputs: Any = model.apply(variables, *drawn, train=False)
    losses = jax.vmap(lambda *rows: simsiam_loss(*(row[None] for row in rows), symmetric=method.symmetric))(*outputs)
    return {"loss": losses, "z": l2_normalize(outputs[count])}


def clean_outputs(
    variables: dict[str, Any], batch: Batch, seed: jax.Array, *, model: Any, views: ViewSpec
) -> dict[str, jax.Array]:
    """A backbone's features or a classifier's logits on unaugmented images, with running statistics."""
    images = evaluation_view(batch.images, spec=views)
    return {"outputs": model.apply(variables, images, train=False).astype(jnp.float32)}


def compile_outputs(
    outputs: Callable[..., dict[str, jax.Array]], devices: Sequence[Any] | None = None
) -> Callable[..., dict[str, jax.Array]]:
    """`outputs` on all local devices (or on these): the batch has a leading device axis, and so have the results."""
    return jax.pmap(outputs, axis_name=AXIS, in_axes=(None, 0, None), devices=devices)


def over_split(
    compiled: Callable[..., dict[str, jax.Array]],
    variables: dict[str, Any],
    split: Any,
    *,
    batch_size: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Applies a compiled outputs function to every image of a split, in order.

    Args:
      compiled: Function from `compile_outputs`.
      variables: The trained model's variables.
      split: An `ImageSplit`.
      batch_size: Images in a call over all devices.
      seed: Seed of the held-out views.

    Returns:
      Arrays with one row for each image of the split.
    """
    devices = jax.local_device_count()
    variables = on_every_device(variables)
    results, waiting = [], deque()
    for batch in streamed(split, in_batches(len(split), max(devices, batch_size // devices * devices))):
        waiting.append(compiled(variables, batch, np.uint32(seed)))
        if len(waiting) > _CALLS_IN_FLIGHT:
            results.append(jax.device_get(waiting.popleft()))
    results += jax.device_get(list(waiting))

    def join(*arrays):
        flat = [rearrange(array, "device batch ... -> (device batch) ...") for array in arrays]
        return np.concatenate(flat)[: len(split)]

    return jax.tree.map(join, *results)


def bind(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`functools.partial` under the function's own name, which profiles and compiled programs show."""
    return functools.update_wrapper(functools.partial(function, **settings), function)
