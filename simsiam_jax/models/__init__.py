"""Backbones, SimSiam's heads, and the classifier of the evaluations, all from scratch in Flax Linen."""

from typing import TYPE_CHECKING, Any

from simsiam_jax.models.registry import BACKBONES, backbone_fields, create_backbone

if TYPE_CHECKING:
    from simsiam_jax.models.classifier import Classifier
    from simsiam_jax.models.simsiam import SimSiam, train_on_views

__all__ = ["BACKBONES", "Classifier", "SimSiam", "backbone_fields", "create_backbone", "train_on_views"]


def __getattr__(name: str) -> Any:
    # Flax takes a second to import, which a launcher's --help should not wait for.
    if name == "Classifier":
        from simsiam_jax.models.classifier import Classifier

        return Classifier
    if name in ("SimSiam", "train_on_views"):
        from simsiam_jax.models import simsiam

        return getattr(simsiam, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
