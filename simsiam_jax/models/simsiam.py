"""SimSiam's two heads and the network of equation (1) (Chen and He 2021)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simsiam_jax.models.layers import BATCH_NORM_MOMENTUM, BatchNorm
from simsiam_jax.settings.schema import HeadConfig

Variables = dict[str, Any]


Norm = Literal["none", "plain", "affine"]


def _hidden(has_norm: bool) -> Norm:
    return "affine" if has_norm else "none"


def _dense(x: jax.Array, layer: int, dim: int, norm: Norm, train: bool, dtype: Any, axis_name: str | None) -> jax.Array:
    """Applies the fully connected layer `fcN` of a head, and the batch norm `bnN` where the head has one."""
    # A bias before a batch norm is subtracted again with the mean.
    x = nn.Dense(dim, use_bias=norm == "none", dtype=dtype, name=f"fc{layer}")(x)
    return x if norm == "none" else BatchNorm(train, dtype, axis_name, norm == "affine", name=f"bn{layer}")(x)


class Projector(nn.Module):
    """The projection MLP: fully connected layers, each hidden one with batch norm and ReLU.

    Attributes:
      dim: Width of the hidden layers and of the output.
      layers: Number of fully connected layers.
      output_norm: Kind of batch norm on the output: `affine` has scale and bias, as in the paper's code; `plain` has
        neither, as in SimSiam's own; `none` leaves the norm out.
      hidden_norm: Whether the hidden layers have batch norm.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    dim: int = 1024
    layers: int = 3
    output_norm: Norm = "affine"
    hidden_norm: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"], train: bool = False) -> Float[Array, "batch dim"]:
        """Maps features of a backbone to z; `train` normalises by the batch's own statistics."""
        for layer in range(self.layers):
            last = layer == self.layers - 1
            norm = self.output_norm if last else _hidden(self.hidden_norm)
            x = _dense(x, layer + 1, self.dim, norm, train, self.dtype, self.axis_name)
            if not last:
                x = nn.relu(x)
        return x


class Predictor(nn.Module):
    """The prediction MLP: a bottleneck with batch norm and ReLU, then a linear layer.

    Attributes:
      dim: Width of the input and of the output.
      hidden_dim: Width of the bottleneck, a quarter of `dim` in the paper.
      output_norm: Kind of batch norm on the output, as in `Projector`.
      hidden_norm: Whether the bottleneck has batch norm.
      dtype: Compute type; parameters and batch statistics are float32.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training, or None outside of
        one.
    """

    dim: int = 1024
    hidden_dim: int = 256
    output_norm: Norm = "none"
    hidden_norm: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "batch dim"], train: bool = False) -> Float[Array, "batch dim"]:
        """Maps z to p; `train` normalises by the batch's own statistics."""
        norms = (_hidden(self.hidden_norm), self.output_norm)
        x = _dense(z, 1, self.hidden_dim, norms[0], train, self.dtype, self.axis_name)
        return _dense(nn.relu(x), 2, self.dim, norms[1], train, self.dtype, self.axis_name)


class SimSiam(nn.Module):
    """The network of equation (1): z = projector(backbone(view)) and p = predictor(z), for each view.

    Attributes:
      backbone: Module that maps images [batch, height, width, 3] to features [batch, features]; its variables live
        under `backbone`.
      head: Settings of the projector and the predictor; the defaults are the paper's.
      dtype: Compute type of the projector and the predictor; their parameters are float32.
      axis_name: Axis of the enclosing `pmap` over which their batch statistics are averaged in training, or None
        outside of one.
    """

    backbone: nn.Module
    head: HeadConfig = HeadConfig()
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def setup(self):
        self.projector = Projector(
            dim=self.head.projector_dim,
            layers=self.head.projector_layers,
            output_norm=self.head.projector_output_norm,
            hidden_norm=self.head.hidden_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        if self.head.predictor:
            self.predictor = Predictor(
                dim=self.head.projector_dim,
                hidden_dim=self.head.predictor_dim,
                output_norm=self.head.predictor_output_norm,
                hidden_norm=self.head.hidden_norm,
                dtype=self.dtype,
                axis_name=self.axis_name,
            )

    def branch(
        self, view: Float[Array, "batch height width 3"], train: bool = False, keys: Key[Array, "batch"] | None = None
    ) -> tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]]:
        """Passes one view through the network.

        Args:
          view: Normalised images.
          train: Whether the batch's own statistics are used, and stochastic depth is on.
          keys: One key for each image, for stochastic depth; None drops nothing.

        Returns:
          p and z.
        """
        z = self.projector(self.backbone(view, train=train, keys=keys), train=train)
        return (self.predictor(z, train=train) if self.head.predictor else z), z

    def __call__(
        self, *views: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch dim"], ...]:
        """Returns p of every view, then z of every view: (p1, p2, z1, z2) of two.

        Each view is normalised by its own batch, as in forward passes of their own.
        """
        p, z = zip(*(self.branch(view, train=train) for view in views), strict=True)
        return *p, *z


def train_on_batches(
    model: SimSiam,
    variables: Variables,
    batches: Float[Array, "batches batch height width 3"],
    keys: Key[Array, "batches batch"] | None = None,
) -> tuple[tuple[Float[Array, "batches batch dim"], Float[Array, "batches batch dim"]], Variables]:
    """Several batches in one pass, each normalised by its own statistics: the views of one or more micro-batches.

    `vmap` keeps the batch statistics apart, and compiles each layer once. The running statistics come back as if the
    batches had passed in turn.

    Args:
      model: The network.
      variables: The network's `params` and `batch_stats`.
      batches: Normalised images, float32.
      keys: One key for each image, for stochastic depth; None drops nothing.

    Returns:
      p and z of each batch, and the updated `batch_stats`.
    """

    def branch(batch, keys):
        return model.apply(variables, batch, train=True, keys=keys, method="branch", mutable=["batch_stats"])

    outputs, updated = jax.vmap(branch)(batches, keys)
    if "batch_stats" not in variables:
        return outputs, {}
    # By itself batch i of n makes s_i = m r + (1 - m) b_i of the statistics r. After one another they make
    # m^n r + Σ m^(n-1-i) (1 - m) b_i, where (1 - m) b_i = s_i - m r.
    count, m = len(batches), BATCH_NORM_MOMENTUM
    weights = m ** jnp.arange(count - 1.0, -1.0, -1.0)

    def in_turn(old, each):
        return m**count * old + jnp.sum(weights[:, None] * (each - m * old), axis=0)

    return outputs, jax.tree.map(in_turn, variables["batch_stats"], updated["batch_stats"])
