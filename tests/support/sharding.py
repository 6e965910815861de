"""Batches laid out by hand, for tests that call compiled steps without a feed."""

import jax
from einops import rearrange

from simsiam_jax.data.feed import Batch


def shard(batch: Batch, devices: int | None = None) -> Batch:
    """Splits the leading axis of a batch over the local devices: [batch, ...] -> [devices, local batch, ...]."""
    devices = devices or jax.local_device_count()
    return Batch(*(rearrange(part, "(device batch) ... -> device batch ...", device=devices) for part in batch))
