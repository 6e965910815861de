"""Table 1: does pretraining help ResNet-18 on CIFAR-10, and must the images be real? (arXiv 2112.02297).

The paper's accuracies in %, validation / test: none 75.68 / 75.23, random images 83.87 / 83.12, CIFAR-10 88.59 / 88.89;
one run each. Random images are 1,000 of 224 pixels there, and get 200 updates. The arms whose names end in `few` are
not the paper's: the same three networks, fine-tuned with 1 % of the labels.

Command: python -m experiments.table1_cifar10                       (a GPU; 100 epochs of 40,000 images a seed)
         python -m experiments.table1_cifar10 --preset=small        (the whole way on a CPU; `--dry_run` says how long)
Data: the official archive, downloaded or in --manual_dir; or a folder of the images, which is called by its name:
--dataset="folder:CIFAR-10 (JPEG copy)" --cached_size=32.
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
FEW = {
    f"{name}-few": dataclasses.replace(
        arm,
        label=f"{arm.label}, 1 % of the labels",
        published={},
        settings={"label_fraction": 0.01},
        group="1 % of the labels",
        shares=None if arm.pretrain == "none" else name,
    )
    for name, arm in ARMS.items()
}
LAYOUT = Layout((Column("validation", "finetune", "validation"), Column("test", "finetune", "test")))
# As in the paper: 1,000 images of 224 pixels, so far fewer updates than in-domain pretraining has.
FULL = {**PRESETS["full"], "noise_images": 1000, "noise_size": 224, "seeds": 3}
# A quarter of the width and a tenth of the length, for a CPU.
QUARTER = {
    "width": 0.25,
    "projector_dim": 512,
    "predictor_dim": 128,
    "noise_images": 1000,
    "epochs": 10,
    "warmup_epochs": 0.5,
    "knn_every": 2,
    "micro_batch_size": 64,
    "accumulation": 1,
    "learning_rate": 1e-3,
    "validation_images": 1000,
    "finetune_epochs": 40,
    "seeds": 3,
}
# All labels for the arms that do not say otherwise.
SMALL = {**QUARTER, "epochs": 8, "finetune_epochs": 25, "finetune_updates": 3000, "finetune_label_draws": 10}

if __name__ == "__main__":
    Comparison(
        ARMS | FEW,
        experiment="table1_cifar10",
        title="Table 1: three ways to start ResNet-18 on {dataset}",
        question="Does SimSiam pretraining help on {dataset}, and does it need real images?",
        dataset="cifar10",
        preset="full",
        presets={**PRESETS, "small": SMALL, "full": FULL},
        paper_source="arXiv 2112.02297, Table 1 (CIFAR-10)",
        layout=LAYOUT,
        # The question is asked of each number of labels: what helps with few may not matter with all.
        primary=("in_domain", "in_domain-few"),
        decided_by="finetune",
    ).run()
