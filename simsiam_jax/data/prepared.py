"""A data set as TFDS prepares it: its builder, its examples, and the images and labels decoded from them."""

import contextlib
import dataclasses
import io
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import Bool, Int, Int32, UInt8
from tqdm import tqdm

from simsiam_jax import stopping
from simsiam_jax.data import storage
from simsiam_jax.data.builders import stl10
from simsiam_jax.data.builders.image_folder import FolderConfig, require_few_skipped, skipped_images
from simsiam_jax.data.builders.preparation import flat_memory
from simsiam_jax.data.builders.random_images import NoiseImages
from simsiam_jax.data.checksums import first_fault, of_files
from simsiam_jax.data.datasets import DatasetInfo
from simsiam_jax.data.decode import BadImage, decode_image
from simsiam_jax.data.feed import read_ahead
from simsiam_jax.data.names import shown
from simsiam_jax.data.subsets import stratified_split
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import one_line, read_sealed, write_sealed
from simsiam_jax.settings.schema import NoiseConfig

# The checksums of what TFDS has written, beside it.
CHECKSUMS = "checksums.json"
HELD_OUT_SEED = 0
UNLABELLED = -1
READ_BATCH = 512
# Side in pixels up to which threads that decode wait for each other longer than they work.
SMALL = 64

Batches = Iterator[tuple[UInt8[np.ndarray, "batch height width 3"], Int32[np.ndarray, "batch *attributes"]]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS from printing, and from drawing progress bars where no one sees them."""
    tfds.display_progress_bar(sys.stderr.isatty())
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A data set's place in a data folder, whether it is prepared yet or not.

    Attributes:
      info: The data set.
      root: The data folder.
      config: TFDS's configuration of the builder, for noise and folders.
    """

    info: DatasetInfo
    root: Path
    config: NoiseImages | FolderConfig | None

    @property
    def parts(self) -> tuple[str, ...]:
        """The builder, its configuration where it has one, and its version."""
        config = (self.config.name,) if self.config else ()
        return (self.info.builder.name, *config, str(self.info.builder.VERSION))

    @property
    def folder(self) -> Path:
        """The folder of TFDS's files."""
        return self.root.joinpath(*self.parts)

    def fault(self, *, records: bool) -> str:
        """What is wrong with the files, in words; empty where nothing is known to be, or nothing is prepared.

        Args:
          records: Whether to read the images' records too, which may be large.
        """
        if not self.folder.exists():
            return ""
        try:
            expected = read_sealed(self.folder / CHECKSUMS)["files"]
        except FileNotFoundError:  # It was prepared before there were checksums.
            return "" if (self.folder / storage.PREPARED).exists() else f"{storage.PREPARED} is missing"
        except (OSError, ValueError, KeyError) as fault:
            return f"{CHECKSUMS}: {one_line(fault)}"
        few = {name: sums for name, sums in expected.items() if ".array_record" not in name}
        return first_fault(self.folder, expected if records else few)

    def builder(self) -> Any:
        """The TFDS builder.

        Raises:
          InputError: If what it has prepared is damaged.
        """
        arguments = {"config": self.config} if self.config else {}
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # TFDS warns of each new configuration of noise or of a folder.
        try:
            return self.info.builder(data_dir=self.root, **arguments)
        # TFDS reads its own files here, and raises any kind of exception for damaged ones.
        except Exception as error:
            if not self.folder.exists():
                raise
            raise _damaged(self.folder, one_line(error)) from error
        finally:
            logging.set_verbosity(verbosity)


def find(
    info: DatasetInfo, root: Path, noise: NoiseConfig, size: int | None, seed: int, max_bad_images: float
) -> Prepared:
    """The place of a data set.

    Args:
      info: The data set.
      root: Folder of the prepared data.
      noise: For `random_images`: distribution, number and size of the images.
      size: Side in pixels at which images are wanted; None means their own.
      seed: For `random_images`: seed of the noise.
      max_bad_images: For a folder: share of files, 0..1, that may be unreadable.
    """
    pixels, config = size or info.native_size or info.image_size, None
    if info.name == "random_images":
        config = NoiseImages(distribution=noise.distribution, count=noise.count, size=noise.size or pixels, seed=seed)
    if info.listing is not None:
        config = FolderConfig(listing=info.listing, size=pixels, max_bad_images=max_bad_images)
    return Prepared(info, root, config)


def prepare(place: Prepared, manual_dir: Path | None) -> Any:
    """Writes the TFDS data unless it is there and whole, and returns its builder; the caller must hold the lock.

    Raises:
      InputError: If the data is there in a format that needs TensorFlow, is damaged and cannot be made again without a
        download, or cannot be prepared.
    """
    if fault := place.fault(records=True):
        if place.info.builder.name not in storage.REMADE:
            raise _damaged(place.folder, fault)
        logging.warning("the data in %s is damaged (%s); it is prepared again", place.folder, fault)
        shutil.rmtree(place.folder)
    builder = place.builder()
    if not place.folder.exists():
        for leftover in place.folder.parent.glob(f"incomplete.*_{builder.version}"):
            shutil.rmtree(leftover)
        logging.info("Preparing %s in %s", builder.name, builder.data_dir)
        with flat_memory():
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
            )
    formats = {str(file_format.value) for file_format in builder.info.available_file_formats()}
    require(
        "array_record" in formats,
        f"{builder.data_dir} was prepared elsewhere as {', '.join(sorted(formats))}, which needs TensorFlow "
        "to read; remove that folder or name another --data_dir",
    )
    if not (place.folder / CHECKSUMS).exists():
        names = sorted(path.name for path in place.folder.iterdir() if path.is_file())
        # What others have prepared may be read-only.
        with contextlib.suppress(OSError):
            write_sealed(place.folder / CHECKSUMS, {"files": of_files(place.folder, names)})
    return builder


