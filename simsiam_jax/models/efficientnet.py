"""EfficientNet-B0 (Tan and Le 2019) with stems for small images; modules are named as in timm."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simsiam_jax.models.layers import BatchNorm, conv, drop_path, silu
from simsiam_jax.models.stems import stem_fault


class StageSpec(NamedTuple):
    """A stage of blocks: a row of table 1 in Tan and Le 2019.

    Attributes:
      blocks: Number of blocks.
      kernel: Side of the depthwise kernels in pixels.
      stride: Stride of the first block in pixels.
      expansion: Channels of the depthwise convolution as a multiple of the block's input.
      channels: Number of output channels.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    StageSpec(1, 3, 1, 1, 16),
    StageSpec(2, 3, 2, 6, 24),
    StageSpec(2, 5, 2, 6, 40),
    StageSpec(3, 3, 2, 6, 80),
    StageSpec(3, 5, 1, 6, 112),
    StageSpec(4, 5, 2, 6, 192),
    StageSpec(1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
FEATURES = 1280


def scaled_channels(channels: int, width: float) -> int:
    """The product of channels and width, rounded to a multiple of 8 and never below 90 % of it.

    The published code rounds so.
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that sees all channels (Hu et al. 2018).

    Attributes:
      hidden: Number of channels of the bottleneck.
      dtype: Compute type.
    """

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch rows cols channels"]) -> Float[Array, "batch rows cols channels"]:
        """Maps feature maps to gated ones."""
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = silu(conv(self.hidden, 1, use_bias=True, dtype=self.dtype, name="conv_reduce")(gate))
        gate = conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="conv_expand")(gate)
        return x * nn.sigmoid(gate)


class MBConv(nn.Module):
    """The inverted residual block: expand, depthwise convolution, squeeze-excite, project.

    Attributes:
      features: Number of output channels.
      kernel: Side of the depthwise kernel in pixels.
      stride: Stride of the depthwise convolution in pixels.
      expansion: Channels of the depthwise convolution as a multiple of the input's; 1 leaves the first step out.
      index: Number of the block in its network, for the draws of stochastic depth.
      drop_path: Probability of dropping the residual, 0..1.
      dtype: Compute type.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    features: int
    kernel: int
    stride: int
    expansion: int
    index: int
    drop_path: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows cols channels"], train: bool, keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch new_rows new_cols features"]:
        """Maps feature maps to those of the next block.

        Args:
          x: Feature maps.
          train: Whether the batch's own statistics are used.
          keys: One key for each image, for stochastic depth; None drops nothing.
        """
        norm = functools.partial(BatchNorm, train, self.dtype, self.axis_name)
        channels = x.shape[-1]
        hidden = scaled_channels(channels * self.expansion, 1.0)
        y = x
        # timm counts norms, and names the projection after whether there was an expansion.
        if self.expansion > 1:
            y = conv(hidden, 1, dtype=self.dtype, name="conv_pw")(y)
            y = silu(norm(name="bn1")(y))
        y = conv(hidden, self.kernel, stride=self.stride, groups=hidden, dtype=self.dtype, name="conv_dw")(y)
        y = silu(norm(name="bn2" if self.expansion > 1 else "bn1")(y))
        y = SqueezeExcite(round(channels / 4), self.dtype, name="se")(y)
        y = conv(self.features, 1, dtype=self.dtype, name="conv_pwl" if self.expansion > 1 else "conv_pw")(y)
        y = norm(name="bn3" if self.expansion > 1 else "bn2")(y)
        return x + drop_path(y, self.drop_path, keys, self.index) if x.shape == y.shape else y


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 up to its global average pool: images to features of dimension 1280 × width.

    Attributes:
      stem: Name of the first layers. `imagenet` is the published network's. `paper32` gives the first convolution
        stride 1, and `cifar` the first two convolutions with a stride. They halve an image as often as ResNet-18's.
      width: Factor on the channels of every layer, which are rounded to multiples of 8.
      drop_path: Strength of stochastic depth, 0..1: of n blocks, block i = 0..n-1 drops its residual with probability
        drop_path × i / n. The published training has 0.2; timm's default and ours is 0.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    stem: str = "imagenet"
    width: float = 1.0
    drop_path: float = 0.0
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
          train: Whether the batch's own statistics are used, and stochastic depth is on.
          keys: One key for each image, for stochastic depth; None drops nothing.

        Returns:
          Features, of type `dtype`.
        """
        norm = functools.partial(BatchNorm, train, self.dtype, self.axis_name)
        stem_channels = scaled_channels(STEM_CHANNELS, self.width)
        stride = 2 if self.stem == "imagenet" else 1
        x = conv(stem_channels, 3, stride=stride, dtype=self.dtype, name="conv_stem")(images.astype(self.dtype))
        x = silu(norm(name="bn1")(x))
        total, index = sum(stage.blocks for stage in STAGES), 0
        for stage, spec in enumerate(STAGES):
            for block in range(spec.blocks):
                x = MBConv(
                    features=scaled_channels(spec.channels, self.width),
                    kernel=spec.kernel,
                    stride=self._stride(stage) if block == 0 else 1,
                    expansion=spec.expansion,
                    index=index,
                    drop_path=self.drop_path * index / total,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"blocks_{stage}_{block}",
                )(x, train, keys if train else None)
                index += 1
        x = conv(scaled_channels(FEATURES, self.width), 1, dtype=self.dtype, name="conv_head")(x)
        return jnp.mean(silu(norm(name="bn2")(x)), axis=(1, 2))

    def _stride(self, stage: int) -> int:
        return 1 if stage == 1 and self.stem == "cifar" else STAGES[stage].stride

    def fault(self, image_size: int) -> str | None:
        """The reason why this network cannot take images of this side (pixels), with the flag to change, or None."""
        return stem_fault(self.stem, image_size)
