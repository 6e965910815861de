"""What training changes: one frozen tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Parameters, batch statistics and optimiser state, all unreplicated.

    Attributes:
      step: int32 scalar, updates done.
      params: float32 parameters.
      batch_stats: float32 running statistics; empty for networks without batch norm.
      opt_state: The optimiser's state.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """A state before its first step, from freshly initialised or restored variables.

    The variables are copied: a step is given its state's buffers, and would take the caller's with them.
    """
    variables = jax.tree.map(jnp.array, variables)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(params),
    )
