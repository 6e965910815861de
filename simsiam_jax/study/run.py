"""A study: every arm and seed pretrained and evaluated, as units that are resumed and never repeated."""

import dataclasses
import fcntl
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float
from scipy.special import expit

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import dataset_info, dataset_title
from simsiam_jax.data.feed import choose_feed
from simsiam_jax.errors import InputError, require
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import knn_outputs
from simsiam_jax.eval.linear import fit_probe
from simsiam_jax.files import write_json, write_whole
from simsiam_jax.metrics import Numbers, headline_score, scores, z_spread
from simsiam_jax.models import create_backbone
from simsiam_jax.records.environment import environment
from simsiam_jax.records.experiment import (
    EXPERIMENT_FILE,
    STAGES,
    ArmRecord,
    Column,
    Experiment,
    Layout,
    read_experiment,
)
from simsiam_jax.records.results import RESULTS_FILE, StageResult, read_stage_result
from simsiam_jax.settings.schema import BackboneConfig, Config, EvaluationConfig, FinetuneConfig, Row, Study
from simsiam_jax.settings.values import differences, digest, from_dict, to_dict
from simsiam_jax.study.exhibits import save_confusion, save_map, save_neighbours, save_pairs, save_samples
from simsiam_jax.study.images import Data, labelled_subset, load_data, overlap, pretraining_images, pretraining_info
from simsiam_jax.study.programs import EVALUATION_BATCH, Programs, Variables, compiled_part, restore_backbone
from simsiam_jax.train.devices import check_divisible
from simsiam_jax.train.loop import Plan, Trained, fit, make_plan
from simsiam_jax.train.state import TrainState, create_state
from simsiam_jax.train.steps import over_split
from simsiam_jax.weights import load_initial
from simsiam_jax.weights.initial import start_name


@dataclass(frozen=True)
class Start:
    """What an arm's backbone starts from.

    Attributes:
      variables: Its weights; None for random ones.
      origin: What they are, for the record.
      absent: Why the arm cannot be run, where its weights are not at hand.
    """

    variables: Variables | None = None
    origin: dict[str, Any] | None = None
    absent: str | None = None


def check(study: Study) -> None:
    """Refuses what cannot be run before anything is written or downloaded.

    Raises:
      InputError: For the first mistake found.
    """
    config = study.config
    info = dataset_info(config.dataset, config.labels)
    require(
        not study.evals or info.num_classes > 0,
        f"--dataset={config.dataset} has no labels to evaluate with"
        + ("; sort its images into a folder for each class, or give --labels=FILE.csv" if info.listing else ""),
    )
    require("validation" in info.splits, f"--dataset={config.dataset} has no validation images to watch")
    if any(row.pretrain == "in_domain" for row in study.rows.values()):
        source = pretraining_info(config)
        splits = [name for name in source.splits if name not in ("validation", "test")]
        require(
            config.pretrain.split in splits,
            f"--pretrain_split={config.pretrain.split}: {source.title} has {', '.join(splits)} to pretrain on",
        )
    for arm, row in study.rows.items():
        own = study.config_of(arm)
        create_backbone(own.backbone.name, own.image_size, **own.backbone.fields())
        check_divisible(own.pretrain.micro_batch_size, "--micro_batch_size")
        if row.shares:
            require(row.shares in study.rows, f"--arms: {arm} shares the pretraining of {row.shares}: name it too")
            theirs = study.config_of(row.shares)
            if _pretraining_part(own) != _pretraining_part(theirs):
                raise TypeError(f"{arm} cannot share the pretraining of {row.shares}: its settings differ")
    choose_feed(study.feed, 0, 0)


def _pretraining_part(config: Config) -> Config:
    return dataclasses.replace(config, evaluation=EvaluationConfig(), finetune=FinetuneConfig())


