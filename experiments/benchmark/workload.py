"""What every contender of a benchmark does: a stage of pretraining on random images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

from simsiam_jax.errors import require
from simsiam_jax.settings.schema import Config

STAGES = ("augment", "forward", "step", "epoch", "eval")
CLASSES = 10

# The usual number of micro-batches that a stage goes round, and of images of an epoch or an evaluation. On an
# accelerator the latter is the number of CIFAR-10's training images.
_MICRO_BATCHES = 16
_IMAGES_OF_A_SPLIT = {"cpu": 1024}
_IMAGES_OF_A_SPLIT_ELSEWHERE = 50_000


@dataclass(frozen=True)
class Workload:
    """A stage and its size.

    Attributes:
      config: Settings of the network, heads, views, batch, accumulation, optimiser and compute type.
      stage: One of `STAGES`. `augment` draws both views of a micro-batch; `forward` computes their loss in training
        mode without gradients; `step` is a whole micro-step of pretraining, and `epoch` an epoch of them; `eval`
        computes the features of a split, and kNN of them.
      images: Number of images on the device that the stage goes round.
      source_size: Side of these images in pixels.
    """

    config: Config
    stage: str
    images: int
    source_size: int

    def __post_init__(self) -> None:
        require(self.stage in STAGES, f"--stage={self.stage}: unknown stage; known: {', '.join(STAGES)}")
        require(self.source_size >= 1, f"--source_size must be at least 1 pixel, not {self.source_size}")
        whole = self.stage in ("epoch", "eval")
        fewest = self.config.effective_batch if whole else self.micro_batch_size
        require(
            self.images >= fewest,
            f"--images={self.images}: --stage={self.stage} needs at least {fewest}, "
            f"{'an update' if whole else 'a micro-batch'}; raise it, or lower --micro_batch_size",
        )

    @property
    def unit(self) -> Literal["pairs", "images"]:
        """What the rate counts: pairs of views, or images, which are augmented twice or evaluated once."""
        return "images" if self.stage in ("augment", "eval") else "pairs"

    @property
    def micro_batch_size(self) -> int:
        """Images of a micro-batch."""
        return self.config.pretrain.micro_batch_size

    @property
    def accumulation(self) -> int:
        """Micro-batches of an update."""
        return self.config.program.accumulation

    @property
    def micro_batches(self) -> int:
        """The number of whole micro-batches in the images; an epoch has only those of whole updates."""
        if self.stage == "epoch":
            return self.images // self.config.effective_batch * self.accumulation
        return self.images // self.micro_batch_size

    def draw(self) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, " n"]]:
        """The images, 0..255, and their classes, the same for every contender."""
        draws = np.random.default_rng(0)
        shape = (self.images, self.source_size, self.source_size, 3)
        images = draws.integers(0, 256, shape, dtype=np.uint8)
        return images, draws.integers(0, CLASSES, self.images, dtype=np.int32)


def usual_images(config: Config, stage: str, platform: str) -> int:
    """How many images a stage goes round where --images is not given.

    Args:
      config: The settings whose batch the number is a multiple of.
      stage: One of `STAGES`.
      platform: The platform's name in jax, such as `cpu` or `gpu`.
    """
    if stage in ("epoch", "eval"):
        return max(_IMAGES_OF_A_SPLIT.get(platform, _IMAGES_OF_A_SPLIT_ELSEWHERE), config.effective_batch)
    return config.pretrain.micro_batch_size * max(_MICRO_BATCHES, 2 * config.program.accumulation)
