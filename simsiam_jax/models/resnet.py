"""ResNet-18 (He et al. 2016) with stems for small images."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simsiam_jax.models.layers import batch_norm, conv, max_pool_3x3_by_2

# The smallest image, in pixels, that leaves the last stage a whole pixel: the product of all strides.
STEM_MINIMUM = {"imagenet": 32, "paper32": 16, "cifar": 8}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    features: int
    stride: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps feature maps at one resolution to the next; batch statistics are per call."""

        def norm(name):
            return batch_norm(train=train, dtype=self.dtype, axis_name=self.axis_name, name=name)

        y = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm("bn1")(y))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = norm("bn2")(y)
        if x.shape != y.shape:
            x = conv(self.features, 1, stride=self.stride, dtype=self.dtype, name="downsample_conv")(x)
            x = norm("downsample_bn")(x)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 up to its global average pool: images to features of dimension 8 × width.

    Attributes:
      stem: `imagenet`: 7×7 convolution with stride 2 and max-pool. `paper32`: 3×3 with stride 1, the max-pool
        kept, as the paper's code has it for 32×32. `cifar`: 3×3 with stride 1 and no max-pool (SimSiam, D).
      width: Channels of the first stage.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: The axis over which batch statistics are averaged in training, None outside `pmap`.
    """

    stem: Literal["imagenet", "paper32", "cifar"] = "imagenet"
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch features"]:
        """Maps normalised images to features; `train` uses the batch's statistics."""
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = conv(self.width, 7, stride=2, dtype=self.dtype, name="conv1")(x)
        else:
            x = conv(self.width, 3, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(batch_norm(train=train, dtype=self.dtype, axis_name=self.axis_name, name="bn1")(x))
        if self.stem != "cifar":
            x = max_pool_3x3_by_2(x)
        for stage in range(4):
            for index in range(2):
                x = BasicBlock(
                    features=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
        return jnp.mean(x, axis=(1, 2))


def check_image_size(image_size: int, *, stem: str = "imagenet", **_: Any) -> str | None:
    """What is wrong with this size for this stem, in words that complete 'image_size=N: ...', or None."""
    if stem not in STEM_MINIMUM:
        return f"unknown stem {stem!r}; known: {', '.join(STEM_MINIMUM)}"
    if image_size < STEM_MINIMUM[stem]:
        return f"the {stem} stem needs images of at least {STEM_MINIMUM[stem]} pixels"
    return None
