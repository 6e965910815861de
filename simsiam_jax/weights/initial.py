"""What a backbone starts from: `--init=imagenet`, a file of weights, or a file on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_jax.errors import InputError
from simsiam_jax.files import sha256
from simsiam_jax.settings.schema import BackboneConfig
from simsiam_jax.weights import hub
from simsiam_jax.weights.hub import HubFile
from simsiam_jax.weights.state_dicts import read_state_dict
from simsiam_jax.weights.timm import Variables, from_timm

# These weights were trained with labels on ImageNet-1k alone, at 224 pixels. Their images were normalised by ImageNet's
# mean and standard deviation, as all images are here.
IMAGENET = {
    "resnet18": HubFile(
        "timm/resnet18.a1_in1k",
        revision="491b427b45c94c7fb0e78b5474cc919aff584bbf",
        size=46_807_446,
        sha256="80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
    ),
    "efficientnet_b0": HubFile(
        "timm/efficientnet_b0.ra_in1k",
        revision="1b5383e5f79cc0f7fc067e372f8f26a5fa73f26a",
        size=21_355_344,
        sha256="d569899762ea9b1384ee07f4af64805cf8caa1c55f9253ebb1080dc40e87a2cd",
    ),
}

# Repositories of the same kind of weights whose commit and digest are not known here. DeiT-S is ViT-S trained on
# ImageNet-1k; timm's default ViT-S saw ImageNet-21k, normalised by 0.5.
_UNPINNED = {"vit_s": "timm/deit_small_patch16_224.fb_in1k", "pit_ti": "timm/pit_ti_224.in1k"}


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a backbone starts from.

    Attributes:
      variables: Trees `params` and `batch_stats` of float32 arrays.
      origin: Where the weights are from, for the record: source, sha256, and for the hub the revision.
    """

    variables: Variables
    origin: dict[str, Any]


def load_initial(init: str, backbone: BackboneConfig, image_size: int) -> InitialWeights | None:
    """Loads the weights that a backbone starts from.

    Args:
      init: Value of `--init`: `random`, `imagenet`, the path of a `.safetensors` file, or
        `hf:OWNER/REPO[/FILE.safetensors]@REVISION`.
      backbone: Name and fields of the backbone.
      image_size: Side of the images in pixels.

    Returns:
      The weights, or None for `random`.

    Raises:
      InputError: If there are no such weights, they cannot be fetched or read, or they are of another network.
    """
    if init == "random":
        return None
    file = _imagenet(backbone.name) if init == "imagenet" else hub.parse(init)
    if file is None:
        path = Path(init).expanduser()
        origin = {"source": init}
    else:
        path, digest = hub.fetch(file)
        origin = {"source": f"hf:{file.repo}/{file.filename}", "revision": file.revision, "sha256": digest}
    try:
        variables = from_timm(backbone.name, read_state_dict(path), image_size, **backbone.fields())
    except InputError as fault:
        text = str(fault)
        raise InputError(text if text.startswith("--") else f"--init={init}: {text}") from None
    return InitialWeights(variables, origin if "sha256" in origin else {**origin, "sha256": sha256(path)})


def start_name(init: str) -> str:
    """The name that tables give to what a backbone starts from."""
    return Path(init).name if init not in ("random", "imagenet") else init


def _imagenet(name: str) -> HubFile:
    if name in IMAGENET:
        return IMAGENET[name]
    if name in _UNPINNED:
        raise InputError(
            f"--init=imagenet: no pinned ImageNet weights are known for {name}; {hub.how_to_pin(_UNPINNED[name])}"
        )
    raise InputError(f"--init=imagenet: no ImageNet weights are known for {name}; give a file, --init=PATH")
