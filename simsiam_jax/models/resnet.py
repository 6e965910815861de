"""ResNet-18 (He et al. 2016) with stems for small images; modules are named as in timm and torchvision."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simsiam_jax.models.layers import BatchNorm, conv, max_pool_3x3_by_2, relu
from simsiam_jax.models.stems import stem_fault


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 5 left).

    Attributes:
      features: Number of output channels.
      stride: Stride of the first convolution in pixels.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    features: int
    stride: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Maps feature maps to those of the next block; `train` normalises by the batch's own statistics."""
        norm = functools.partial(BatchNorm, train, self.dtype, self.axis_name)
        y = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="conv1")(x)
        y = relu(norm(name="bn1")(y))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = norm(name="bn2")(y)
        if x.shape != y.shape:
            x = conv(self.features, 1, stride=self.stride, dtype=self.dtype, name="downsample_0")(x)
            x = norm(name="downsample_1")(x)
        return relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18 up to its global average pool: images to features of dimension 512 × width.

    Attributes:
      stem: Name of the first layers. `imagenet` is a 7×7 convolution with stride 2 and a max pooling. `paper32` is a
        3×3 convolution with stride 1 and the max pooling, as in the paper's code for 32×32. `cifar` is the 3×3
        convolution alone (SimSiam, appendix D).
      width: Factor on the channels of every layer; at 1, the first stage has 64.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    stem: str = "imagenet"
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        train: bool = False,
        keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Maps normalised images to features.

        Args:
          images: Normalised images.
          train: Whether the batch's own statistics are used.
          keys: Nothing is drawn from them; the network has no stochastic depth.

        Returns:
          Features, of type `dtype`.
        """
        channels = self.stage_channels()
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = conv(channels[0], 7, stride=2, dtype=self.dtype, name="conv1")(x)
        else:
            x = conv(channels[0], 3, dtype=self.dtype, name="conv1")(x)
        x = relu(BatchNorm(train, self.dtype, self.axis_name, name="bn1")(x))
        if self.stem != "cifar":
            x = max_pool_3x3_by_2(x)
        for stage in range(4):
            for index in range(2):
                x = BasicBlock(
                    features=channels[stage],
                    stride=2 if stage > 0 and index == 0 else 1,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
        return jnp.mean(x, axis=(1, 2))

    def stage_channels(self) -> list[int]:
        """The channels of each of the four stages."""
        return [max(1, round(64 * self.width)) * 2**stage for stage in range(4)]

    def fault(self, image_size: int) -> str | None:
        """The reason why this network cannot take images of this side (pixels), with the flag to change, or None."""
        return stem_fault(self.stem, image_size)
