"""Runs a study: every arm and seed pretrained and evaluated, as units that are resumed and never repeated."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import logging

from simsiam_jax import hosts, stopping
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.data.feed import choose_feed
from simsiam_jax.data.storage import keep_within
from simsiam_jax.errors import InputError, require
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.files import digest, disk_is_full
from simsiam_jax.models import create_backbone
from simsiam_jax.records.environment import environment
from simsiam_jax.records.failures import ERROR_FILE, write_failure
from simsiam_jax.report.words import duration
from simsiam_jax.settings.schema import BackboneConfig, ProgramConfig
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.decide import next_arms
from simsiam_jax.study.definition import Study
from simsiam_jax.study.disk import disk_line, tidy
from simsiam_jax.study.evaluations import evaluate, finetune_plan
from simsiam_jax.study.exhibits import save_pairs, save_samples
from simsiam_jax.study.images import Data, check_metric, load_data, overlap, pretraining_images, pretraining_info
from simsiam_jax.study.overview import overview
from simsiam_jax.study.programs import CompiledNetwork, Variables
from simsiam_jax.study.stages import Unit, pretrain, pretraining_metrics, pretraining_plan
from simsiam_jax.study.workdir import Start, claimed, describe, gather, open_workdir
from simsiam_jax.terminal import say
from simsiam_jax.train import loop
from simsiam_jax.train.devices import check_divisible
from simsiam_jax.train.progress import Display
from simsiam_jax.weights import load_initial

# Pause before a unit that another process holds is looked at again, where the next step waits for it.
_SECONDS_BETWEEN_TRIES = 3.0


def check(study: Study) -> None:
    """Refuses what cannot be run before anything is written or downloaded.

    Raises:
      InputError: For the first mistake found.
    """
    config = study.config
    info = dataset_info(config.dataset, config.labels, group_duplicates=config.group_duplicates)
    require(
        not study.evaluations or info.num_classes > 0,
        f"--dataset={config.dataset} has no labels to evaluate with"
        + ("; sort its images into a folder for each class, or give --labels=FILE.csv" if info.listing else ""),
    )
    check_metric(config, info)
    require("validation" in info.splits, f"--dataset={config.dataset} has no validation images to watch")
    if any(arm.pretrain == "in_domain" for arm in study.arms.values()):
        source = pretraining_info(config)
        splits = [name for name in source.splits if name not in ("validation", "test")]
        require(
            config.pretrain.split in splits,
            f"--pretrain_split={config.pretrain.split}: {source.title} has {', '.join(splits)} to pretrain on",
        )
    for name, arm in study.arms.items():
        own = study.config_of(name)
        create_backbone(own.program.backbone.name, own.image_size, **own.program.backbone.fields())
        check_divisible(own.pretrain.micro_batch_size, "--micro_batch_size")
        if arm.shares:
            require(arm.shares in study.arms, f"--arms: {name} shares the pretraining of {arm.shares}: name it too")
            if own.pretraining_part() != study.config_of(arm.shares).pretraining_part():
                raise TypeError(f"{name} cannot share the pretraining of {arm.shares}: its settings differ")
    choose_feed(study.feed, 0, 0)
    require(
        study.keep != "none" or len(study.evaluations) > 0,
        "--keep=none: without evaluations the checkpoints are all that there is; give --keep=last",
    )


def load_starts(study: Study) -> dict[str, Start]:
    """The weights that each arm starts from.

    Raises:
      InputError: If weights that the user asked for cannot be had. An arm that asks for them itself is left out.
    """
    known: dict[tuple[str, BackboneConfig], Start] = {}
    found = {}
    for name, arm in study.arms.items():
        config = study.config_of(name)
        key = (config.init, config.program.backbone)
        if key not in known:
            try:
                weights = load_initial(*key, study.config.image_size)
                known[key] = Start(weights.variables, weights.origin) if weights else Start()
            except InputError as fault:
                if "init" not in arm.settings:
                    raise
                known[key] = Start(absent=str(fault))
                logging.warning("%s is left out: %s", name, fault)
        found[name] = known[key]
    return found


def units(study: Study, arms: Sequence[str] | None = None, count: int | None = None) -> list[tuple[str, int]]:
    """The arms and seeds of a study, in the order in which they are done.

    Args:
      study: The study.
      arms: Names of arms; None for all.
      count: The number of seeds; None for all.
    """
    return [(arm, seed) for seed in study.seeds[:count] for arm in (study.arms if arms is None else arms)]


def run_unit(unit: Unit) -> None:
    """Does what is left to do of a unit."""
    names = tuple(name for name in unit.study.evaluations if not unit.finished(name))
    if unit.arm.pretrain == "none":
        if names:
            evaluate(unit, names, unit.initial_backbone())
        return
    recorded = unit.arm.shares is not None or unit.finished("pretrain")
    if recorded and not names:
        return
    trained = pretrain(unit)
    if not recorded:
        unit.record("pretrain", pretraining_metrics(trained, unit.data.metric), trained.seconds)
    evaluate(unit, names, backbone_variables(trained.best))


def run(study: Study) -> tuple[str, ...]:
    """Runs the units of a study that are not finished and that no other process holds.

    Where the study may stop early, the arms that are still open get more seeds, look by look, until none is, or until
    the budget is spent. A unit that fails is reported, leaves its traceback in error.txt, and the others go on; its
    arm gets no more seeds.

    Returns:
      A line for each unit that failed.

    Raises:
      InputError: For a mistake in the study, before anything is trained.
    """
    check(study)
    open_workdir(study)
    starts = load_starts(study)
    data = load_data(study)
    _ready(study, data)
    say("\n".join(overview(study, data)))
    for name, arm in study.arms.items():
        if arm.pretrain != "none":
            # An epoch that is too short is refused here rather than after the first arm.
            pretraining_plan(study.config_of(name), pretraining_images(study, data, name, seed=0), seed=0)
    describe(study, data, starts)
    save_pairs(study.workdir, data.train if data.unlabelled is None else data.unlabelled, study.config.program.views)
    save_samples(study.workdir, data.train, label_kind=data.info.label_kind)
    display = Display()
    unit_of = _unit_maker(study, data, starts, display)
    first = units(study, count=study.looks[0])
    say(disk_line(study, (unit_of(*each) for each in first if not starts[each[0]].absent)))
    deadline = math.inf
    if study.budget is not None and len(study.looks) > 1:
        deadline = time.monotonic() + study.budget
    going_on: Sequence[str] = tuple(study.arms)
    failures: list[str] = []
    with display:
        for count in study.looks:
            here = [unit_of(name, seed) for name, seed in units(study, going_on, count) if not starts[name].absent]
            failed, spent = _run_units(study, here, deadline)
            failures += failed
            if len(study.looks) == 1:
                break
            going_on, _, said = next_arms(study)
            say(f"{said}; the budget is spent" if spent and going_on else said)
            if spent or not going_on:
                break
    return tuple(failures)


def _unit_maker(study: Study, data: Data, starts: Mapping[str, Start], display: Display) -> Callable[[str, int], Unit]:
    """A function from arm and seed to the unit. Units of one program share its compiled network.

    Args:
      study: The study.
      data: Its images.
      starts: Initial weights by arm; arms that are missing start from random ones.
      display: Where progress is shown.
    """
    started = environment()
    networks: dict[ProgramConfig, CompiledNetwork] = {}

    def unit_of(name: str, seed: int) -> Unit:
        program = study.config_of(name).program
        if program not in networks:
            networks[program] = CompiledNetwork(program, data.info.num_classes, study.feed, study.accumulate_by)
        start = starts.get(name, Start()).variables
        return Unit(study, networks[program], start, data, name, seed, started, display)

    return unit_of


def _ready(study: Study, data: Data) -> None:
    """Lets other processes load the data, once it is prepared, and bounds what earlier runs have left beside it."""
    hosts.tell(_common(study, data))
    _bound_cache(study)


def _common(study: Study, data: Data) -> dict[str, Any]:
    """What all processes must have alike, in words and values."""
    settings = {"arms": {name: to_dict(study.config_of(name)) for name in study.arms}, "form": study.accumulate_by}
    return {
        "settings": digest({**settings, "evaluations": study.evaluations}),
        "number of devices": jax.local_device_count(),
        **{f"{name} images": split.fingerprint for name, split in data.splits.items()},
    }


def follow(study: Study) -> NoReturn:
    """Trains with process 0, which runs this study or evaluates, until that ends; writes nothing.

    Raises:
      InputError: For a mistake in the study, or where this process has other settings or images than process 0.
      SystemExit: When process 0 ends, with its exit code.
      stopping.Stopped: When a signal has stopped it.
    """
    # What there is to say of the data process 0 says.
    logging.set_verbosity(logging.ERROR)
    check(study)
    say(f"process {hosts.number()} of {hosts.count()}: process 0 tells what happens")
    theirs = hosts.hear()
    data = load_data(study)
    for what, ours in _common(study, data).items():
        _require_alike(what, theirs.get(what), ours)
    _bound_cache(study)
    unit_of = _unit_maker(study, data, {}, Display())
    while True:
        stage, name, seed, draw, fingerprint = hosts.hear()
        with contextlib.suppress(hosts.Over):
            _follow_stage(unit_of(name, seed), stage, draw, fingerprint)


def _follow_stage(unit: Unit, stage: str, draw: int, fingerprint: str) -> NoReturn:
    network, config = unit.network, unit.config
    if stage == "pretrain":
        split = pretraining_images(unit.study, unit.data, unit.name, seed=unit.seed)
        plan, state = pretraining_plan(config, split, seed=unit.seed), network.pretrain_state(unit.seed)
        run_epoch = network.pretrain_epoch
    else:
        split = unit.data.train.take(unit.labelled(draw))
        plan = finetune_plan(config.finetune, len(split), seed=unit.seed)
        state, run_epoch = network.finetune_state(unit.seed, None), network.finetune_epoch
    _require_alike("images to learn from", fingerprint, split.fingerprint)
    loop.follow(state, split, plan, run_epoch)


def _require_alike(what: str, theirs: Any, ours: Any) -> None:
    require(
        theirs == ours,
        f"the {what} of process {hosts.number()} and of process 0 differ: give all processes the same flags, data and "
        "kind of host",
    )


def _bound_cache(study: Study) -> None:
    """Bounds what earlier runs have left in the data folder, once this run's data is there and marked as used."""
    if study.cache_limit is not None:
        keep_within(study.data_dir, study.cache_limit)


