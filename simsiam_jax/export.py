"""A trained network as files that outlive this project: weights for timm, a program for jax alone, and a card.

```
OUT/model.safetensors        to_timm's tensors, with the classifier's where the network was fine-tuned
OUT/features.stablehlo       uint8 images -> features, weights and normalisation inside (jax.export); or
OUT/classifier.stablehlo     uint8 images -> {"features", "logits"} of a fine-tuned network
OUT/model.json               the card: the network, its training, its measured quality, and how to load it
```

`jax.export` writes and reads a program with the package flatbuffers, which jax does not install. jax promises to load
it for six months (see `_promised_until`). The weights have no such limit.
"""

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping
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
from simsiam_jax.inference import Model, open_model
from simsiam_jax.models import create_backbone
from simsiam_jax.records.environment import environment
from simsiam_jax.records.experiment import EXPERIMENT_FILE, Experiment, read_experiment
from simsiam_jax.records.results import Result, read_results
from simsiam_jax.settings.schema import Config, ViewSpec
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.programs import Variables
from simsiam_jax.train.checkpoints import CHECKPOINTS
from simsiam_jax.weights import timm_code, to_timm
from simsiam_jax.weights.state_dicts import write_safetensors

WEIGHTS_FILE = "model.safetensors"
PROGRAM_FILE = "features.stablehlo"
CLASSIFIER_FILE = "classifier.stablehlo"
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
_LOAD_CLASSIFIER_IN_JAX = f"""\
from pathlib import Path
from jax import export
outputs = export.deserialize(Path("{CLASSIFIER_FILE}").read_bytes()).call  # images -> {{"features", "logits"}}
"""
# How logits become probabilities, by the kind of labels.
_PROBABILITIES = {
    "classes": "softmax over the logits of an image",
    "attributes": "1 / (1 + exp(-logit)) of each attribute, which is present from its threshold on",
}


def export_model(folder: Path, out: Path) -> dict[str, Any]:
    """Writes a trained network to a folder of its own; no file there is replaced.

    Args:
      folder: Folder of a pretraining or a fine-tuning, WORKDIR/ARM/seed-K/pretrain or .../finetune.
      out: Folder to write, new or empty. Once it holds `model.json`, the export is complete.

    Returns:
      The card, as in `model.json`.

    Raises:
      InputError: If `out` is taken or cannot be written, or no checkpoint can be restored.
    """
    _check_free(out)
    model = open_model(folder, dtype="float32")
    tuned = model.trained.stage == "finetune"
    return export_variables(
        model.backbone,
        out,
        config=model.trained.config,
        views=_views(model),
        about={**({"classifier": _classifier(model)} if tuned else {}), **_history(model)},
        head=model.variables["params"]["head"] if tuned else None,
    )


def export_variables(
    variables: Variables,
    out: Path,
    *,
    config: Config,
    views: ViewSpec,
    about: Mapping[str, Any],
    head: Variables | None = None,
) -> dict[str, Any]:
    """Writes a network as `export_model` does.

    Args:
      variables: Parameters and batch statistics of the backbone.
      out: Folder to write, new or empty.
      config: Settings of the training.
      views: Views of the images; only their size, mean and standard deviation count.
      about: The card's entries that the network does not tell: `pretraining`, `metrics` and perhaps `classifier`.
      head: Parameters `kernel` and `bias` of the classifier on the features; None where there is none.

    Returns:
      The card, as in `model.json`.

    Raises:
      InputError: If `out` is taken or cannot be written.
    """
    _check_free(out)
    name, program_file = config.program.backbone.name, PROGRAM_FILE if head is None else CLASSIFIER_FILE
    # The program computes in float32 whatever the training's type was, because its parameters are float32.
    module = create_backbone(name, config.image_size, **config.program.backbone.fields())
    program = export_features(module, variables, views, head)
    classes = 0 if head is None else len(head["bias"])
    card = {
        **_describe(
            config, views, module, variables, features=program.out_avals[0].shape[1], program_file=program_file
        ),
        **about,
        "export": environment(),
        "timm": {"build": timm_code(module, config.image_size, classes), "load": _LOAD_IN_TIMM},
        "jax": {
            "needs": "jax and flatbuffers",
            "version": jax.__version__,
            "promised_until": _promised_until(datetime.date.today()).isoformat(),
            "platforms": list(program.platforms),
            "load": _LOAD_IN_JAX if head is None else _LOAD_CLASSIFIER_IN_JAX,
        },
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_safetensors(out / WEIGHTS_FILE, to_timm(name, variables, head), _header(card))
        write_whole(out / program_file, program.serialize())
        card["files"] = {
            each: {"bytes": (out / each).stat().st_size, "sha256": sha256(out / each)}
            for each in (WEIGHTS_FILE, program_file)
        }
        write_json(out / CARD_FILE, card)
    except OSError as fault:
        raise InputError(f"--out={out} cannot be written ({fault.strerror}): choose another") from None
    return card


def _views(model: Model) -> ViewSpec:
    """The views by which the network was measured, of which only size, mean and standard deviation count."""
    program = model.trained.config.program
    return program.finetune_views if model.trained.stage == "finetune" else program.views


def export_features(
    module: nn.Module, variables: Variables, spec: ViewSpec, head: Variables | None = None
) -> jax.export.Exported:
    """Makes a network one program for any number of images and every platform.

    Args:
      module: Backbone of compute type float32.
      variables: Parameters and batch statistics of the backbone, which become part of the program.
      spec: Views of the images; only their size, mean and standard deviation count.
      head: Parameters `kernel` and `bias` of the classifier on the features; None where there is none.

    Returns:
      A program that maps images (uint8, 0..255, RGB, [batch, size, size, 3]) to features (float32, [batch, features]),
      or with a head to a dictionary of `features` and `logits` (float32, [batch, classes]).
    """
    # A restored checkpoint is numpy's; the networks compute with jax's arrays.
    variables, head = jax.tree.map(jnp.asarray, (variables, head))

    def features_of_one(image: Float[Array, "height width 3"]) -> Float[Array, " features"]:
        output: Any = module.apply(variables, image[None])
        return output[0]

    def outputs(images: UInt8[Array, "batch height width 3"]) -> Any:
        # `vmap`, because the networks ask for len(images), which is no number here. The program works on whole batches.
        features = jax.vmap(features_of_one)(evaluation_view(images, spec=spec))
        if head is None:
            return features
        return {"features": features, "logits": features @ head["kernel"] + head["bias"]}

    shape = jax.export.symbolic_shape(f"batch, {spec.image_size}, {spec.image_size}, 3")
    # Without this context, GPUs and TPUs would round float32 factors to 10 or 7 bits.
    with jax.default_matmul_precision("float32"):
        return jax.export.export(jax.jit(outputs), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))


