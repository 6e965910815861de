"""The tiny study that trials stop, in a process that has imported everything: starting takes longer than its work.

It saves after every update, so that a signal at a random moment often hits a save. Its network is one layer with batch
norm, under the name of another one: tracing a real one would be most of a trial's time.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

# What the study imports in the end, and what would be imported while it runs.
import array_record.python.array_record_data_source  # noqa: F401
import flax.linen as nn
import jax.numpy as jnp
import matplotlib.figure  # noqa: F401
import sklearn.manifold
import sklearn.metrics  # noqa: F401
import tensorboardX  # noqa: F401
import tensorflow_datasets  # noqa: F401
from einops import rearrange

from simsiam_jax.cli import comparison  # noqa: F401
from simsiam_jax.models import registry
from simsiam_jax.models.layers import BatchNorm
from simsiam_jax.study import exhibits
from simsiam_jax.train import loop
from tests.support.launchers import XLA_FLAGS

# The smallest study with every stage: preparation, pretraining, each evaluation, the report.
TINY = (
    *("--preset=smoke", "--dataset=digits", "--arms=none,in_domain", "--seeds=1", "--evals=knn,linear,finetune"),
    *("--image_size=8", "--epochs=3", "--pretrain_images=256", "--micro_batch_size=32", "--accumulation=2"),
    *("--labels_per_class=3", "--label_draws=1", "--finetune_label_draws=1", "--finetune_epochs=2"),
    *("--projector_dim=16", "--predictor_dim=8"),
)


class OneLayer(nn.Module):
    """A dense layer with batch norm on the pixels."""

    stem: str = "none"
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Any, train: bool = False, keys: Any = None) -> Any:
        pixels = rearrange(images.astype(self.dtype), "batch height width channel -> batch (height width channel)")
        found = nn.Dense(16, dtype=self.dtype)(pixels)
        return nn.relu(BatchNorm(train, self.dtype, self.axis_name)(found))

    def fault(self, image_size: int) -> str | None:
        return None


def main(folder: Path, flags: tuple[str, ...] = ()) -> None:
    """Runs the study in `folder`/w, on data that it prepares in `folder`/data; what it says goes to `folder`/said."""
    # Nothing has asked for a device yet. Tests have two, where a launcher has one.
    os.environ["XLA_FLAGS"] = XLA_FLAGS
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    exhibits.POINTS = 40
    registry.BACKBONES["resnet18"] = registry.Backbone(OneLayer)  # pyright: ignore[reportArgumentType]
    with (folder / "said").open("w", buffering=1) as said:
        sys.stdout = sys.stderr = sys.__stderr__ = said
        sys.argv = ["demo", *TINY, f"--workdir={folder / 'w'}", f"--data_dir={folder / 'data'}", *flags]
        runpy.run_module("experiments.demo", run_name="__main__", alter_sys=True)
