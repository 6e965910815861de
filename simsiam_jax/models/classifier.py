"""A backbone with a linear layer on its features: what fine-tuning trains."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Classifier(nn.Module):
    """Logits from a backbone's features; the layer starts at zero, so every arm starts from chance.

    Attributes:
      backbone: Maps ([B, H, W, 3], train, keys) to [B, D]; its variables live under `backbone`.
      num_classes: Number of logits.
      dtype: Compute type of the layer; the logits are float32.
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
        """Maps normalised images to logits; `keys` as in the backbone."""
        features = self.backbone(images, train=train, keys=keys)
        head = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="head")
        return head(features).astype(jnp.float32)
