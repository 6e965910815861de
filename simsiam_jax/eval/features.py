"""A backbone's features of a whole split."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float

from simsiam_jax.settings.schema import ViewSpec
from simsiam_jax.train.outputs import bind, clean_outputs, compile_outputs, over_split

Extract = Callable[[dict[str, Any], Any], Float[np.ndarray, "n dim"]]


def extractor(model: nn.Module, views: ViewSpec, *, batch_size: int = 256) -> Extract:
    """Compiles extract(variables, split) -> float32 [n, dim] of unaugmented images, running statistics.

    The same serves a `Classifier`, whose outputs are logits.

    Args:
      model: The backbone or classifier.
      views: Image size, mean and standard deviation of the images; nothing is augmented.
      batch_size: Images in a call over all devices.
    """
    compiled = compile_outputs(bind(clean_outputs, model=model, views=views))

    def extract(variables, split):
        return over_split(compiled, variables, split, batch_size=batch_size)["outputs"]

    return extract


def backbone_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """The backbone's share of a SimSiam's or a Classifier's variables: what pretraining hands on."""
    return {
        collection: tree["backbone"]
        for collection, tree in variables.items()
        if collection in ("params", "batch_stats") and "backbone" in tree
    }
