"""A workdir with every file that a report is made of, its numbers made up: for tests of the report alone."""

import json

import numpy as np

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.records.results import EXPERIMENT_FILE, Result, append_results
from simsiam_jax.settings.schema import ViewSpec
from simsiam_jax.study import exhibits

SEEDS = (0, 1, 2)
CLASSES = ("trousers", "pullover", "dress")


def made_up_split(count, label_kind, seed=0):
    """Noise, labelled."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3 if label_kind == "classes" else rng.integers(0, 2, (count, 3))
    images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    return ImageSplit(images, labels.astype(np.int32), np.arange(count, dtype=np.int32), "0" * 16)


def made_up_workdir(workdir, *, label_kind="classes"):
    """Two backbones, each with, without and with absent ImageNet pretraining; three seeds."""
    rng = np.random.default_rng(0)
    workdir.mkdir(parents=True)
    metric = "top1" if label_kind == "classes" else "macro_jaccard"
    paper = {
        "classes": lambda place: {"test": 60.0 + place},
        "attributes": lambda place: {f"test/{metric}": 50.0 + place},
    }
    arms = [
        {
            "name": f"{backbone}-{name}",
            "label": label,
            "paper": paper[label_kind](place),
            "pretrain": "in_domain" if name == "in_domain" else "none",
            "group": title,
            "shares": None,
            "settings": {"backbone": backbone, **({"init": "imagenet"} if name == "imagenet" else {})},
            "changes": [f'backbone.name: "resnet18" -> "{backbone}"'] if backbone != "resnet18" else [],
            "labels": None,
            "absent": "no weights at hand" if name == "imagenet" else None,
            "init": None,
        }
        for backbone, title in (("resnet18", "ResNet-18"), ("vit_s", "ViT-S"))
        for place, (name, label) in enumerate(
            (("none", "no pretraining"), ("in_domain", "own images, no labels"), ("imagenet", "ImageNet"))
        )
    ]
    columns = [["finetune", "test", metric, "test"]]
    if label_kind == "attributes":
        columns = [
            ["finetune", split, f"{average}_{name}", f"{split} {average} {name}"]
            for split in ("validation", "test")
            for average in ("macro", "micro")
            for name in ("jaccard", "auc")
        ]
    description = {
        "experiment": "made_up",
        "title": "A made-up table",
        "question": "Does the report show all that there is?",
        "dataset": "made-up",
        "command": "python -m experiments.made_up",
        "arms": arms,
        "evals": ["knn", "linear", "finetune"],
        "seeds": list(SEEDS),
        "config": {"dataset": "made-up", "pretrain": {"epochs": 3}},
        "metric": metric,
        "label_kind": label_kind,
        "class_names": list(CLASSES),
        "layout": {"columns": columns, "pivot": label_kind == "classes"},
        "figure3": True,
        "init": None,
        "data": {"train": {"images": 30, "fingerprint": "0" * 16}},
        "paper_source": "arXiv 2112.02297",
    }
    (workdir / EXPERIMENT_FILE).write_text(json.dumps(description))
    train, test = made_up_split(30, label_kind), made_up_split(24, label_kind, 1)
    exhibits.save_samples(workdir, train, label_kind=label_kind)
    exhibits.save_pairs(workdir, train, ViewSpec(16, blur_probability=0.0))
    for arm in arms:
        if not arm["absent"]:
            for seed in SEEDS:
                _unit(workdir, arm, seed, rng, train, test, metric)
    return workdir


def _unit(workdir, arm, seed, rng, train, test, metric):
    folder = workdir / arm["name"] / f"seed-{seed}"
    for stage in ("pretrain", "knn", "finetune"):
        (folder / stage).mkdir(parents=True)
    lines = {
        "pretrain": ("loss", "heldout_loss", "test_loss", "z_spread", f"knn_{metric}"),
        "finetune": (f"validation_{metric}",),
    }
    for stage, names in lines.items():
        if stage == "finetune" or arm["pretrain"] != "none":
            log = [
                {"epoch": epoch, "update": epoch, "images_per_second": 100.0, **{name: rng.random() for name in names}}
                for epoch in (1, 2, 3)
            ]
            (folder / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    features = [rng.normal(size=(len(split), 8)).astype(np.float32) for split in (train, test)]
    if seed == SEEDS[0]:
        exhibits.save_neighbours(folder / "knn", train, features[0], test, features[1])
        exhibits.save_map(folder / "knn", features[1], test.labels)
    outputs = rng.random((len(test), 3)).astype(np.float32)
    exhibits.save_confusion(folder / "finetune", outputs, test.labels, threshold=0.5, num_classes=3)
    names = ("top1", "balanced_accuracy") if metric == "top1" else (
        f"{average}_{name}"
        for average in ("macro", "micro")
        for name in ("jaccard", "accuracy", "auc", "average_precision")
    )  # fmt: skip
    numbers = {name: float(rng.uniform(0.4, 0.9)) for name in names}
    common = {
        "experiment": "made_up",
        "arm": arm["name"],
        "backbone": arm["settings"]["backbone"],
        "pretrain": arm["pretrain"],
        "seed": seed,
        "seconds": 10.0,
        "config_hash": "0" * 12,
        "git_revision": "0" * 40,
        "versions": {"jax": "0"},
        "device": "1 × made-up",
    }
    measured = [
        Result(eval=name, split=split, metrics=numbers, **common)
        for name in ("knn", "linear", "finetune")
        for split in ("validation", "test")
    ]
    if arm["pretrain"] != "none":
        for split in ("train", "validation"):
            ended = {"loss": -0.9, "z_spread": 0.02 if arm["name"].startswith("vit") else 0.9}
            measured.append(Result(eval="pretrain", split=split, metrics=ended, **common))
    append_results(workdir, measured)
