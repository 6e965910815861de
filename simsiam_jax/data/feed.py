"""The order in which images are seen, and the batches that follow from it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int


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
