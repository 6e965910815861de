"""A study: every arm and seed pretrained and evaluated, as units that are resumed and never repeated."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float
from scipy.special import expit

from simsiam_jax.config import (
    EVALS,
    Config,
    InputError,
    Row,
    Study,
    config_hash,
    differences,
    from_dict,
    require,
    to_dict,
)
from simsiam_jax.data import two_views
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import dataset_info, dataset_title
from simsiam_jax.data.feed import choose_feed
from simsiam_jax.data.views import unnormalise
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import knn_outputs
from simsiam_jax.eval.linear import fit_probe
from simsiam_jax.images import Data, labelled_subset, load_data, overlap, pretraining_images, pretraining_info
from simsiam_jax.metrics import Numbers, headline_score, scores, z_spread
from simsiam_jax.models import create_backbone
from simsiam_jax.programs import EVALUATION_BATCH, Programs, Variables, restore_backbone
from simsiam_jax.report.results import (
    EXPERIMENT_FILE,
    RESULTS_FILE,
    Result,
    append_results,
    environment,
    read_experiment,
    read_results,
)
from simsiam_jax.train.devices import check_divisible
from simsiam_jax.train.loop import Plan, Trained, fit, make_plan
from simsiam_jax.train.state import TrainState, create_state
from simsiam_jax.train.steps import over_split
from simsiam_jax.weights import InitialWeights, load_initial
from simsiam_jax.weights.files import write_whole
from simsiam_jax.weights.initial import start_name

_PAIRS_SHOWN = 8


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
    create_backbone(config.backbone.name, config.image_size, **config.backbone.fields())
    check_divisible(config.pretrain.micro_batch_size, "--micro_batch_size")
    choose_feed(study.feed, 0, 0)


def open_workdir(study: Study, data: Data | None = None, start: InitialWeights | None = None) -> None:
    """Makes the workdir and describes the study in experiment.json, once it is sure that both belong together.

    Args:
      study: What is about to run.
      data: What it runs on; without it the workdir is only checked.
      start: The weights that backbones start from, if not random.

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
        known = {arm.name: dataclasses.asdict(arm) for arm in before.arms}
        require(
            start is None or before.init is None or before.init["sha256"] == start.origin["sha256"],
            f"--init={study.config.backbone.init} is no longer the file that --workdir={study.workdir} began with: "
            "choose another --workdir",
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
    now = {
        name: {"name": name, "label": arm_label(row, study.config), "paper": dict(row.paper)}
        for name, row in study.rows.items()
    }
    # The first arm is what the others are compared with: a run of some arms alone does not change which that is.
    order = known if known.keys() >= now.keys() else {**now, **known}
    description = {
        "experiment": study.experiment,
        "title": study.title,
        "question": study.question,
        "dataset": study.config.dataset,
        "command": study.command,
        "arms": [{**known, **now}[name] for name in order],
        "evals": [name for name in EVALS if name in {*evals, *study.evals}],
        "seeds": sorted({*study.seeds, *seeds}),
        "config": to_dict(study.config),
        **({"metric": data.metric} if data.metric else {}),
        "init": None if start is None else start.origin,
        "data": {name: {"images": len(split), "fingerprint": split.fingerprint} for name, split in data.splits.items()},
        "paper_source": study.paper_source,
    }
    write_json(path, description)


def arm_label(row: Row, config: Config) -> str:
    """What tables call an arm: its pretraining, and where that starts unless from random weights."""
    label = row.label.format(dataset=dataset_title(config.pretrain.dataset or config.dataset))
    init = config.backbone.init
    return label if init == "random" else f"{label}, from {start_name(init)}"


def pretraining_name(row: Row, config: Config) -> str:
    """What results call an arm's pretraining: `none`, a data set's name, or `imagenet+stl10` for both in turn."""
    source, init = row.source(config), config.backbone.init
    if init == "random":
        return source
    return start_name(init) if source == "none" else f"{start_name(init)}+{source}"


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(path, f"{json.dumps(values, indent=1)}\n".encode())


def device_name() -> str:
    """The local devices in words, such as `1 × NVIDIA H100` or `1 × cpu (AMD EPYC, 2 cores)`."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu ({_processor()}, {os.cpu_count()} cores)"
    return f"{len(devices)} × {kind}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


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
        """All settings."""
        return self.study.config

    @property
    def title(self) -> str:
        """For the progress line."""
        return f"{self.arm} seed {self.seed}"

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage, made, with its config.json."""
        folder = self.study.workdir / self.arm / f"seed-{self.seed}" / stage
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
        """Appends a stage's numbers, a line a split, to results.jsonl."""
        settings = {**self.identity(), "seed": None, "config": to_dict(self.config)}
        append_results(
            self.study.workdir,
            [
                Result(
                    backbone=self.config.backbone.name,
                    eval=stage,
                    split=split,
                    metrics=metrics,
                    seconds=seconds,
                    config_hash=config_hash(settings),
                    **self.identity(),
                    **self.environment,
                )
                for split, metrics in measured.items()
            ],
        )


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
    )


