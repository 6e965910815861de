"""Made-up runs: arms, result lines and whole workdirs, for tests of records and of the report."""

import dataclasses
import json

import numpy as np

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.files import sealed
from simsiam_jax.records.experiment import AnalysisPlan, ArmRecord, Column, Experiment, Layout
from simsiam_jax.records.results import Result, StageResult
from simsiam_jax.settings.schema import ViewSpec
from simsiam_jax.study import exhibits

SEEDS = (0, 1, 2)
CLASSES = ("trousers", "pullover", "dress")
BACKBONES = {"resnet18": "ResNet-18", "vit_s": "ViT-S"}
STARTS = {"none": "no pretraining", "in_domain": "own images, no labels", "imagenet": "ImageNet"}


def make_result(seed=0, arm="none", **changes):
    """A line of results.jsonl."""
    fields = {
        "experiment": "demo",
        "arm": arm,
        "backbone": "resnet18",
        "pretrain": None,
        "seed": seed,
        "eval": "finetune",
        "split": "test",
        "metrics": {"top1": 0.5},
        "seconds": 1.5,
        "config_hash": "0123456789ab",
        "git_revision": "unknown",
        "versions": {"python": "3.11.2"},
        "device": "2 CPU cores",
    }
    return Result(**fields | changes)


def make_scores(arm, values, **changes):
    """A line of results.jsonl for each seed from 0 on, with these top-1 accuracies."""
    return [make_result(seed, arm, metrics={"top1": value}, **changes) for seed, value in enumerate(values)]


def make_arm(name, label=None, published=(), **changes):
    """An arm at the first position."""
    return ArmRecord(name, label or name, 0, dict(published), **changes)


def make_experiment(arms=("none", "own"), evals=("finetune",), **changes):
    """An experiment whose arms, given as names or `ArmRecord`s, have the positions 0, 1, ..."""
    records = [arm if isinstance(arm, ArmRecord) else make_arm(arm) for arm in arms]
    fields = {
        "experiment": "demo",
        "title": "Digits",
        "question": "Does it help?",
        "dataset": "digits",
        "command": "python -m experiments.demo",
        "arms": tuple(dataclasses.replace(arm, position=place) for place, arm in enumerate(records)),
        "evals": evals,
        "config": {"recipe": "paper", "pretrain": {"epochs": 3, "optimizer": {"name": "adam"}}},
        "data": {"train": {"images": 12, "fingerprint": "abc123"}},
    }
    return Experiment(**fields | changes)


def make_plan(primary=("own",), looks=(3,), **changes):
    """A plan of fine-tuning that decides after three seeds, and asks for any effect."""
    return AnalysisPlan(
        **{"evaluation": "finetune", "primary": primary, "looks": looks, "smallest_effect": 0.0} | changes
    )


def make_ends(arm, **numbers):
    """A line of results.jsonl for each seed from 0 on: how its pretraining ended. Numbers are lists over the seeds."""
    return [
        make_result(seed, arm, eval="pretrain", split="validation", metrics=dict(zip(numbers, each, strict=True)))
        for seed, each in enumerate(zip(*numbers.values(), strict=True))
    ]


def grouped_experiment(**changes):
    """Two groups A and B, each of the arms `none` and `own`, with published numbers."""
    arms = [
        make_arm(f"{group}-{name}", name, {"test": published}, group=group)
        for group, numbers in (("A", (60.0, 70.0)), ("B", (65.0, 64.0)))
        for name, published in zip(("none", "own"), numbers, strict=True)
    ]
    return make_experiment(arms, **changes)


def grouped_scores():
    """Results of `grouped_experiment`: the arm `own` is better in A, and no better in B."""
    values = {
        "A-none": [0.1, 0.2, 0.3],
        "A-own": [0.15, 0.26, 0.35],
        "B-none": [0.7, 0.8, 0.9],
        "B-own": [0.6, 0.8, 0.9],
    }
    return [result for arm, numbers in values.items() for result in make_scores(arm, numbers)]


def make_stage(results):
    """The result of one stage that has these lines."""
    fields = dataclasses.asdict(results[0])
    del fields["split"]
    metrics = {result.split: result.metrics for result in results}
    draws = {result.split: result.draws for result in results if result.draws}
    attributes = {result.split: result.attributes for result in results if result.attributes}
    return StageResult(
        stage=fields.pop("eval"), **fields | {"metrics": metrics, "draws": draws, "attributes": attributes}
    )


def stage_folder(workdir, result):
    return workdir / result.arm / f"seed-{result.seed}" / result.eval


def write_results(workdir, results):
    """Writes the stage files that have these lines."""
    stages = {}
    for result in results:
        stages.setdefault(stage_folder(workdir, result), []).append(result)
    for folder, lines in stages.items():
        make_stage(lines).write(folder)


def write_log(folder, lines):
    """Writes metrics.jsonl into a stage's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(sealed(line)) + "\n" for line in lines))


def made_up_split(count, label_kind, seed=0, attributes=3):
    """Noise, labelled."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3 if label_kind == "classes" else rng.integers(0, 2, (count, attributes))
    images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    return ImageSplit(images, labels.astype(np.int32), np.arange(count, dtype=np.int32), "0" * 16)


