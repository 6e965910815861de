"""Backbones, SimSiam's heads, and the classifier of the evaluations, all from scratch in Flax Linen."""

from simsiam_jax.models.classifier import Classifier
from simsiam_jax.models.registry import BACKBONES, backbone_fields, create_backbone, without_absent_fields
from simsiam_jax.models.simsiam import SimSiam, train_on_batches

__all__ = [
    "BACKBONES",
    "Classifier",
    "SimSiam",
    "backbone_fields",
    "create_backbone",
    "train_on_batches",
    "without_absent_fields",
]
