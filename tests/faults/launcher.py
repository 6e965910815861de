"""The tiny study that trials stop, in a process that has imported everything: starting takes longer than its work.

It saves after every update, so that a signal at a random moment often hits a save.
"""

import runpy
import sys
from pathlib import Path

# What the study imports in the end, and what would be imported while it runs.
import array_record.python.array_record_data_source
import matplotlib.figure
import sklearn.metrics
import tensorboardX
import tensorflow_datasets  # noqa: F401

from simsiam_jax.cli import comparison  # noqa: F401
from simsiam_jax.train import loop

# The smallest study with every stage: preparation, pretraining, each evaluation, the report.
TINY = (
    *("--preset=smoke", "--dataset=digits", "--arms=none,in_domain", "--seeds=1", "--evals=knn,linear,finetune"),
    *("--image_size=16", "--width=0.125", "--epochs=2", "--pretrain_images=256", "--micro_batch_size=64"),
    *("--accumulation=2", "--labels_per_class=3", "--label_draws=1", "--finetune_label_draws=1"),
    *("--finetune_epochs=2", "--projector_dim=32"),
)


def main(folder: Path, flags: tuple[str, ...] = ()) -> None:
    """Runs the study in `folder`/w, on data that it prepares in `folder`/data; what it says goes to `folder`/said."""
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    with (folder / "said").open("w", buffering=1) as said:
        sys.stdout = sys.stderr = sys.__stderr__ = said
        sys.argv = ["demo", *TINY, f"--workdir={folder / 'w'}", f"--data_dir={folder / 'data'}", *flags]
        runpy.run_module("experiments.demo", run_name="__main__", alter_sys=True)
