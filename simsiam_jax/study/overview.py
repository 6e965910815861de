"""What a study found and is about to do, in a few lines for the terminal."""

import numpy as np
from jaxtyping import Int32

from simsiam_jax.data.datasets import DatasetInfo, dataset_title
from simsiam_jax.data.names import listed, shown
from simsiam_jax.data.subsets import label_counts
from simsiam_jax.report.words import duration, seeds_text
from simsiam_jax.study.definition import Study
from simsiam_jax.study.images import Data, labelled_positions

_LISTED = 6


def overview(study: Study, data: Data) -> list[str]:
    """The lines: images, labels, sizes, splits, leaks, and the units to come.

    Args:
      study: The study, on a platform.
      data: Its images.
    """
    lines = [
        ("data", _images(data)),
        (data.info.label_kind, _counts(data.train.labels, data.info)),
        ("majority", _majority(data.train.labels, data.info)),
        ("sizes", _sizes(study, data)),
        ("splits", ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items() if name != "unlabelled")),
        ("pretrained", _pretrained(study, data)),
        ("labels", _labels(study, data)),
        ("leaks", _leaks(data)),
        ("arms", _arms(study)),
        ("units", _units(study)),
        ("command", shown(study.command)),
    ]
    return [f"{name:11} {text}" for name, text in lines if text]


def _images(data: Data) -> str:
    kinds = {"classes": f" in {data.info.num_classes:,} classes", "none": " without labels"}
    kinds["attributes"] = f" with {data.info.num_classes:,} attributes"
    return f"{shown(data.info.title)}: {data.found:,} images{kinds[data.info.label_kind]}"


def _counts(labels: Int32[np.ndarray, "n *attributes"], info: DatasetInfo) -> str:
    """How many training images each class or attribute has, the commonest first."""
    if info.label_kind == "none":
        return ""
    counts = label_counts(labels, info.class_names)
    if info.label_kind == "attributes":
        present = {name: counts[f"{name} present"] for name in info.class_names}
        known = {name: present[name] + counts[f"{name} absent"] for name in info.class_names}
        return f"{listed((f'{name} {present[name]:,} of {known[name]:,}' for name in present), _LISTED)} (in train)"
    ordered = sorted(counts, key=lambda name: -counts[name])
    last = f"; the smallest {shown(ordered[-1])} {counts[ordered[-1]]:,}" if len(ordered) > _LISTED + 1 else ""
    return f"{listed((f'{name} {counts[name]:,}' for name in ordered), _LISTED)} (in train{last})"


def _majority(labels: Int32[np.ndarray, "n *attributes"], info: DatasetInfo) -> str:
    if info.label_kind != "classes":
        return ""
    counts = label_counts(labels, info.class_names)
    largest = max(counts, key=lambda name: counts[name])
    share = counts[largest] / sum(counts.values())
    return f"{shown(largest)} is {share:.0%} of the training images: always to name it is right that often"


def _sizes(study: Study, data: Data) -> str:
    height, width = data.train.images.shape[1:3]
    size = study.config.image_size
    return f"kept at {height}×{width} pixels, views of {size}×{size}"


def _pretrained(study: Study, data: Data) -> str:
    if data.unlabelled is None:
        return ""
    name, split = study.config.pretrain.dataset or study.config.dataset, study.config.pretrain.split
    return f"on {len(data.unlabelled):,} images of {shown(dataset_title(name))}, {shown(split)}"


def _labels(study: Study, data: Data) -> str:
    """How many labelled training images evaluations learn from."""
    if not study.evaluations:
        return ""
    found = [len(labelled_positions(data.train, study.config_of(arm), seed=study.seeds[0])) for arm in study.arms]
    least, most = min(found), max(found)
    numbers = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    evaluation = study.config.evaluation
    wanted = f" (--labels_per_class={evaluation.labels_per_class})" if evaluation.labels_per_class else ""
    return f"evaluations learn from {numbers} of {len(data.train):,} labelled training images{wanted}"


def _leaks(data: Data) -> str:
    found = [f"{leak.shared:,} images of {leak.split} also in {leak.among}" for leak in data.leaks]
    return ", ".join(found) or "no image of validation or test was found in another split"


def _arms(study: Study) -> str:
    differ = dict.fromkeys(name for arm in study.arms.values() for name in arm.settings)
    return listed(study.arms, 12) + (f"; they differ in {', '.join(differ)}" if differ else "")


def _units(study: Study) -> str:
    arms = f"{len(study.arms)} {'arm' if len(study.arms) == 1 else 'arms'}"
    if len(study.looks) == 1:
        units = len(study.arms) * len(study.seeds)
        text = f"{arms} × {seeds_text(len(study.seeds))}, {units} {'unit' if units == 1 else 'units'}"
    else:
        text = f"{arms}, decided after {', '.join(map(str, study.looks[:-1]))} or {study.looks[-1]} seeds"
    budget = f", none begun after {duration(study.budget)} (--budget)" if study.budget and len(study.looks) > 1 else ""
    return f"{text}{budget}; --dry_run tells the time"
