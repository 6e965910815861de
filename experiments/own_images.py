"""Does SimSiam pretraining help on images of one's own? No pretraining, random images, the images without labels.

Command: python -m experiments.own_images --dataset=folder:PATH      (class folders; --labels=FILE.csv for other labels)
         python -m experiments.own_images                            (the example: defects of solar cells)
Cost: the example about 28 minutes on two CPU cores; it needs `pip install elpv-dataset`.
"""

from simsiam_jax.cli.launch import run_table
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS

SMALL = {
    **PRESETS["small"],
    "epochs": 20,
    "noise_images": 1000,
    "knn_every": 5,
    "labels_per_class": 20,
    "seeds": "auto",
}

if __name__ == "__main__":
    run_table(
        THREE_ARMS,
        experiment="own_images",
        title="SimSiam on {dataset}",
        question="Does SimSiam pretraining help on {dataset} when labels are few?",
        dataset="solar_cells",
        presets={**PRESETS, "small": SMALL},
        evaluations=("knn", "linear"),
        primary=("in_domain",),
        decided_by="linear",
        recipe="practice",
        budget="1h",
    )
