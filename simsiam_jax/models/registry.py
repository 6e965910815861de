"""Backbones by name: a new one is a file and a line here."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from simsiam_jax.config import InputError, require
from simsiam_jax.models import resnet


@dataclass(frozen=True)
class Backbone:
    """A Flax module class and the function that says which image sizes its fields allow."""

    module: type[nn.Module]
    check_image_size: Callable[..., str | None]


BACKBONES = {
    "resnet18": Backbone(resnet.ResNet18, resnet.check_image_size),
}


def create_backbone(name: str, image_size: int, **fields: Any) -> nn.Module:
    """Builds a backbone: a Flax module (images [B, H, W, 3] float32, train=bool) -> features [B, D].

    Args:
      name: A key of `BACKBONES`.
      image_size: Side of the square images in pixels.
      **fields: Fields of the module, such as `stem` and `width` of ResNet-18, `dtype` and `axis_name`.

    Raises:
      InputError: For an unknown name or field, or a size that the backbone cannot take.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BACKBONES)}"
        raise InputError(f"--backbone={name}: unknown backbone; {hint}")
    backbone = BACKBONES[name]
    known = [field for field in backbone.module.__dataclass_fields__ if field not in ("parent", "name")]
    for field in fields:
        require(field in known, f"--backbone={name} has no field {field!r}; it has {', '.join(known)}")
    width = fields.get("width", 1)
    require(isinstance(width, int) and width >= 1, f"--width must be at least 1, not {width}")
    fault = backbone.check_image_size(image_size, **fields)
    require(fault is None, f"--image_size={image_size}: {fault}")
    return backbone.module(**fields)
