"""timm's side of the backbones: their weights both ways, and the code that builds their networks there.

Modules here have timm's names with `_0` for `.0`, so a path is a name: `blocks_1_0/conv_dw/kernel` is
`blocks.1.0.conv_dw.weight`. The layouts differ: convolutions are HWIO here and OIHW there, linear layers are
transposed, and PiT's grid of position embeddings is NHWC here and NCHW there. torchvision's state dicts are read too.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from simsiam_jax.errors import InputError, require
from simsiam_jax.models import create_backbone
from simsiam_jax.models.efficientnet import EfficientNetB0
from simsiam_jax.models.pit import PoolingVisionTransformer
from simsiam_jax.models.resnet import ResNet18
from simsiam_jax.models.vit import VisionTransformer

Variables = dict[str, Any]
Path = tuple[str, ...]

_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_POS_EMBED = "pos_embed"
# Our axes in torch's order, by a leaf's name and rank: HWIO to OIHW, in × out to out × in, NHWC to NCHW.
_TORCH_AXES = {("kernel", 4): (3, 2, 0, 1), ("kernel", 2): (1, 0), (_POS_EMBED, 4): (0, 3, 1, 2)}
# PyTorch counts the batches that a norm has seen; it uses the count only without a momentum, which none here is.
_COUNTER = "num_batches_tracked"
# Tensors of these names belong to a classifier of ImageNet's classes, which is no part of a backbone.
_CLASSIFIERS = ("fc.", "classifier.", "head.")

# torchvision numbers the layers of EfficientNet, which timm names. Its first stage has no expansion.
_TORCHVISION_EFFICIENTNET = (
    (r"^features\.0\.0\.", "conv_stem."),
    (r"^features\.0\.1\.", "bn1."),
    (r"^features\.8\.0\.", "conv_head."),
    (r"^features\.8\.1\.", "bn2."),
    (r"^features\.1\.(\d+)\.block\.0\.0\.", r"blocks.0.\1.conv_dw."),
    (r"^features\.1\.(\d+)\.block\.0\.1\.", r"blocks.0.\1.bn1."),
    (r"^features\.1\.(\d+)\.block\.1\.", r"blocks.0.\1.se."),
    (r"^features\.1\.(\d+)\.block\.2\.0\.", r"blocks.0.\1.conv_pw."),
    (r"^features\.1\.(\d+)\.block\.2\.1\.", r"blocks.0.\1.bn2."),
    (r"^features\.(\d+)\.(\d+)\.block\.0\.0\.", r"blocks.{stage}.\2.conv_pw."),
    (r"^features\.(\d+)\.(\d+)\.block\.0\.1\.", r"blocks.{stage}.\2.bn1."),
    (r"^features\.(\d+)\.(\d+)\.block\.1\.0\.", r"blocks.{stage}.\2.conv_dw."),
    (r"^features\.(\d+)\.(\d+)\.block\.1\.1\.", r"blocks.{stage}.\2.bn2."),
    (r"^features\.(\d+)\.(\d+)\.block\.2\.", r"blocks.{stage}.\2.se."),
    (r"^features\.(\d+)\.(\d+)\.block\.3\.0\.", r"blocks.{stage}.\2.conv_pwl."),
    (r"^features\.(\d+)\.(\d+)\.block\.3\.1\.", r"blocks.{stage}.\2.bn3."),
    (r"\.se\.fc1\.", ".se.conv_reduce."),
    (r"\.se\.fc2\.", ".se.conv_expand."),
)


def from_timm(name: str, state_dict: Mapping[str, Any], image_size: int, **fields: Any) -> Variables:
    """Makes a backbone's variables of a timm or torchvision state dict.

    Args:
      name: Name of the backbone, a key of `models.BACKBONES`.
      state_dict: Arrays, or torch tensors on the CPU, by name. A classifier among them is left out. Position embeddings
        of another image size are interpolated (bicubic, antialiased); that of the class token stays.
      image_size: Side of the images that the backbone will see, in pixels.
      **fields: Values of the backbone's fields, as in `create_backbone`.

    Returns:
      Trees `params` and `batch_stats` of float32 numpy arrays; the latter is empty without batch norm.

    Raises:
      InputError: If a tensor is missing, left over or of another shape; the message names the first.
    """
    module = create_backbone(name, image_size, **fields)
    wanted: Any = flatten_dict(_shapes(module, image_size))
    given = {_timm_name_of(key): value for key, value in state_dict.items()}
    network = " ".join([name, *(f"{key}={value}" for key, value in fields.items() if key != "dtype")])
    left_over = [key for key in given if not _ignored(key) and key not in {_timm_name(path) for path in wanted}]
    # What is missing first, then in the order of the file, which is that of the layers.
    place = {key: position for position, key in enumerate(given)}
    filled = {}
    for path in sorted(wanted, key=lambda path: place.get(_timm_name(path), -1)):
        key, target = _timm_name(path), wanted[path]
        if key not in given:
            also = f", and it has {left_over[0]}, which is not {name}'s" if left_over else ""
            raise InputError(f"the weights are not those of {network}: {key} is missing{also}")
        value = _from_torch_layout(path, np.asarray(given[key]))
        if path[-1] == _POS_EMBED and value.ndim == len(target.shape) and value.shape != target.shape:
            value = _resized(module, key, value, target.shape)
        if value.shape != target.shape:
            there, here = (_torch_shape(path, shape) for shape in (value.shape, target.shape))
            hint = "; published weights need --stem=imagenet" if fields.get("stem", "imagenet") != "imagenet" else ""
            raise InputError(f"{key} has shape {there} in the weights, and {here} in {network}{hint}")
        # A copy: a torch tensor would go on sharing its memory, and change when that model trains.
        filled[path] = np.array(value, dtype=np.float32, order="C")
    if left_over:
        raise InputError(f"the weights are not those of {network}: {left_over[0]} is left over")
    return {"params": {}, "batch_stats": {}, **unflatten_dict(filled)}


def to_timm(name: str, variables: Variables, head: Variables | None = None) -> dict[str, np.ndarray]:
    """Makes the state dict that timm's model of the same network loads strictly.

    Args:
      name: Name of the backbone, a key of `models.BACKBONES`.
      variables: Trees `params` and `batch_stats` of the backbone, as `from_timm` or training returns them.
      head: Parameters `kernel` and `bias` of a linear layer on the features; None leaves timm's model without a
        classifier.

    Returns:
      float32 arrays by timm's names, and int64 zeros for timm's batch counters.

    Raises:
      InputError: If the variables are not this backbone's.
    """
    leaves: Any = flatten_dict({"params": variables["params"], "batch_stats": variables.get("batch_stats", {})})
    # The names of a backbone's variables do not depend on its fields or the size of its images.
    module = create_backbone(name, 64)
    expected: Any = flatten_dict(_shapes(module, 64))
    for path in [*expected, *leaves]:
        require(path in leaves, f"the variables are not {name}'s: {'/'.join(path)} is missing")
        require(path in expected, f"the variables are not {name}'s: {'/'.join(path)} is left over")
    state_dict = {}
    for path, value in leaves.items():
        key = _timm_name(path)
        # A copy, because jax's arrays are read-only and torch wants to write to what it is given.
        state_dict[key] = np.array(_to_torch_layout(path, np.asarray(value)), np.float32, order="C")
        if path[-1] == "mean":
            state_dict[key.removesuffix("running_mean") + _COUNTER] = np.zeros((), np.int64)
    if head is not None:
        layer = _HEADS[type(module)]
        for leaf, value in head.items():
            tensor = _to_torch_layout((leaf,), np.asarray(value))
            state_dict[f"{layer}.{_LEAF_NAMES.get(leaf, leaf)}"] = np.array(tensor, np.float32, order="C")
    return state_dict


def timm_code(module: Any, image_size: int, num_classes: int = 0) -> str:
    """Python code that builds a backbone's network in timm, as `model`.

    Args:
      module: Backbone as `create_backbone` returns it.
      image_size: Side of the images in pixels.
      num_classes: Outputs of a classifier on the features; 0 means none.

    Returns:
      Lines of code that need timm and torch.

    Raises:
      InputError: If the code for this class of backbones is not written here.
    """
    write = _TIMM_CODE.get(type(module))
    if write is None:
        name = type(module).__name__
        raise InputError(f"--backbone: no code builds {name} in timm; add some to simsiam_jax/weights/timm.py")
    return write(module, image_size, num_classes)


def _resnet_code(module: ResNet18, image_size: int, num_classes: int) -> str:
    channels = module.stage_channels()
    lines = ["import timm", "from torch import nn"]
    lines.append(f'model = timm.create_model("resnet18", num_classes={num_classes})')
    if module.width != 1.0:
        lines[-1] = f'model = timm.create_model("resnet18", num_classes={num_classes}, channels={tuple(channels)})'
        lines += [
            f"model.conv1 = nn.Conv2d(3, {channels[0]}, 7, stride=2, padding=3, bias=False)",
            f"model.bn1 = nn.BatchNorm2d({channels[0]})",
            f"model.layer1[0] = timm.models.resnet.BasicBlock({channels[0]}, {channels[0]})",
        ]
    if module.stem != "imagenet":
        lines.append(f"model.conv1 = nn.Conv2d(3, {channels[0]}, 3, padding=1, bias=False)")
    if module.stem == "cifar":
        lines.append("model.maxpool = nn.Identity()")
    return "\n".join(lines) + "\n"


def _efficientnet_code(module: EfficientNetB0, image_size: int, num_classes: int) -> str:
    lines = ["import timm", f'model = timm.create_model("efficientnet_b0", num_classes={num_classes})']
    if module.width != 1.0:
        lines[-1] = (
            'model = timm.models.efficientnet._gen_efficientnet("efficientnet_b0", '
            f"channel_multiplier={module.width}, num_classes={num_classes})"
        )
    if module.stem != "imagenet":
        lines.append("model.conv_stem.stride = (1, 1)")
    if module.stem == "cifar":
        lines.append("model.blocks[1][0].conv_dw.stride = (1, 1)")
    return "\n".join(lines) + "\n"


def _vit_code(module: VisionTransformer, image_size: int, num_classes: int) -> str:
    return (
        "from functools import partial\n"
        "import timm\n"
        "from torch import nn\n"
        f'model = timm.create_model("vit_small_patch16_224", num_classes={num_classes}, '
        f"img_size={image_size}, patch_size={module.patch_size}, embed_dim={module.token_channels()}, "
        f"depth={module.depth}, num_heads={module.heads}, mlp_ratio={module.mlp_ratio}, qkv_bias={module.qkv_bias}, "
        f"norm_layer=partial(nn.LayerNorm, eps={module.norm_epsilon}))\n"
    )


def _pit_code(module: PoolingVisionTransformer, image_size: int, num_classes: int) -> str:
    return (
        "import timm\n"
        f'model = timm.create_model("pit_ti_224", num_classes={num_classes}, '
        f"img_size={image_size}, patch_size={module.patch_size}, stride={module.patch_size // 2}, "
        f"base_dims={[module.head_channels()] * len(module.heads)}, depth={list(module.depths)}, "
        f"heads={list(module.heads)})\n"
    )


_TIMM_CODE: dict[type, Callable[[Any, int, int], str]] = {
    ResNet18: _resnet_code,
    EfficientNetB0: _efficientnet_code,
    VisionTransformer: _vit_code,
    PoolingVisionTransformer: _pit_code,
}

# The linear layer on the features by timm's name.
_HEADS: dict[type, str] = {
    ResNet18: "fc",
    EfficientNetB0: "classifier",
    VisionTransformer: "head",
    PoolingVisionTransformer: "head",
}


def _shapes(module: Any, image_size: int) -> Variables:
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return {"batch_stats": {}, **jax.eval_shape(module.init, jax.random.key(0), image)}


def _timm_name(path: Path) -> str:
    _, *modules, leaf = path
    return ".".join([*(re.sub(r"_(\d+)", r".\1", module) for module in modules), _LEAF_NAMES.get(leaf, leaf)])


def _timm_name_of(key: str) -> str:
    """timm's name for a tensor of torchvision's EfficientNet; any other name is timm's already."""
    if not key.startswith("features."):
        return key
    stage = re.match(r"features\.(\d+)", key)
    for pattern, replacement in _TORCHVISION_EFFICIENTNET:
        key = re.sub(pattern, replacement.replace("{stage}", str(int(stage.group(1)) - 1 if stage else "")), key)
    return key


def _ignored(key: str) -> bool:
    return key.startswith(_CLASSIFIERS) or key.endswith(_COUNTER)


def _from_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    axes = _TORCH_AXES.get((path[-1], value.ndim))
    return value if axes is None else value.transpose(np.argsort(axes))


def _to_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    axes = _TORCH_AXES.get((path[-1], value.ndim))
    return value if axes is None else value.transpose(axes)


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch_layout(path, np.empty(shape)).shape


def _resized(module: Any, key: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.asarray(module.resize_pos_embed(jnp.asarray(value, jnp.float32), shape))
    # A number of patches that is no square cannot be rearranged into one.
    except ValueError:
        raise InputError(f"{key} has shape {value.shape}, which is no square grid of patches") from None
