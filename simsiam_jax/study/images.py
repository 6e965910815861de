"""The images of a study: what is learned from and pretrained on, what chooses, and what is tested on."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from absl import logging
from jaxtyping import Int, Int32

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import FOLDER, DatasetInfo, dataset_info, pretraining_source
from simsiam_jax.data.duplicates import find, marks_of
from simsiam_jax.data.names import listed
from simsiam_jax.data.splits import file_names, load_split
from simsiam_jax.data.subsets import label_counts, stratified_subset
from simsiam_jax.errors import InputError, require
from simsiam_jax.metrics import HEADLINE, leading_class
from simsiam_jax.records.experiment import Leak
from simsiam_jax.report.words import leak_sentence
from simsiam_jax.settings.schema import Config, Metric
from simsiam_jax.study.definition import Study

METRICS: tuple[str, ...] = get_args(Metric)
LABEL_WORDS = {"classes": "classes", "attributes": "attributes", "none": "no labels"}
# The two pools that each leak is about.
_LEAKS = (
    *(("validation", "train"), ("test", "train"), ("test", "validation")),
    *(("validation", "pretraining"), ("test", "pretraining")),
)


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
      leaks: Images of validation and test that also lie in train, in each other or among those pretrained on.
      found: Number of images of train, validation and test together, also where fewer are taken for validation.
      asked_metric: The number that the user asked for by `--metric`; None leaves it to the data.
    """

    info: DatasetInfo
    train: ImageSplit
    voters: ImageSplit
    unlabelled: ImageSplit | None
    validation: ImageSplit
    test: ImageSplit | None
    leaks: tuple[Leak, ...] = ()
    found: int = 0
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
    info = dataset_info(config.dataset, config.labels, group_duplicates=config.group_duplicates)

    def names_of(info: DatasetInfo, ids: Int32[np.ndarray, " few"]) -> list[str]:
        size = config.cached_size or info.stored_size(config.image_size)
        return file_names(info, ids, data_dir=study.data_dir, size=size, max_bad_images=config.max_bad_images)

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
    unlabelled = None
    if any(arm.pretrain == "in_domain" for arm in study.arms.values()):
        source = pretraining_info(config)
        if (source.name, config.pretrain.split) == (info.name, "train"):
            unlabelled = voters
        else:
            unlabelled = _at_most(load(source, config.pretrain.split), config.pretrain.max_images)
    found = sum(len(split) for split in (train, validation, test) if split is not None)
    most = config.evaluation.max_validation_images
    if most is not None and most < len(validation):
        if info.label_kind == "none":
            validation = _at_most(validation, most)
        else:
            share = most / len(validation)
            validation = validation.take(stratified_subset(validation.labels, fraction=share, seed=0))
    if study.evaluations:
        for arm in study.arms:
            labelled_positions(train, study.config_of(arm), seed=0, names=info.class_names)
        _warn_of_few_labels(study, train, info)
        _warn_of_one_value({"validation": validation, "test": test}, info)
    elsewhere = _pretrained_before(study, info, load) if unlabelled is None else unlabelled
    pools = {"train": train, "validation": validation, "test": test, "pretraining": elsewhere}
    if elsewhere is voters:
        pools.pop("pretraining")
    leaks = find_leaks(
        {name: split for name, split in pools.items() if split is not None},
        lambda ids: [] if info.listing is None else names_of(info, ids),
    )
    return Data(info, train, voters, unlabelled, validation, test, leaks, found, config.evaluation.metric)


def _pretrained_before(
    study: Study, info: DatasetInfo, load: Callable[[DatasetInfo, str], ImageSplit]
) -> ImageSplit | None:
    """The images that the checkpoint to evaluate was pretrained on; None where they are `train`, or not at hand."""
    if all(arm.pretrain in ("none", "random_images", "in_domain") for arm in study.arms.values()):
        return None
    name, split = study.config.pretrain.dataset, study.config.pretrain.split
    # Another data set of the table is not fetched for this. What another labelling of a folder called train is unknown.
    if name in (None, study.config.dataset):
        return load(info, split) if split in info.splits and split != "train" and name is None else None
    if not name.startswith(FOLDER):
        return None
    try:
        source = pretraining_source(name, group_duplicates=study.config.group_duplicates)
        return load(source, split) if split in source.splits else None
    except InputError as fault:
        logging.warning("whether images were pretrained on is unknown, as they are not at hand: %s", fault)
        return None


