"""scikit-learn's handwritten digits: 1,797 real images of 8×8 that need no download."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from tensorflow_datasets.core import registered

from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.data.subsets import stratified_split

TEST_IMAGES = 400
VALIDATION_IMAGES = 200
SPLIT_SEED = 0


def digit_images() -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int[np.ndarray, " n"]]:
    """All 1,797 digits, with their 17 grey levels 0..16 stretched to 0..255, and their labels 0..9."""
    from sklearn.datasets import load_digits  # here, because it takes seconds and few need it

    bunch: Any = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return images[..., None], bunch.target


def split_indices(labels: Int[np.ndarray, " n"]) -> dict[str, Int[np.ndarray, " part"]]:
    """The fixed, stratified division into 1,197 training, 200 validation and 400 test images.

    The division is ours, because scikit-learn has a single set. It does not tell the writers apart, so that the parts
    share writers.

    Args:
      labels: Labels of all images in scikit-learn's order.

    Returns:
      Sorted positions in `labels` by the split's name; the parts are disjoint and cover all images.
    """
    rest, test = stratified_split(labels, TEST_IMAGES / len(labels), SPLIT_SEED)
    train, validation = stratified_split(labels[rest], VALIDATION_IMAGES / len(rest), SPLIT_SEED)
    return {"train": rest[train], "validation": rest[validation], "test": test}


with registered.skip_registration():

    class Digits(tfds.core.GeneratorBasedBuilder):
        """Optical recognition of handwritten digits (Alpaydin and Kaynak 1998), as scikit-learn ships it."""

        name = "digits"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description="1,797 handwritten digits of 8×8 pixels, 17 grey levels stretched to 0..255.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(8, 8, 1)),
                        "label": tfds.features.ClassLabel(num_classes=10),
                    }
                ),
                supervised_keys=("image", "label"),
                homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            images, labels = digit_images()
            return {
                split: self._generate_examples(images, labels, indices)
                for split, indices in split_indices(labels).items()
            }

        def _generate_examples(
            self,
            images: UInt8[np.ndarray, "n 8 8 1"],
            labels: Int[np.ndarray, " n"],
            indices: Int[np.ndarray, " part"],
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for index in indices:
                yield int(index), {"image": encode_png(images[index]), "label": int(labels[index])}
