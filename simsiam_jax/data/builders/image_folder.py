"""A user's own images (`--dataset=folder:PATH`), decoded and made square once; unreadable files are skipped."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import Int
from tensorflow_datasets.core import registered

from simsiam_jax import stopping
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.data.decode import BadImage, decode_file
from simsiam_jax.data.feed import read_ahead
from simsiam_jax.data.folders import Listing
from simsiam_jax.errors import InputError, require

SKIPPED_FILE = "skipped_images.json"
MAX_NAMED = 20
NAMED_IN_ERROR = 3
DIGEST_DIGITS = 12
MAX_THREADS = 8


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """Which folder is prepared at which size.

    Attributes:
      name: Name made from the other attributes, such as `flowers_3f2a9c01b7de_96`.
      listing: Files, labels and splits of the folder.
      size: Side in pixels of the images to prepare.
      max_bad_images: Share of all files, 0..1, that may be unreadable, rounded down to whole files. Above 0, one file
        always may be, so that a small folder does not fail for a single file.
    """

    name: str = ""
    # TFDS logs the representation, so the listing, which may have a million names, is left out of it.
    listing: Listing = dataclasses.field(kw_only=True, repr=False)
    size: int = dataclasses.field(kw_only=True)
    max_bad_images: float = 0.01

    def __post_init__(self) -> None:
        require(self.size >= 1, f"--image_size must be at least 1 pixel, not {self.size}")
        require(0 <= self.max_bad_images <= 1, f"--max_bad_images must lie in 0..1, not {self.max_bad_images}")
        folder = re.sub(r"[^A-Za-z0-9-]+", "_", self.listing.root.name)[:40] or "folder"
        self.name = f"{folder}_{self.listing.digest[:DIGEST_DIGITS]}_{self.size}"

    @property
    def allowed(self) -> int:
        """How many files may be unreadable."""
        share = self.max_bad_images * len(self.listing.files)
        # Of 100 files 0.29 are 29, though the product is 28.999999999999996.
        return max(math.floor(share + 1e-9), 1 if self.max_bad_images > 0 else 0)


def require_few_skipped(config: FolderConfig, skipped: dict[str, str]) -> None:
    """Raises `InputError` if more files were skipped than `--max_bad_images` allows.

    Args:
      config: The configuration with the limit, which may differ from the one that the data was prepared with.
      skipped: Reasons by the names of the skipped files.
    """
    if len(skipped) > config.allowed:
        some = ", ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:NAMED_IN_ERROR])
        more = len(skipped) - NAMED_IN_ERROR
        raise InputError(
            f"more images of {config.listing.root} are unreadable than --max_bad_images={config.max_bad_images:g} "
            f"allows, {config.allowed} of {len(config.listing.files):,}: {_escaped(some)}"
            f"{f' and {more} more' if more > 0 else ''}; repair or remove them, or raise the flag"
        )


def skipped_images(data_folder: str | os.PathLike[str]) -> dict[str, str]:
    """The files of a folder that were skipped when it was prepared.

    Args:
      data_folder: Folder of the prepared data, the builder's `data_path`.

    Returns:
      Reasons by the files' names, relative to the user's folder.

    Raises:
      InputError: If the record of skipped files is missing or damaged.
    """
    try:
        return dict(json.loads((Path(data_folder) / SKIPPED_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the data in {data_folder} is damaged; remove that folder and run again") from error


def _escaped(text: str) -> str:
    """Names in one line, with escapes for line breaks and for bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


def _prepare_file(path: Path, size: int) -> bytes | BadImage:
    """The PNG file to store, or the reason why there is none."""
    try:
        return encode_png(decode_file(path, size))
    except BadImage as error:
        return error


def _prepare_files(
    listing: Listing, positions: Int[np.ndarray, " m"], size: int
) -> Iterator[tuple[int, bytes | BadImage]]:
    """Positions with the results of `_prepare_file`, in order; a few files are decoded ahead in threads."""

    def prepare(position: int) -> tuple[int, bytes | BadImage]:
        return position, _prepare_file(listing.root / listing.files[position], size)

    return read_ahead(prepare, map(int, positions), ahead=min(os.cpu_count() or 1, MAX_THREADS))


with registered.skip_registration():

    class ImageFolder(tfds.core.GeneratorBasedBuilder):
        """The listed images: their largest central squares at the wanted size, with labels and file names."""

        name = "image_folder"
        VERSION = tfds.core.Version("1.0.0")

        @property
        def _folder(self) -> FolderConfig:
            config = self.builder_config
            if not isinstance(config, FolderConfig):
                raise TypeError("image_folder needs a FolderConfig")
            return config

        def _info(self) -> tfds.core.DatasetInfo:
            listing, size = self._folder.listing, self._folder.size
            features: dict[str, Any] = {
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "name": tfds.features.Text(),
            }
            if listing.label_kind == "classes":
                features["label"] = tfds.features.ClassLabel(names=list(listing.class_names))
            elif listing.label_kind == "attributes":
                features["attributes"] = tfds.features.Tensor(shape=(len(listing.class_names),), dtype=np.int8)
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Images of a folder, their largest central squares at {size}×{size} pixels.",
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            skipped: dict[str, str] = {}
            return {split: self._generate_examples(split, skipped) for split in self._folder.listing.splits}

        def _generate_examples(self, split: str, skipped: dict[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
            """The readable images of a split; unreadable ones are added to `skipped`, the record of all splits."""
            listing, size = self._folder.listing, self._folder.size
            positions = listing.splits[split]
            kept = np.zeros(len(listing.files), bool)
            for position, result in _prepare_files(listing, positions, size):
                stopping.check()
                name = listing.files[position]
                if isinstance(result, BadImage):
                    skipped[name] = str(result)
                    if len(skipped) <= MAX_NAMED:
                        logging.warning("Skipping %s: %s", _escaped(str(listing.root / name)), result)
                    require_few_skipped(self._folder, skipped)
                    continue
                kept[position] = True
                # The name is stored as bytes, because it may be no UTF-8.
                example: dict[str, Any] = {"image": result, "name": os.fsencode(name)}
                if listing.label_kind == "classes":
                    example["label"] = int(listing.labels[position])
                elif listing.label_kind == "attributes":
                    example["attributes"] = listing.labels[position].astype(np.int8)
                yield position, example
            if len(skipped) > MAX_NAMED:
                logging.warning("%d images skipped so far, all named in %s", len(skipped), SKIPPED_FILE)
            self._require_none_emptied(split, positions[kept[positions]])
            # While preparing, `data_path` is the temporary folder that is renamed when all is complete.
            (Path(self.data_path) / SKIPPED_FILE).write_text(json.dumps(skipped))

        def _require_none_emptied(self, split: str, kept: Int[np.ndarray, " m"]) -> None:
            listing = self._folder.listing
            hint = f"see the warnings above, and repair the images or add others to {listing.root}"
            require(len(kept) > 0, f"no image of split {split} is readable; {hint}")
            if listing.label_kind == "classes":
                lost = np.setdiff1d(listing.labels[listing.splits[split]], listing.labels[kept])
                if len(lost):
                    name = listing.class_names[int(lost[0])]
                    raise InputError(f"no image of class {name!r} in split {split} is readable; {hint}")
