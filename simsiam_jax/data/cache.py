"""Decoded images on disk as plain arrays: decoded once, then mapped into memory by every run.

A cached split is a folder of `images.npy`, `labels.npy`, `sample_ids.npy` and `split.json`. It is written under another
name and renamed when complete. So a folder of the right name is whole, whenever its writer was killed. What happens to
it later, such as a bit that flips on the disk, is noticed by checksums whenever it is opened.
"""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Int32, UInt8

from simsiam_jax.data.checksums import first_fault, of_files
from simsiam_jax.files import one_line, read_sealed, write_sealed

# Version of the folder's layout, and of how images are decoded and divided into splits: raise it with a change.
FORMAT = 2
# The file that describes a split, written last.
DESCRIPTION = "split.json"
_ARRAYS = ("images.npy", "labels.npy", "sample_ids.npy")
FINGERPRINT_DIGITS = 16


class DamagedSplit(ValueError):
    """A cached split that cannot be used; the message says why, without the folder's name."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSplit:
    """The images of one split, with labels and ids.

    Attributes:
      images: RGB images in 0..255; a memory map where they come from the cache.
      labels: Class numbers [n], -1 where an image has none; or binary attributes [n, attributes], -1 where unknown.
      sample_ids: Numbers of the images, unique over all splits of a data set and the same in every run, as they seed
        augmentation.
      fingerprint: 16 hex digits that change with any image or label.
    """

    images: UInt8[np.ndarray, "n height width 3"]
    labels: Int32[np.ndarray, "n *attributes"]
    sample_ids: Int32[np.ndarray, " n"]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Int[np.ndarray, " m"]) -> "ImageSplit":
        """The images at these positions, in this order, copied into memory."""
        images, labels = self.images[indices], self.labels[indices]
        return ImageSplit(np.asarray(images), labels, self.sample_ids[indices], fingerprint(images, labels))


def unlabelled(
    images: UInt8[np.ndarray, "n height width 3"], sample_ids: Int[np.ndarray, " n"] | None = None
) -> ImageSplit:
    """Images without labels as a split that no record names: its fingerprint is empty.

    Args:
      images: RGB images in 0..255.
      sample_ids: Numbers of the images; None means 0..n-1.
    """
    ids = np.arange(len(images)) if sample_ids is None else sample_ids
    return ImageSplit(images, np.full(len(images), -1, np.int32), ids.astype(np.int32), fingerprint="")


def fingerprint(images: UInt8[np.ndarray, "n height width 3"], labels: Int32[np.ndarray, "n *attributes"]) -> str:
    """16 hex digits of the sha256 over all images, then all labels as little-endian 32-bit numbers."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def open_split(folder: Path) -> ImageSplit | None:
    """The cached split in `folder`, images memory-mapped; None if there is none.

    All of it is read once and compared with its checksums: a few seconds for each 10 GB, after which the images are in
    the system's memory as far as they fit.

    Raises:
      DamagedSplit: If it is damaged, or of another version of this program.
    """
    if not folder.exists():
        return None
    try:
        description = read_sealed(folder / DESCRIPTION)
        if description["format"] != FORMAT:
            raise DamagedSplit("it was made by another version of this program")
        if fault := first_fault(folder, {name: description["checksums"][name] for name in _ARRAYS}):
            raise DamagedSplit(fault)
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
        sample_ids = np.load(folder / "sample_ids.npy")
        return ImageSplit(images, labels, sample_ids, description["fingerprint"])
    except FileNotFoundError as fault:
        raise DamagedSplit(f"{Path(fault.filename).name} is missing") from None
    except DamagedSplit:
        raise
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DamagedSplit(f"{DESCRIPTION} is damaged: {one_line(fault)}") from None


def write_split(
    folder: Path,
    batches: Iterable[tuple[UInt8[np.ndarray, "batch height width 3"], Int32[np.ndarray, "batch *attributes"]]],
    sample_ids: Int32[np.ndarray, " n"],
) -> None:
    """Writes a split batch by batch and moves it to `folder`, replacing what is there.

    What killed writers of this folder left behind is removed, so the caller must hold a lock.

    Args:
      folder: Folder of the cached split.
      batches: Images and labels, together as many as `sample_ids`; all images have one size.
      sample_ids: Sample ids of all images.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.incomplete-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _write_files(temporary, batches, sample_ids)
        temporary.chmod(0o755)  # mkdtemp makes a private folder, but data folders are shared.
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_files(
    folder: Path,
    batches: Iterable[tuple[UInt8[np.ndarray, "batch height width 3"], Int32[np.ndarray, "batch *attributes"]]],
    sample_ids: Int32[np.ndarray, " n"],
) -> None:
    digest = hashlib.sha256()
    all_labels = []
    # The file is written, not memory-mapped: on a full disk a write raises, where a map kills the process.
    with (folder / "images.npy").open("wb") as file:
        for images, labels in batches:
            if not all_labels:
                _write_header(file, (len(sample_ids), *images.shape[1:]))
            file.write(np.ascontiguousarray(images).data)
            digest.update(np.ascontiguousarray(images).data)
            all_labels.append(labels)
    labels = np.concatenate(all_labels)
    if len(labels) != len(sample_ids):
        raise ValueError(f"{len(labels)} images for {len(sample_ids)} sample ids")
    digest.update(labels.astype("<i4").tobytes())
    np.save(folder / "labels.npy", labels)
    np.save(folder / "sample_ids.npy", sample_ids)
    description = {"format": FORMAT, "fingerprint": digest.hexdigest()[:FINGERPRINT_DIGITS]}
    write_sealed(folder / DESCRIPTION, {**description, "checksums": of_files(folder, _ARRAYS)})
    # The rename must not reach the disk before the files do.
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
