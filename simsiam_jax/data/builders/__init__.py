"""TFDS builders that prepare their data without TensorFlow, one file for each data set."""

from collections.abc import Mapping
from typing import Any

from simsiam_jax.data.builders.celeb_a import CelebA
from simsiam_jax.data.builders.cifar10 import Cifar10
from simsiam_jax.data.builders.digits import Digits
from simsiam_jax.data.builders.fashion_mnist import FashionMNIST
from simsiam_jax.data.builders.image_folder import ImageFolder
from simsiam_jax.data.builders.random_images import RandomImages
from simsiam_jax.data.builders.solar_cells import SolarCells
from simsiam_jax.data.builders.stl10 import Stl10

# The builder of each data set in `datasets.DATASETS` by its name, and `image_folder` for folders.
BUILDERS: Mapping[str, Any] = {
    builder.name: builder
    for builder in (CelebA, Cifar10, Digits, FashionMNIST, ImageFolder, RandomImages, SolarCells, Stl10)
}
