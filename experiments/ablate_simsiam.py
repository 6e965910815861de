"""What of SimSiam is needed? Its parts taken away or changed one at a time, each against SimSiam as it is.

After Chen and He 2021: section 4.1 (without stop-gradient the outputs collapse: spread of z near 0), 4.2 (no predictor
collapses too; its constant learning rate helps), 4.3 (batch size), 4.4 (batch norm), 4.6 (symmetry), and section 3's
augmentations. What they print for ResNet-50 on ImageNet, kNN or linear accuracy in %: stop-gradient 67.7 against 0.1
without; no predictor 0.1; batch norm none 34.6, hidden 67.4, default 68.1, all unstable; asymmetric 64.8 against 68.1.

Command: python -m experiments.ablate_simsiam                    (`--dry_run` says how long it takes here)
         python -m experiments.ablate_simsiam --preset=full     (for a GPU: full width, 100 epochs)
Cost: about 30 minutes on two CPU cores.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import Arm

ARMS = {
    "simsiam": Arm("in_domain", "SimSiam as it is"),
    "no-stop-gradient": Arm("in_domain", "no stop-gradient", settings={"stop_gradient": False}),
    "no-predictor": Arm("in_domain", "no predictor", settings={"predictor": False}),
    "norm-none": Arm(
        "in_domain", "no batch norm in the heads", settings={"hidden_norm": False, "projector_output_norm": "none"}
    ),
    "norm-hidden": Arm("in_domain", "batch norm in hidden layers only", settings={"projector_output_norm": "none"}),
    "norm-all": Arm("in_domain", "batch norm on every output too", settings={"predictor_output_norm": "affine"}),
    "asymmetric": Arm("in_domain", "asymmetric loss", settings={"symmetric": False}),
    "projector-2": Arm("in_domain", "projector of 2 layers", settings={"projector_layers": 2}),
    "projector-1": Arm("in_domain", "projector of 1 layer", settings={"projector_layers": 1}),
    "batch-quarter": Arm("in_domain", "batch of 16", settings={"micro_batch_size": 16, "accumulation": 1}),
    "batch-quadruple": Arm("in_domain", "batch of 256", settings={"micro_batch_size": 256, "accumulation": 1}),
    "predictor-decayed": Arm("in_domain", "predictor's rate decayed", settings={"constant_predictor": False}),
    "no-crop": Arm("in_domain", "no crop", settings={"crop_scale": (1.0, 1.0)}),
    "no-flip": Arm("in_domain", "no mirroring", settings={"flip_probability": 0.0}),
    "no-jitter": Arm("in_domain", "no colour jitter", settings={"jitter_probability": 0.0}),
    "none": Arm("none", "no pretraining"),
}
SMALL = {
    **PRESETS["small"],
    "projector_dim": 512,
    "predictor_dim": 128,
    "pretrain_images": 4000,
    "epochs": 5,
    "warmup_epochs": 0.5,
    "knn_every": 1,
    "labels_per_class": 50,
    "seeds": 3,
}
# With mirroring, which not every data set's own views have, so that there is something to leave out.
SIZES = {**PRESETS, "small": SMALL, "full": {"seeds": 3}}
SIZES = {name: {**settings, "flip_probability": 0.5} for name, settings in SIZES.items()}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="ablate_simsiam",
        title="What of SimSiam is needed, on {dataset}",
        question="Which parts of SimSiam matter on {dataset}, and without which does it collapse?",
        dataset="fashion_mnist",
        presets=SIZES,
        evaluations=("knn", "linear"),
        layout=Layout((Column("linear probe", "linear", "test"), Column("kNN", "knn", "test"))),
        primary=("no-stop-gradient",),
        decided_by="linear",
    ).run()
