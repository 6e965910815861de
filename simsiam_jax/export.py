"""A pretrained backbone as files that outlive this project: weights for timm, a program for jax alone, and a card.

```
OUT/model.safetensors     to_timm's tensors
OUT/features.stablehlo    uint8 images -> features, weights and normalisation inside (jax.export)
OUT/model.json            the card: the network, its pretraining, its measured quality, and how to load it
```

`jax.export` writes and reads a program with the package flatbuffers, which jax does not install. jax promises to load
it for six months (see `_promised_until`). The weights have no such limit.
"""

import dataclasses
import datetime
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.data.views import evaluation_view
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import sha256, write_json, write_whole
from simsiam_jax.models import create_backbone
from simsiam_jax.records.environment import environment
from simsiam_jax.records.experiment import EXPERIMENT_FILE, Experiment, read_experiment
from simsiam_jax.records.results import Result, read_results
from simsiam_jax.settings.schema import Config, ViewSpec
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.programs import CompiledNetwork, Variables, restore_backbone
from simsiam_jax.weights import timm_code, to_timm
from simsiam_jax.weights.state_dicts import write_safetensors

WEIGHTS_FILE = "model.safetensors"
PROGRAM_FILE = "features.stablehlo"
CARD_FILE = "model.json"

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_LOAD_IN_TIMM = f"""\
from safetensors.torch import load_file
model.load_state_dict(load_file("{WEIGHTS_FILE}"), strict=True)
model.eval()
"""
_LOAD_IN_JAX = f"""\
from pathlib import Path
from jax import export
features = export.deserialize(Path("{PROGRAM_FILE}").read_bytes()).call
"""


def export_checkpoint(folder: Path, out: Path, *, config: Config, source: str, seed: int) -> dict[str, Any]:
    """Writes the newest checkpoint's backbone to a folder of its own; no file there is replaced.

    Args:
      folder: Folder of the pretraining, WORKDIR/ARM/seed-K/pretrain.
      out: Folder to write, new or empty. Once it holds `model.json`, the export is complete.
      config: Settings of the pretraining.
      source: Name of the images that it saw, as in results.
      seed: Seed of the pretraining.

    Returns:
      The card, as in `model.json`.

    Raises:
      InputError: If `out` is taken or cannot be written, or no checkpoint can be restored.
    """
    _check_free(out)
    variables, epochs = restore_backbone(CompiledNetwork(config.program), folder)
    history = _history(folder, config=config, source=source, seed=seed, epochs=epochs)
    return export_variables(variables, out, config=config, history=history)


