"""Model FLOPs: the multiplications and additions of a network's convolutions and matrix products, as published.

Counted in the program of lax's own convolutions, before any platform's form: what a network asks for, not what a
machine does.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from simsiam_jax.models.cpu import lax_form
from simsiam_jax.settings.schema import Config
from simsiam_jax.study.programs import Programs

# Of a training step: forward, and the gradients with respect to a layer's input and its weights, each as much again.
_PASSES_OF_A_STEP = 3


def flops_per_sample(config: Config, stage: str) -> int:
    """Model FLOPs of a pair of views (`forward`, `step`, `epoch`) or of an image (`eval`; `augment` has none).

    By convention the first layer's gradient with respect to its input counts too, and no norm, activation,
    augmentation or optimiser does.

    Args:
      config: Network and image size.
      stage: Of `workload.STAGES`.
    """
    if stage == "augment":
        return 0
    programs, size = Programs(config), config.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with lax_form():
        variables: Any = jax.eval_shape(programs.simsiam.init, jax.random.key(0), image, image)
        if stage == "eval":
            backbone = {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
            return count_flops(jax.make_jaxpr(programs.backbone.apply)(backbone, image))
        pair = count_flops(jax.make_jaxpr(programs.simsiam.apply)(variables, image, image))
    return pair * (1 if stage == "forward" else _PASSES_OF_A_STEP)


def count_flops(jaxpr: Any) -> int:
    """Two for each multiply-add of a program's convolutions and matrix products, padding counted.

    Args:
      jaxpr: Of which functions called inside, and a scan's body as often as it runs, are part; a `while`'s counts
        once, as nobody knows how often it runs.
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
