"""Table 2's protocol on photographs of solar cells: are they defective? Four backbones, with and without pretraining.

The paper's numbers are STL-10's (accuracy, 100 epochs on 100,000 images); here 1,679 images are pretrained on, 31 %
of the cells are defective, and what is shown is the area under the ROC curve, with balanced accuracy beside it.

Command: python -m experiments.table2_solar_cells                    (`--dry_run` says how long it takes here)
         python -m experiments.table2_solar_cells --preset=full     (for a GPU: full width, 100 epochs, all labels)
Cost: about 30 minutes on two CPU cores. Data: `pip install elpv-dataset` (CC BY-NC-SA).
"""

from experiments.table2_stl10 import ARMS, LAYOUT, SMOKE
from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS

SMALL = {
    **PRESETS["small"],
    "projector_dim": 512,
    "predictor_dim": 128,
    "epochs": 8,
    "warmup_epochs": 0.5,
    "micro_batch_size": 32,
    "knn_every": 4,
    "labels_per_class": 50,
    "finetune_epochs": 15,
    "seeds": 3,
}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="table2_solar_cells",
        title="Table 2's protocol on {dataset}: four backbones",
        question="Which backbone finds defects in {dataset} best, and does SimSiam pretraining help it?",
        dataset="solar_cells",
        presets={**PRESETS, "smoke": SMOKE, "small": SMALL, "full": {"seeds": 3, "accumulation": 1}},
        paper_source="arXiv 2112.02297, Table 2 (accuracy on STL-10)",
        layout=LAYOUT,
        primary=tuple(name for name in ARMS if name.endswith("-in_domain")),
        decided_by="finetune",
    ).run()
