"""From arrays to a pretrained backbone, its features and what they are worth: what a notebook calls.

Images are NumPy's, uint8 in 0..255, [n, height, width, 3]. Nothing is written but what `export_backbone` is asked for.
A mistake is an `InputError`, one line that names the argument.
"""

import contextlib
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from simsiam_jax import export
from simsiam_jax.data.cache import unlabelled
from simsiam_jax.data.views import check_ids, check_images
from simsiam_jax.errors import InputError, require
from simsiam_jax.eval import knn, linear
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.metrics import Numbers
from simsiam_jax.models import backbone_fields, create_backbone, without_absent_fields
from simsiam_jax.records.environment import environment
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import SETTINGS, check_warmup, with_settings
from simsiam_jax.settings.schema import Config, ProgramConfig
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.programs import CompiledNetwork, Variables
from simsiam_jax.study.stages import pretraining_plan
from simsiam_jax.train.devices import check_divisible
from simsiam_jax.train.loop import fit_in_memory

# callback(epoch, numbers): epochs done, and the last one's numbers; False ends the pretraining.
Callback = Callable[[int, Numbers], bool | None]


@dataclass(frozen=True, eq=False)
class PretrainedBackbone:
    """What `pretrain` gives back.

    Attributes:
      module: The backbone, a Flax module that maps normalised images to features.
      variables: Parameters and batch statistics of the backbone: what `module.apply` takes.
      config: All settings of the pretraining.
      seed: Seed of the pretraining.
      images: Number of images that it learned from; 0 for an untrained backbone.
      history: Numbers of each epoch: `epoch`, `update`, `loss`, `z_spread`, `learning_rate`, `images_per_second`.
    """

    module: nn.Module
    variables: Variables
    config: Config
    seed: int
    images: int
    history: tuple[Numbers, ...]

    def untrained(self) -> "PretrainedBackbone":
        """The same backbone as it was before pretraining: what its features are to be compared with."""
        initial = _network(self.config.program).initial_simsiam(self.seed)
        return dataclasses.replace(self, variables=backbone_variables(initial), images=0, history=())


def pretrain(
    images: UInt8[np.ndarray, "n height width 3"],
    *,
    backbone: str = "resnet18",
    recipe: str = "practice",
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    sample_ids: Int[np.ndarray, " n"] | None = None,
    callback: Callback | None = None,
    **settings: Any,
) -> PretrainedBackbone:
    """Pretrains a backbone with SimSiam on unlabelled images.

    With the same images, ids, seed and settings, the parameters are those of `simsiam pretrain`.

    Args:
      images: Images in 0..255, RGB, all of one size.
      backbone: Name of the backbone, a key of `models.BACKBONES`.
      recipe: Method, a complete set of settings: `paper`, `code`, `reference` or `practice`.
      image_size: Side of the views in pixels; None takes the images' shorter side.
      epochs: Number of epochs; None takes the recipe's, which `practice` raises to at least 1,500 updates.
      seed: Seed of the weights, the order and the views, not negative.
      sample_ids: Numbers of the images, from which their views are drawn; None means 0..n-1.
      callback: Function that is called as callback(epoch, numbers) after each epoch, counted from 1. Pretraining ends
        after the epoch for which it returns False.
      **settings: Settings of the views, the network, the method and the optimiser, by the names of their flags, such as
        `width=0.25` or `flip_probability=0.0`.

    Returns:
      The backbone after the last epoch.

    Raises:
      InputError: For images or ids of another form, an unknown name, or a value that a setting does not allow.
    """
    check_images(images)
    shorter = min(images.shape[1:3])
    ids = np.arange(len(images)) if sample_ids is None else sample_ids
    check_ids(ids, len(images))
    require(_whole(seed) and 0 <= seed < 2**32, f"seed is {seed!r}: give a whole number in 0..{2**32 - 1}")
    with _arguments():
        config = _config(backbone, recipe, shorter if image_size is None else image_size, epochs, settings)
        check_divisible(config.pretrain.micro_batch_size, "--micro_batch_size")
        split = unlabelled(np.asarray(images), np.asarray(ids))
        network = _network(config.program)
        plan = pretraining_plan(config, split, seed=seed)

    def goes_on(numbers: Numbers) -> bool:
        answer = callback(int(numbers["epoch"]), dict(numbers)) if callback else None
        return answer is None or bool(answer)

    state, history = fit_in_memory(network.pretrain_state(seed), split, plan, network.pretrain_epoch, goes_on=goes_on)
    # From the devices of training to the default one, where further arrays of the caller lie.
    variables = jax.tree.map(jnp.asarray, jax.device_get(backbone_variables(state.variables)))
    module = create_backbone(backbone, config.image_size, **config.program.backbone.fields())
    return PretrainedBackbone(module, variables, config, seed, len(images), tuple(history))


