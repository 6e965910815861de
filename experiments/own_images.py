"""Does SimSiam pretraining help on images of one's own? `simsiam study`, with defects of solar cells as the example.

Command: python -m experiments.own_images                            (the example)
         python -m experiments.own_images --dataset=folder:PATH      (the same as `simsiam study PATH`)
Cost: the example about 28 minutes on two CPU cores; it needs `pip install elpv-dataset`.
"""

import dataclasses

from simsiam_jax.cli.commands.study import COMPARISON

if __name__ == "__main__":
    dataclasses.replace(COMPARISON, experiment="own_images", dataset="solar_cells").run()
