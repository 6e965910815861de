"""A split of a data set as memory-mapped images: found in the cache, or prepared and decoded into it."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int32

from simsiam_jax.data import prepared, storage
from simsiam_jax.data.cache import DamagedSplit, ImageSplit, open_split, write_split
from simsiam_jax.data.datasets import DatasetInfo, dataset_info
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import locked
from simsiam_jax.settings.schema import NoiseConfig


def load_split(
    dataset: str | DatasetInfo,
    split: str,
    *,
    data_dir: str | Path,
    manual_dir: str | Path | None = None,
    size: int | None = None,
    max_bad_images: float = 0.01,
    noise: NoiseConfig | None = None,
    seed: int = 0,
) -> ImageSplit:
    """A split as memory-mapped uint8 images, prepared by TFDS and decoded into the cache on first use.

    Where a data set has no validation images of its own, 20 % of the training images, the same number of each
    class, are held out with a fixed seed (experiments/PAPER.md, "Splits"); `train` is then the rest.

    Args:
      dataset: The data set from `dataset_info`, or its name.
      split: Name of one of its splits.
      data_dir: Folder of the prepared data and the cache; it is made if missing.
      manual_dir: Folder with files that the user fetched, for data sets that take them.
      size: Side in pixels to resize to, as `decode_image` does; None means the native size, if there is one.
      max_bad_images: For a folder: share of files, 0..1, that may be unreadable and are then skipped.
      noise: For `random_images`: distribution, number and size of the images; without a size it is `size`, else 32.
      seed: For `random_images`: seed of the noise. Other data sets do not depend on it.

    Returns:
      The split; its images are read-only.

    Raises:
      InputError: If the name or split is unknown, the data is neither there nor reachable, source files are damaged, or
        the folder cannot be written.
    """
    info = dataset_info(dataset) if isinstance(dataset, str) else dataset
    require(
        split in info.splits,
        f"{info.title} has no split {split!r}: it has {', '.join(repr(s) for s in info.splits)}",
    )
    require(size is None or size >= 1, f"--image_size must be at least 1 pixel, not {size}")
    if size is None and info.native_size is None:
        size = info.stored_size(info.image_size)
    if manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser().resolve()
        require(manual_dir.is_dir(), f"--manual_dir={manual_dir} is no folder; create it or leave the flag out")
    root = Path(data_dir).expanduser().resolve()
    with prepared.quiet():
        place = prepared.find(info, root, noise or NoiseConfig(), size, seed, max_bad_images)
        variant = () if info.listing else tuple(filter(None, [info.name.partition(":")[2]]))
        folder = root.joinpath(storage.DECODED, *place.parts, *variant, f"{split}-{size or 'native'}")
        # The cache is looked at before locking, so that a finished data folder may be read-only.
        cached, _ = _opened(folder)
        # What was prepared of a folder says which files were skipped, and is read beside a cached split too.
        if whole := info.listing is None or not place.fault(records=False):
            prepared.check_skipped(place)
        if cached is None or not whole:
            with _writing(root), locked(storage.lock_of(root, info.builder.name)):
                cached, fault = _opened(folder)
                builder = prepared.prepare(place, manual_dir) if cached is None or place.fault(records=False) else None
                if cached is None:
                    if fault:
                        logging.warning(
                            "the decoded images in %s cannot be used (%s); they are made again", folder, fault
                        )
                    write_split(folder, *prepared.decode_split(builder, info, split, size, manual_dir))
                    cached = open_split(folder)
    storage.note_use(folder)
    if cached is None:
        raise RuntimeError(f"the cache {folder} cannot be read just after it was written")
    return cached


def file_names(
    info: DatasetInfo, ids: Int32[np.ndarray, " few"], *, data_dir: str | Path, size: int | None, max_bad_images: float
) -> list[str]:
    """The names of the files of a folder's images, relative to it.

    Args:
      info: The folder, of which a split has been loaded.
      ids: Sample ids of the images; each takes a read of its own.
      data_dir: Folder of the prepared data.
      size: Side in pixels at which the split was loaded.
      max_bad_images: Share of files, 0..1, that may be unreadable.
    """
    root = Path(data_dir).expanduser().resolve()
    with prepared.quiet():
        place = prepared.find(info, root, NoiseConfig(), size, 0, max_bad_images)
        return prepared.file_names(place.builder(), info, ids)


def _opened(folder: Path) -> tuple[ImageSplit | None, str]:
    """The cached split, or None and what is wrong with it."""
    try:
        return open_split(folder), ""
    except DamagedSplit as fault:
        return None, str(fault)


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Makes the data folder, and turns failures to write there into an `InputError`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        unwritable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if error.errno not in unwritable:
            raise
        raise InputError(f"--data_dir={root} cannot be written ({error.strerror}); name a folder that can") from error
