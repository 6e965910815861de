"""What a pretrained backbone is worth: kNN, a linear probe, and fine-tuning, as stages of a unit."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import expit, softmax

from simsiam_jax import hosts, stopping
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.errors import require
from simsiam_jax.eval.linear import fit_probe
from simsiam_jax.files import write_sealed
from simsiam_jax.metrics import Numbers, Threshold, all_scores, choose_thresholds, headline_score
from simsiam_jax.settings.schema import FinetuneConfig
from simsiam_jax.study.exhibits import save_confusion, save_map, save_mistakes, save_neighbours
from simsiam_jax.study.programs import Variables
from simsiam_jax.study.stages import Unit, neighbour_outputs, neighbours
from simsiam_jax.train.loop import Plan, fit, make_plan
from simsiam_jax.train.state import TrainState

Outputs = dict[str, Float[ndarray, "n k"]]

# The probability of each attribute from which on fine-tuning's first draw predicts it, in the order of the attributes.
THRESHOLDS_FILE = "thresholds.json"


class Found(NamedTuple):
    """What an evaluation found.

    Attributes:
      metrics: Numbers of each split, means over the draws of labelled images.
      draws: The headline of each draw, by split.
      attributes: Numbers of each attribute by split and name, means over the draws; empty for classes.
    """

    metrics: dict[str, Numbers]
    draws: dict[str, tuple[float, ...]]
    attributes: dict[str, dict[str, tuple[float, ...]]]


class Features:
    """Frozen features of a unit's images, extracted once for all evaluations and draws of labelled images.

    Args:
      unit: The unit.
      backbone: Variables of its backbone.
    """

    def __init__(self, unit: Unit, backbone: Variables):
        self._unit, self.backbone = unit, backbone

    @property
    def draws(self) -> int:
        """Number of draws of labelled images."""
        return self._unit.config.label_draws("linear")

    @functools.cached_property
    def held_out(self) -> dict[str, Float[ndarray, "n dim"]]:
        """Features of the splits that are reported, by name."""
        return {name: self._unit.network.features(self.backbone, split) for name, split in self._unit.held_out.items()}

    @functools.cached_property
    def _positions(self) -> list[Int[ndarray, " labelled"]]:
        """Positions of the labelled images of each draw."""
        return [self._unit.labelled(draw) for draw in range(self.draws)]

    @functools.cached_property
    def _drawn(self) -> tuple[Int[ndarray, " union"], Float[ndarray, "union dim"]]:
        """Positions of all images of any draw, ascending, and their features."""
        union = np.unique(np.concatenate(self._positions))
        return union, self._unit.network.features(self.backbone, self._unit.data.train.take(union))

    def labelled(self, draw: int) -> tuple[ImageSplit, Float[ndarray, "labelled dim"]]:
        """The labelled images of a draw and their features."""
        union, features = self._drawn
        positions = self._positions[draw]
        return self._unit.data.train.take(positions), features[np.searchsorted(union, positions)]


def evaluate_knn(unit: Unit, features: Features) -> Found:
    """Nearest neighbours among the labelled images; nothing is learned or chosen."""
    folder = unit.stage_folder("knn")
    if "test" in unit.held_out and unit.seed == min(unit.study.seeds):
        test = unit.held_out["test"]
        save_neighbours(folder, *features.labelled(0), test, features.held_out["test"])
        save_map(folder, features.held_out["test"], test.labels)

    def outputs(draw: int) -> tuple[Outputs, Numbers]:
        images, labelled = features.labelled(draw)
        return {
            name: neighbour_outputs(unit, labelled, images.labels, each) for name, each in features.held_out.items()
        }, {"k": neighbours(unit, images.labels)}

    return _over_draws(unit, "knn", features.draws, outputs)


def evaluate_linear(unit: Unit, features: Features) -> Found:
    """A linear probe on frozen features; its penalty is chosen on validation, for each draw of labelled images."""
    unit.stage_folder("linear")

    def outputs(draw: int) -> tuple[Outputs, Numbers]:
        images, labelled = features.labelled(draw)
        probe = fit_probe(
            labelled,
            images.labels,
            features.held_out["validation"],
            unit.data.validation.labels,
            num_classes=unit.data.info.num_classes,
            metric=unit.data.metric,
            threshold=unit.config.evaluation.threshold,
        )
        return {name: probe.outputs(each) for name, each in features.held_out.items()}, {"penalty": probe.penalty}

    return _over_draws(unit, "linear", features.draws, outputs)


def evaluate_finetune(unit: Unit, features: Features) -> Found:
    """Fine-tuning of all weights; the epoch is chosen on validation, for each draw of labelled images.

    The log and checkpoints of the first draw lie in the folder of the stage, those of a further one in `draw-K` there.
    """
    data, network = unit.data, unit.network
    threshold, selected = unit.config.evaluation.threshold, f"validation_{data.metric}"
    folder, count = unit.stage_folder("finetune"), unit.config.label_draws("finetune")

    def of_split(variables: Variables, split: ImageSplit) -> Float[ndarray, "n k"]:
        logits = network.logits(variables, split)
        return expit(logits) if data.info.label_kind == "attributes" else logits

    def measure(state: TrainState, _: int) -> Numbers:
        found = of_split(state.variables, data.validation)
        return {selected: headline_score(found, data.validation.labels, metric=data.metric, threshold=threshold)}

    def outputs(draw: int) -> tuple[Outputs, Numbers]:
        labelled = data.train.take(unit.labelled(draw))
        with hosts.leading(["finetune", unit.name, unit.seed, draw, labelled.fingerprint]):
            trained = fit(
                network.finetune_state(unit.seed, features.backbone),
                labelled,
                finetune_plan(unit.config.finetune, len(labelled), seed=unit.seed),
                network.finetune_epoch,
                measure=measure,
                folder=folder / f"draw-{draw}" if draw else folder,
                title=f"{unit.title} fine-tune" + (f" {draw + 1} of {count}" if count > 1 else ""),
                select=selected,
                display=unit.display,
            )
        best = {name: of_split(trained.best, split) for name, split in unit.held_out.items()}
        updates = trained.history[trained.best_epoch - 1]["update"]
        return best, {"epoch": trained.best_epoch, "updates": updates}

    return _over_draws(unit, "finetune", count, outputs)


def _over_draws(unit: Unit, stage: str, count: int, outputs: Callable[[int], tuple[Outputs, Numbers]]) -> Found:
    """The numbers of an evaluation over its draws: means of the scores, medians of what was chosen on the way.

    The first draw leaves what the report shows of it, and fine-tuning of attributes its thresholds.

    Args:
      unit: The unit.
      stage: Name of the evaluation.
      count: Number of draws.
      outputs: Gives for a draw the outputs on each held-out split, and further numbers.
    """
    headline = unit.data.metric or "top1"
    numbers: dict[str, list[Numbers]] = {name: [] for name in unit.held_out}
    of_each: dict[str, list[dict[str, ndarray]]] = {name: [] for name in unit.held_out}
    chosen: list[Numbers] = []
    for draw in range(count):
        stopping.check()
        found, extra = outputs(draw)
        chosen.append(extra)
        threshold = _threshold(unit, found["validation"])
        for name, split in unit.held_out.items():
            scored = all_scores(found[name], split.labels, threshold=threshold)
            numbers[name].append(scored.numbers)
            if scored.attributes:
                of_each[name].append({**scored.attributes, "threshold": np.asarray(threshold)})
        if draw == 0:
            _show(unit, stage, found, threshold)
    medians = {key: float(np.median([each[key] for each in chosen])) for key in chosen[0]}
    return Found(
        metrics={
            name: {**{key: float(np.mean([each[key] for each in lines])) for key in lines[0]}, **medians}
            for name, lines in numbers.items()
        },
        draws={name: tuple(float(each[headline]) for each in lines) for name, lines in numbers.items()},
        attributes={
            name: {key: tuple(np.mean([each[key] for each in lines], axis=0).tolist()) for key in lines[0]}
            for name, lines in of_each.items()
            if lines
        },
    )


def _threshold(unit: Unit, outputs: Float[ndarray, "n k"]) -> Threshold:
    """The probability from which on each attribute counts as predicted: `--threshold`, or the best on validation.

    Args:
      unit: The unit.
      outputs: Outputs on the validation images.
    """
    labels, fixed = unit.data.validation.labels, unit.config.evaluation.threshold
    if labels.ndim == 1:
        return 0.5  # it is not used
    return choose_thresholds(outputs, labels) if fixed is None else np.full(labels.shape[1], fixed)


def _show(unit: Unit, stage: str, outputs: Outputs, threshold: Threshold) -> None:
    """Leaves the files of an evaluation's first draw: thresholds, confusions, and test images that were mistaken."""
    folder, attributes = unit.folder / stage, unit.data.info.label_kind == "attributes"
    if stage == "finetune" and attributes:
        write_sealed(folder / THRESHOLDS_FILE, {"thresholds": np.asarray(threshold).tolist()})
    if not unit.study.tested:
        return
    test = unit.held_out["test"]
    if stage == "finetune":
        classes = unit.data.info.num_classes
        save_confusion(folder, outputs["test"], test.labels, threshold=threshold, num_classes=classes)
    if unit.seed == min(unit.study.seeds):
        found = outputs["test"]
        if not attributes:
            # kNN gives votes, the others logits.
            found = found / found.sum(axis=1, keepdims=True) if stage == "knn" else softmax(found, axis=1)
        save_mistakes(folder, test, found, threshold=threshold)


def finetune_plan(config: FinetuneConfig, labelled: int, *, seed: int) -> Plan:
    """The plan of fine-tuning on so many labelled images; it ends early where `max_updates` is reached.

    Raises:
      InputError: If a batch leaves fewer than two images for each device.
    """
    devices = jax.device_count()
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


_EVALUATE: Mapping[str, Callable[[Unit, Features], Found]] = {
    "knn": evaluate_knn,
    "linear": evaluate_linear,
    "finetune": evaluate_finetune,
}


def evaluate(unit: Unit, names: tuple[str, ...], backbone: Variables) -> None:
    """Runs and records evaluations of a backbone."""
    features = Features(unit, backbone)
    for name in names:
        begun = time.monotonic()
        found = _EVALUATE[name](unit, features)
        unit.record(name, found.metrics, time.monotonic() - begun, found.draws, found.attributes)