def check_skipped(place: Prepared) -> None:
    """Refuses a folder that was prepared when more unreadable files were allowed."""
    if isinstance(place.config, FolderConfig) and place.folder.exists():
        require_few_skipped(place.config, skipped_images(place.folder))


def decode_split(
    builder: Any, info: DatasetInfo, split: str, size: int | None, manual_dir: Path | None
) -> tuple[Batches, Int32[np.ndarray, " n"]]:
    """The batches and sample ids of one of our splits, as `write_split` takes them.

    Args:
      builder: Builder of the prepared data set.
      info: The data set.
      split: Name of one of its splits.
      size: Side in pixels to resize to; None means the images' own size.
      manual_dir: Folder with files that the user fetched, for STL-10's folds.
    """
    # The order is ours, because TFDS's changes when its description is written and read back.
    names = [name for name in info.splits if name in builder.info.splits]
    counts = [builder.info.splits[name].num_examples for name in names]
    first_id = dict(zip(names, np.cumsum([0, *counts]), strict=False))
    chosen = [
        (name, _source(builder, name), positions)
        for part in split.split("+")
        for name, positions in [_positions(builder, info, part, manual_dir)]
    ]
    ids = np.concatenate([first_id[name] + positions for name, _, positions in chosen]).astype(np.int32)
    return _decoded_batches([(source, positions) for _, source, positions in chosen], info, split, size), ids


def file_names(builder: Any, info: DatasetInfo, ids: Int32[np.ndarray, " few"]) -> list[str]:
    """The names of the files of a folder's images, relative to it, by the images' sample ids."""
    names = [name for name in info.splits if name in builder.info.splits]
    ends = np.cumsum([builder.info.splits[name].num_examples for name in names])
    found = []
    for sample_id in ids.tolist():
        place = int(np.searchsorted(ends, sample_id, side="right"))
        position = sample_id - (int(ends[place - 1]) if place else 0)
        (example,) = _read(_source(builder, names[place]), np.array([position]))
        name = example["name"]
        found.append(os.fsdecode(name) if isinstance(name, bytes) else str(name))
    return found


def _source(builder: Any, tfds_split: str) -> Any:
    return builder.as_data_source(split=tfds_split, decoders={"image": tfds.decode.SkipDecoding()})


