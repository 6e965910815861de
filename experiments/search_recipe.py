"""Which settings of SimSiam work on small data and few updates? The recorded search behind the recipe `practice`.

Every candidate pretrains on the same images with the same seeds. A linear probe on few labels, averaged over 20 draws
of them, judges its features on *validation* images; the effective rank says how many dimensions they keep. Test images
are not read. Seeds start at 100, so that no reported run shares them. A candidate is judged by its worst seed as well
as by its mean: a rate that is best on one seed can collapse another.

Command: python -m experiments.search_recipe --dataset=digits
         python -m experiments.search_recipe --dataset=fashion_mnist --arms=none,paper,practice --epochs=1
             --min_updates=800 --pretrain_images=8000 --labels_per_class=10
         The same with --dataset=solar_cells --image_size=64, and with --dataset=folder:PATH for images of one's own.
Cost: digits about an hour on two CPU cores, the others about 10 minutes each.
"""

from experiments.candidates import ARMS
from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.records.experiment import Column, Layout
from simsiam_jax.settings.recipes import PRESETS

# Digits: 60 epochs are 2,220 updates of 32 images; batches of 64 get 1,500 updates, as the recipe `practice` asks for.
SMALL = {
    **PRESETS["small"],
    "epochs": 60,
    "min_updates": 1500,
    "knn_every": 20,
    "micro_batch_size": 32,
    "labels_per_class": 3,
    "seeds": 2,
}

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="search_recipe",
        title="Recipes for {dataset}",
        question="Which settings give the best features on validation images of {dataset}?",
        dataset="digits",
        presets={**PRESETS, "small": SMALL},
        evaluations=("linear",),
        layout=Layout((Column("linear probe", "linear", "validation"),)),
        tested=False,
    ).run()
