"""Backbones by name: a new one is a file and a line here.

A backbone is a Flax module that maps (images [B, H, W, 3] float32, train, keys) to features [B, D], and answers two
questions about itself: `fault(image_size)` and `timm_code(image_size)`. One with position embeddings (a parameter
`pos_embed`) also has `resize_pos_embed(pos_embed, shape)`.
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simsiam_jax.errors import InputError, require


@dataclass(frozen=True)
class Backbone:
    """Where a backbone's Flax module is, and the fields that make the variant.

    Attributes:
      file: Its file in `simsiam_jax.models`.
      module: The class in it.
      fields: Those that differ from the class's defaults.
    """

    file: str
    module: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """The class; only now is Flax imported, which a launcher's --help should not wait for."""
        return getattr(importlib.import_module(f"simsiam_jax.models.{self.file}"), self.module)


BACKBONES = {
    "resnet18": Backbone("resnet", "ResNet18"),
    "efficientnet_b0": Backbone("efficientnet", "EfficientNetB0"),
    "vit_s": Backbone("vit", "VisionTransformer"),
    "vit_s_2021": Backbone(
        "vit",
        "VisionTransformer",
        {"dim": 768, "depth": 8, "heads": 8, "mlp_ratio": 3.0, "qkv_bias": False, "norm_epsilon": 1e-5},
    ),
    "pit_ti": Backbone("pit", "PoolingVisionTransformer"),
}


def backbone_fields(name: str) -> tuple[str, ...]:
    """The fields that a backbone has.

    Raises:
      InputError: For an unknown name.
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BACKBONES)}"
        raise InputError(f"--backbone={name}: unknown backbone; {hint}")
    return tuple(each for each in BACKBONES[name].load().__dataclass_fields__ if each not in ("parent", "name"))


def create_backbone(name: str, image_size: int, *, axis_name: str | None = None, **fields: Any) -> Any:
    """Builds a backbone: a Flax module (images [B, H, W, 3] float32, train=bool, keys) -> features [B, D].

    Args:
      name: A key of `BACKBONES`.
      image_size: Side of the square images in pixels.
      axis_name: The axis of the enclosing `pmap` over which batch statistics are averaged in training; nothing to
        backbones without batch norm.
      **fields: Fields of the module, such as `width`, `stem` or `patch_size`, and `dtype`.

    Raises:
      InputError: For an unknown name or field, or a size that the backbone cannot take.
    """
    known = backbone_fields(name)
    for given in fields:
        require(given in known, f"--backbone={name} has no field {given!r}; it has {', '.join(known)}")
    width = fields.get("width", 1.0)
    require(
        0 < width <= 8,
        f"--width={width:g} must be positive and at most 8: it multiplies the published network's channels",
    )
    rate = fields.get("drop_path", 0.0)
    require(0 <= rate < 1, f"--drop_path={rate:g} is a probability: 0 or more, and below 1")
    if "axis_name" in known:
        fields["axis_name"] = axis_name
    module = BACKBONES[name].load()(**{**BACKBONES[name].fields, **fields})
    fault = module.fault(image_size)
    require(fault is None, f"--backbone={name}: {fault}")
    return module
