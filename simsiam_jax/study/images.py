"""The images of a study: what is learned from and pretrained on, what chooses, and what is tested on."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from absl import logging
from jaxtyping import Int

from simsiam_jax.data.cache import ImageSplit, count_shared
from simsiam_jax.data.datasets import FOLDER, DatasetInfo, dataset_info, pretraining_source
from simsiam_jax.data.splits import load_split
from simsiam_jax.data.subsets import stratified_subset
from simsiam_jax.errors import require
from simsiam_jax.metrics import HEADLINE, leading_class
from simsiam_jax.settings.schema import Config, Metric
from simsiam_jax.study.definition import Study

METRICS: tuple[str, ...] = get_args(Metric)
LABEL_WORDS = {"classes": "classes", "attributes": "attributes", "none": "no labels"}


@dataclass(frozen=True)
class Data:
    """The images of a study; train, validation and test never overlap.

    Attributes:
      info: The data set that evaluations run on.
      train: Images that may be learned from, labels included.
      voters: Images whose labels vote in kNN while pretraining: `train`, or as many of it as pretraining may see.
      unlabelled: Images that the in-domain arm is pretrained on, a part of `train`, all of it or others; None where
        there is no such arm.
      validation: Images that choose epochs and penalties, and are watched during pretraining.
      test: Images that are read once, at the end of each unit; None where there are no labels to evaluate with.
      seen: Number of validation and test images that are also pretrained on; empty where they cannot be.
      asked_metric: The number that the user asked for by `--metric`; None leaves it to the data.
    """

    info: DatasetInfo
    train: ImageSplit
    voters: ImageSplit
    unlabelled: ImageSplit | None
    validation: ImageSplit
    test: ImageSplit | None
    seen: Mapping[str, int] = field(default_factory=dict)
    asked_metric: str | None = None

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """The splits that there are, by name."""
        found = {name: getattr(self, name) for name in ("train", "unlabelled", "validation", "test")}
        return {name: split for name, split in found.items() if split is not None}

    @property
    def metric(self) -> str | None:
        """The number by which epochs and penalties are chosen, and that tables lead with; None without labels."""
        return self._lead[0]

    @property
    def metric_reason(self) -> str:
        """Why another number than the usual one leads, as the end of a sentence; empty where the usual one does."""
        return self._lead[1]

    @functools.cached_property
    def _lead(self) -> tuple[str | None, str]:
        if self.asked_metric is not None:
            return self.asked_metric, "because --metric asks for it"
        usual = self.info.headline or HEADLINE.get(self.info.label_kind)
        if usual == "top1" and (leading := leading_class(self.train.labels, self.info.num_classes)) is not None:
            return "balanced_accuracy", f"because one class holds {100 * leading[1]:.0f} % of the training images"
        return usual, ""


def load_data(study: Study) -> Data:
    """Prepares and loads what a study needs.

    Raises:
      InputError: If the data set is not at hand, or has fewer labels than asked for.
    """
    config = study.config
    info = dataset_info(config.dataset, config.labels)

    def load(info: DatasetInfo, split: str) -> ImageSplit:
        return load_split(
            info,
            split,
            data_dir=study.data_dir,
            manual_dir=study.manual_dir,
            size=config.cached_size or info.stored_size(config.image_size),
            max_bad_images=config.max_bad_images,
        )

    train, validation = load(info, "train"), load(info, "validation")
    test = load(info, "test") if "test" in info.splits else None
    voters = _at_most(train, config.pretrain.max_images)
    unlabelled, seen = None, {}
    if any(arm.pretrain == "in_domain" for arm in study.arms.values()):
        source = pretraining_info(config)
        if (source.name, config.pretrain.split) == (info.name, "train"):
            unlabelled = voters
        else:
            unlabelled = _at_most(load(source, config.pretrain.split), config.pretrain.max_images)
            seen = _seen_before({"validation": validation, "test": test}, unlabelled)
    most = config.evaluation.max_validation_images
    if most is not None and most < len(validation):
        if info.label_kind == "none":
            validation = _at_most(validation, most)
        else:
            share = most / len(validation)
            validation = validation.take(stratified_subset(validation.labels, fraction=share, seed=0))
    if study.evaluations:
        for arm in study.arms:
            labelled_positions(train, study.config_of(arm), seed=0)
    return Data(info, train, voters, unlabelled, validation, test, seen, config.evaluation.metric)


def _seen_before(splits: Mapping[str, ImageSplit | None], unlabelled: ImageSplit) -> dict[str, int]:
    """How many images of each split are also pretrained on; warns, as the evaluation is then of images seen."""
    seen = {name: count_shared(split, unlabelled) for name, split in splits.items() if split is not None}
    for name, count in seen.items():
        if count:
            logging.warning("%d of the %s images are also pretrained on, without their labels", count, name)
    return seen


def pretraining_info(config: Config) -> DatasetInfo:
    """The data set whose images the in-domain arm is pretrained on.

    Raises:
      InputError: If there is no such data set.
    """
    name = config.pretrain.dataset
    if name is None or name == config.dataset:
        return dataset_info(config.dataset, config.labels)
    return pretraining_source(name)


def check_metric(config: Config, info: DatasetInfo) -> None:
    """Refuses a `--metric` that the labels do not have.

    Raises:
      InputError: Naming the numbers that there are.
    """
    metric = config.evaluation.metric
    if metric is None:
        return
    known = [name for name in METRICS if name.startswith(("macro_", "micro_")) == (info.label_kind == "attributes")]
    known = [name for name in known if name != "auc" or info.num_classes == 2] if info.num_classes else []
    require(
        metric in known,
        f"--metric={metric}: {info.title} has {LABEL_WORDS[info.label_kind]}; "
        + (f"take auto, {', '.join(known)}" if known else "leave the flag out"),
    )


def overlap(config: Config) -> bool:
    """Whether pretraining and evaluation read the same folder, or one within the other, by different labels."""
    name = config.pretrain.dataset
    if name is None or not (name.startswith(FOLDER) and config.dataset.startswith(FOLDER)):
        return False
    a, b = (Path(each.removeprefix(FOLDER)) for each in (name, config.dataset))
    return a.is_relative_to(b) or b.is_relative_to(a)


def _at_most(split: ImageSplit, limit: int | None) -> ImageSplit:
    """So many of the images, chosen by chance: labels have no say in what is pretrained on."""
    if limit is None or limit >= len(split):
        return split
    return split.take(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))


def labelled_positions(train: ImageSplit, config: Config, *, seed: int, draw: int = 0) -> Int[np.ndarray, " labelled"]:
    """Positions of the labelled images that evaluations may learn from, a function of seed and draw alone.

    Arms are paired by it: each sees the same labels.
    """
    per_class, fraction = config.evaluation.labels_per_class, config.evaluation.label_fraction
    if per_class is None and fraction is None:
        return np.arange(len(train))
    return stratified_subset(train.labels, per_class=per_class, fraction=fraction, seed=seed, draw=draw)


def pretraining_images(study: Study, data: Data, arm: str, *, seed: int) -> ImageSplit:
    """The images of an arm's pretraining; noise is drawn anew for each seed."""
    if study.arms[arm].pretrain == "in_domain":
        assert data.unlabelled is not None
        return data.unlabelled
    config = study.config_of(arm)
    own = config.cached_size or data.info.stored_size(config.image_size) or data.info.native_size
    size = None if config.noise.size else own
    return load_split("random_images", "train", data_dir=study.data_dir, size=size, noise=config.noise, seed=seed)
