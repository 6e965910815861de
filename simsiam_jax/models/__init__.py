"""Backbones, SimSiam's heads, and the classifier of the evaluations, all from scratch in Flax Linen."""

from simsiam_jax.models.classifier import Classifier as Classifier
from simsiam_jax.models.registry import BACKBONES as BACKBONES
from simsiam_jax.models.registry import create_backbone as create_backbone
from simsiam_jax.models.simsiam import SimSiam as SimSiam
from simsiam_jax.models.simsiam import train_on_views as train_on_views
