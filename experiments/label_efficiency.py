"""How many labels does pretraining save? Accuracy against labels, from 1 % to all, with and without pretraining.

Each seed pretrains once; its backbone then learns from ever more labels, whose sets are nested, beside a backbone
without pretraining on the same labels.

Command: python -m experiments.label_efficiency                    (`--dry_run` says how long it takes here)
         python -m experiments.label_efficiency --preset=full     (for a GPU: full width, 100 epochs)
Cost: about 25 minutes on two CPU cores.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import Arm

PERCENT = (1, 3, 10, 30, 100)
ARMS = {
    f"{name}-{percent}": Arm(
        name,
        f"{label}, {percent} % of the labels",
        settings={"label_fraction": percent / 100},
        group=f"{percent} % of the labels",
        shares=f"{name}-{PERCENT[0]}" if name == "in_domain" and percent != PERCENT[0] else None,
    )
    for percent in PERCENT
    for name, label in (("none", "no pretraining"), ("in_domain", "{dataset} images"))
}
SMALL = {
    **PRESETS["small"],
    "pretrain_images": 8000,
    "epochs": 8,
    "knn_every": 4,
    "finetune_epochs": 40,
    "finetune_updates": 300,
    "seeds": 3,
}
# The smallest share still holds an image of each class where tests bring little data.
SMOKE = {**PRESETS["smoke"], "finetune_updates": 4}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="label_efficiency",
        title="Labels saved by pretraining on {dataset}",
        question="How many labels of {dataset} does SimSiam pretraining save?",
        dataset="fashion_mnist",
        presets={**PRESETS, "smoke": SMOKE, "small": SMALL, "full": {"seeds": 3, "finetune_updates": 20_000}},
        evaluations=("linear", "finetune"),
        recipe="practice",
        primary=("in_domain-1",),
        decided_by="linear",
    ).run()
