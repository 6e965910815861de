"""PiT, the pooling-based vision transformer (Heo et al. 2021); modules are named as in timm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, Key

from simsiam_jax.models.layers import conv, dense
from simsiam_jax.models.transformer import PYTORCH_DEFAULT, Block, PatchEmbed, resize_grid

NORM_EPSILON = 1e-6


class Pooling(nn.Module):
    """Halves the grid and doubles the channels: a depthwise convolution for patches, a linear layer for class tokens.

    Attributes:
      dim: Number of output channels, a multiple of the input's.
      dtype: Compute type.
    """

    dim: int
    dtype: Any

    @nn.compact
    def __call__(
        self, grid: Float[Array, "batch rows cols channels"], cls_tokens: Float[Array, "batch 1 channels"]
    ) -> tuple[Float[Array, "batch new_rows new_cols dim"], Float[Array, "batch 1 dim"]]:
        """Maps the patches and class tokens of a stage to those of the next."""
        grid = conv(
            self.dim,
            3,
            stride=2,
            groups=grid.shape[-1],
            use_bias=True,
            kernel_init=PYTORCH_DEFAULT,
            dtype=self.dtype,
            name="conv",
        )(grid)
        fc = dense(self.dim, kernel_init=PYTORCH_DEFAULT, dtype=self.dtype, name="fc")
        return grid, fc(cls_tokens)


class Stage(nn.Module):
    """Transformer blocks at one resolution, after pooling in all stages but the first.

    Attributes:
      dim: Number of channels of a token.
      heads: Number of heads of each attention.
      depth: Number of blocks.
      first_block: Number of the stage's first block, counted over the network.
      pools: Whether the stage begins with pooling.
      drop_path: Probability that stochastic depth drops a residual of the stage's blocks, 0..1.
      dtype: Compute type.
    """

    dim: int
    heads: int
    depth: int
    first_block: int
    pools: bool
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        grid: Float[Array, "batch rows cols channels"],
        cls_tokens: Float[Array, "batch 1 channels"],
        keys: Key[Array, "batch"] | None,
    ) -> tuple[Float[Array, "batch new_rows new_cols dim"], Float[Array, "batch 1 dim"]]:
        """Maps patches and class tokens; `keys` (one for each image) draw the stochastic depth, None drops nothing."""
        if self.pools:
            grid, cls_tokens = Pooling(self.dim, self.dtype, name="pool")(grid, cls_tokens)
        rows = grid.shape[1]
        x = jnp.concatenate([cls_tokens, rearrange(grid, "batch row col dim -> batch (row col) dim")], axis=1)
        for index in range(self.depth):
            x = Block(
                self.first_block + index,
                self.heads,
                norm_epsilon=NORM_EPSILON,
                drop_path=self.drop_path,
                dtype=self.dtype,
                name=f"blocks_{index}",
            )(x, keys)
        return rearrange(x[:, 1:], "batch (row col) dim -> batch row col dim", row=rows), x[:, :1]


class PoolingVisionTransformer(nn.Module):
    """PiT up to its class token: images to features of dimension 256 × width; the defaults are PiT-Ti.

    Attributes:
      depths: Number of blocks of each stage.
      heads: Number of heads of each stage's attention.
      head_dim: Number of channels of a head in the published network; a stage has `heads` times as many.
      patch_size: Side of a patch in pixels, an even number; patches overlap by half.
      width: Factor on `head_dim`; the number of heads stays.
      drop_path: Probability that stochastic depth drops a residual of the last stage, 0..1. It rises linearly from 0 in
        the first stage.
      dtype: Compute type; parameters are float32.
    """

    depths: tuple[int, ...] = (2, 6, 4)
    heads: tuple[int, ...] = (2, 4, 8)
    head_dim: int = 32
    patch_size: int = 16
    width: float = 1.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        train: bool = False,
        keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Maps normalised images to the last stage's class token, normalised.

        Args:
          images: Normalised images whose height and width are whole numbers of half patches, and at least one patch.
          train: Whether stochastic depth is on.
          keys: One key for each image, for stochastic depth; None drops nothing.

        Returns:
          Features, of type `dtype`.
        """
        dims = [heads * self.head_channels() for heads in self.heads]
        grid = PatchEmbed(dims[0], self.patch_size, self.patch_size // 2, "conv", self.dtype, name="patch_embed")(
            images
        )
        pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (1, *grid.shape[1:]))
        grid = grid + pos_embed.astype(self.dtype)
        cls_token = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, dims[0]))
        cls_tokens = repeat(cls_token.astype(self.dtype), "1 1 dim -> batch 1 dim", batch=len(images))
        for stage, rate in enumerate(np.linspace(0.0, self.drop_path, len(dims))):
            grid, cls_tokens = Stage(
                dims[stage],
                self.heads[stage],
                self.depths[stage],
                first_block=sum(self.depths[:stage]),
                pools=stage > 0,
                drop_path=float(rate),
                dtype=self.dtype,
                name=f"transformers_{stage}",
            )(grid, cls_tokens, keys if train else None)
        return nn.LayerNorm(NORM_EPSILON, dtype=self.dtype, name="norm")(cls_tokens[:, 0])

    def head_channels(self) -> int:
        """The channels of a head: `head_dim` × `width`, rounded."""
        return max(1, round(self.head_dim * self.width))

    def fault(self, image_size: int) -> str | None:
        """The reason why this network cannot take images of this side (pixels), with the flag to change, or None."""
        if self.patch_size < 2 or self.patch_size % 2:
            return f"--patch_size={self.patch_size}: patches overlap by half, so their side is an even number of pixels"
        if image_size < self.patch_size or image_size % (self.patch_size // 2):
            return (
                f"--image_size={image_size} is not covered by half-overlapping patches of "
                f"--patch_size={self.patch_size}: take {self.patch_size} or more, in steps of {self.patch_size // 2}"
            )
        return None

    @staticmethod
    def resize_pos_embed(pos_embed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Position embeddings for another grid of patches; class tokens have none.

        Args:
          pos_embed: Embeddings [1, rows, cols, dim].
          shape: Shape wanted.
        """
        return resize_grid(pos_embed, (shape[1], shape[2]))