def find_leaks(
    pools: Mapping[str, ImageSplit], names_of: Callable[[Int32[np.ndarray, " few"]], list[str]]
) -> tuple[Leak, ...]:
    """Counts the validation and test images that also lie in another pool, and warns of them.

    Args:
      pools: Images by `train`, `validation`, `test` and `pretraining`, those of them that there are.
      names_of: Function from sample ids of validation and test to names of files; it gives none where there are none.
    """
    marks = {name: marks_of(split) for name, split in pools.items()}
    leaks = []
    for split, among in _LEAKS:
        if split not in pools or among not in pools:
            continue
        found = find(marks[split], marks[among])
        if not len(found):
            continue
        leak = Leak(split, among, len(pools[split]), len(found), int(found.exact.sum()))
        leaks.append(leak)
        names = names_of(pools[split].sample_ids[found.positions[:3]])
        hint = "; --group_duplicates keeps them in one split" if names and among != "pretraining" else ""
        some = f" Among them: {listed(names)}{hint}." if names else ""
        logging.warning("%s", leak_sentence(leak) + some)
    return tuple(leaks)


def _warn_of_few_labels(study: Study, train: ImageSplit, info: DatasetInfo) -> None:
    """Names the classes, or values of attributes, that have fewer images than --labels_per_class asks for."""
    counts = label_counts(train.labels, info.class_names)
    wanted = {study.config_of(arm).evaluation.labels_per_class for arm in study.arms}
    for per_class in sorted(number for number in wanted if number is not None):
        few = [f"{count} of {name}" for name, count in counts.items() if count < per_class]
        if few:
            logging.warning(
                "--labels_per_class=%d: there are fewer training images of some %s, and all of these are used: %s",
                per_class,
                info.label_kind,
                listed(few),
            )


def _warn_of_one_value(splits: Mapping[str, ImageSplit | None], info: DatasetInfo) -> None:
    """Names the attributes that are always or never present in a split, so that nothing can be ranked by them."""
    for name, split in splits.items():
        if split is None or split.labels.ndim == 1:
            continue
        both = (split.labels == 1).any(axis=0) & (split.labels == 0).any(axis=0)
        if not both.all():
            logging.warning(
                "%d of %d attributes are always or never present among the %s images where they are known, and are "
                "left out of the macro AUC and average precision: %s",
                np.sum(~both),
                len(both),
                name,
                listed(info.class_names[number] for number in np.flatnonzero(~both).tolist()),
            )


def pretraining_info(config: Config) -> DatasetInfo:
    """The data set whose images the in-domain arm is pretrained on.

    Raises:
      InputError: If there is no such data set.
    """
    name = config.pretrain.dataset
    if name is None or name == config.dataset:
        return dataset_info(config.dataset, config.labels, group_duplicates=config.group_duplicates)
    return pretraining_source(name, group_duplicates=config.group_duplicates)


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


def labelled_positions(
    train: ImageSplit, config: Config, *, seed: int, draw: int = 0, names: Sequence[str] = ()
) -> Int[np.ndarray, " labelled"]:
    """Positions of the labelled images that evaluations may learn from, a function of seed and draw alone.

    Arms are paired by it: each sees the same labels. `names` are those of the classes or attributes, for an error.
    """
    per_class, fraction = config.evaluation.labels_per_class, config.evaluation.label_fraction
    if per_class is None and fraction is None:
        return np.arange(len(train))
    return stratified_subset(train.labels, per_class=per_class, fraction=fraction, seed=seed, draw=draw, names=names)


def pretraining_images(study: Study, data: Data, arm: str, *, seed: int) -> ImageSplit:
    """The images of an arm's pretraining; noise is drawn anew for each seed."""
    if study.arms[arm].pretrain == "in_domain":
        assert data.unlabelled is not None
        return data.unlabelled
    config = study.config_of(arm)
    own = config.cached_size or data.info.stored_size(config.image_size) or data.info.native_size
    size = None if config.noise.size else own
    return load_split("random_images", "train", data_dir=study.data_dir, size=size, noise=config.noise, seed=seed)
