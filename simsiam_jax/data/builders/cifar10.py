"""CIFAR-10 (Krizhevsky 2009), prepared without TensorFlow into TFDS's own cifar10/3.0.2."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_datasets.core import registered
from tensorflow_datasets.image_classification import cifar

from simsiam_jax.data.builders.archives import (
    AGAIN,
    Archive,
    obtain,
    read_names,
    reading,
    record_blocks,
    record_count,
    tar_members,
    url_infos,
)
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.errors import require

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVE_NAME = "cifar-10-binary.tar.gz"
ARCHIVES = {
    ARCHIVE_NAME: Archive(
        170052171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    )
}
FOLDER = "cifar-10-batches-bin"
NAMES = f"{FOLDER}/batches.meta.txt"
BATCHES = {
    "train": tuple(f"{FOLDER}/data_batch_{number}.bin" for number in range(1, 6)),
    "test": (f"{FOLDER}/test_batch.bin",),
}
RECORD_BYTES = 1 + 3 * 32 * 32  # A record is the label, then the planes of red, green and blue.


with registered.skip_registration():

    class Cifar10(cifar.Cifar10):
        """The stock builder, with the same version, features, splits, keys and order, and preparation of our own."""

        name = "cifar10"
        # Without it TFDS refuses to say where the manual folder is.
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE_NAME} from {PAGE}"

        @property
        def url_infos(self) -> dict[str, Any]:
            return url_infos(ARCHIVES)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            path = obtain(dl_manager, ARCHIVES, self.name, PAGE)[ARCHIVE_NAME]
            with reading(path), tarfile.open(path, "r:gz") as tar:
                members = tar_members(tar, [NAMES, *BATCHES["train"], *BATCHES["test"]], path)
                features: Any = self.info.features
                features["label"].names = read_names(tar, members[NAMES], path)
            generators = {}
            for split, batches in BATCHES.items():
                ends = np.cumsum([record_count(members[batch], RECORD_BYTES, path) for batch in batches])
                starts = dict(zip(batches, [0, *ends[:-1].tolist()], strict=True))
                generators[split] = self._generate_examples(path, split, starts)
            return generators

        def _generate_examples(
            self, path: Path, split: str, starts: dict[str, int]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            # `starts` holds the number of each member's first image.
            with reading(path), tarfile.open(path, "r:gz") as tar:
                # The members are read in the archive's order, as going back would decompress it again. TFDS orders by
                # key.
                for member in tar:
                    if member.name not in starts:
                        continue
                    index = starts[member.name]
                    for records in record_blocks(tar, member, RECORD_BYTES):
                        labels = records[:, 0].tolist()
                        highest = max(labels)
                        require(highest <= 9, f"{path}: {member.name} has the label {highest}, not 0..9; {AGAIN}")
                        images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                        for label, image in zip(labels, images, strict=True):
                            yield index, {"id": f"{split}_{index:05d}", "image": encode_png(image), "label": label}
                            index += 1
