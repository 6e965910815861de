"""Which augmentation suits a data set? A short search whose candidates are judged on validation images alone.

SimSiam's augmentation was made for ImageNet; crops from a fifth of the image throw away the size that tells clothes
apart. Each candidate pretrains for a few epochs; the one whose features give the best linear probe on *validation* is
what `data/datasets.py` names for the data set. Test images are not read.

Command: python -m experiments.search_augmentation --dataset=fashion_mnist
         python -m experiments.search_augmentation --dataset=solar_cells --workdir=runs/search_solar_cells
Cost: about 10 minutes each on two CPU cores.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import Arm

ARMS = {
    "crop-0.2": Arm("in_domain", "crops from 0.2, as SimSiam", settings={"crop_scale": (0.2, 1.0)}),
    "crop-0.5": Arm("in_domain", "crops from 0.5", settings={"crop_scale": (0.5, 1.0)}),
    "crop-0.8": Arm("in_domain", "crops from 0.8", settings={"crop_scale": (0.8, 1.0)}),
    "crop-0.5-jitter-0": Arm(
        "in_domain", "crops from 0.5, no colour jitter", settings={"crop_scale": (0.5, 1.0), "jitter_probability": 0.0}
    ),
    "crop-0.5-flip-0": Arm(
        "in_domain", "crops from 0.5, no mirroring", settings={"crop_scale": (0.5, 1.0), "flip_probability": 0.0}
    ),
}
SMALL = {
    **PRESETS["small"],
    "projector_dim": 512,
    "predictor_dim": 128,
    "pretrain_images": 5000,
    "epochs": 6,
    "warmup_epochs": 0.5,
    "micro_batch_size": 32,
    "labels_per_class": 50,
}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="search_augmentation",
        title="Augmentations for {dataset}",
        question="Which augmentation gives the best features on validation images of {dataset}?",
        dataset="fashion_mnist",
        presets={**PRESETS, "small": SMALL},
        evaluations=("knn", "linear"),
        layout=Layout((Column("linear probe", "linear", "validation"), Column("kNN", "knn", "validation"))),
        tested=False,
    ).run()