def export_variables(variables: Variables, out: Path, *, config: Config, history: dict[str, Any]) -> dict[str, Any]:
    """Writes a backbone as `export_checkpoint` does.

    Args:
      variables: Parameters and batch statistics of the backbone.
      out: Folder to write, new or empty.
      config: Settings of the pretraining.
      history: The card's entries `pretraining` and `metrics`.

    Returns:
      The card, as in `model.json`.

    Raises:
      InputError: If `out` is taken or cannot be written.
    """
    _check_free(out)
    # The program computes in float32 whatever the pretraining's type was, because its parameters are float32.
    module = create_backbone(config.program.backbone.name, config.image_size, **config.program.backbone.fields())
    program = export_features(module, variables, config.program.views)
    card = {
        **_describe(config, module, variables, features=program.out_avals[0].shape[1]),
        **history,
        "export": environment(),
        "timm": {"build": timm_code(module, config.image_size), "load": _LOAD_IN_TIMM},
        "jax": {
            "needs": "jax and flatbuffers",
            "version": jax.__version__,
            "promised_until": _promised_until(datetime.date.today()).isoformat(),
            "platforms": list(program.platforms),
            "load": _LOAD_IN_JAX,
        },
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_safetensors(out / WEIGHTS_FILE, to_timm(config.program.backbone.name, variables), _header(card))
        write_whole(out / PROGRAM_FILE, program.serialize())
        card["files"] = {
            name: {"bytes": (out / name).stat().st_size, "sha256": sha256(out / name)}
            for name in (WEIGHTS_FILE, PROGRAM_FILE)
        }
        write_json(out / CARD_FILE, card)
    except OSError as fault:
        raise InputError(f"--out={out} cannot be written ({fault.strerror}): choose another") from None
    return card


def export_features(module: nn.Module, variables: Variables, spec: ViewSpec) -> jax.export.Exported:
    """Makes the feature extractor one program for any number of images and every platform.

    Args:
      module: Backbone of compute type float32.
      variables: Parameters and batch statistics of the backbone, which become part of the program.
      spec: Views of the pretraining; only their image size, mean and standard deviation count.

    Returns:
      A program that maps images (uint8, 0..255, RGB, [batch, size, size, 3]) to features (float32, [batch, features]).
    """
    # A restored checkpoint is numpy's; the networks compute with jax's arrays.
    variables = jax.tree.map(jnp.asarray, variables)

    def features_of_one(image: Float[Array, "height width 3"]) -> Float[Array, " features"]:
        output: Any = module.apply(variables, image[None])
        return output[0]

    def features(images: UInt8[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        # `vmap`, because the networks ask for len(images), which is no number here. The program works on whole batches.
        return jax.vmap(features_of_one)(evaluation_view(images, spec=spec))

    shape = jax.export.symbolic_shape(f"batch, {spec.image_size}, {spec.image_size}, 3")
    # Without this context, GPUs and TPUs would round float32 factors to 10 or 7 bits.
    with jax.default_matmul_precision("float32"):
        return jax.export.export(jax.jit(features), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))


def _promised_until(exported: datetime.date) -> datetime.date:
    """The date after which no release of jax promises to load a program that was exported on this day.

    jax promises that releases up to six months newer than the one that exports load its programs (jax's documentation
    of export, "Compatibility guarantees"). An installed release does not say when it came out. It was out on the day
    of the export, so the promise ends six months after that day at the latest.
    """
    return exported + datetime.timedelta(days=182)


def _describe(config: Config, module: nn.Module, variables: Variables, *, features: int) -> dict[str, Any]:
    """The card's entries on the network and on the images that it takes."""
    size = config.image_size
    return {
        "backbone": {
            "name": config.program.backbone.name,
            "fields": config.program.backbone.fields(),
            "features": features,
            "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(variables["params"])),
        },
        "input": {
            "image_size": size,
            "mean": list(config.program.views.mean),
            "std": list(config.program.views.std),
            "preprocessing": (
                f"RGB in 0..1; shorter side resized to {size} pixels (bilinear, antialiased), centre crop of "
                f"{size}×{size}; (image - mean) / std, by channel. {PROGRAM_FILE} takes uint8 in 0..255 of this "
                "size, height × width × RGB, and scales and normalises itself."
            ),
        },
    }


def _history(folder: Path, *, config: Config, source: str, seed: int, epochs: int) -> dict[str, Any]:
    """The card's entries on the pretraining, and the results that were recorded for it."""
    stages = folder.absolute().parent
    arm, workdir = stages.parent.name, stages.parent.parent
    experiment, results = _recorded(workdir)
    backbone = config.program.backbone.name
    results = [each for each in results if (each.arm, each.seed, each.backbone) == (arm, seed, backbone)]
    # Results of experiments.evaluate, in the folder that it takes unless told otherwise. They name no arms.
    evaluation, evaluated = _recorded(stages / "evaluate")
    evaluated = [each for each in evaluated if (each.seed, each.backbone) == (seed, backbone)]
    run = next((result for result in reversed(results) if result.eval == "pretrain"), None)
    images = _image_count(config, source, experiment)
    return {
        "pretraining": {
            "data": dataset_title(source),
            "images": images,
            "recipe": config.recipe,
            "epochs": epochs,
            "epochs_planned": config.pretraining_epochs(images) if images else config.pretrain.epochs,
            "seed": seed,
            "arm": arm,
            "experiment": experiment and experiment.experiment,
            "git_revision": run and run.git_revision,
            "versions": run and run.versions,
            "device": run and run.device,
            "seconds": run and run.seconds,
            "config": to_dict(_without_paths(config)),
        },
        "metrics": [*_measured(experiment, results), *_measured(evaluation, evaluated)],
    }


def _without_paths(config: Config) -> Config:
    """The settings with files and folders by their own names, because a card goes to people who lack this machine."""
    other, labels, init = config.pretrain.dataset, config.labels, config.init
    return dataclasses.replace(
        config,
        dataset=dataset_title(config.dataset),
        labels=labels and Path(labels).name,
        pretrain=dataclasses.replace(config.pretrain, dataset=other and dataset_title(other)),
        init=init if init.startswith("hf:") else Path(init).name,
    )


def _recorded(workdir: Path) -> tuple[Experiment | None, list[Result]]:
    """The experiment and the results that a folder records; a checkpoint that was copied elsewhere has neither."""
    if not (workdir / EXPERIMENT_FILE).exists():
        return None, []
    return read_experiment(workdir), read_results(workdir)


def _measured(experiment: Experiment | None, results: list[Result]) -> list[dict[str, Any]]:
    """Results in the form of the card. A diverged loss, which JSON cannot hold, becomes null."""
    if experiment is None:
        return []
    labels_per_class = experiment.config.get("evaluation", {}).get("labels_per_class")
    return [
        {
            "data": dataset_title(experiment.dataset),
            "eval": result.eval,
            "split": result.split,
            # kNN during pretraining takes the labels of all images.
            **({} if result.eval == "pretrain" else {"labels_per_class": labels_per_class}),
            "values": {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        }
        for result in results
    ]


def _image_count(config: Config, source: str, experiment: Experiment | None) -> int | None:
    """The number of images of the pretraining, or None where it is not recorded."""
    if source.endswith("random_images"):
        return config.noise.count
    # The source `imagenet+digits` is the images of digits, with ImageNet's weights to start from.
    if experiment is not None and source.endswith(config.pretrain.dataset or config.dataset):
        return experiment.data.get("unlabelled", {}).get("images")
    return None


def _header(card: dict[str, Any]) -> dict[str, str]:
    """Metadata for the weights file itself, which may lose its card. timm looks for `format`."""
    pretraining = card["pretraining"]
    return {
        "format": "pt",
        "backbone": card["backbone"]["name"],
        "image_size": str(card["input"]["image_size"]),
        "mean": str(card["input"]["mean"]),
        "std": str(card["input"]["std"]),
        "pretrained_on": pretraining["data"],
        "recipe": pretraining["recipe"],
        "epochs": str(pretraining["epochs"]),
        "timm": card["timm"]["build"],
    }


def _check_free(out: Path) -> None:
    require(not out.exists() or out.is_dir(), f"--out={out} is a file: give a folder")
    taken = sorted(each.name for each in out.iterdir()) if out.exists() else []
    require(not taken, f"--out={out} already holds {', '.join(taken[:3])}: give a new folder, nothing is overwritten")
