"""SimSiam ablation study in JAX: does self-supervised pretraining help on my images, and by how much?"""

__version__ = "0.1.0"
