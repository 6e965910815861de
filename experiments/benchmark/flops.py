"""Model FLOPs: the multiplications and additions of a network's convolutions and matrix products, as published.

They are counted in the program with lax's own convolutions: what a network asks for, not what a machine computes.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark.ours import CompiledNetwork, lax_form
from simsiam_jax.settings.schema import Config

# A training step goes forward, and takes the gradients of a layer's input and of its weights, each as much again.
_PASSES_OF_A_STEP = 3


def flops_per_sample(config: Config, stage: str) -> int:
    """Model FLOPs of a pair of views (`forward`, `step`, `epoch`) or of an image (`eval`), 0 for `augment`.

    By convention the gradient of the first layer's input counts too. Norms, activations, augmentation and the optimiser
    do not count.

    Args:
      config: The settings of the network, and the image size.
      stage: One of `workload.STAGES`.
    """
    if stage == "augment":
        return 0
    network, size = CompiledNetwork(config.program), config.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with lax_form():
        variables: Any = jax.eval_shape(network.simsiam.init, jax.random.key(0), image, image)
        if stage == "eval":
            backbone = {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
            return count_flops(jax.make_jaxpr(network.backbone.apply)(backbone, image))
        pair = count_flops(jax.make_jaxpr(network.simsiam.apply)(variables, image, image))
    return pair * (1 if stage == "forward" else _PASSES_OF_A_STEP)


def count_flops(jaxpr: Any) -> int:
    """FLOPs of a program: two for each multiply-add of its convolutions and matrix products, padding included.

    A scan's body counts as often as it runs. A `while` counts once, because its number of turns is not known, and a
    `cond` counts as its most expensive branch.

    Args:
      jaxpr: The program; functions that it calls are part of it.
    """
    return sum(_count(equation) for equation in jaxpr.eqns)


def _count(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        # The kernel's input axis holds one group's channels, which are all that an output sees.
        features = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * (kernel.size // features)
    inner = [count_flops(jaxpr) for jaxpr in _called(parameters)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _called(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "eqns"):
                # A closed program forwards its equations; both kinds have them.
                yield each
