"""Does self-supervised pretraining help on your images, and by how much?

Example: simsiam study photos                               (class folders in the folder photos)
         simsiam study photos --labels=labels.csv           (labels, or attributes, in a file)
         simsiam study photos --dry_run                     (what would run, and how long it takes)

Compares no pretraining, pretraining on random images and pretraining on your images without their labels. Seeds are
added until the linear probe decides, or until --budget is spent. Run again with the same --workdir, it goes on.
"""

from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.cli.folder import take_folder
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS

WORDS = ("FOLDER",)
SMALL = {
    **PRESETS["small"],
    "epochs": 20,
    "noise_images": 1000,
    "knn_every": 5,
    "labels_per_class": 20,
    "seeds": "auto",
}
COMPARISON = Comparison(
    THREE_ARMS,
    experiment="study",
    title="SimSiam on {dataset}",
    question="Does SimSiam pretraining help on {dataset} when labels are few?",
    dataset=None,
    presets={**PRESETS, "small": SMALL},
    evaluations=("knn", "linear"),
    primary=("in_domain",),
    decided_by="linear",
    recipe="practice",
    budget="1h",
)
define, values = COMPARISON.define, COMPARISON.values


def main(folder: str) -> None:
    """Runs the study of a folder, or of a data set."""
    take_folder(folder, runs="study")
    COMPARISON.main()
