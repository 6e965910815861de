"""How long a study will take, from a few timed steps of each of its networks: what `--dry_run` prints."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.records.experiment import EXPERIMENT_FILE, read_experiment
from simsiam_jax.records.results import read_results
from simsiam_jax.report.decide import decide_studies
from simsiam_jax.report.seeds import planned_differences
from simsiam_jax.report.words import duration
from simsiam_jax.settings.schema import Config, ProgramConfig
from simsiam_jax.study.decide import next_arms
from simsiam_jax.study.definition import Study
from simsiam_jax.study.evaluations import finetune_plan
from simsiam_jax.study.images import Data, labelled_positions, load_data, pretraining_images
from simsiam_jax.study.programs import EVALUATION_BATCH, CompiledNetwork
from simsiam_jax.study.run import check, load_starts, units
from simsiam_jax.study.stages import pretraining_plan
from simsiam_jax.study.workdir import check_workdir
from simsiam_jax.terminal import Console, say
from simsiam_jax.train.loop import Plan, RunEpoch
from simsiam_jax.train.state import TrainState

_TIMED_STEPS = 4
# A probe on few labels, all penalties, on two CPU cores.
_SECONDS_A_PROBE = 0.15
# A difference in points and its standard deviation over seeds, supposed where nothing is measured: what pretraining
# gave digits with three labels of each class.
_GUESS = (8.0, 3.5)
_SIMULATED = 4000


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
    """Prints the units that are left up to the next look, their updates and time, and what an answer will take.

    Raises:
      InputError: For a mistake in the study.
    """
    check(study)
    check_workdir(study)
    counts = ", ".join(map(str, study.looks))
    say(f"{len(study.arms)} arms, {counts} seeds; timing a few steps of each network")
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
    if study.plan is not None and len(study.looks) > 1:
        say(_answer_words(study, estimates, compiling))


@dataclass(frozen=True)
class Answer:
    """What an answer is expected to take.

    Attributes:
      effect: The supposed difference in points.
      spread: The supposed standard deviation of a seed's difference, in points.
      measured: Number of seeds that the two are from; 0 for a guess.
      seeds: Mean number of seeds until the run stops.
      chance: Probability that the primary comparisons are decided by then, 0..1.
    """

    effect: float
    spread: float
    measured: int
    seeds: float
    chance: float


def expected_answer(study: Study) -> Answer:
    """How many seeds the first primary comparison takes, from the seeds measured so far or else from a guess.

    Studies with these seeds and further ones of normal differences are simulated through the rule that decides.
    """
    plan = study.plan
    assert plan is not None
    known: dict[int, float] = {}
    if _begun(study):
        found = planned_differences(read_results(study.workdir), read_experiment(study.workdir))
        measured = next((found[arm] for arm in plan.primary if arm in found), {})
        known = {place: measured[seed] for place, seed in enumerate(plan.seeds) if seed in measured}
    if len(known) < 2:
        known = {}
    values = list(known.values())
    effect, spread = (float(np.mean(values)), float(np.std(values, ddof=1))) if values else _GUESS
    drawn = np.random.default_rng(0).normal(effect, spread, (_SIMULATED, 1, plan.looks[-1]))
    drawn[..., list(known)] = values
    outcomes = decide_studies(drawn, [True], plan.looks, plan.alpha, plan.smallest_effect)
    seeds = np.array(plan.looks)[outcomes.look[:, 0]]
    return Answer(effect, spread, len(values), float(seeds.mean()), float((outcomes.outcome[:, 0] > 0).mean()))


def _begun(study: Study) -> bool:
    """Whether the folder holds a run that may stop early."""
    return len(study.looks) > 1 and (study.workdir / EXPERIMENT_FILE).exists()


def _answer_words(study: Study, estimates: list[Estimate], compiling: float) -> str:
    """What an answer will take; or what was decided, where the run is at its end."""
    count, said = next_arms(study)[1:] if _begun(study) else (study.looks[0], "")
    if count is None:
        return said
    answer = expected_answer(study)
    source = (
        f"as the first {answer.measured} seeds show" if answer.measured else "a guess, until two seeds are measured"
    )
    by_seed: dict[int, float] = {}
    for each in estimates:
        by_seed[each.seed] = by_seed.get(each.seed, 0.0) + each.seconds
    # Some units of a seed may be finished already.
    a_seed = max(by_seed.values(), default=0.0)
    next_look = compiling + sum(by_seed.values())
    seconds = next_look + (answer.seeds - count) * a_seed
    text = (
        f"With a difference of {answer.effect:.1f} points and a spread of {answer.spread:.1f} over seeds ({source}), "
        f"an answer takes {answer.seeds:.1f} seeds on average, {study.looks[-1]} at most: about {duration(seconds)} "
        f"from here, {duration(next_look + (study.looks[-1] - count) * a_seed)} at most. "
        f"The chance of an answer is {answer.chance:.0%}."
    )
    if study.budget is None:
        return text
    if study.budget < next_look:
        look = "first" if count == study.looks[0] else "next"
        return f"{text} The budget of {duration(study.budget)} ends before the {look} look: there will be no answer."
    fits = "suffices on average" if seconds <= study.budget else "will probably end before the answer"
    return f"{text} The budget of {duration(study.budget)} {fits}."


def estimate(study: Study, data: Data, absent: set[str]) -> tuple[list[Estimate], float]:
    """The unfinished units up to the next look with their seconds, and the seconds of compiling that come once."""
    done = {(result.arm, result.seed, result.eval) for result in read_results(study.workdir)}
    rates: dict[ProgramConfig, Rates] = {}
    estimates = []
    ahead = units(study, count=study.looks[0])
    if _begun(study):
        arms, count, _ = next_arms(study)
        ahead = list(dict.fromkeys([*ahead, *units(study, arms, count or study.looks[0])]))
    for arm, seed in ahead:
        wanted = {name for name in study.evaluations if (arm, seed, name) not in done}
        mine = study.arms[arm]
        owns = mine.pretrain != "none" and not mine.shares and (arm, seed, "pretrain") not in done
        if arm in absent or not (wanted or owns):
            continue
        config = study.config_of(arm)
        if config.program not in rates:
            rates[config.program] = measure(config, data, study)
        estimates.append(_estimate(study, data, arm, seed, rates[config.program], wanted, owns))
    return estimates, sum((each.compiling for each in rates.values()), 0.0)


def _estimate(study: Study, data: Data, arm: str, seed: int, rates: Rates, wanted: set[str], owns: bool) -> Estimate:
    config, seconds, pretrain_updates, finetune_updates = study.config_of(arm), 0.0, 0, 0
    held_out = len(data.validation) + len(data.test or ())
    labelled = len(labelled_positions(data.train, config, seed=seed)) if study.evaluations else 0
    if owns:
        plan = pretraining_plan(config, pretraining_images(study, data, arm, seed=seed), seed=seed)
        pretrain_updates = plan.epochs * plan.updates_per_epoch
        knn = plan.epochs / config.pretrain.knn_interval(plan.epochs) * (len(data.voters) + len(data.validation))
        watched = len(data.validation) + (len(data.test or ()) if config.pretrain.test_loss else 0)
        seen = pretrain_updates * config.effective_batch
        seconds += seen * rates.pretrain + (2 * plan.epochs * watched + knn) * rates.look
    if "finetune" in wanted:
        plan, draws = finetune_plan(config.finetune, labelled, seed=seed), config.label_draws("finetune")
        finetune_updates = draws * plan.epochs * plan.updates_per_epoch
        seen = finetune_updates * plan.micro_batch_size
        seconds += seen * rates.finetune + draws * (plan.epochs * len(data.validation) + held_out) * rates.look
    if wanted & {"knn", "linear"}:
        drawn = min(labelled * config.label_draws("linear"), len(data.train))
        seconds += (drawn + held_out) * rates.look
    if "linear" in wanted:
        seconds += config.label_draws("linear") * _SECONDS_A_PROBE
    return Estimate(arm, seed, pretrain_updates, finetune_updates, seconds)


def measure(config: Config, data: Data, study: Study) -> Rates:
    """Times a few steps of a network's training and a batch of its features, the first of each apart."""
    network = CompiledNetwork(config.program, data.info.num_classes, study.feed, study.accumulate_by)
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
        state = run_epoch(state, images, indices, hypers, lambda *_: None).state
        times.append(time.monotonic() - begun)
    return times[0], times[1] / indices.size