def _positions(
    builder: Any, info: DatasetInfo, split: str, manual_dir: Path | None
) -> tuple[str, Int[np.ndarray, " n"]]:
    """The name of TFDS's split that one of ours is made of, and the positions of its examples there."""
    divided = split in ("train", "validation")
    if divided and info.fold is not None:
        inside = _in_fold(builder, info.fold, manual_dir)
        return "train", np.flatnonzero(inside if split == "train" else ~inside)
    if divided and info.validation_fraction is not None:
        source = _source(builder, "train")
        labels = np.concatenate([_labels(_read(source, batch), info) for batch in _batches(np.arange(len(source)))])
        rest, validation = stratified_split(labels, info.validation_fraction, HELD_OUT_SEED)
        return "train", rest if split == "train" else validation
    return split, np.arange(builder.info.splits[split].num_examples)


def _in_fold(builder: Any, fold: int, manual_dir: Path | None) -> Bool[np.ndarray, " train"]:
    """Which images of STL-10's train split belong to a predefined fold."""
    members = set(stl10.fold_hashes(Path(builder.data_dir), manual_dir)[fold])
    source = _source(builder, "train")
    return np.array(
        [
            stl10.image_hash(decode_image(example["image"], None)) in members
            for batch in _batches(np.arange(len(source)))
            for example in _read(source, batch)
        ]
    )


def _batches(indices: Int[np.ndarray, " n"], size: int = READ_BATCH) -> Iterator[Int[np.ndarray, " batch"]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _read(source: Any, indices: Int[np.ndarray, " batch"]) -> Sequence[dict[str, Any]]:
    try:
        return source.__getitems__(indices.tolist())
    except (RuntimeError, FileNotFoundError) as error:  # array_record raises these for damaged and missing files.
        raise _damaged(source.dataset_info.data_dir, one_line(error)[:200]) from error


def _damaged(folder: Any, detail: str) -> InputError:
    """The line that refuses the data that TFDS has prepared in a folder."""
    return InputError(f"the data in {folder} is damaged ({detail}); remove that folder and run again")


def _labels(examples: Sequence[dict[str, Any]], info: DatasetInfo) -> Int32[np.ndarray, "batch *attributes"]:
    """The labels of TFDS's examples: classes [batch], attributes [batch, attributes], or -1 [batch]."""
    if info.label_kind == "none":
        return np.full(len(examples), UNLABELLED, np.int32)

    def values(example: dict[str, Any]) -> list[np.ndarray]:
        found = []
        for path in info.label_features:
            value: Any = example
            for name in path.split("/"):
                value = value[name]
            found.append(np.ravel(value))
        return found

    found = np.array([np.concatenate(values(example)) for example in examples])
    if info.label_ranges:
        low, high = np.array(info.label_ranges).T
        found = (low <= found) & (found <= high)
    labels = found.astype(np.int32)
    return labels if info.label_kind == "attributes" else labels[:, 0]


def _decoded_batches(
    parts: Sequence[tuple[Any, Int[np.ndarray, " _"]]], info: DatasetInfo, split: str, size: int | None
) -> Batches:
    def make(job: tuple[Any, Int[np.ndarray, " batch"]]) -> tuple[Any, Any]:
        source, rows = job
        examples = _read(source, rows)
        try:
            return np.stack([decode_image(example["image"], size) for example in examples]), _labels(examples, info)
        except BadImage as fault:
            raise _damaged(source.dataset_info.data_dir, str(fault)) from None

    small = (size or info.native_size or math.inf) <= SMALL
    jobs = ((source, rows) for source, positions in parts for rows in _batches(positions, 512 if small else 64))
    total = sum(len(positions) for _, positions in parts)
    # With disable=None there is no bar where no one sees it.
    with tqdm(desc=f"{shown(info.title)} {split}", total=total, unit=" images", leave=False, disable=None) as bar:
        for images, labels in read_ahead(make, jobs, ahead=1 if small else os.cpu_count() or 1):
            stopping.check()
            yield images, labels
            bar.update(len(images))
