"""Weights of timm and torchvision in, weights for timm out."""

from simsiam_jax.weights.initial import IMAGENET as IMAGENET
from simsiam_jax.weights.initial import InitialWeights as InitialWeights
from simsiam_jax.weights.initial import load_initial as load_initial
from simsiam_jax.weights.timm import from_timm as from_timm
from simsiam_jax.weights.timm import to_timm as to_timm
