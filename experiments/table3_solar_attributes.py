"""Table 3's protocol on photographs of solar cells: four binary attributes of each, ResNet-18 and PiT.

`data.datasets.SOLAR_ATTRIBUTES` defines the attributes. The paper's numbers are CelebA's: forty attributes of 200,000
faces; here it is four of 2,624 photographs.

Command: python -m experiments.table3_solar_attributes                    (`--dry_run` says how long it takes here)
         python -m experiments.table3_solar_attributes --preset=full     (for a GPU)
Cost: about 15 minutes on two CPU cores. Data: `pip install elpv-dataset` (CC BY-NC-SA).
"""

from experiments.table2_solar_cells import SMALL, SMOKE
from experiments.table3_celeba import ARMS, LAYOUT
from simsiam_jax.cli.comparison import Comparison
from simsiam_jax.settings.recipes import PRESETS

if __name__ == "__main__":
    Comparison(
        ARMS,
        experiment="table3_solar_attributes",
        title="Table 3's protocol on {dataset}",
        question="Does SimSiam pretraining help to tell the attributes of solar cells?",
        dataset="solar_cells:conditions",
        presets={**PRESETS, "smoke": SMOKE, "small": SMALL, "full": {"seeds": 3, "accumulation": 1}},
        paper_source="arXiv 2112.02297, Table 3 (CelebA; its accuracy is the Jaccard index)",
        layout=LAYOUT,
        primary=tuple(name for name in ARMS if name.endswith("-in_domain")),
        decided_by="finetune",
    ).run()
