"""STL-10 (Coates et al. 2011), prepared without TensorFlow into TFDS's own stl10/1.0.0, and its ten folds."""

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from tensorflow_datasets.core import registered

from simsiam_jax.data.builders.archives import (
    AGAIN,
    Archive,
    find_files,
    obtain,
    read_bytes,
    read_names,
    reading,
    record_blocks,
    record_count,
    tar_members,
    url_infos,
    verify,
)
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import write_whole

PAGE = "https://cs.stanford.edu/~acoates/stl10/"
ARCHIVE_NAME = "stl10_binary.tar.gz"
ARCHIVES = {
    ARCHIVE_NAME: Archive(
        2640397119,
        "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    )
}
FOLDER = "stl10_binary"
IMAGES = {
    "train": f"{FOLDER}/train_X.bin",
    "test": f"{FOLDER}/test_X.bin",
    "unlabelled": f"{FOLDER}/unlabeled_X.bin",
}
LABELS = {"train": f"{FOLDER}/train_y.bin", "test": f"{FOLDER}/test_y.bin"}
NAMES = f"{FOLDER}/class_names.txt"
FOLDS = f"{FOLDER}/fold_indices.txt"
RECORD_BYTES = 3 * 96 * 96  # A record is the planes of red, green and blue, each column by column.
UNLABELLED = -1
FOLD_COUNT = 10
FOLDS_FILE = "folds.json"
HASH_DIGITS = 16
SMALL_FILE_BYTES = 1_000_000


def image_hash(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """16 hex digits that name an image by its pixels: the first of the sha256 over its rows."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:HASH_DIGITS]


def parse_folds(text: str, images: int, path: Path) -> list[list[int]]:
    """Reads the ten predefined folds, each a line of positions in the training set.

    Args:
      text: Content of `fold_indices.txt`.
      images: Number of training images.
      path: Path of the archive, for the error.

    Raises:
      InputError: If there are not ten lines, or one names an image that is not there.
    """
    lines = text.splitlines()
    require(len(lines) == FOLD_COUNT, f"{path}: {FOLDS} has {len(lines)} lines, not {FOLD_COUNT}; {AGAIN}")
    folds = []
    for number, line in enumerate(lines, 1):
        indices = [int(field) if field.isdecimal() else images for field in line.split()]
        require(
            len(indices) > 0 and max(indices) < images,
            f"{path}: {FOLDS}, line {number}: not a list of numbers of the {images:,} training images; {AGAIN}",
        )
        folds.append(indices)
    return folds


def image_blocks(path: Path, member_name: str) -> Iterator[UInt8[np.ndarray, "block 96 96 3"]]:
    """The images of a member of the archive in order, in blocks.

    Raises:
      InputError: If the archive is damaged.
    """
    with reading(path), tarfile.open(path, "r:gz") as tar:
        for records in record_blocks(tar, tar.getmember(member_name), RECORD_BYTES):
            yield np.ascontiguousarray(records.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1))


def write_folds(folder: Path, folds: Sequence[Sequence[int]], hashes: Sequence[str]) -> None:
    """Writes the folds as hashes of their images, because TFDS's records carry no positions.

    Args:
      folder: Folder of the prepared data.
      folds: Positions in the training set of each fold's images.
      hashes: Hashes of the training images in order.
    """
    lists = [[hashes[index] for index in fold] for fold in folds]
    # Where stock TFDS prepared the folder, it is in use already.
    write_whole(folder / FOLDS_FILE, json.dumps(lists).encode())


def read_folds(folder: Path) -> list[list[str]] | None:
    """The hashes that `write_folds` wrote, or None if they are missing or damaged."""
    try:
        folds = json.loads((folder / FOLDS_FILE).read_text())
        whole = len(folds) == FOLD_COUNT and all(len(name) == HASH_DIGITS for fold in folds for name in fold)
        return folds if whole else None
    except (OSError, ValueError, TypeError):
        return None


def fold_hashes(data_folder: Path, manual_dir: Path | None) -> list[list[str]]:
    """The ten predefined folds of 1,000 labelled training images each, as hashes of `image_hash`.

    Args:
      data_folder: Folder of the prepared data, `.../stl10/1.0.0`.
      manual_dir: Folder with the archive, for data that stock TFDS prepared, which leaves the folds out.

    Returns:
      The hashes of each fold's images; folds share images.

    Raises:
      InputError: If neither the data folder nor the archive has them.
    """
    if (folds := read_folds(data_folder)) is not None:
        return folds
    found = find_files(ARCHIVES, manual_dir, "stl10")
    if found is None:
        raise InputError(
            f"{data_folder} lacks {FOLDS_FILE}, STL-10's predefined folds: name the folder of {ARCHIVE_NAME} (from "
            f"{PAGE}) with --manual_dir, or remove {data_folder} to have it prepared again"
        )
    path = found[ARCHIVE_NAME]
    verify(path, ARCHIVES[ARCHIVE_NAME])
    with reading(path), tarfile.open(path, "r:gz") as tar:
        members = tar_members(tar, [FOLDS, IMAGES["train"]], path)
        count = record_count(members[IMAGES["train"]], RECORD_BYTES, path)
        text = read_bytes(tar, members[FOLDS], SMALL_FILE_BYTES, path).decode(errors="replace")
    indices = parse_folds(text, count, path)
    hashes = [image_hash(image) for block in image_blocks(path, IMAGES["train"]) for image in block]
    with contextlib.suppress(OSError):  # Without a writable folder, the folds are read slowly each time.
        write_folds(data_folder, indices, hashes)
    return [[hashes[index] for index in fold] for fold in indices]


# TFDS imports the stock builder by this name, which `tfds.builder` then still finds.
StockStl10: Any = tfds.builder_cls("stl10")

with registered.skip_registration():

    class Stl10(StockStl10):
        """The stock builder, with the same version, features, splits, keys and order, and preparation of our own."""

        name = "stl10"
        pkg_dir_path = StockStl10.pkg_dir_path  # Its description lies there.
        # Without it TFDS refuses to say where the manual folder is.
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE_NAME} from {PAGE}"

        @property
        def url_infos(self) -> dict[str, Any]:
            return url_infos(ARCHIVES)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            path = obtain(dl_manager, ARCHIVES, self.name, PAGE)[ARCHIVE_NAME]
            with reading(path), tarfile.open(path, "r:gz") as tar:
                members = tar_members(tar, [*IMAGES.values(), *LABELS.values(), NAMES, FOLDS], path)
                counts = {split: record_count(members[name], RECORD_BYTES, path) for split, name in IMAGES.items()}
                # Small members are read before the images, which they may follow in the archive.
                self.info.features["label"].names = read_names(tar, members[NAMES], path)
                fold_lines = read_bytes(tar, members[FOLDS], SMALL_FILE_BYTES, path).decode(errors="replace")
                labels = {"unlabelled": np.full(counts["unlabelled"], UNLABELLED, np.int32)}
                for split, name in LABELS.items():
                    values = np.frombuffer(read_bytes(tar, members[name], SMALL_FILE_BYTES, path), np.uint8)
                    require(
                        len(values) == counts[split],
                        f"{path}: {name} has {len(values):,} labels for {counts[split]:,} images; {AGAIN}",
                    )
                    wrong = values[(values < 1) | (values > 10)]
                    require(wrong.size == 0, f"{path}: {name} has the label {wrong.max(initial=0)}, not 1..10; {AGAIN}")
                    labels[split] = values.astype(np.int32) - 1
            folds = parse_folds(fold_lines, counts["train"], path)
            return {
                split: self._generate_examples(path, split, labels[split], folds if split == "train" else None)
                for split in IMAGES
            }

        def _generate_examples(
            self, path: Path, split: str, labels: Int[np.ndarray, " n"], folds: list[list[int]] | None
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            hashes: list[str] = []
            images = (image for block in image_blocks(path, IMAGES[split]) for image in block)
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                if folds is not None:
                    hashes.append(image_hash(image))
                yield index, {"image": encode_png(image), "label": int(label)}
            if folds is not None:
                write_folds(Path(self.data_dir), folds, hashes)
