"""ViT, the vision transformer (Dosovitskiy et al. 2021); modules are named as in timm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, Key

from simsiam_jax.models.transformer import Block, PatchEmbed, resize_grid


class VisionTransformer(nn.Module):
    """ViT up to its class token: images to features of dimension dim × width.

    The defaults are ViT-S/16 as timm has had it since May 2021, which is DeiT-S too. Until then timm gave the name to
    another network, which the paper's code ran: 768 wide, 8 blocks, 8 heads, MLP ratio 3, no bias for queries, keys and
    values, layer norms with epsilon 1e-5. It is `vit_s_2021` in the registry.

    Attributes:
      dim: Number of channels of a token in the published network.
      depth: Number of blocks.
      heads: Number of heads of each attention.
      mlp_ratio: Hidden width of the MLPs as a multiple of the channels.
      qkv_bias: Whether queries, keys and values have a bias.
      norm_epsilon: Number that layer norms add to the variance.
      patch_size: Side of a patch in pixels.
      width: Factor on `dim`; the number of heads stays.
      drop_path: Probability that stochastic depth drops a residual of the last block, 0..1. It rises linearly from 0 in
        the first block.
      dtype: Compute type; parameters are float32.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
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
        """Maps normalised images to the last block's class token, normalised.

        Args:
          images: Normalised images whose height and width are multiples of `patch_size`.
          train: Whether stochastic depth is on.
          keys: One key for each image, for stochastic depth; None drops nothing.

        Returns:
          Features, of type `dtype`.
        """
        dim = self.token_channels()
        grid = PatchEmbed(dim, self.patch_size, self.patch_size, "proj", self.dtype, name="patch_embed")(images)
        tokens = rearrange(grid, "batch row col dim -> batch (row col) dim")
        cls_token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, dim))
        pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (1, 1 + tokens.shape[1], dim))
        cls_tokens = repeat(cls_token.astype(self.dtype), "1 1 dim -> batch 1 dim", batch=len(images))
        x = jnp.concatenate([cls_tokens, tokens], axis=1) + pos_embed.astype(self.dtype)
        for index, rate in enumerate(np.linspace(0.0, self.drop_path, self.depth)):
            x = Block(
                index,
                self.heads,
                self.mlp_ratio,
                self.qkv_bias,
                self.norm_epsilon,
                float(rate),
                nn.initializers.normal(0.02),
                self.dtype,
                name=f"blocks_{index}",
            )(x, keys if train else None)
        return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(x[:, 0])

    def token_channels(self) -> int:
        """The channels of a token: `dim` × `width`, rounded to a multiple of `heads`."""
        return max(1, round(self.dim * self.width / self.heads)) * self.heads

    def fault(self, image_size: int) -> str | None:
        """The reason why this network cannot take images of this side (pixels), with the flag to change, or None."""
        if self.patch_size < 1 or image_size % self.patch_size:
            return (
                f"--image_size={image_size} is no multiple of --patch_size={self.patch_size}; "
                "patches of 16 pixels are usual from 96 pixels on, of 4 at 32"
            )
        return None

    @staticmethod
    def resize_pos_embed(pos_embed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Position embeddings for another number of patches; that of the class token stays.

        Args:
          pos_embed: Embeddings [1, 1 + patches, dim], the class token's first.
          shape: Shape wanted; both numbers of patches are squares.
        """
        old, new = (round((tokens - 1) ** 0.5) for tokens in (pos_embed.shape[1], shape[1]))
        grid = rearrange(pos_embed[:, 1:], "1 (row col) dim -> 1 row col dim", row=old)
        places = rearrange(resize_grid(grid, (new, new)), "1 row col dim -> 1 (row col) dim")
        return jnp.concatenate([pos_embed[:, :1], places], axis=1)