def _run_units(study: Study, waiting: list[Unit], deadline: float) -> tuple[list[str], bool]:
    """Runs units, and says which failed and whether the deadline passed before all were begun.

    A unit that another process holds is looked at once more at the end. Where the next step depends on it, it is
    waited for.
    """
    failures, first, total = [], True, len(waiting)
    while waiting:
        held, told = [], not first and len(study.looks) == 1
        for place, unit in enumerate(waiting):
            stopping.check()
            if not unit.done and time.monotonic() > deadline:
                return failures, True
            with claimed(unit.pretrained_folder.parent) as ours:
                if ours:
                    after = [each.name for each in waiting[place + 1 :] if not each.done]
                    number = total - len(waiting) + place + 1
                    failures += _run_or_report(unit, number, total, after, run_unit)
                else:
                    held.append(unit)
            if ours:
                gather(study.workdir)
            elif told:
                say(f"{unit.title}: another process is at it")
        if told:
            break
        if held and not first:
            time.sleep(_SECONDS_BETWEEN_TRIES)
        waiting, first = held, False
    return failures, False


def _run_or_report(unit: Unit, number: int, total: int, waiting: list[str], work: Callable[[Unit], None]) -> list[str]:
    """Runs a unit that is not finished and tells its result, or gives a line where it fails.

    Args:
      unit: The unit.
      number: Its number, from 1.
      total: Number of units in all.
      waiting: The arms of the units that come after it.
      work: Does what is left to do of a unit.
    """
    note = unit.folder / ERROR_FILE
    if unit.done:
        unit.mend()
        note.unlink(missing_ok=True)
        tidy(unit)
        return []
    begun = time.monotonic()
    try:
        with unit.display.unit(unit.name, number=number, total=total, waiting=waiting):
            work(unit)
    except Exception as fault:
        if disk_is_full(fault):
            raise  # the others would fail by it, too
        reason = write_failure(unit.folder, fault)
        failure = f"{unit.title}: {reason} ({note})"
        say(f"failed   {failure}", error=True)
        return [failure]
    note.unlink(missing_ok=True)
    tidy(unit)
    told = (f"unit {number} of {total}", unit.title, unit.outcome(), f"({duration(time.monotonic() - begun)})")
    unit.display.tell("  ".join(words for words in told if words))
    return []


