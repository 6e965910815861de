"""A unit of a study, one arm with one seed, and its first stage: pretraining."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float, Int

from simsiam_jax import hosts
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.eval.knn import knn_outputs, neighbours_for
from simsiam_jax.files import digest, one_line, read_sealed, write_sealed
from simsiam_jax.metrics import Numbers, effective_rank, headline_score, z_spread
from simsiam_jax.records.experiment import STAGES
from simsiam_jax.records.results import RESULT_FILE, StageResult, read_stage_result
from simsiam_jax.report.collapse import LOST_BELOW, rank_advice
from simsiam_jax.report.words import STAGE_WORDS
from simsiam_jax.settings.schema import Config
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.study.images import Data, labelled_positions, pretraining_images
from simsiam_jax.study.programs import EVALUATION_BATCH, CompiledNetwork, Variables
from simsiam_jax.train.loop import Plan, Trained, fit, make_plan
from simsiam_jax.train.outputs import over_split
from simsiam_jax.train.progress import Display
from simsiam_jax.train.state import TrainState

# What a stage's folder says of itself.
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Unit:
    """One arm with one seed: what its stages share.

    Attributes:
      study: The study that it belongs to.
      network: Compiled functions of the arm's network.
      start: Weights that the arm's backbone starts from; None for random ones.
      data: Images of the study.
      name: Name of the arm.
      seed: The seed.
      environment: Revision, versions and device, as they were when the run started.
      display: Where progress is shown.
    """

    study: Study
    network: CompiledNetwork
    start: Variables | None
    data: Data
    name: str
    seed: int
    environment: dict[str, Any]
    display: Display = field(default_factory=Display)

    @property
    def arm(self) -> Arm:
        """The arm."""
        return self.study.arms[self.name]

    @property
    def config(self) -> Config:
        """All settings of the arm."""
        return self.study.config_of(self.name)

    def of(self, name: str) -> "Unit":
        """The unit of another arm with the same seed, to ask for its files alone."""
        return replace(self, name=name)

    @property
    def folder(self) -> Path:
        """Folder that holds the unit's stages."""
        return self.study.workdir / self.name / f"seed-{self.seed}"

    @property
    def pretrained_folder(self) -> Path:
        """Folder of the stage `pretrain`, which may be another arm's."""
        return self.study.workdir / (self.arm.shares or self.name) / f"seed-{self.seed}" / "pretrain"

    @property
    def title(self) -> str:
        """Title of the unit in progress lines."""
        return f"{self.name} seed {self.seed}"

    def labelled(self, draw: int) -> Int[np.ndarray, " labelled"]:
        """Positions in the training images of those that evaluations learn from in one draw."""
        return labelled_positions(self.data.train, self.config, seed=self.seed, draw=draw)

    @property
    def held_out(self) -> dict[str, ImageSplit]:
        """The splits that evaluations report, by name."""
        found = {"validation": self.data.validation}
        if self.study.tested:
            assert self.data.test is not None
            found["test"] = self.data.test
        return found

    def initial_backbone(self) -> Variables:
        """The backbone before any pretraining."""
        return backbone_variables(self.network.initial_simsiam(self.seed, self.start))

    def mend(self) -> None:
        """Writes the config.json of finished stages again where it is damaged or gone."""
        for stage in filter(self.finished, STAGES):
            path = self.folder / stage / CONFIG_FILE
            try:
                read_sealed(path)
            except (OSError, ValueError) as fault:
                logging.warning("%s is damaged (%s); it is written again", path, one_line(fault))
                self.stage_folder(stage)

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage, made, with its config.json."""
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        info = self.data.info
        written = {
            **self.identity(),
            "stage": stage,
            "label_kind": info.label_kind,
            "class_names": list(info.class_names),
            "config": to_dict(self.config),
        }
        write_sealed(folder / CONFIG_FILE, written)
        return folder

    def identity(self) -> dict[str, Any]:
        """What tells this unit from the others of a study."""
        return {
            "experiment": self.study.experiment,
            "arm": self.name,
            "pretrain": self.arm.pretraining(self.config),
            "seed": self.seed,
        }

    def finished(self, stage: str) -> bool:
        """Whether a stage has its result."""
        return (self.folder / stage / RESULT_FILE).exists()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do of the unit."""
        pretrains = self.arm.pretrain != "none" and self.arm.shares is None
        return all(map(self.finished, (*(("pretrain",) if pretrains else ()), *self.study.evaluations)))

    def outcome(self) -> str:
        """The unit's results in a line: `kNN 81.20, linear probe 85.43`, on the test images where they are read."""
        split, metric = "test" if self.study.tested else "validation", self.data.metric
        found = {name: read_stage_result(self.folder / name) for name in self.study.evaluations}
        return ", ".join(
            f"{STAGE_WORDS[name].name} {100 * each.metrics[split][metric]:.2f}"
            for name, each in found.items()
            if each is not None and metric is not None
        )

    def record(
        self,
        stage: str,
        metrics: dict[str, Numbers],
        seconds: float,
        draws: Mapping[str, tuple[float, ...]] | None = None,
        attributes: Mapping[str, dict[str, tuple[float, ...]]] | None = None,
    ) -> None:
        """Writes a stage's numbers by split, which makes it finished.

        Args:
          stage: Name of the stage.
          metrics: Numbers of each split.
          seconds: Time that the stage took.
          draws: Headline of each draw of labelled images, by split.
          attributes: Numbers of each attribute, by split.
        """
        settings = {**self.identity(), "seed": None, "config": to_dict(self.config)}
        StageResult(
            backbone=self.config.program.backbone.name,
            stage=stage,
            metrics=metrics,
            seconds=seconds,
            config_hash=digest(settings),
            draws=dict(draws or {}),
            attributes=dict(attributes or {}),
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
        schedule=config.pretrain.schedule,
        micro_batch_size=config.pretrain.micro_batch_size,
        accumulation=config.program.accumulation,
        epochs=config.pretraining_epochs(len(images)),
        seed=seed,
    )


