"""What a pretrained backbone is worth: kNN, a linear probe, and fine-tuning, as stages of a unit."""

import math
import time
from collections.abc import Callable, Mapping

import jax
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.errors import require
from simsiam_jax.eval.linear import fit_probe
from simsiam_jax.metrics import Numbers, headline_score, scores
from simsiam_jax.settings.schema import FinetuneConfig
from simsiam_jax.study.exhibits import save_confusion, save_map, save_neighbours
from simsiam_jax.study.programs import Variables
from simsiam_jax.study.stages import Unit, neighbour_outputs
from simsiam_jax.train.loop import Plan, fit, make_plan
from simsiam_jax.train.state import TrainState


def evaluate_knn(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """Nearest neighbours among the labelled images; nothing is learned or chosen."""
    labelled, folder = unit.labelled, unit.stage_folder("knn")
    labelled_features = unit.network.features(backbone, labelled)
    features = {name: unit.network.features(backbone, split) for name, split in unit.held_out.items()}
    outputs = {name: neighbour_outputs(unit, labelled, labelled_features, each) for name, each in features.items()}
    test = unit.held_out.get("test")
    if test is not None and unit.seed == min(unit.study.seeds):
        save_neighbours(folder, labelled, labelled_features, test, features["test"])
        save_map(folder, features["test"], test.labels)
    return _scores_by_split(unit, outputs)


def evaluate_linear(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """A linear probe on frozen features; its penalty is chosen on validation."""
    unit.stage_folder("linear")
    labelled, features_of = unit.labelled, unit.network.features
    features = {name: features_of(backbone, split) for name, split in unit.held_out.items()}
    probe = fit_probe(
        features_of(backbone, labelled),
        labelled.labels,
        features["validation"],
        unit.data.validation.labels,
        num_classes=unit.data.info.num_classes,
        metric=unit.data.metric,
        threshold=unit.config.evaluation.threshold,
    )
    outputs = {name: probe.outputs(each) for name, each in features.items()}
    return _scores_by_split(unit, outputs, penalty=probe.penalty)


def evaluate_finetune(unit: Unit, backbone: Variables) -> dict[str, Numbers]:
    """Fine-tuning of all weights; the epoch is chosen on validation."""
    data, network, labelled = unit.data, unit.network, unit.labelled
    threshold, selected = unit.config.evaluation.threshold, f"validation_{data.metric}"

    def outputs(variables: Variables, split: ImageSplit) -> Float[ndarray, "n k"]:
        logits = network.logits(variables, split)
        return expit(logits) if data.info.label_kind == "attributes" else logits

    def measure(state: TrainState, _: int) -> Numbers:
        found = outputs(state.variables, data.validation)
        return {selected: headline_score(found, data.validation.labels, metric=data.metric, threshold=threshold)}

    trained = fit(
        network.finetune_state(unit.seed, backbone),
        labelled,
        finetune_plan(unit.config.finetune, len(labelled), seed=unit.seed),
        network.finetune_epoch,
        measure=measure,
        folder=unit.stage_folder("finetune"),
        title=f"{unit.title} fine-tune",
        select=selected,
    )
    updates = trained.history[trained.best_epoch - 1]["update"]
    best = {name: outputs(trained.best, split) for name, split in unit.held_out.items()}
    if unit.study.tested:
        save_confusion(
            unit.folder / "finetune",
            best["test"],
            unit.held_out["test"].labels,
            threshold=threshold,
            num_classes=data.info.num_classes,
        )
    return _scores_by_split(unit, best, epoch=trained.best_epoch, updates=updates)


def _scores_by_split(unit: Unit, outputs: Mapping[str, Float[ndarray, "_ _"]], **extra: float) -> dict[str, Numbers]:
    """The scores of outputs on the held-out splits, and further numbers that hold for all of them."""
    threshold = unit.config.evaluation.threshold
    return {
        name: {**scores(outputs[name], split.labels, threshold=threshold), **extra}
        for name, split in unit.held_out.items()
    }


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
    return make_plan(labelled, schedule=config.schedule, micro_batch_size=batch_size, epochs=epochs, seed=seed)


_EVALUATE: Mapping[str, Callable[[Unit, Variables], dict[str, Numbers]]] = {
    "knn": evaluate_knn,
    "linear": evaluate_linear,
    "finetune": evaluate_finetune,
}


def evaluate(unit: Unit, names: tuple[str, ...], backbone: Variables) -> None:
    """Runs and records evaluations of a backbone."""
    for name in names:
        begun = time.monotonic()
        unit.record(name, _EVALUATE[name](unit, backbone), time.monotonic() - begun)
