"""What trained networks give for every image of a split: features, logits, held-out losses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from simsiam_jax import stopping
from simsiam_jax.data.feed import Batch, in_batches
from simsiam_jax.data.views import evaluation_view, several_views
from simsiam_jax.errors import DivergenceError
from simsiam_jax.losses import l2_normalize, simsiam_loss
from simsiam_jax.models import SimSiam
from simsiam_jax.settings.schema import MethodConfig, ViewSpec
from simsiam_jax.train.devices import UnderWay, on_each_device, on_every_device, streamed

# Held-out views are drawn as an epoch that training never reaches, so they are the same at every measurement.
HELDOUT_EPOCH = 2**31 - 1


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
    outputs: Callable[..., dict[str, jax.Array]], devices: Any = None
) -> Callable[..., dict[str, jax.Array]]:
    """`outputs` on all local devices (or on these): the batch has a leading device axis, and so have the results."""
    return on_each_device(outputs, in_axes=(None, 0, None), devices=devices or jax.local_devices())


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
      batch_size: Images in a call over this process's devices.
      seed: Seed of the held-out views.

    Returns:
      Arrays with one row for each image of the split.

    Raises:
      stopping.Stopped: Between two batches, if a signal asks for it.
      DivergenceError: If an output is not finite.
    """
    devices = jax.local_device_count()
    variables = on_every_device(variables)
    results, under_way = [], UnderWay(frugal=False)
    for batch in streamed(split, in_batches(len(split), max(devices, batch_size // devices * devices)), alone=True):
        stopping.check()
        results += jax.device_get(under_way.add(compiled(variables, batch, np.uint32(seed))))
    results += jax.device_get(under_way.rest())

    def join(*arrays):
        flat = [rearrange(array, "device batch ... -> (device batch) ...") for array in arrays]
        return np.concatenate(flat)[: len(split)]

    found = jax.tree.map(join, *results)
    for name, values in found.items():
        if bad := int((~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))).sum()):
            raise DivergenceError(f"{name} of {bad:,} of {len(split):,} images are not finite")
    return found


def bind(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`functools.partial` under the function's own name, which profiles and compiled programs show."""
    return functools.update_wrapper(functools.partial(function, **settings), function)
