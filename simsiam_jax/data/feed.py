"""The order in which images are seen, the batches that follow from it, and reading them ahead of the device."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from simsiam_jax.errors import InputError

FEEDS = ("auto", "resident", "streamed")

# A split lies on the device if it takes at most this share of its memory: the rest is the network's.
_RESIDENT_SHARE = 0.25
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

Wanted = TypeVar("Wanted")
Made = TypeVar("Made")


class Batch(NamedTuple):
    """Images with their names and labels; leading axes are those of the index array that selected them.

    Attributes:
      images: uint8 [..., height, width, 3], 0..255.
      labels: int32 [...]; -1 where there is none.
      sample_ids: int32 [...], which name the images in the draws of `two_views`.
    """

    images: Any
    labels: Any
    sample_ids: Any


def epoch_order(images: int, *, seed: int, epoch: int) -> Int[np.ndarray, " images"]:
    """A permutation of 0..images-1 that is a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)


def gather(split: Any, indices: Int[np.ndarray, "*axes"]) -> Batch:
    """The rows of a split (an object with images, labels and sample_ids) in the order of `indices`."""
    return Batch(split.images[indices], split.labels[indices], split.sample_ids[indices])


def in_batches(count: int, size: int) -> Int[np.ndarray, "batches size"]:
    """Indices 0..count-1 as equal batches, the last filled up by repeating the last index.

    Args:
      count: Number of samples, at least 1.
      size: Samples in a batch.
    """
    batches = -(-count // size)
    return np.minimum(np.arange(batches * size), count - 1).reshape(batches, size).astype(np.int32)


def read_ahead(make: Callable[[Wanted], Made], wanted: Iterable[Wanted], *, ahead: int = 2) -> Iterator[Made]:
    """`map(make, wanted)` with the next `ahead` results made in threads while the consumer is busy; order is kept.

    Args:
      make: Called from other threads; what it raises is raised where its result would have come.
      wanted: Its arguments, consumed no further than `ahead` results in advance.
      ahead: Results that may wait, at least 1: they bound the memory.
    """
    with ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead") as pool:
        waiting = deque()
        for each in wanted:
            waiting.append(pool.submit(make, each))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def choose_feed(wanted: str, split_bytes: int, memory_bytes: int) -> Literal["resident", "streamed"]:
    """Which feed serves a split: `resident` where it takes at most a quarter of the device's memory.

    Args:
      wanted: `resident` or `streamed` decide themselves, `auto` by size.
      split_bytes: Of the split's images.
      memory_bytes: Of one device.

    Raises:
      InputError: If `wanted` is none of the three.
    """
    if wanted in ("resident", "streamed"):
        return wanted
    if wanted != "auto":
        raise InputError(f"--feed={wanted}: unknown feed; known: {', '.join(FEEDS)}")
    return "resident" if split_bytes <= _RESIDENT_SHARE * memory_bytes else "streamed"


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return memory
