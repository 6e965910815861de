"""What a backbone starts from: `--init=imagenet`, a file of weights, or a name on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import sha256
from simsiam_jax.settings.schema import BackboneConfig
from simsiam_jax.weights import hub
from simsiam_jax.weights.hub import HubFile
from simsiam_jax.weights.state_dicts import read_state_dict
from simsiam_jax.weights.timm import Variables, from_timm

# Supervised on ImageNet-1k alone, at 224 pixels, and normalised by ImageNet's mean and standard deviation as all images
# here are (timm's default ViT-S is not: it saw ImageNet-21k, normalised by 0.5). DeiT-S is ViT-S, trained on less.
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
    # Pinned at first use: `hub.fetch` records the revision, size and hash that it then meets.
    "vit_s": HubFile("timm/deit_small_patch16_224.fb_in1k"),
    "pit_ti": HubFile("timm/pit_ti_224.in1k"),
}


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a backbone starts from.

    Attributes:
      variables: `params` and `batch_stats`.
      origin: What they are, for the record: source, sha256, and on the hub the revision.
    """

    variables: Variables
    origin: dict[str, Any]


def load_initial(init: str, backbone: BackboneConfig, image_size: int) -> InitialWeights | None:
    """The weights that `init` names, for images of this side; None for `random`.

    Raises:
      InputError: If there are none such, they cannot be had, or they are of another network.
    """
    if init == "random":
        return None
    if init == "imagenet":
        require(
            backbone.name in IMAGENET,
            f"--init=imagenet: no ImageNet weights are known for {backbone.name}; give a file, --init=PATH",
        )
        file = IMAGENET[backbone.name]
    else:
        file = hub.parse(init)
    if file is None:
        path, digest = Path(init).expanduser(), None
        origin = {"source": init}
    else:
        path, pinned = hub.fetch(file)
        digest = pinned.sha256
        origin = {"source": f"hf:{pinned.repo}/{pinned.filename}", "revision": pinned.revision}
    try:
        variables = from_timm(backbone.name, read_state_dict(path), image_size, **backbone.fields())
    except InputError as fault:
        text = str(fault)
        raise InputError(text if text.startswith("--") else f"--init={init}: {text}") from None
    return InitialWeights(variables, {**origin, "sha256": digest or sha256(path)})


def start_name(init: str) -> str:
    """How tables call what a backbone starts from."""
    return Path(init).name if init not in ("random", "imagenet") else init