def extract_features(
    model: PretrainedBackbone, images: UInt8[np.ndarray, "n height width 3"]
) -> Float[np.ndarray, "n dim"]:
    """The backbone's features of images as they are: shorter side resized, centre cropped, nothing drawn.

    Args:
      model: The backbone, from `pretrain`.
      images: Images in 0..255, RGB, all of one size.

    Returns:
      float32 features.

    Raises:
      InputError: For images of another form.
    """
    check_images(images)
    return _network(model.config.program).features(model.variables, unlabelled(np.asarray(images)))


def fit_probe(
    features: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, "n *attributes"],
    validation_features: Float[np.ndarray, "m dim"],
    validation_labels: Int[np.ndarray, "m *attributes"],
    *,
    num_classes: int | None = None,
) -> linear.Probe:
    """Fits a linear probe, logistic regression on frozen features; its L2 penalty is chosen on validation.

    Args:
      features: Features of the labelled images.
      labels: Classes of these images, 0..num_classes-1; or their attributes, 1, 0, or -1 where not known.
      validation_features: Features of the images that choose the penalty.
      validation_labels: Classes or attributes of those images.
      num_classes: Number of classes or attributes; None counts what the labels show.

    Returns:
      The probe; `probe.outputs(features)` gives logits of classes [n, classes], or probabilities of attributes.

    Raises:
      InputError: For features or labels of another form.
    """
    count = num_classes or _count_classes(labels, validation_labels)
    _check_features("features", features)
    _check_features("validation_features", validation_features, dim=features.shape[1])
    _check_labels("labels", labels, len(features), count)
    _check_labels("validation_labels", validation_labels, len(validation_features), count)
    require(
        labels.ndim == validation_labels.ndim,
        f"labels has shape {labels.shape} and validation_labels {validation_labels.shape}: give classes or attributes "
        "in both",
    )
    return linear.fit_probe(
        np.asarray(features, np.float32),
        np.asarray(labels, np.int32),
        np.asarray(validation_features, np.float32),
        np.asarray(validation_labels, np.int32),
        num_classes=count,
    )


def knn_scores(
    features: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, "n *attributes"],
    queries: Float[np.ndarray, "m dim"],
    *,
    num_classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
) -> Float[np.ndarray, "m classes"]:
    """The votes of the k nearest labelled images, by cosine similarity (Wu et al. 2018).

    Args:
      features: Features of the labelled images.
      labels: Classes of these images, 0..num_classes-1; or their attributes, 1, 0, or -1 where not known.
      queries: Features of the images to classify.
      num_classes: Number of classes or attributes; None counts what the labels show.
      k: Number of neighbours that vote; fewer labelled images vote all of them.
      temperature: Temperature of the votes' weights exp(cosine / temperature), above 0.

    Returns:
      The weight of each class; or each attribute's share of the weight, 0..1.

    Raises:
      InputError: For features or labels of another form.
    """
    count = num_classes or _count_classes(labels)
    _check_features("features", features)
    _check_features("queries", queries, dim=features.shape[1])
    _check_labels("labels", labels, len(features), count)
    require(_whole(k) and k >= 1, f"k is {k!r}: give a whole number of neighbours, 1 or more")
    require(temperature > 0, f"temperature is {temperature!r}: give a number above 0")
    return knn.knn_outputs(
        np.asarray(features, np.float32),
        np.asarray(labels, np.int32),
        np.asarray(queries, np.float32),
        num_classes=count,
        k=k,
        temperature=temperature,
    )


def export_backbone(model: PretrainedBackbone, folder: str | Path) -> dict[str, Any]:
    """Writes a backbone as weights for timm and as a program for jax alone, as `simsiam export` does.

    Args:
      model: The backbone, from `pretrain`.
      folder: Folder to write, new or empty.

    Returns:
      The card, as in `model.json` there; it says how to load the other two files.

    Raises:
      InputError: If the folder is taken or cannot be written.
    """
    config = model.config
    pretraining = {
        "data": config.dataset,
        "images": model.images,
        "recipe": config.recipe,
        "epochs": len(model.history),
        "epochs_planned": config.pretraining_epochs(model.images),
        "seed": model.seed,
        **environment(),
        "config": to_dict(config),
    }
    with _arguments({"out": "folder"}):
        return export.export_variables(
            model.variables,
            Path(folder).expanduser(),
            config=config,
            views=config.program.views,
            about={"pretraining": pretraining, "metrics": []},
        )


@functools.lru_cache(maxsize=4)
def _network(program: ProgramConfig) -> CompiledNetwork:
    """The compiled network, shared by pretraining and the extraction of features."""
    return CompiledNetwork(program)


