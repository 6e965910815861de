"""The network of fine-tuning: a backbone with a linear layer on its features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Classifier(nn.Module):
    """Logits from a backbone's features; the linear layer starts at zero, so every arm starts from chance.

    Attributes:
      backbone: Module that maps images [batch, height, width, 3] to features [batch, features]; its variables live
        under `backbone`.
      num_classes: Number of logits.
      dtype: Compute type of the linear layer; the logits are float32.
    """

    backbone: nn.Module
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        train: bool = False,
        keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Maps normalised images to logits.

        Args:
          images: Normalised images.
          train: Whether the batch's own statistics are used, and stochastic depth is on.
          keys: One key for each image, for stochastic depth; None drops nothing.

        Returns:
          Logits, float32.
        """
        features = self.backbone(images, train=train, keys=keys)
        head = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="head")
        return head(features).astype(jnp.float32)