def run_evaluations(study: Study, backbones: Mapping[tuple[str, int], Variables | None]) -> tuple[str, ...]:
    """Evaluates backbones that were pretrained before, and what they are compared with. Failures are as in `run`.

    Args:
      study: The study, which says what to evaluate and where to record it.
      backbones: Variables of the backbone by arm and seed, in the order of the units; None means an untrained one.

    Returns:
      A line for each unit that failed.

    Raises:
      InputError: For a mistake in the study.
    """
    check(study)
    open_workdir(study)
    data = load_data(study)
    _ready(study, data)
    say("\n".join(overview(study, data)))
    if any(overlap(study.config_of(arm)) for arm in study.arms):
        logging.warning(
            "the folder pretrained on and --dataset=%s share images: some of the test images may have been pretrained "
            "on, without their labels",
            study.config.dataset,
        )
    describe(study, data, {})
    with Display() as display:
        unit_of = _unit_maker(study, data, {}, display)

        def work(unit: Unit) -> None:
            backbone = backbones[unit.name, unit.seed]
            missing = tuple(each for each in study.evaluations if not unit.finished(each))
            evaluate(unit, missing, unit.initial_backbone() if backbone is None else backbone)

        failures: list[str] = []
        arms = [arm for arm, _ in backbones]
        for number, (name, seed) in enumerate(backbones, start=1):
            stopping.check()
            unit = unit_of(name, seed)
            if not all(map(unit.finished, study.evaluations)):
                failures += _run_or_report(unit, number, len(backbones), arms[number:], work)
                gather(study.workdir)
    return tuple(failures)