def _promised_until(exported: datetime.date) -> datetime.date:
    """The date after which no release of jax promises to load a program that was exported on this day.

    jax promises that releases up to six months newer than the one that exports load its programs (jax's documentation
    of export, "Compatibility guarantees"). An installed release does not say when it came out. It was out on the day
    of the export, so the promise ends six months after that day at the latest.
    """
    return exported + datetime.timedelta(days=182)


def _describe(
    config: Config, views: ViewSpec, module: nn.Module, variables: Variables, *, features: int, program_file: str
) -> dict[str, Any]:
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
            "mean": list(views.mean),
            "std": list(views.std),
            "preprocessing": (
                f"RGB in 0..1; shorter side resized to {size} pixels (bilinear, antialiased), centre crop of "
                f"{size}×{size}; (image - mean) / std, by channel. {program_file} takes uint8 in 0..255 of this "
                "size, height × width × RGB, and scales and normalises itself."
            ),
        },
    }


def _classifier(model: Model) -> dict[str, Any]:
    """The card's entry on the classifier of a fine-tuned network, whose outputs are logits."""
    trained = model.trained
    attributes = trained.label_kind == "attributes"
    evaluation = trained.config.evaluation
    return {
        "label_kind": trained.label_kind,
        "class_names": list(trained.class_names),
        "outputs": "logits, in the order of class_names",
        "probabilities": _PROBABILITIES["attributes" if attributes else "classes"],
        **({"thresholds": list(model.thresholds)} if attributes else {}),
        "data": dataset_title(trained.config.dataset),
        "labels_per_class": evaluation.labels_per_class,
        "label_fraction": evaluation.label_fraction,
        "epoch": model.epoch,
        "epochs_planned": model.epochs_planned,
    }


def _history(model: Model) -> dict[str, Any]:
    """The card's entries on the pretraining, and the results that were recorded for the network."""
    trained = model.trained
    config, source = trained.config, trained.source
    stages = trained.own_folder.absolute().parent
    workdir = stages.parent.parent
    backbone = config.program.backbone.name
    experiment, results = _recorded(workdir)
    results = [
        each for each in results if (each.arm, each.seed, each.backbone) == (trained.arm, trained.seed, backbone)
    ]
    run = next((result for result in reversed(results) if result.eval == "pretrain"), None)
    measured = _measured(experiment, results)
    if trained.stage == "pretrain":
        # What `simsiam evaluate` measured, in the folders that it takes unless told otherwise.
        arms = (model.arm_name, source)
        for folder in sorted({stages / "evaluate", *(stages / "evaluate").glob("*/")}):
            evaluation, evaluated = _recorded(folder)
            measured += _measured(
                evaluation,
                [
                    each
                    for each in evaluated
                    if (each.seed, each.backbone) == (trained.seed, backbone) and each.arm in arms
                ],
            )
        epochs, planned = model.epoch, model.epochs_planned
    else:
        epochs, planned = _epochs_before(stages / "pretrain")
    return {
        "pretraining": {
            "data": dataset_title(source),
            "images": _image_count(config, source, experiment),
            "recipe": config.recipe,
            "epochs": epochs,
            "epochs_planned": planned,
            "seed": trained.seed,
            "arm": trained.arm,
            "experiment": experiment and experiment.experiment,
            "git_revision": run and run.git_revision,
            "versions": run and run.versions,
            "device": run and run.device,
            "seconds": run and run.seconds,
            "config": to_dict(_without_paths(config)),
        },
        "metrics": measured,
    }


def _epochs_before(pretrained: Path) -> tuple[int | None, int | None]:
    """The epochs of the pretraining that a fine-tuning started from, and those planned; None where it is not there."""
    if not (pretrained / CHECKPOINTS).is_dir():
        return None, None
    model = open_model(pretrained)
    return model.epoch, model.epochs_planned


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
        **({"class_names": json.dumps(card["classifier"]["class_names"])} if "classifier" in card else {}),
    }


def _check_free(out: Path) -> None:
    require(not out.exists() or out.is_dir(), f"--out={out} is a file: give a folder")
    taken = sorted(each.name for each in out.iterdir()) if out.exists() else []
    require(not taken, f"--out={out} already holds {', '.join(taken[:3])}: give a new folder, nothing is overwritten")