def open_workdir(study: Study, data: Data | None = None, starts: Mapping[str, Start] | None = None) -> None:
    """Makes the workdir and describes the study in experiment.json, once it is sure that both belong together.

    Args:
      study: What is about to run.
      data: What it runs on; without it the workdir is only checked.
      starts: What each arm's backbone starts from; without it all start from random weights.

    Raises:
      InputError: If the folder cannot be written, or holds another experiment or other settings.
    """
    path = study.workdir / EXPERIMENT_FILE
    try:
        study.workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(study.workdir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as fault:
        raise InputError(f"--workdir={study.workdir} cannot be written ({fault.strerror}): choose another") from None
    known, seeds, evals = {}, (), ()
    if path.exists():
        before = read_experiment(study.workdir)
        require(
            before.experiment == study.experiment,
            f"--workdir={study.workdir} holds results of {before.experiment}, not of {study.experiment}: "
            "choose another --workdir",
        )
        # With what was added since at its default, which is what was done before.
        changed = differences(to_dict(from_dict(Config, before.config)), to_dict(study.config))
        require(
            not changed,
            f"--workdir={study.workdir} holds results with other settings ({'; '.join(changed[:3])}"
            f"{', ...' if len(changed) > 3 else ''}): choose another --workdir",
        )
        known = {arm.name: arm for arm in before.arms}
        for arm, entry in known.items():
            if arm not in study.rows:
                continue
            start, own = (starts or {}).get(arm, Start()), study.config_of(arm)
            old = (entry.init or before.init or {}).get("sha256")
            require(
                start.origin is None or old in (None, start.origin["sha256"]),
                f"--init={own.backbone.init} is no longer the file that --workdir={study.workdir} began with: "
                "choose another --workdir",
            )
            changes = _changes(study, arm)
            require(
                list(entry.changes) == changes,
                f"--workdir={study.workdir} holds results of {arm} with other settings "
                f"({'; '.join(sorted({*entry.changes} ^ {*changes})[:3])}): choose another --workdir",
            )
        for name, split in data.splits.items() if data else ():
            require(
                before.data.get(name, {}).get("fingerprint") in (None, split.fingerprint),
                f"the {name} images of --dataset={study.config.dataset} are no longer those that "
                f"--workdir={study.workdir} began with: choose another --workdir",
            )
        seeds, evals = before.seeds, before.evals
    else:
        stray = study.workdir / RESULTS_FILE
        require(not stray.exists(), f"{stray} belongs to an unknown experiment: choose another --workdir")
    if data is None:
        return
    now = {name: _describe(study, data, name, (starts or {}).get(name, Start())) for name in study.rows}
    # The first arm is what the others are compared with: a run of some arms alone does not change which that is.
    order = known if known.keys() >= now.keys() else {**now, **known}
    Experiment(
        experiment=study.experiment,
        title=study.title,
        question=study.question,
        dataset=study.config.dataset,
        command=study.command,
        arms=tuple({**known, **now}[name] for name in order),
        evals=tuple(name for name in STAGES if name in {*evals, *study.evals}),
        seeds=tuple(sorted({*study.seeds, *seeds})),
        config=to_dict(study.config),
        metric=data.metric or "top1",
        label_kind=data.info.label_kind,
        class_names=tuple(data.info.class_names),
        layout=_layout(study),
        figure3=any(study.config_of(arm).pretrain.test_loss for arm in study.rows),
        data={name: {"images": len(split), "fingerprint": split.fingerprint} for name, split in data.splits.items()},
        paper_source=study.paper_source,
    ).write(study.workdir)


def _describe(study: Study, data: Data, arm: str, start: Start) -> ArmRecord:
    """What experiment.json says of an arm."""
    row, config = study.rows[arm], study.config_of(arm)
    counted = study.evals and any(name in row.settings for name in ("labels_per_class", "label_fraction"))
    return ArmRecord(
        name=arm,
        label=arm_label(row, config),
        position=list(study.rows).index(arm),
        published=dict(row.paper),
        pretrain=row.pretrain,
        group=row.group,
        shares=row.shares,
        settings=dict(row.settings),
        changes=tuple(_changes(study, arm)),
        labels=len(labelled_subset(data.train, config, seed=0)) if counted else None,
        absent=start.absent,
        init=start.origin,
    )


def _changes(study: Study, arm: str) -> list[str]:
    return differences(to_dict(study.config), to_dict(study.config_of(arm)))


def _layout(study: Study) -> Layout | None:
    if study.layout is None:
        return None
    columns = (Column(each.heading, each.eval, each.split, each.metric) for each in study.layout.columns)
    return Layout(tuple(columns), study.layout.pivot)


def arm_label(row: Row, config: Config) -> str:
    """What tables call an arm: its pretraining, and where that starts unless from random weights."""
    label = row.label.format(dataset=dataset_title(config.pretrain.dataset or config.dataset))
    init = config.backbone.init
    # A row that sets its own start is called after it.
    return label if init == "random" or "init" in row.settings else f"{label}, from {start_name(init)}"


def pretraining_name(row: Row, config: Config) -> str:
    """What results call an arm's pretraining: `none`, a data set's name, or `imagenet+stl10` for both in turn."""
    source, init = row.source(config), config.backbone.init
    if init == "random":
        return source
    return start_name(init) if source == "none" else f"{start_name(init)}+{source}"


@dataclass(frozen=True)
class Unit:
    """One arm with one seed: what its stages share.

    Attributes:
      study: The run that it belongs to.
      programs: Compiled functions.
      data: Images.
      arm: Its name.
      row: Its row.
      seed: Its seed.
      environment: Revision, versions and device, as they were when the run started.
    """

    study: Study
    programs: Programs
    data: Data
    arm: str
    row: Row
    seed: int
    environment: dict[str, Any]

    @property
    def config(self) -> Config:
        """All settings of its arm."""
        return self.study.config_of(self.arm)

    @property
    def folder(self) -> Path:
        """Of its stages."""
        return self.study.workdir / self.arm / f"seed-{self.seed}"

    @property
    def pretrained_folder(self) -> Path:
        """Of the stage `pretrain`, which may be another arm's."""
        return self.folder.parent.parent / (self.row.shares or self.arm) / f"seed-{self.seed}" / "pretrain"

    @property
    def title(self) -> str:
        """For the progress line."""
        return f"{self.arm} seed {self.seed}"

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage, made, with its config.json."""
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {**self.identity(), "stage": stage, "config": to_dict(self.config)})
        return folder

    def identity(self) -> dict[str, Any]:
        """What tells this unit from the others of a study."""
        return {
            "experiment": self.study.experiment,
            "arm": self.arm,
            "pretrain": pretraining_name(self.row, self.config),
            "seed": self.seed,
        }

    def record(self, stage: str, measured: dict[str, Numbers], seconds: float) -> None:
        """Writes a stage's numbers by split to its result.json."""
        settings = {**self.identity(), "seed": None, "config": to_dict(self.config)}
        StageResult(
            backbone=self.config.backbone.name,
            stage=stage,
            metrics=measured,
            seconds=seconds,
            config_hash=digest(settings),
            **self.identity(),
            **self.environment,
        ).write(self.folder / stage)


def pretraining_plan(config: Config, images: ImageSplit, *, seed: int) -> Plan:
    """The plan of pretraining on these images.

    Raises:
      InputError: If an epoch of them is shorter than one update.
    """
    return make_plan(
        len(images),
        optimizer=config.pretrain.optimizer,
        micro_batch_size=config.pretrain.micro_batch_size,
        accumulation=config.pretrain.accumulation,
        epochs=config.pretrain.epochs,
        seed=seed,
        scaling_batch=config.pretrain.rate_batch,
    )


def pretrain(unit: Unit) -> Trained:
    """Pretrains a unit, or goes on where it was stopped; a finished one is restored from its checkpoint."""
    config, data, programs = unit.config, unit.data, unit.programs
    images = pretraining_images(unit.study, data, unit.arm, seed=unit.seed)
    plan = pretraining_plan(config, images, seed=unit.seed)

    def measure(state: TrainState, epoch: int) -> Numbers:
        watched = over_split(
            programs.heldout, state.variables, data.validation, batch_size=EVALUATION_BATCH, seed=unit.seed
        )
        numbers = {
            "heldout_loss": float(np.mean(watched["loss"])),
            "heldout_z_spread": float(z_spread(jnp.asarray(watched["z"]))),
        }
        if config.pretrain.test_loss and data.test is not None:
            tested = over_split(
                programs.heldout, state.variables, data.test, batch_size=EVALUATION_BATCH, seed=unit.seed
            )
            numbers["test_loss"] = float(np.mean(tested["loss"]))
        if data.metric and (epoch % config.pretrain.knn_every == 0 or epoch == config.pretrain.epochs):
            backbone = backbone_variables(state.variables)
            numbers[f"knn_{data.metric}"] = headline_score(
                _knn(
                    unit,
                    programs.features(backbone, data.bank),
                    data.bank,
                    programs.features(backbone, data.validation),
                ),
                data.validation.labels,
                metric=data.metric,
                threshold=config.evaluation.threshold,
            )
        return numbers

    return fit(
        programs.pretrain_state(unit.seed),
        images,
        plan,
        programs.pretrain_epoch,
        measure=measure,
        folder=unit.pretrained_folder if unit.row.shares else unit.stage_folder("pretrain"),
        title=f"{unit.title} pretrain",
    )


def pretrain_metrics(trained: Trained, metric: str | None) -> dict[str, Numbers]:
    """The last epoch's numbers by split, as results.jsonl has them; kNN's by `metric`, where there are labels."""
    last = trained.history[-1]
    knn = {f"knn_{metric}": last[f"knn_{metric}"]} if metric else {}
    speeds = [line["images_per_second"] for line in trained.history]
    return {
        "train": {
            "loss": last["loss"],
            "z_spread": last["z_spread"],
            "images_per_second": float(np.median(speeds)),
            "updates": last["update"],
        },
        "validation": {
            "loss": last["heldout_loss"],
            "z_spread": last["heldout_z_spread"],
            **knn,
        },
    }


def _knn(
    unit: Unit, bank: Float[np.ndarray, "bank dim"], labelled: ImageSplit, queries: Float[np.ndarray, "n dim"]
) -> Float[np.ndarray, "n k"]:
    """What the nearest of the labelled images, whose features are the bank, say of images with these features."""
    return knn_outputs(
        bank,
        labelled.labels,
        queries,
        num_classes=unit.data.info.num_classes,
        k=unit.config.evaluation.knn_k,
        temperature=unit.config.evaluation.knn_temperature,
    )


def _held_out(unit: Unit) -> dict[str, ImageSplit]:
    """The splits that evaluations report, by name."""
    found = {"validation": unit.data.validation}
    if unit.study.tested:
        assert unit.data.test is not None
        found["test"] = unit.data.test
    return found


def _scores_by_split(unit: Unit, outputs: Mapping[str, Float[np.ndarray, "_ _"]], **extra: float) -> dict[str, Numbers]:
    """What a way to classify achieves on the held-out splits, from its outputs by their names."""
    threshold = unit.config.evaluation.threshold
    return {
        name: {**scores(outputs[name], split.labels, threshold=threshold), **extra}
        for name, split in _held_out(unit).items()
    }


def evaluate_knn(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """Nearest neighbours among the labelled images; nothing is learned or chosen."""
    labelled = labelled_subset(unit.data.train, unit.config, seed=unit.seed)
    folder = unit.stage_folder("knn")
    bank = unit.programs.features(backbone, labelled)
    found = {name: unit.programs.features(backbone, split) for name, split in _held_out(unit).items()}
    outputs = {name: _knn(unit, bank, labelled, features) for name, features in found.items()}
    test = _held_out(unit).get("test")
    if test is not None and unit.seed == min(unit.study.seeds):
        save_neighbours(folder, labelled, bank, test, found["test"])
        save_map(folder, found["test"], test.labels)
    return _scores_by_split(unit, outputs)


def evaluate_linear(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """A linear probe on frozen features; its penalty is chosen on validation."""
    labelled = labelled_subset(unit.data.train, unit.config, seed=unit.seed)
    features = unit.programs.features
    unit.stage_folder("linear")
    found = {name: features(backbone, split) for name, split in _held_out(unit).items()}
    probe = fit_probe(
        features(backbone, labelled),
        labelled.labels,
        found["validation"],
        unit.data.validation.labels,
        num_classes=unit.data.info.num_classes,
        metric=unit.data.metric,
        threshold=unit.config.evaluation.threshold,
    )
    outputs = {name: probe.outputs(each) for name, each in found.items()}
    return _scores_by_split(unit, outputs, penalty=probe.penalty)


def evaluate_finetune(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """Fine-tuning of all weights; the epoch is chosen on validation."""
    config, data, programs = unit.config.finetune, unit.data, unit.programs
    threshold = unit.config.evaluation.threshold
    labelled = labelled_subset(data.train, unit.config, seed=unit.seed)
    plan = finetune_plan(config, len(labelled), seed=unit.seed)

    def outputs(variables: Variables, split: ImageSplit) -> Float[np.ndarray, "n k"]:
        logits = programs.logits(variables, split)
        return expit(logits) if data.info.label_kind == "attributes" else logits

    def measure(state: TrainState, _: int) -> Numbers:
        validation = data.validation
        headline = headline_score(
            outputs(state.variables, validation), validation.labels, metric=data.metric, threshold=threshold
        )
        return {f"validation_{data.metric}": headline}

    trained = fit(
        create_state(programs.initial_classifier(unit.seed, backbone), programs.finetune_optimizer),
        labelled,
        plan,
        programs.finetune_epoch,
        measure=measure,
        folder=unit.stage_folder("finetune"),
        title=f"{unit.title} fine-tune",
        select=f"validation_{data.metric}",
    )
    updates = trained.history[trained.best_epoch - 1]["update"]
    best = {name: outputs(trained.best, split) for name, split in _held_out(unit).items()}
    if unit.study.tested:
        save_confusion(
            unit.folder / "finetune",
            best["test"],
            _held_out(unit)["test"].labels,
            threshold=threshold,
            num_classes=data.info.num_classes,
        )
    return _scores_by_split(unit, best, epoch=trained.best_epoch, updates=updates)


def finetune_plan(config: FinetuneConfig, labelled: int, *, seed: int) -> Plan:
    """The plan of fine-tuning on so many labelled images; it ends early where `max_updates` is reached.

    Raises:
      InputError: If a batch leaves fewer than two images for each device.
    """
    devices = jax.local_device_count()
    batch_size = min(config.batch_size, labelled) // devices * devices
    require(
        batch_size >= 2 * devices,
        f"--finetune_batch_size={config.batch_size} and {labelled} labelled images leave fewer than two for "
        f"each of {devices} devices",
    )
    epochs = config.epochs
    if config.max_updates is not None:
        epochs = min(epochs, math.ceil(config.max_updates / (labelled // batch_size)))
    return make_plan(labelled, optimizer=config.optimizer, micro_batch_size=batch_size, epochs=epochs, seed=seed)


EVALUATIONS: dict[str, Callable[[Unit, Variables], dict[str, Numbers]]] = {
    "knn": evaluate_knn,
    "linear": evaluate_linear,
    "finetune": evaluate_finetune,
}


def evaluate(unit: Unit, evals: tuple[str, ...], backbone: Variables) -> None:
    """Runs and records evaluations of a backbone."""
    for name in evals:
        begun = time.monotonic()
        measured = EVALUATIONS[name](unit, backbone)
        unit.record(name, measured, time.monotonic() - begun)


def finished(unit: Unit) -> set[str]:
    """The stages of a unit that have their results."""
    return {stage for stage in STAGES if read_stage_result(unit.folder / stage) is not None}


def run_unit(unit: Unit) -> None:
    """Does what is left to do of a unit."""
    done = finished(unit)
    evals = tuple(name for name in unit.study.evals if name not in done)
    if unit.row.pretrain == "none":
        if evals:
            evaluate(unit, evals, backbone_variables(unit.programs.initial_simsiam(unit.seed)))
        return
    if not evals and ("pretrain" in done or unit.row.shares):
        return
    trained = pretrain(unit)
    if "pretrain" not in done and not unit.row.shares:
        unit.record("pretrain", pretrain_metrics(trained, unit.data.metric), trained.seconds)
    evaluate(unit, evals, backbone_variables(trained.best))


def load_starts(study: Study) -> dict[str, Start]:
    """The weights that each arm starts from.

    Raises:
      InputError: If those that the user asked for cannot be had. An arm whose row asks for weights is left out.
    """
    known: dict[BackboneConfig, Start] = {}
    found = {}
    for arm, row in study.rows.items():
        backbone = study.config_of(arm).backbone
        if backbone not in known:
            try:
                weights = load_initial(backbone, study.config.image_size)
                known[backbone] = Start(weights.variables, weights.origin) if weights else Start()
            except InputError as fault:
                if "init" not in row.settings:
                    raise
                known[backbone] = Start(absent=str(fault))
                logging.warning("%s is left out: %s", arm, fault)
        found[arm] = known[backbone]
    return found


def units(study: Study) -> list[tuple[str, int]]:
    """The arms and seeds to do, in order: every n-th job of the study's, a job being what shares a pretraining."""
    every = [(arm, seed) for seed in study.seeds for arm in study.rows]
    jobs = list(dict.fromkeys((study.rows[arm].shares or arm, seed) for arm, seed in every))
    number, count = study.part
    mine = set(jobs[number - 1 :: count])
    return [(arm, seed) for arm, seed in every if (study.rows[arm].shares or arm, seed) in mine]


@contextmanager
def claimed(unit: Unit) -> Iterator[bool]:
    """Whether the unit, and the pretraining that it shares, is ours to do while the context lasts.

    A lock on a file, which the system releases however the process ends; processes on several machines see it where
    the folder's file system has such locks.
    """
    folder = unit.pretrained_folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def run(study: Study) -> tuple[str, ...]:
    """Runs the units of a study that are not finished; results and checkpoints go to its workdir.

    A unit that fails is reported, leaves its traceback in error.txt, and the others go on.

    Returns:
      A line for each unit that failed.

    Raises:
      InputError: For a mistake in the study, before anything is trained.
    """
    check(study)
    open_workdir(study)
    starts = load_starts(study)
    data = load_data(study)
    for arm, row in study.rows.items():
        if row.pretrain != "none":
            # An epoch that is too short is refused here rather than after the first arm.
            pretraining_plan(study.config_of(arm), pretraining_images(study, data, arm, seed=0), seed=0)
    open_workdir(study, data, starts)
    save_pairs(study.workdir, data.train if data.unlabelled is None else data.unlabelled, study.config.views)
    save_samples(study.workdir, data.train, label_kind=data.info.label_kind)
    started = environment()
    programs: dict[Config, Programs] = {}
    failures = []
    for arm, seed in units(study):
        if starts[arm].absent:
            continue
        config = study.config_of(arm)
        key = compiled_part(config)
        if key not in programs:
            programs[key] = Programs(config, data.info.num_classes, starts[arm].variables, study.feed)
        unit = Unit(study, programs[key], data, arm, study.rows[arm], seed, started)
        with claimed(unit) as ours:
            if not ours:
                print(f"{unit.title}: another process is at it", flush=True)
                continue
            try:
                run_unit(unit)
                (unit.folder / "error.txt").unlink(missing_ok=True)
            except Exception as fault:
                reason = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
                write_whole(unit.folder / "error.txt", f"{reason}\n\n{traceback.format_exc()}".encode())
                failures.append(f"{unit.title}: {reason} ({unit.folder / 'error.txt'})")
                print(f"failed   {failures[-1]}", file=sys.stderr, flush=True)
    return tuple(failures)


def run_evaluations(study: Study, pretrained: Path) -> None:
    """Evaluates a backbone that was pretrained before; `study` has one row and one seed.

    Args:
      study: What to evaluate and where to record it.
      pretrained: Folder of the stage `pretrain`.

    Raises:
      InputError: For a mistake in the study, or if no checkpoint can be restored.
    """
    check(study)
    open_workdir(study)
    data = load_data(study)
    if overlap(study.config):
        logging.warning(
            "the folder pretrained on and --dataset=%s share images: some of the test images may have been pretrained "
            "on, without their labels",
            study.config.dataset,
        )
    programs = Programs(study.config, data.info.num_classes, feed=study.feed)
    backbone, _ = restore_backbone(programs, pretrained)
    open_workdir(study, data)
    ((arm, row),), (seed,) = study.rows.items(), study.seeds
    unit = Unit(study, programs, data, arm, row, seed, environment())
    done = finished(unit)
    evaluate(unit, tuple(name for name in study.evals if name not in done), backbone)
