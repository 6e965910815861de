"""Table 2's protocol on scikit-learn's handwritten digits: four backbones, with and without pretraining.

The paper's numbers are STL-10's. Here 1,197 digits of 8×8 pixels are pretrained on, shown at 16×16, and three labels of
each class are learned from. ImageNet weights are not asked for: they belong to stems and patches of larger images.

Command: python -m experiments.table2_digits                    (`--dry_run` says how long it takes here)
Cost: about 20 minutes a seed on two CPU cores, most of it ViT-S. Data: comes with scikit-learn.
"""

from experiments.table2_stl10 import ARMS, LAYOUT
from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS

WITHOUT_IMAGENET = {name: arm for name, arm in ARMS.items() if not name.endswith("-imagenet")}
SMALL = {
    "width": 0.25,
    "epochs": 63,
    "knn_every": 21,
    "labels_per_class": 3,
    "finetune_epochs": 60,
    "finetune_label_draws": 10,
    "seeds": "auto",
}

if __name__ == "__main__":
    Comparison(
        WITHOUT_IMAGENET,
        experiment="table2_digits",
        title="Table 2's protocol on {dataset}: four backbones",
        question="Which backbone gains most from SimSiam pretraining on {dataset}?",
        dataset="digits",
        presets={**PRESETS, "small": SMALL, "full": {"seeds": 3, "accumulation": 1}},
        paper_source="arXiv 2112.02297, Table 2 (accuracy on STL-10)",
        layout=LAYOUT,
        recipe="practice",
        primary=tuple(name for name in WITHOUT_IMAGENET if name.endswith("-in_domain")),
        decided_by="finetune",
    ).run()
