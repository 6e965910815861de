"""Weights of timm and torchvision in, weights for timm out."""

from simsiam_jax.weights.initial import IMAGENET, InitialWeights, load_initial
from simsiam_jax.weights.timm import from_timm, timm_code, to_timm

__all__ = ["IMAGENET", "InitialWeights", "from_timm", "load_initial", "timm_code", "to_timm"]
