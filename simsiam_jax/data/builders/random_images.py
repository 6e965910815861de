"""Images of noise, on which the arm "random images" of Table 1 is pretrained (PAPER.md, "Random images")."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tensorflow_datasets.core import registered

from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.errors import require

# Half the range to either side of the middle is two standard deviations: 4.6 % of the values are clipped.
GAUSSIAN_MEAN = 127.5
GAUSSIAN_SIGMA = 63.75


@dataclasses.dataclass(eq=False)
class NoiseImages(tfds.core.BuilderConfig):
    """How many images of which noise.

    Attributes:
      name: Name made from the other attributes, such as `uniform_1000x32_seed0`.
      distribution: Distribution of each value.
      count: Number of images.
      size: Side of the images in pixels.
      seed: Seed of the whole set, not negative.
    """

    name: str = ""
    distribution: Literal["uniform", "gaussian"] = "uniform"
    count: int = 1000
    size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"the seed of random_images must not be negative, got {self.seed}")
        self.name = f"{self.distribution}_{self.count}x{self.size}_seed{self.seed}"


def noise_image(
    distribution: Literal["uniform", "gaussian"], size: int, seed: int, index: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Image number `index` of a seed, whatever the number of images (PAPER.md, "Random images").

    `uniform` is what the study's code really draws: `(255 * randn).astype(uint8)` wraps around, which makes the values
    uniform on 0..255. `gaussian` is what it seems to mean: mean 127.5 and standard deviation 63.75, rounded and clipped
    to 0..255.

    Differs from the paper: its code draws new images at each access. Here they are a fixed set, so that runs can be
    repeated.

    Args:
      distribution: Distribution of each value; values are independent of each other.
      size: Side of the image in pixels.
      seed: Seed of the whole set, not negative.
      index: Position in the set, from 0.

    Returns:
      RGB values 0..255.
    """
    generator = np.random.default_rng((seed, index))
    shape = (size, size, 3)
    if distribution == "uniform":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    values = generator.normal(GAUSSIAN_MEAN, GAUSSIAN_SIGMA, shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


with registered.skip_registration():

    class RandomImages(tfds.core.GeneratorBasedBuilder):
        """Images of noise without labels, in the one split `train`."""

        name = "random_images"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            size = self._noise.size
            return tfds.core.DatasetInfo(
                builder=self,
                description="Images whose values are independent noise.",
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(size, size, 3))}),
            )

        @property
        def _noise(self) -> NoiseImages:
            config = self.builder_config
            if not isinstance(config, NoiseImages):
                raise TypeError("random_images needs a NoiseImages config")
            return config

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            noise = self._noise
            for index in range(noise.count):
                image = noise_image(noise.distribution, noise.size, noise.seed, index)
                yield index, {"image": encode_png(image)}