def pretrain(unit: Unit) -> Trained:
    """Pretrains a unit, or goes on where it was stopped; a finished one is restored from its checkpoint."""
    images = pretraining_images(unit.study, unit.data, unit.name, seed=unit.seed)
    plan = pretraining_plan(unit.config, images, seed=unit.seed)
    watch = RankWatch(unit, from_epoch=plan.epochs / 2)

    def measure(state: TrainState, epoch: int) -> Numbers:
        numbers = measure_pretraining(unit, state, epoch, epochs=plan.epochs)
        watch.look(numbers, epoch)
        return numbers

    with hosts.leading(["pretrain", unit.name, unit.seed, 0, images.fingerprint]):
        return fit(
            unit.network.pretrain_state(unit.seed, unit.start),
            images,
            plan,
            unit.network.pretrain_epoch,
            measure=measure,
            folder=unit.pretrained_folder if unit.arm.shares else unit.stage_folder("pretrain"),
            title=f"{unit.title} pretrain",
            measure_untrained=True,
            display=unit.display,
        )


class RankWatch:
    """Warns once while a pretraining runs if its features lose their dimensions.

    Args:
      unit: The unit that is pretrained.
      from_epoch: Epochs before which nothing is said: the rank falls at first, and recovers in a good run.
    """

    def __init__(self, unit: Unit, *, from_epoch: float | int):
        self._unit, self._from_epoch = unit, from_epoch
        self._warned = False

    @functools.cached_property
    def _untrained(self) -> float:
        # A run that goes on did not measure it: `look` has it from epoch 0.
        return effective_rank(self._unit.network.features(self._unit.initial_backbone(), self._unit.data.validation))

    def look(self, numbers: Numbers, epoch: int) -> None:
        """Looks at what was measured after so many epochs."""
        rank = numbers.get("heldout_rank")
        if rank is not None and epoch == 0:
            self._untrained = rank
        if rank is None or epoch < max(1, self._from_epoch) or self._warned or rank >= LOST_BELOW * self._untrained:
            return
        self._warned = True
        logging.warning(
            "%s: the features lose dimensions (effective rank %.1f after %d epochs, %.1f before training). %s",
            self._unit.title,
            rank,
            epoch,
            self._untrained,
            rank_advice(self._unit.config.recipe),
        )


def measure_pretraining(unit: Unit, state: TrainState, epoch: int, *, epochs: int) -> Numbers:
    """The held-out loss and spread of z after so many epochs of `epochs`; rank and kNN every few epochs and at last."""
    config, data = unit.config.pretrain, unit.data

    def held_out(split: ImageSplit) -> dict[str, np.ndarray]:
        return over_split(unit.network.heldout, state.variables, split, batch_size=EVALUATION_BATCH, seed=unit.seed)

    watched = held_out(data.validation)
    numbers: Numbers = {
        "heldout_loss": float(np.mean(watched["loss"])),
        "heldout_z_spread": float(z_spread(jnp.asarray(watched["z"]))),
    }
    if config.test_loss and data.test is not None:
        numbers["test_loss"] = float(np.mean(held_out(data.test)["loss"]))
    if epoch % config.knn_interval(epochs) == 0 or epoch == epochs:
        backbone = backbone_variables(state.variables)
        features = unit.network.features(backbone, data.validation)
        numbers["heldout_rank"] = effective_rank(features)
        if data.metric:
            voters = unit.network.features(backbone, data.voters)
            numbers[f"knn_{data.metric}"] = headline_score(
                neighbour_outputs(unit, voters, data.voters.labels, features),
                data.validation.labels,
                metric=data.metric,
                threshold=unit.config.evaluation.threshold,
            )
    return numbers


def neighbours(unit: Unit, labels: Any) -> int:
    """How many of the images with these labels vote in kNN: `--knn_k`, or what the labels give, but all at most."""
    asked = unit.config.evaluation.knn_k
    return min(asked or neighbours_for(labels, num_classes=unit.data.info.num_classes), len(labels))


def neighbour_outputs(
    unit: Unit, labelled: Float[np.ndarray, "labelled dim"], labels: Any, features: Float[np.ndarray, "n dim"]
) -> Float[np.ndarray, "n classes"]:
    """What the nearest of some labelled images say of images with these features."""
    return knn_outputs(
        labelled,
        labels,
        features,
        num_classes=unit.data.info.num_classes,
        k=neighbours(unit, labels),
        temperature=unit.config.evaluation.knn_temperature,
    )


def pretraining_metrics(trained: Trained, metric: str | None) -> dict[str, Numbers]:
    """The last epoch's numbers by split.

    Args:
      trained: The finished pretraining.
      metric: Name of the number by which kNN was measured; None where there are no labels.
    """
    untrained, last = trained.history[0], trained.history[-1]
    watched = {"rank": last["heldout_rank"], "untrained_rank": untrained["heldout_rank"]}
    if metric:
        watched |= {f"knn_{metric}": last[f"knn_{metric}"], f"untrained_knn_{metric}": untrained[f"knn_{metric}"]}
    speeds = [line["images_per_second"] for line in trained.history if line["epoch"] > 0]
    return {
        "train": {
            "loss": last["loss"],
            "z_spread": last["z_spread"],
            "images_per_second": float(np.median(speeds)),
            "updates": last["update"],
        },
        "validation": {"loss": last["heldout_loss"], "z_spread": last["heldout_z_spread"], **watched},
    }