def _config(backbone: str, recipe: str, image_size: int, epochs: int | None, settings: dict[str, Any]) -> Config:
    require(_whole(image_size), f"image_size is {image_size!r}: give a whole number of pixels")
    require(epochs is None or _whole(epochs), f"epochs is {epochs!r}: give a whole number")
    for name, value in settings.items():
        _check_setting(name, value)
    SETTINGS["image_size"].check(image_size)
    config = recipe_config(recipe, dataset="arrays", image_size=image_size, backbone=backbone)
    known = backbone_fields(backbone)
    for name in settings:
        absent = SETTINGS[name].path[:2] == ("program", "backbone") and name not in known
        require(not absent, f"--{name}={settings[name]}: --backbone={backbone} has no {name}; leave it out")
    if epochs is not None:
        settings = {"min_updates": None, **settings, "epochs": epochs}
    config = with_settings(config, settings)
    check_warmup(config, settings)
    own = without_absent_fields(config.program.backbone)
    config = dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=own))
    return config.on(jax.default_backend())


# Settings of what pretraining on arrays does; those that are arguments of their own are left out.
_TAKEN = {
    name: each
    for name, each in SETTINGS.items()
    if each.path[0] in ("program", "pretrain")
    and each.group in ("method", "size")
    and name not in ("backbone", "image_size", "epochs", "pretrain_images")
}


def _check_setting(name: str, value: Any) -> None:
    if name not in _TAKEN:
        near = difflib.get_close_matches(name, _TAKEN, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_TAKEN)}"
        raise InputError(f"pretrain has no setting {name!r}; {hint}")
    each = _TAKEN[name]
    numbers = value if isinstance(value, tuple) else (value,)
    kind = each.items or each.kind
    words = {bool: "True or False", int: "a whole number", float: "a number"}.get(kind)
    right = {bool: lambda x: isinstance(x, bool), int: _whole, float: _real}.get(kind, lambda x: True)
    if each.items is not None and words is not None:
        words = f"a tuple of {each.length or 'some'} numbers"
        fits = isinstance(value, tuple) and each.length in (None, len(value))
    else:
        fits = not isinstance(value, tuple)
    fits = (value is None and each.optional) or (fits and all(map(right, numbers)))
    require(fits, f"{name} is {value!r}: give {words or 'a name'}")


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return _whole(value) or isinstance(value, float | np.floating)


@contextlib.contextmanager
def _arguments(names: dict[str, str] | None = None) -> Iterator[None]:
    """A mistake names the argument of a function here, where the command line names the flag of the same name."""
    try:
        yield
    except InputError as mistake:
        text = re.sub(r"--(\w+)", lambda found: (names or {}).get(found[1], found[1]), str(mistake))
        raise InputError(text) from None


def _check_features(name: str, features: Any, dim: int | None = None) -> None:
    require(
        isinstance(features, np.ndarray | jax.Array) and np.issubdtype(features.dtype, np.floating),
        f"{name} is {_kind(features)}: give an array of float numbers [n, dim]",
    )
    wanted = "dim" if dim is None else str(dim)
    require(
        features.ndim == 2 and len(features) > 0 and dim in (None, features.shape[1]),
        f"{name} has shape {features.shape}: give [n, {wanted}]",
    )
    faulty = int(np.sum(~np.isfinite(features).all(axis=1)))
    require(faulty == 0, f"{name} has numbers that are not finite in {faulty} of {len(features)} rows: leave them out")


def _check_labels(name: str, labels: Any, count: int, num_classes: int) -> None:
    """Refuses labels that are neither classes nor attributes of so many images."""
    _check_label_kind(name, labels)
    require(len(labels) == count, f"{name} has {len(labels)} rows for {count} rows of features: give one for each")
    if labels.ndim == 1:
        low, high, words = 0, num_classes - 1, f"classes 0..{num_classes - 1}"
    else:
        require(labels.shape[1] == num_classes, f"{name} has {labels.shape[1]} attributes: give {num_classes}")
        low, high, words = -1, 1, "attributes 1, 0, or -1 where not known"
    least, most = int(labels.min()), int(labels.max())
    require(low <= least and most <= high, f"{name} lies in {least}..{most}: give {words}")


def _check_label_kind(name: str, labels: Any) -> None:
    require(
        isinstance(labels, np.ndarray | jax.Array) and np.issubdtype(labels.dtype, np.integer),
        f"{name} is {_kind(labels)}: give an array of whole numbers, classes [n] or attributes [n, attributes]",
    )
    require(
        labels.ndim in (1, 2) and labels.size > 0,
        f"{name} has shape {labels.shape}: give classes [n] or attributes [n, attributes]",
    )


def _count_classes(*all_labels: Any) -> int:
    for labels in all_labels:
        _check_label_kind("labels", labels)
    if all_labels[0].ndim == 2:
        return all_labels[0].shape[1]
    return max(1 + max(int(labels.max()) for labels in all_labels), 1)


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