def pretrain(unit: Unit) -> Trained:
    """Pretrains a unit, or goes on where it was stopped; a finished one is restored from its checkpoint."""
    config, data, programs = unit.config, unit.data, unit.programs
    images = pretraining_images(unit.study, data, unit.row, seed=unit.seed)
    plan = pretraining_plan(config, images, seed=unit.seed)

    def measure(state: TrainState, epoch: int) -> Numbers:
        watched = over_split(
            programs.heldout, state.variables, data.validation, batch_size=EVALUATION_BATCH, seed=unit.seed
        )
        numbers = {
            "heldout_loss": float(np.mean(watched["loss"])),
            "heldout_z_spread": float(z_spread(jnp.asarray(watched["z"]))),
        }
        if data.metric and (epoch % config.pretrain.knn_every == 0 or epoch == config.pretrain.epochs):
            backbone = backbone_variables(state.variables)
            numbers[f"knn_{data.metric}"] = headline_score(
                _knn(unit, backbone, programs.features(backbone, data.bank), data.bank, data.validation),
                data.validation.labels,
                threshold=config.evaluation.threshold,
            )
        return numbers

    return fit(
        programs.pretrain_state(unit.seed),
        images,
        plan,
        programs.pretrain_epoch,
        measure=measure,
        folder=unit.stage_folder("pretrain"),
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
    unit: Unit, backbone: Variables, bank: Float[np.ndarray, "bank dim"], labelled: ImageSplit, split: ImageSplit
) -> Float[np.ndarray, "n k"]:
    """What the nearest of the labelled images, whose features are the bank, say of a split's."""
    return knn_outputs(
        bank,
        labelled.labels,
        unit.programs.features(backbone, split),
        num_classes=unit.data.info.num_classes,
        k=unit.config.evaluation.knn_k,
        temperature=unit.config.evaluation.knn_temperature,
    )


def _held_out(unit: Unit) -> dict[str, ImageSplit]:
    """The splits that evaluations report, by name."""
    assert unit.data.test is not None
    return {"validation": unit.data.validation, "test": unit.data.test}


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
    unit.stage_folder("knn")
    bank = unit.programs.features(backbone, labelled)
    outputs = {name: _knn(unit, backbone, bank, labelled, split) for name, split in _held_out(unit).items()}
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
        threshold=unit.config.evaluation.threshold,
    )
    outputs = {name: probe.outputs(each) for name, each in found.items()}
    return _scores_by_split(unit, outputs, penalty=probe.penalty)


def evaluate_finetune(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """Fine-tuning of all weights; the epoch is chosen on validation."""
    config, data, programs = unit.config.finetune, unit.data, unit.programs
    threshold = unit.config.evaluation.threshold
    labelled = labelled_subset(data.train, unit.config, seed=unit.seed)
    devices = jax.local_device_count()
    batch_size = min(config.batch_size, len(labelled)) // devices * devices
    require(
        batch_size >= 2 * devices,
        f"--finetune_batch_size={config.batch_size} and {len(labelled)} labelled images leave fewer than two for "
        f"each of {devices} devices",
    )
    plan = make_plan(
        len(labelled),
        optimizer=config.optimizer,
        micro_batch_size=batch_size,
        epochs=config.epochs,
        seed=unit.seed,
    )

    def outputs(variables: Variables, split: ImageSplit) -> Float[np.ndarray, "n k"]:
        logits = programs.logits(variables, split)
        return expit(logits) if data.info.label_kind == "attributes" else logits

    def measure(state: TrainState, _: int) -> Numbers:
        validation = data.validation
        headline = headline_score(outputs(state.variables, validation), validation.labels, threshold=threshold)
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
    return _scores_by_split(unit, best, epoch=trained.best_epoch, updates=updates)


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
    results = read_results(unit.study.workdir)
    return {result.eval for result in results if (result.arm, result.seed) == (unit.arm, unit.seed)}


def run_unit(unit: Unit) -> None:
    """Does what is left to do of a unit."""
    done = finished(unit)
    evals = tuple(name for name in unit.study.evals if name not in done)
    if unit.row.pretrain == "none":
        if evals:
            evaluate(unit, evals, backbone_variables(unit.programs.initial_simsiam(unit.seed)))
        return
    if not evals and "pretrain" in done:
        return
    trained = pretrain(unit)
    if "pretrain" not in done:
        unit.record("pretrain", pretrain_metrics(trained, unit.data.metric), trained.seconds)
    evaluate(unit, evals, backbone_variables(trained.best))


def save_pairs(study: Study, data: Data) -> None:
    """Writes pairs.npz: some training images and two views of each, for the report."""
    path = study.workdir / "pairs.npz"
    if path.exists():
        return
    source = data.train if data.unlabelled is None else data.unlabelled
    some = source.take(np.arange(min(_PAIRS_SHOWN, len(source))))
    spec = study.config.views
    views = jax.jit(two_views, static_argnames="spec")(some.images, some.sample_ids, seed=0, epoch=0, spec=spec)
    view1, view2 = (np.asarray(unnormalise(view, spec)) for view in views)
    temporary = path.with_name("pairs.tmp.npz")
    np.savez(temporary, originals=some.images, view1=view1, view2=view2)
    temporary.replace(path)


def run(study: Study) -> None:
    """Runs every unit of a study that is not finished; results and checkpoints go to its workdir.

    Raises:
      InputError: For a mistake in the study, before anything is trained.
    """
    check(study)
    open_workdir(study)
    start = load_initial(study.config.backbone, study.config.image_size)
    data = load_data(study)
    for row in study.rows.values():
        if row.pretrain != "none":
            # An epoch that is too short is refused here rather than after the first arm.
            pretraining_plan(study.config, pretraining_images(study, data, row, seed=0), seed=0)
    open_workdir(study, data, start)
    save_pairs(study, data)
    programs = Programs(study.config, data.info.num_classes, start and start.variables, study.feed)
    started = environment(device_name())
    for seed in study.seeds:
        for arm, row in study.rows.items():
            run_unit(Unit(study, programs, data, arm, row, seed, started))


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
    unit = Unit(study, programs, data, arm, row, seed, environment(device_name()))
    done = finished(unit)
    evaluate(unit, tuple(name for name in study.evals if name not in done), backbone)
