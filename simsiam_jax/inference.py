"""Opens what a run has trained, a pretraining or a fine-tuning, and applies it to images.

Images are decoded and viewed as in training and evaluation, so that features and predictions are those that the run's
results were measured by.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy.special import expit, softmax

from simsiam_jax.data.cache import unlabelled
from simsiam_jax.data.datasets import FOLDER, any_folder, dataset_info, dataset_title
from simsiam_jax.errors import InputError, require
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.files import digest, one_line, read_sealed, unsealed
from simsiam_jax.records.experiment import EXPERIMENT_FILE, read_experiment
from simsiam_jax.records.results import RESULT_FILE
from simsiam_jax.settings.schema import Config
from simsiam_jax.settings.values import from_dict, to_dict
from simsiam_jax.study.evaluations import THRESHOLDS_FILE
from simsiam_jax.study.programs import CompiledNetwork, Variables
from simsiam_jax.study.stages import CONFIG_FILE
from simsiam_jax.train.checkpoints import CHECKPOINTS, Checkpoints
from simsiam_jax.train.devices import on_every_device
from simsiam_jax.train.loop import as_dict
from simsiam_jax.train.state import TrainState

# Stages that leave a network.
TRAINED = ("pretrain", "finetune")

_NOUNS = {"pretrain": "pretraining", "finetune": "fine-tuning"}


@dataclass(frozen=True)
class TrainedStage:
    """What the folder of a pretraining or a fine-tuning says of itself.

    Attributes:
      folder: Folder of the stage, or of a further draw of labelled images in it.
      stage: Name of the stage, one of `TRAINED`.
      config: Settings of the unit.
      arm: Name of the unit's arm.
      source: Name of what was pretrained on, or `none`.
      seed: Seed of the unit.
      label_kind: Whether the labels are classes or attributes, or whether there are none; None where nobody says.
      class_names: Names of the classes or attributes; empty where nobody says.
    """

    folder: Path
    stage: str
    config: Config
    arm: str
    source: str
    seed: int
    label_kind: str | None
    class_names: tuple[str, ...]

    @property
    def own_folder(self) -> Path:
        """Folder of the stage, of which `folder` may be a further draw."""
        return _stage_folder(self.folder)

    @property
    def noun(self) -> str:
        """What the stage is called in a sentence."""
        return _NOUNS[self.stage]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, ready for images.

    Attributes:
      trained: What its folder says.
      network: The compiled network.
      variables: Variables of the backbone, or of the classifier after fine-tuning.
      epoch: Whole epochs behind the variables.
      epochs_planned: Epochs that the stage was to have.
      ended: Whether it has had them.
    """

    trained: TrainedStage
    network: CompiledNetwork
    variables: Variables
    epoch: int
    epochs_planned: int
    ended: bool

    @property
    def words(self) -> str:
        """Which epoch this is, and whether the stage had ended."""
        unfinished = "" if self.ended else f": the {self.trained.noun} was not finished"
        best = ", the best on validation images" if self.trained.stage == "finetune" and self.epoch else ""
        return f"epoch {self.epoch} of {self.epochs_planned}{best}{unfinished}"

    @property
    def arm_name(self) -> str:
        """Name of the arm that it is in evaluations: equal for two that differ in nothing but their seed."""
        trained = self.trained
        settings = {
            "config": to_dict(trained.config.pretraining_part()),
            "source": trained.source,
            "epoch": [self.epoch, self.epochs_planned],
        }
        return f"{slug(dataset_title(trained.source))}-{digest(settings)[:6]}"

    @property
    def backbone(self) -> Variables:
        """Variables of the backbone."""
        return backbone_variables(self.variables) if self.trained.stage == "finetune" else self.variables

    @property
    def stored_size(self) -> int:
        """Side in pixels at which images are decoded, before they are resized to the network's size."""
        config = self.trained.config
        if config.cached_size:
            return config.cached_size
        # The folder itself may be gone.
        info = any_folder() if config.dataset.startswith(FOLDER) else dataset_info(config.dataset)
        return info.stored_size(config.image_size) or info.native_size or config.image_size

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The probability of each attribute from which on it is predicted; chosen on validation where it was."""
        return thresholds_of(self.trained)

    def features(self, images: UInt8[np.ndarray, "batch size size 3"]) -> Float[np.ndarray, "batch features"]:
        """The backbone's features of images of `stored_size`, RGB in 0..255."""
        # Without this context, GPUs and TPUs would round float32 factors to 10 or 7 bits.
        with jax.default_matmul_precision("float32"):
            return self.network.features(self._backbone_on_devices, unlabelled(images))

    def logits(self, images: UInt8[np.ndarray, "batch size size 3"]) -> Float[np.ndarray, "batch classes"]:
        """The classifier's logits of images of `stored_size`, RGB in 0..255; for a fine-tuned network alone."""
        return self.network.logits(self._on_devices, unlabelled(images))

    def probabilities(self, logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch classes"]:
        """The probability of each class (softmax), or of each attribute (logistic function)."""
        return expit(logits) if self.trained.label_kind == "attributes" else softmax(logits, axis=-1)

    @functools.cached_property
    def _on_devices(self) -> Variables:
        return on_every_device(self.variables)

    @functools.cached_property
    def _backbone_on_devices(self) -> Variables:
        return on_every_device(self.backbone)


def slug(text: str) -> str:
    """A text as part of a folder's name: letters and digits, at most 40 of them, and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-") or "images"


def find_stages(path: Path, stages: Sequence[str] = ("pretrain",)) -> list[Path]:
    """The trained stages that a path of --checkpoint means: itself, or those of a unit, an arm or a workdir.

    Args:
      path: Path that the user gave.
      stages: Names of the stages that are wanted, of `TRAINED`.

    Returns:
      Their folders, at least one, by name.

    Raises:
      InputError: If there is none; the message says what the path is and what to give.
    """
    path = path.expanduser().absolute()
    given = f"--checkpoint={path}"
    give = f"give WORKDIR/ARM/seed-K/{' or '.join(stages)}"
    require(path.exists(), f"{given} does not exist; {give}")
    require(path.is_dir(), f"{given} is a file; {give}")
    if _stage_folder(path).joinpath(CONFIG_FILE).is_file():
        stage = _config_of(path).get("stage")
        require(stage in TRAINED, f"{given} is the evaluation {stage}, which leaves no network; {give}")
        if stage in stages:
            require((path / CHECKPOINTS).is_dir(), f"{given} has no checkpoint yet; run its command again, or {give}")
            return [path]
        if "finetune" in stages:
            raise InputError(
                f"{given} is a pretraining, which has no classes: fine-tune it with `simsiam evaluate "
                f"--checkpoint={path} --evals=finetune`, or give a folder finetune, as `simsiam study` leaves it with "
                "--evals=finetune"
            )
        raise InputError(f"{given} is a fine-tuned network, and a pretraining is wanted; {give}")
    found = [
        each
        for stage in stages
        for depth in ("", "seed-*/", "*/seed-*/")
        for each in path.glob(f"{depth}{stage}")
        if (each / CHECKPOINTS).is_dir() and (each / CONFIG_FILE).is_file()
    ]
    wanted = " or ".join(_NOUNS[stage] for stage in stages)
    require(bool(found), f"{given} {_what_is(path, wanted)}; {give}")
    return sorted(found)


def _what_is(path: Path, wanted: str) -> str:
    """What a folder is in which there is no stage of the wanted kind."""
    if (path / CHECKPOINTS).is_dir():
        return f"has lost its {CONFIG_FILE}; run the command of its --workdir again to write it anew"
    if path.name == CHECKPOINTS or path.parent.name == CHECKPOINTS:
        inside = path.parent if path.name == CHECKPOINTS else path.parents[1]
        return f"lies within a stage: its folder is {inside}"
    if (path / EXPERIMENT_FILE).exists():
        return f"is a workdir without a {wanted}"
    if (path / "index.html").exists():
        return "is a report"
    if (path / "model.json").exists():
        return "is an export, which has no checkpoint"
    return f"is no folder of a {wanted}"


def _stage_folder(folder: Path) -> Path:
    return folder.parent if folder.name.startswith("draw-") else folder


def _config_of(folder: Path) -> dict[str, Any]:
    path = _stage_folder(folder) / CONFIG_FILE
    try:
        return read_sealed(path)
    except (OSError, ValueError, TypeError) as fault:
        raise InputError(f"{path} is damaged ({one_line(fault)}): run the command of its --workdir again") from None


def thresholds_of(trained: TrainedStage) -> tuple[float, ...]:
    """The probability of each attribute from which on a fine-tuned network predicts it.

    Raises:
      InputError: If the thresholds that were chosen on validation images are lost or damaged.
    """
    path, count = trained.folder / THRESHOLDS_FILE, len(trained.class_names)
    if not path.exists():
        given = trained.config.evaluation.threshold
        chosen = given is None and trained.label_kind == "attributes" and (trained.folder / RESULT_FILE).exists()
        again = f"delete {RESULT_FILE} beside it and run the command of its --workdir again"
        require(not chosen, f"{path} is missing, though the stage is finished: {again}")
        # One for all was given, or nothing was measured that a choice could be made by.
        return (0.5 if given is None else given,) * count
    try:
        values = json.loads(path.read_bytes())
        # Older files hold the list alone, without a digest.
        found = tuple(map(float, values if isinstance(values, list) else unsealed(values)["thresholds"]))
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise InputError(f"{path} is no list of thresholds ({one_line(fault)}): evaluate again") from None
    require(len(found) == count, f"{path} has {len(found)} thresholds for {count} attributes: evaluate again")
    return found


def read_stage(folder: Path) -> TrainedStage:
    """Reads what the folder of a trained stage says of itself.

    Args:
      folder: Folder from `find_stages`.

    Raises:
      InputError: If its record is damaged or of another version.
    """
    values = _config_of(folder)
    try:
        config = from_dict(Config, values["config"])
        kind, names = values.get("label_kind"), tuple(values.get("class_names", ()))
        if kind is None:
            kind, names = _labels_of_workdir(_stage_folder(folder).absolute().parents[2])
        return TrainedStage(
            folder, values["stage"], config, values["arm"], values["pretrain"], values["seed"], kind, names
        )
    except (ValueError, KeyError, TypeError) as fault:
        raise InputError(
            f"{_stage_folder(folder) / CONFIG_FILE} is damaged or of another version ({one_line(fault)}): train again "
            "in another --workdir"
        ) from None


def _labels_of_workdir(workdir: Path) -> tuple[str | None, tuple[str, ...]]:
    """The kind of labels and their names as a run's record has them, for stages that do not say it themselves."""
    if not (workdir / EXPERIMENT_FILE).exists():
        return None, ()
    experiment = read_experiment(workdir)
    return experiment.label_kind, experiment.class_names


def open_model(folder: Path, *, dtype: str | None = None) -> Model:
    """Restores a trained network from the newest undamaged checkpoint of its stage.

    Args:
      folder: Folder from `find_stages`.
      dtype: Compute type in place of that of training.

    Raises:
      InputError: If there is no checkpoint of this network.
    """
    trained = read_stage(folder)
    program = trained.config.program
    if dtype is not None:
        program = dataclasses.replace(program, dtype=dtype)
    num_classes = 0
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        if trained.stage == "finetune":
            (num_classes,) = checkpoints.shapes().get("state/params/head/bias", (len(trained.class_names),))
            trained = _with_names(trained, num_classes)
        network = CompiledNetwork(program, num_classes)
        state = network.finetune_state if trained.stage == "finetune" else None
        target = {"state": jax.eval_shape(lambda: state(0, None) if state else network.pretrain_state(0))}
        if state:
            target["best"] = dict(target["state"].variables)
        found = checkpoints.restore_latest(target)
    if found is None:
        raise InputError(f"--checkpoint={folder} holds no finished checkpoint: train first")
    _, tree, meta = found
    if trained.stage == "finetune":
        variables, epoch = tree["best"], meta["best_epoch"]
    else:
        variables, epoch = backbone_variables(TrainState(**as_dict(tree["state"])).variables), meta["epoch"]
    planned = _epochs_planned(trained, meta["history"])
    return Model(trained, network, variables, epoch, planned, meta["epoch"] >= planned)


def _with_names(trained: TrainedStage, count: int) -> TrainedStage:
    """The stage with a name for each class: numbers where nobody says the names."""
    if len(trained.class_names) == count:
        return trained
    kind = "attributes" if trained.label_kind == "attributes" else "classes"
    return dataclasses.replace(trained, label_kind=kind, class_names=tuple(map(str, range(count))))


def _epochs_planned(trained: TrainedStage, history: Sequence[dict[str, Any]]) -> int:
    """The epochs of a stage, which may depend on the updates that an epoch of its images has."""
    config = trained.config
    per_epoch = next((line["update"] // line["epoch"] for line in reversed(history) if line["epoch"] > 0), None)
    if trained.stage == "pretrain":
        return config.pretrain.epochs if per_epoch is None else config.pretrain.epochs_for(max(1, per_epoch))
    if config.finetune.max_updates is None or per_epoch is None:
        return config.finetune.epochs
    return min(config.finetune.epochs, math.ceil(config.finetune.max_updates / per_epoch))