def made_up_workdir(
    workdir,
    *,
    label_kind="classes",
    backbones=tuple(BACKBONES),
    starts=tuple(STARTS),
    attributes=3,
    names=None,
    counts=None,
    labels=None,
):
    """A workdir with every file that a report is made of: by default two backbones, with, without and with absent
    ImageNet pretraining, and three seeds. Names and counts are those of the classes or attributes; labels those of the
    24 test images."""
    rng = np.random.default_rng(0)
    workdir.mkdir(parents=True)
    classes = label_kind == "classes"
    metric = "top1" if classes else "macro_jaccard"
    names = names or (CLASSES if classes else tuple(f"attribute {place}" for place in range(attributes)))
    arms = [
        make_arm(
            f"{backbone}-{start}",
            STARTS[start],
            {"test": 60.0 + place} if classes else {f"test/{metric}": 50.0 + place},
            pretrain="in_domain" if start == "in_domain" else "none",
            group=BACKBONES[backbone],
            settings={"backbone": backbone, **({"init": "imagenet"} if start == "imagenet" else {})},
            changes=(f'backbone.name: "resnet18" -> "{backbone}"',) if backbone != "resnet18" else (),
            absent="no weights at hand" if start == "imagenet" else None,
        )
        for backbone in backbones
        for place, start in enumerate(starts)
    ]
    columns = (Column("test", "finetune", "test"),)
    if not classes:
        columns = tuple(
            Column(f"{split} {average} {name}", "finetune", split, f"{average}_{name}")
            for split in ("validation", "test")
            for average in ("macro", "micro")
            for name in ("jaccard", "auc")
        )
    experiment = make_experiment(
        arms,
        ("knn", "linear", "finetune"),
        experiment="made_up",
        title="A made-up table",
        question="Does the report show all that there is?",
        dataset="made-up",
        command="python -m experiments.made_up",
        config={"dataset": "made-up", "pretrain": {"epochs": 3}},
        data={"train": {"images": 30, "fingerprint": "0" * 16}},
        paper_source="arXiv 2112.02297",
        seeds=SEEDS,
        metric=metric,
        label_kind=label_kind,
        class_names=names,
        layout=Layout(columns, pivot=classes),
        figure3=True,
        plan=make_plan(tuple(arm.name for arm in arms if arm.pretrain == "in_domain"), evaluation="linear"),
        label_draws={"linear": 2},
        label_counts=dict.fromkeys(("train", "validation", "test"), counts) if counts else {},
    )
    experiment.write(workdir)
    train = made_up_split(30, label_kind, attributes=attributes)
    test = made_up_split(24, label_kind, 1, attributes)
    if labels is not None:
        test = dataclasses.replace(test, labels=np.asarray(labels, np.int32))
    exhibits.save_samples(workdir, train, label_kind=label_kind)
    exhibits.save_pairs(workdir, train, ViewSpec(16, blur_probability=0.0))
    for arm in experiment.arms:
        for seed in () if arm.absent else SEEDS:
            _write_unit(workdir, arm, seed, rng, train, test, metric)
    return workdir


def _write_unit(workdir, arm, seed, rng, train, test, metric):
    folder = workdir / arm.name / f"seed-{seed}"
    pretrained = arm.pretrain != "none"
    logs = {"finetune": (f"validation_{metric}",)}
    if pretrained:
        logs["pretrain"] = ("loss", "heldout_loss", "test_loss", "z_spread", "heldout_z_spread", f"knn_{metric}")
        logs["pretrain"] += ("heldout_rank",)
    for stage, names in sorted(logs.items(), reverse=True):
        lines = [
            {"epoch": epoch, "update": epoch, "images_per_second": 100.0, **{name: rng.random() for name in names}}
            for epoch in (1, 2, 3)
        ]
        if stage == "pretrain":
            lines = [
                {"epoch": 0, f"knn_{metric}": 0.3, "heldout_loss": 0.1, "heldout_z_spread": 0.7, "heldout_rank": 1.0},
                *lines,
            ]
        write_log(folder / stage, lines)
    features = [rng.normal(size=(len(split), 8)).astype(np.float32) for split in (train, test)]
    if seed == SEEDS[0]:
        exhibits.save_neighbours(folder / "knn", train, features[0], test, features[1])
        exhibits.save_map(folder / "knn", features[1], test.labels)
        outputs = rng.random((len(test), 3 if test.labels.ndim == 1 else test.labels.shape[1])).astype(np.float32)
        exhibits.save_mistakes(folder / "finetune", test, outputs, threshold=0.5)
    kinds = 3 if test.labels.ndim == 1 else test.labels.shape[1]
    outputs = rng.random((len(test), kinds)).astype(np.float32)
    exhibits.save_confusion(folder / "finetune", outputs, test.labels, threshold=0.5, num_classes=kinds)
    names = ("top1", "balanced_accuracy") if metric == "top1" else (
        f"{average}_{name}"
        for average in ("macro", "micro")
        for name in ("jaccard", "accuracy", "auc", "average_precision")
    )  # fmt: skip
    numbers = {name: float(rng.uniform(0.4, 0.9)) for name in names}
    of_each = {}
    if metric != "top1":
        of_each = {
            name: tuple(rng.uniform(0.2, 0.9, kinds))
            for name in ("jaccard", "accuracy", "auc", "average_precision", "threshold")
        }
    draws = dict.fromkeys(("knn", "finetune"), ()) | {"linear": (numbers[metric] - 0.02, numbers[metric] + 0.02)}
    common = {"experiment": "made_up", "backbone": arm.settings["backbone"], "pretrain": arm.pretrain, "seconds": 10.0}
    measured = [
        make_result(
            seed, arm.name, eval=name, split=split, metrics=numbers, draws=draws[name], attributes=of_each, **common
        )
        for name in ("knn", "linear", "finetune")
        for split in ("validation", "test")
    ]
    ended = {"loss": -0.9, "z_spread": 0.02 if arm.name.startswith("vit") else 0.9}
    ended |= {"untrained_rank": 12.5, "rank": 3.6 if arm.name.startswith("vit") else 14.0}
    measured += [
        make_result(seed, arm.name, eval="pretrain", split=split, metrics=ended, **common)
        for split in ("train", "validation")
        if pretrained
    ]
    write_results(workdir, measured)
