"""Table 1: does pretraining help ResNet-18 on CIFAR-10, and must the images be real? (arXiv 2112.02297).

The paper's accuracies in %, validation / test: none 75.68 / 75.23, random images 83.87 / 83.12, CIFAR-10 88.59 / 88.89;
one run each. Random images are 1,000 of 224 pixels there, and get 200 updates.

Command: python -m experiments.table1_cifar10                       (a GPU; 100 epochs of 40,000 images a seed)
         python -m experiments.table1_cifar10 --preset=small        (the whole way on a CPU; `--dry_run` says how long)
Data: the official archive, downloaded or in --manual_dir.
"""

import dataclasses

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS

PAPER = {
    "none": {"validation": 75.68, "test": 75.23},
    "random": {"validation": 83.87, "test": 83.12},
    "in_domain": {"validation": 88.59, "test": 88.89},
}
ARMS = {name: dataclasses.replace(arm, published=PAPER[name]) for name, arm in THREE_ARMS.items()}
LAYOUT = Layout((Column("validation", "finetune", "validation"), Column("test", "finetune", "test")))
# As in the paper: 1,000 images of 224 pixels, so far fewer updates than in-domain pretraining has.
FULL = {**PRESETS["full"], "noise_images": 1000, "noise_size": 224, "seeds": 3}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="table1_cifar10",
        title="Table 1: three ways to start ResNet-18 on {dataset}",
        question="Does SimSiam pretraining help on {dataset}, and does it need real images?",
        dataset="cifar10",
        preset="full",
        presets={**PRESETS, "full": FULL},
        paper_source="arXiv 2112.02297, Table 1 (CIFAR-10)",
        layout=LAYOUT,
        primary=("in_domain",),
        decided_by="finetune",
    ).run()
