"""Reads the images of a folder as they are wanted, in batches and in little memory: nothing is cached."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import UInt8

from simsiam_jax.data.builders.image_folder import MAX_NAMED, MAX_THREADS, FolderConfig, require_few_skipped
from simsiam_jax.data.decode import BadImage, decode_file
from simsiam_jax.data.feed import read_ahead
from simsiam_jax.data.folder_labels import printable
from simsiam_jax.data.folders import Listing
from simsiam_jax.errors import require

# Files that a thread decodes at a time.
_AT_A_TIME = 32


class NamedImages(NamedTuple):
    """Images with the names of their files.

    Attributes:
      names: Names relative to the folder, with `/`; bytes that are no UTF-8 are surrogates, as `os.fsdecode` has them.
      images: RGB images in 0..255.
      skipped: Number of files since the batch before that cannot be read.
    """

    names: Sequence[str]
    images: UInt8[np.ndarray, "batch size size 3"]
    skipped: int


def in_order(listing: Listing, *, size: int, batch_size: int, max_bad_images: float) -> Iterator[NamedImages]:
    """The images of a folder in the order of their names, decoded in threads as preparation decodes them.

    A file that cannot be read is skipped and named in a warning.

    Args:
      listing: Files of the folder.
      size: Side in pixels of the square images.
      batch_size: Number of images in a batch; the last one may have fewer.
      max_bad_images: Share of the files, 0..1, that may be unreadable, as `FolderConfig` has it.

    Raises:
      InputError: If more files are unreadable, or all.
    """
    config = FolderConfig(listing=listing, size=size, max_bad_images=max_bad_images)
    skipped: dict[str, str] = {}
    names: list[str] = []
    images: list[np.ndarray] = []
    told = 0

    def decode(chunk: Sequence[str]) -> list[tuple[str, np.ndarray | BadImage]]:
        return [(name, _decoded(listing, name, size)) for name in chunk]

    chunks = (listing.files[start : start + _AT_A_TIME] for start in range(0, len(listing.files), _AT_A_TIME))
    for chunk in read_ahead(decode, chunks, ahead=min(os.cpu_count() or 1, MAX_THREADS)):
        for name, found in chunk:
            if isinstance(found, BadImage):
                skipped[name] = str(found)
                if len(skipped) <= MAX_NAMED:
                    logging.warning("Skipping %s: %s", printable(str(listing.root / name)), found)
                require_few_skipped(config, skipped)
                continue
            names.append(name)
            images.append(found)
            if len(names) == batch_size:
                yield NamedImages(names, np.stack(images), len(skipped) - told)
                names, images, told = [], [], len(skipped)
    require(len(skipped) < len(listing.files), f"no image of {listing.root} is readable; see the warnings above")
    if names:
        yield NamedImages(names, np.stack(images), len(skipped) - told)


def _decoded(listing: Listing, name: str, size: int) -> np.ndarray | BadImage:
    try:
        return decode_file(listing.root / name, size)
    except BadImage as fault:
        return fault
