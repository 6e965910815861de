"""A small but real ablation: does SimSiam pretraining help on scikit-learn's handwritten digits?

ResNet-18 at a quarter of its width on 1,197 real 8×8 digits shown at 16×16: no pretraining, pretraining on random
images, and pretraining on the digits without their labels. Each is evaluated with three labels of each class, over 20
draws of them. Seeds are added until the linear probe decides whether the digits helped.

Command: python -m experiments.demo      (or `make demo`, which installs everything first)
Cost: about 3 minutes (4 with the installation) for three seeds on two CPU cores, and 2 GB of memory; no download.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS

# 63 epochs are 1,134 updates, three quarters of what the recipe takes: enough to see the effect, in minutes. The random
# images get 252 updates, somewhat more than the paper's 200 (1,000 images, 100 epochs, batches of 512).
SMALL = {
    "width": 0.25,
    "epochs": 63,
    "min_updates": None,
    "knn_every": 21,
    "noise_images": 256,
    "labels_per_class": 3,
    "finetune_epochs": 60,
    "seeds": "auto",
}

if __name__ == "__main__":
    Comparison(
        THREE_ARMS,
        experiment="demo",
        title="SimSiam on {dataset}",
        question="Does SimSiam pretraining help on {dataset} when labels are few?",
        dataset="digits",
        presets={**PRESETS, "small": SMALL},
        evaluations=("knn", "linear"),
        primary=("in_domain",),
        decided_by="linear",
        recipe="practice",
        budget="10m",
    ).run()
