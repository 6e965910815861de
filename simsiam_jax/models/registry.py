"""Backbones by name: a new one is a file and a line here.

A backbone is a Flax module that maps (images [batch, height, width, 3] float32, train, keys) to features [batch,
features]. Its method `fault(image_size)` says what keeps it from images of a size. One with position embeddings (a
parameter `pos_embed`) also has `resize_pos_embed(pos_embed, shape)`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simsiam_jax.errors import InputError, require
from simsiam_jax.models.efficientnet import EfficientNetB0
from simsiam_jax.models.pit import PoolingVisionTransformer
from simsiam_jax.models.resnet import ResNet18
from simsiam_jax.models.vit import VisionTransformer
from simsiam_jax.settings.schema import BackboneConfig


@dataclass(frozen=True)
class Backbone:
    """A Flax module and the fields that make it a certain published network.

    Attributes:
      module: Class of the module.
      fields: Values of the fields that differ from the class's defaults.
    """

    module: Any
    fields: Mapping[str, Any] = field(default_factory=dict)


BACKBONES = {
    "resnet18": Backbone(ResNet18),
    "efficientnet_b0": Backbone(EfficientNetB0),
    "vit_s": Backbone(VisionTransformer),
    "vit_s_2021": Backbone(
        VisionTransformer,
        {"dim": 768, "depth": 8, "heads": 8, "mlp_ratio": 3.0, "qkv_bias": False, "norm_epsilon": 1e-5},
    ),
    "pit_ti": Backbone(PoolingVisionTransformer),
}


def backbone_fields(name: str) -> tuple[str, ...]:
    """The names of the fields that a backbone has.

    Args:
      name: Name of the backbone, a key of `BACKBONES`.

    Returns:
      Names such as `width`, `stem` and `dtype`.

    Raises:
      InputError: If no backbone has this name.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BACKBONES)}"
        raise InputError(f"--backbone={name}: unknown backbone; {hint}")
    fields = BACKBONES[name].module.__dataclass_fields__
    return tuple(each for each in fields if each not in ("parent", "name"))


def without_absent_fields(backbone: BackboneConfig) -> BackboneConfig:
    """The backbone without the settings of a recipe or preset that it does not have.

    Raises:
      InputError: If no backbone has its name.
    """
    known = backbone_fields(backbone.name)
    return dataclasses.replace(backbone, **{name: None for name in backbone.fields() if name not in known})


def create_backbone(name: str, image_size: int, *, axis_name: str | None = None, **fields: Any) -> Any:
    """Builds a backbone.

    Args:
      name: Name of the backbone, a key of `BACKBONES`.
      image_size: Side of the square images in pixels.
      axis_name: Axis of the enclosing `pmap` over which batch statistics are averaged in training. Backbones without
        batch norm ignore it.
      **fields: Values of the module's fields, such as `width`, `stem`, `patch_size` and `dtype`.

    Returns:
      A Flax module that maps (images [batch, size, size, 3] float32, train, keys) to features [batch, features].

    Raises:
      InputError: If the name or a field is unknown, or the backbone cannot take images of this size.
    """
    known = backbone_fields(name)
    for each in fields:
        require(each in known, f"--backbone={name} has no field {each!r}; it has {', '.join(known)}")
    width = fields.get("width", 1.0)
    require(
        0 < width <= 8,
        f"--width={width:g} must be positive and at most 8: it multiplies the published network's channels",
    )
    rate = fields.get("drop_path", 0.0)
    require(0 <= rate < 1, f"--drop_path={rate:g} is a probability: 0 or more, and below 1")
    if "axis_name" in known:
        fields["axis_name"] = axis_name
    backbone = BACKBONES[name]
    module = backbone.module(**{**backbone.fields, **fields})
    fault = module.fault(image_size)
    require(fault is None, f"--backbone={name}: {fault}")
    return module
