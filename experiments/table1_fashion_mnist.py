"""Table 1's protocol on Fashion-MNIST: no pretraining, random images, in-domain images (arXiv 2112.02297).

The paper's numbers are CIFAR-10's, for ResNet-18 of full width, 100 epochs and all labels; the arms are the same.

Command: python -m experiments.table1_fashion_mnist --preset=small      (about 20 minutes on two CPU cores)
         python -m experiments.table1_fashion_mnist --preset=full      (for a GPU)
Data: Debian's package dataset-fashion-mnist, --manual_dir, or TFDS's download.
"""

from experiments.table1_cifar10 import ARMS, FULL, LAYOUT, QUARTER
from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS

SMALL = {**QUARTER, "pretrain_images": 10_000, "labels_per_class": 10, "finetune_label_draws": 10}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="table1_fashion_mnist",
        title="Table 1 on {dataset}: three ways to start ResNet-18",
        question="Does SimSiam pretraining help on {dataset}, and does it need real images?",
        dataset="fashion_mnist",
        presets={**PRESETS, "small": SMALL, "full": FULL},
        paper_source="arXiv 2112.02297, Table 1 (CIFAR-10)",
        layout=LAYOUT,
        primary=("in_domain",),
        decided_by="finetune",
    ).run()
