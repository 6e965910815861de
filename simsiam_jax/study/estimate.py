"""How long a study will take, from a few timed steps of each of its networks: what `--dry_run` prints."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.records.results import read_results
from simsiam_jax.report.words import duration
from simsiam_jax.settings.schema import Config, ProgramConfig
from simsiam_jax.study.definition import Study
from simsiam_jax.study.evaluations import finetune_plan
from simsiam_jax.study.images import Data, labelled_positions, load_data, pretraining_images
from simsiam_jax.study.programs import EVALUATION_BATCH, CompiledNetwork
from simsiam_jax.study.run import check, load_starts, units
from simsiam_jax.study.stages import pretraining_plan
from simsiam_jax.study.workdir import check_workdir
from simsiam_jax.train.loop import Plan, RunEpoch
from simsiam_jax.train.state import TrainState

_TIMED_STEPS = 4


@dataclass(frozen=True)
class Rates:
    """What a network needs on this machine, in seconds.

    Attributes:
      compiling: Time until the first steps of pretraining and of fine-tuning have run.
      pretrain: Time of an image of pretraining, two views.
      finetune: Time of an image of fine-tuning.
      look: Time of an image whose features are taken.
    """

    compiling: float
    pretrain: float
    finetune: float
    look: float


@dataclass(frozen=True)
class Estimate:
    """A unit that is left to do: its updates, and its seconds without compiling."""

    arm: str
    seed: int
    pretrain_updates: int
    finetune_updates: int
    seconds: float


def print_estimate(study: Study) -> None:
    """Prints the units that are left of a study, their updates, and about how long they will take.

    Raises:
      InputError: For a mistake in the study.
    """
    check(study)
    check_workdir(study)
    starts, data = load_starts(study), load_data(study)
    estimates, compiling = estimate(study, data, {arm for arm, start in starts.items() if start.absent})
    table = Table("unit", "updates of pretraining", "of fine-tuning", "about", box=None, pad_edge=False)
    for each in estimates:
        counts = (f"{count:,}" if count else "–" for count in (each.pretrain_updates, each.finetune_updates))
        table.add_row(f"{each.arm} seed {each.seed}", *counts, duration(each.seconds))
    console = Console()
    console.print(table)
    for arm, start in starts.items():
        if start.absent:
            console.print(f"{arm} is left out: {start.absent}", markup=False)
    total = compiling + sum(each.seconds for each in estimates)
    console.print(
        f"{len(estimates)} units, about {duration(total)} on this machine as busy as it is now, "
        f"{duration(compiling)} of them compiling"
    )


def estimate(study: Study, data: Data, absent: set[str]) -> tuple[list[Estimate], float]:
    """The unfinished units with their seconds, and the seconds of compiling that come once."""
    done = {(result.arm, result.seed, result.eval) for result in read_results(study.workdir)}
    rates: dict[ProgramConfig, Rates] = {}
    estimates = []
    for arm, seed in units(study):
        wanted = {name for name in study.evaluations if (arm, seed, name) not in done}
        mine = study.arms[arm]
        owns = mine.pretrain != "none" and not mine.shares and (arm, seed, "pretrain") not in done
        if arm in absent or not (wanted or owns):
            continue
        config = study.config_of(arm)
        if config.program not in rates:
            rates[config.program] = measure(config, data, study)
        estimates.append(_estimate(study, data, arm, seed, rates[config.program], wanted, owns))
    return estimates, sum(each.compiling for each in rates.values())


def _estimate(study: Study, data: Data, arm: str, seed: int, rates: Rates, wanted: set[str], owns: bool) -> Estimate:
    config, seconds, pretrain_updates, finetune_updates = study.config_of(arm), 0.0, 0, 0
    held_out = len(data.validation) + len(data.test or ())
    labelled = len(labelled_positions(data.train, config, seed=seed)) if study.evaluations else 0
    if owns:
        plan = pretraining_plan(config, pretraining_images(study, data, arm, seed=seed), seed=seed)
        pretrain_updates = plan.epochs * plan.updates_per_epoch
        knn = plan.epochs / config.pretrain.knn_every * (len(data.voters) + len(data.validation))
        watched = len(data.validation) + (len(data.test or ()) if config.pretrain.test_loss else 0)
        seen = pretrain_updates * config.effective_batch
        seconds += seen * rates.pretrain + (2 * plan.epochs * watched + knn) * rates.look
    if "finetune" in wanted:
        plan = finetune_plan(config.finetune, labelled, seed=seed)
        finetune_updates = plan.epochs * plan.updates_per_epoch
        seen = finetune_updates * plan.micro_batch_size
        seconds += seen * rates.finetune + (plan.epochs * len(data.validation) + held_out) * rates.look
    seconds += len(wanted & {"knn", "linear"}) * (labelled + held_out) * rates.look
    return Estimate(arm, seed, pretrain_updates, finetune_updates, seconds)


def measure(config: Config, data: Data, study: Study) -> Rates:
    """Times a few steps of a network's training and a batch of its features, the first of each apart."""
    network = CompiledNetwork(config.program, data.info.num_classes, study.feed)
    config = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, epochs=1))
    few = config.effective_batch * _TIMED_STEPS
    images = data.train.take(np.arange(min(few, len(data.train))))
    backbone = backbone_variables(network.initial_simsiam(0))
    features = data.train.take(np.arange(min(EVALUATION_BATCH, len(data.train))))
    network.features(backbone, features)
    begun = time.monotonic()
    network.features(backbone, features)
    look = (time.monotonic() - begun) / len(features)
    first, pretrain = _twice(
        network.pretrain_state(0), images, pretraining_plan(config, images, seed=0), network.pretrain_epoch
    )
    if "finetune" not in study.evaluations:
        return Rates(first, pretrain, 0.0, look)
    labelled = images.take(np.arange(min(config.finetune.batch_size * _TIMED_STEPS, len(images))))
    state = network.finetune_state(0, backbone)
    plan = finetune_plan(dataclasses.replace(config.finetune, epochs=1), len(labelled), seed=0)
    second, finetune = _twice(state, labelled, plan, network.finetune_epoch)
    return Rates(first + second, pretrain, finetune, look)


def _twice(state: TrainState, images: ImageSplit, plan: Plan, run_epoch: RunEpoch) -> tuple[float, float]:
    """Seconds of the first epoch, with compiling, and seconds an image of the second."""
    times = []
    for _ in range(2):
        indices, hypers = plan.epoch(0)
        begun = time.monotonic()
        state, _ = run_epoch(state, images, indices, hypers, lambda *_: None)
        times.append(time.monotonic() - begun)
    return times[0], times[1] / indices.size
