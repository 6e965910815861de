"""Table 2 and Figure 3: four backbones on STL-10, after no, STL-10's and ImageNet's pretraining (arXiv 2112.02297).

The paper's test accuracies in %, none / STL-10 / ImageNet: ResNet-18 65.73 / 70.23 / 89.82, EfficientNet-B0
65.30 / 69.84 / 95.03, ViT 53.74 / 60.45 / 96.26, PiT 58.14 / 64.21 / 87.31; one run each, the epoch chosen on test.
Figure 3 is the similarity loss on test images while pretraining; its curves come from the same runs.

Command: python -m experiments.table2_stl10                    (a GPU; 100 epochs of 100,000 images a backbone and seed)
         (The same command on other machines that share --workdir takes the units that no one holds.)
Data: the official archive, downloaded or in --manual_dir. ImageNet weights: downloaded, or --imagenet_weights=FOLDER;
where they cannot be had, their arms are left out and the report says so. STL-10 was drawn from ImageNet: they leak.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import backbone_arms

BACKBONES = {"resnet18": "ResNet-18", "efficientnet_b0": "EfficientNet-B0", "vit_s": "ViT-S", "pit_ti": "PiT-Ti"}
PAPER = {
    "resnet18": {"none": 65.73, "in_domain": 70.23, "imagenet": 89.82},
    "efficientnet_b0": {"none": 65.30, "in_domain": 69.84, "imagenet": 95.03},
    "vit_s": {"none": 53.74, "in_domain": 60.45, "imagenet": 96.26},
    "pit_ti": {"none": 58.14, "in_domain": 64.21, "imagenet": 87.31},
}
ARMS = backbone_arms(
    BACKBONES,
    {(backbone, name): {"test": value} for backbone, values in PAPER.items() for name, value in values.items()},
    in_domain={"test_loss": True},
)
LAYOUT = Layout((Column("test", "finetune", "test"),), pivot=True)
# Small views, so that four backbones compile and run in a minute or two.
SMOKE = {**PRESETS["smoke"], "image_size": 32}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="table2_stl10",
        title="Table 2: four backbones on {dataset}",
        question="Which backbone gains most from SimSiam pretraining on {dataset}?",
        dataset="stl10",
        preset="full",
        presets={**PRESETS, "smoke": SMOKE, "full": {"seeds": 3}},
        paper_source="arXiv 2112.02297, Table 2 (STL-10)",
        layout=LAYOUT,
        primary=tuple(name for name in ARMS if name.endswith("-in_domain")),
        decided_by="finetune",
    ).run()
