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

# A split lies on the device if it takes at most this share of its memory. The rest is left to the network.
_RESIDENT_SHARE = 0.25
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

Wanted = TypeVar("Wanted")
Made = TypeVar("Made")


class Batch(NamedTuple):
    """Images with their labels and ids; the leading axes are those of the index array that selected them.

    Attributes:
      images: Images in 0..255, uint8 [..., height, width, 3].
      labels: Labels, int32 [...] or [..., attributes]; -1 where there is none.
      sample_ids: Numbers of the images, int32 [...], from which their views are drawn.
    """

    images: Any
    labels: Any
    sample_ids: Any


def epoch_order(images: int, *, seed: int, epoch: int) -> Int[np.ndarray, " images"]:
    """A permutation of 0..images-1 that is a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)


def gather(split: Any, indices: Int[np.ndarray, "*axes"]) -> Batch:
    """The rows of an `ImageSplit` in the order of `indices`."""
    return Batch(split.images[indices], split.labels[indices], split.sample_ids[indices])


def in_batches(count: int, size: int) -> Int[np.ndarray, "batches size"]:
    """Indices 0..count-1 as equal batches, the last filled up by repeating the last index.

    Args:
      count: Number of samples, at least 1.
      size: Number of samples in a batch.
    """
    batches = -(-count // size)
    return np.minimum(np.arange(batches * size), count - 1).reshape(batches, size).astype(np.int32)


def read_ahead(make: Callable[[Wanted], Made], wanted: Iterable[Wanted], *, ahead: int = 2) -> Iterator[Made]:
    """Maps a function over its arguments, with the next results made in threads while the consumer is busy.

    Args:
      make: Function that other threads call. What it raises is raised where its result would have come.
      wanted: Arguments of `make`, consumed no further than `ahead` results in advance.
      ahead: Number of results that may wait, at least 1; it bounds the memory.

    Yields:
      The results in the order of the arguments.
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
    """Chooses the feed of a split: `resident` where its images take at most a quarter of the device's memory.

    Args:
      wanted: Value of --feed: `resident` and `streamed` are taken as they are, `auto` chooses by size.
      split_bytes: Bytes of the split's images.
      memory_bytes: Bytes of one device's memory.

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
    except (OSError, ValueError):  # There is no such file, or it says "max".
        return memory
