"""The pre-norm transformer block that ViT and PiT share (Vaswani et al. 2017; Dosovitskiy et al. 2021)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from simsiam_jax.models import cpu
from simsiam_jax.models.layers import conv, dense, drop_path, gelu

Initializer = Callable[..., jax.Array]

# PyTorch's initialisation of linear layers and convolutions: uniform with bounds ±1/sqrt(fan-in).
PYTORCH_DEFAULT: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each: one convolution.

    Attributes:
      dim: Number of channels of a token.
      patch_size: Side of a patch in pixels.
      stride: Distance between patches in pixels; patches overlap where it is smaller than their side.
      name_of_conv: Name of the convolution in timm.
      dtype: Compute type.
    """

    dim: int
    patch_size: int
    stride: int
    name_of_conv: str
    dtype: Any

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch rows cols dim"]:
        """Maps images to a grid of tokens."""
        return conv(
            self.dim,
            self.patch_size,
            stride=self.stride,
            padding=0,
            use_bias=True,
            kernel_init=PYTORCH_DEFAULT,
            dtype=self.dtype,
            name=self.name_of_conv,
        )(images.astype(self.dtype))


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values from one projection.

    Attributes:
      heads: Number of heads, a divisor of the channels.
      qkv_bias: Whether the projection to queries, keys and values has a bias.
      kernel_init: Initialisation of the weights of both projections.
      dtype: Compute type; the softmax is taken in float32.
    """

    heads: int
    qkv_bias: bool
    kernel_init: Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens dim"]:
        """Mixes the tokens."""
        dim = x.shape[-1]
        qkv = dense(3 * dim, use_bias=self.qkv_bias, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")(x)
        q, k, v = rearrange(qkv, "batch token (qkv head dim) -> qkv batch token head dim", qkv=3, head=self.heads)
        mixed = cpu.attend(q, k, v)  # [batch, tokens, heads, dim / heads]
        mixed = rearrange(mixed, "batch token head dim -> batch token (head dim)")
        return dense(dim, kernel_init=self.kernel_init, dtype=self.dtype, name="proj")(mixed)


class Mlp(nn.Module):
    """Two fully connected layers with a GELU between them.

    Attributes:
      hidden_dim: Width of the hidden layer.
      kernel_init: Initialisation of the weights of both layers.
      dtype: Compute type.
    """

    hidden_dim: int
    kernel_init: Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens dim"]:
        """Maps each token by itself."""
        dim = x.shape[-1]
        x = dense(self.hidden_dim, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        x = gelu(x)
        return dense(dim, kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      index: Number of the block in its network, for the draws of stochastic depth.
      heads: Number of heads of the attention.
      mlp_ratio: Hidden width of the MLP as a multiple of the channels.
      qkv_bias: Whether queries, keys and values have a bias.
      norm_epsilon: Number that both layer norms add to the variance.
      drop_path: Probability of dropping each of the two residuals, 0..1.
      kernel_init: Initialisation of the weights of all linear layers.
      dtype: Compute type.
    """

    index: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
    drop_path: float = 0.0
    kernel_init: Initializer = PYTORCH_DEFAULT
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens dim"], keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch tokens dim"]:
        """Maps tokens to tokens; `keys` (one for each image) draw the stochastic depth, None drops nothing."""

        def norm(name):
            return nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=name)

        attention = Attention(self.heads, self.qkv_bias, self.kernel_init, self.dtype, name="attn")
        mlp = Mlp(round(x.shape[-1] * self.mlp_ratio), self.kernel_init, self.dtype, name="mlp")
        x = x + drop_path(attention(norm("norm1")(x)), self.drop_path, keys, 2 * self.index)
        return x + drop_path(mlp(norm("norm2")(x)), self.drop_path, keys, 2 * self.index + 1)


def resize_grid(
    grid: Float[Array, "1 rows cols dim"], size: tuple[int, int]
) -> Float[Array, "1 new_rows new_cols dim"]:
    """Position embeddings for another number of patches: bicubic interpolation, antialiased, as timm resamples them.

    Args:
      grid: Embeddings by place, without those of class tokens.
      size: Numbers of rows and columns wanted.

    Returns:
      The embeddings at the new places, or the grid untouched where it has this size already.
    """
    if grid.shape[1:3] == size:
        return grid
    return jax.image.resize(grid, (1, *size, grid.shape[-1]), method="cubic", antialias=True)
