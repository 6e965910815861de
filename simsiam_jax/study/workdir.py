"""The folder of a study: what may go into it, what describes it, and who is at work on which unit."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import disk_is_full, locked
from simsiam_jax.records.experiment import (
    EVALUATIONS,
    EXPERIMENT_FILE,
    AnalysisPlan,
    ArmRecord,
    Experiment,
    LabelCounts,
    Leak,
    read_experiment,
)
from simsiam_jax.records.results import RESULTS_FILE, gather_results, set_damaged_aside
from simsiam_jax.settings.values import differences, to_dict
from simsiam_jax.study.definition import Study
from simsiam_jax.study.images import Data, labelled_positions

# Held while experiment.json or results.jsonl is written from what lies in the folder.
_LOCK = ".lock"


@dataclass(frozen=True)
class Start:
    """What an arm's backbone starts from.

    Attributes:
      variables: Weights of the backbone; None for random ones.
      origin: Source of the weights, for the record; None for random ones.
      absent: Why the arm cannot be run, where its weights are not at hand.
    """

    variables: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    absent: str | None = None


def open_workdir(study: Study) -> None:
    """Makes the folder, once it is sure that what is in it belongs to the study.

    Results that were damaged since they were written are set aside and named; their stages are then measured again.

    Raises:
      InputError: If the folder cannot be written, or holds another experiment or other settings.
    """
    try:
        study.workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(study.workdir, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as fault:
        if disk_is_full(fault):
            raise
        raise InputError(f"--workdir={study.workdir} cannot be written ({fault.strerror}): choose another") from None
    check_workdir(study)
    with locked(study.workdir / _LOCK):
        for path in set_damaged_aside(study.workdir):
            logging.warning("%s is damaged and set aside as %s.damaged; its stage is measured again", path, path.name)


def check_workdir(study: Study) -> None:
    """Refuses a folder whose results belong to something else; one that is empty or missing is fine.

    Raises:
      InputError: If the folder holds another experiment or other settings.
    """
    if not (study.workdir / EXPERIMENT_FILE).exists():
        stray = study.workdir / RESULTS_FILE
        require(not stray.exists(), f"{stray} belongs to an unknown experiment: choose another --workdir")
        return
    before = read_experiment(study.workdir)
    require(
        before.experiment == study.experiment,
        f"--workdir={study.workdir} holds results of {before.experiment}, not of {study.experiment}: "
        "choose another --workdir",
    )
    _require_unchanged(study, "results", differences(before.config, to_dict(study.config)))
    require(
        _same_plan(before.plan, study.plan),
        f"--workdir={study.workdir} holds a run that decides in another way (--seeds, --looks, --first_seed or "
        "--smallest_effect): that is fixed before anything is measured, so choose another --workdir",
    )
    require(
        any(study.workdir.glob("*/seed-*/*/")) or not (study.workdir / RESULTS_FILE).exists(),
        f"--workdir={study.workdir} holds the record of a run without its stages: choose another --workdir",
    )
    for arm in before.arms:
        if arm.name in study.arms:
            changes = {*arm.changes} ^ {*_changes(study, arm.name)}
            _require_unchanged(study, f"results of {arm.name}", sorted(changes))


def _same_plan(before: AnalysisPlan | None, now: AnalysisPlan | None) -> bool:
    """Whether two runs may share a folder: a number of seeds may change, looks may not."""
    if before is None or now is None:
        return before == now
    fixed = len(before.looks) == len(now.looks) == 1
    return before == (replace(now, looks=before.looks, first_seed=before.first_seed) if fixed else now)


def _joint_plan(before: AnalysisPlan | None, now: AnalysisPlan | None) -> AnalysisPlan | None:
    """The plan of a folder that two runs share: the seeds of both, where each has a number of them."""
    if before is None or now is None:
        return now
    first = min(before.first_seed, now.first_seed)
    return replace(now, first_seed=first, looks=(*now.looks[:-1], max(before.seeds[-1], now.seeds[-1]) - first + 1))


def _require_unchanged(study: Study, what: str, changed: list[str]) -> None:
    more = ", ..." if len(changed) > 3 else ""
    require(
        not changed,
        f"--workdir={study.workdir} holds {what} with other settings ({'; '.join(changed[:3])}{more}): "
        "choose another --workdir",
    )


def describe(study: Study, data: Data, starts: Mapping[str, Start]) -> None:
    """Writes experiment.json, with the arms, seeds and evaluations that the folder had before.

    Args:
      study: The study that is about to run, in a folder that `open_workdir` has made.
      data: Images that it runs on.
      starts: Initial weights by arm; arms that are missing start from random ones.

    Raises:
      InputError: If images or initial weights are no longer those that the folder began with.
    """
    with locked(study.workdir / _LOCK):
        # Another process may have described it since it was opened.
        check_workdir(study)
        before = read_experiment(study.workdir) if (study.workdir / EXPERIMENT_FILE).exists() else None
        known = {arm.name: arm for arm in before.arms} if before else {}
        if before is not None:
            _check_images(study, data, before)
            _check_starts(study, starts, before)
        now = {name: _arm_record(study, data, name, starts.get(name, Start())) for name in study.arms}
        arms = sorted({**known, **now}.values(), key=lambda arm: arm.position)
        Experiment(
            experiment=study.experiment,
            title=study.title,
            question=study.question,
            dataset=study.config.dataset,
            command=study.command,
            arms=tuple(arms),
            evals=tuple(
                name for name in EVALUATIONS if name in {*study.evaluations, *(before.evals if before else ())}
            ),
            seeds=tuple(sorted({*study.seeds[: study.looks[0]], *(before.seeds if before else ())})),
            config=to_dict(study.config),
            metric=data.metric or "top1",
            label_kind=data.info.label_kind,
            class_names=tuple(data.info.class_names),
            layout=study.layout,
            figure3=any(study.config_of(arm).pretrain.test_loss for arm in study.arms),
            data={
                name: {"images": len(split), "fingerprint": split.fingerprint} for name, split in data.splits.items()
            },
            paper_source=study.paper_source,
            plan=_joint_plan(before.plan if before else None, study.plan),
            label_draws={
                **(before.label_draws if before else {}),
                **{name: study.config.label_draws(name) for name in study.evaluations},
            },
            metric_reason=data.metric_reason,
            label_counts=label_counts(data),
            leaks=_joint_leaks((before.leaks if before else None) or (), data.leaks),
        ).write(study.workdir)


def _joint_leaks(before: tuple[Leak, ...], now: tuple[Leak, ...]) -> tuple[Leak, ...]:
    """The leaks of all runs of the folder: the arms of one may have pretrained on images, and those of another not."""
    return tuple({(leak.split, leak.among): leak for leak in (*before, *now)}.values())


def label_counts(data: Data) -> dict[str, LabelCounts]:
    """How often each class or attribute occurs in the splits that have labels."""
    splits = {name: split.labels for name, split in data.splits.items() if name != "unlabelled"}
    if data.info.label_kind == "classes":
        return {
            name: LabelCounts(tuple(np.bincount(each[each >= 0], minlength=data.info.num_classes).tolist()))
            for name, each in splits.items()
        }
    if data.info.label_kind == "attributes":
        return {
            name: LabelCounts(tuple((each == 1).sum(axis=0).tolist()), tuple((each >= 0).sum(axis=0).tolist()))
            for name, each in splits.items()
        }
    return {}


def _check_images(study: Study, data: Data, before: Experiment) -> None:
    for name, split in data.splits.items():
        require(
            before.data.get(name, {}).get("fingerprint") in (None, split.fingerprint),
            f"the {name} images of --dataset={study.config.dataset} are no longer those that "
            f"--workdir={study.workdir} began with: choose another --workdir",
        )


def _check_starts(study: Study, starts: Mapping[str, Start], before: Experiment) -> None:
    for arm in before.arms:
        origin = starts.get(arm.name, Start()).origin
        if origin is not None and arm.name in study.arms:
            require(
                arm.init is None or arm.init.get("sha256") == origin["sha256"],
                f"--init={study.config_of(arm.name).init} is no longer the file that --workdir={study.workdir} "
                "began with: choose another --workdir",
            )


def _arm_record(study: Study, data: Data, name: str, start: Start) -> ArmRecord:
    """What experiment.json says of an arm."""
    arm, config = study.arms[name], study.config_of(name)
    counted = study.evaluations and any(each in arm.settings for each in ("labels_per_class", "label_fraction"))
    return ArmRecord(
        name=name,
        label=arm.title(config),
        position=study.position(name),
        published=dict(arm.published),
        pretrain=arm.pretrain,
        group=arm.group,
        shares=arm.shares,
        settings=dict(arm.settings),
        changes=tuple(_changes(study, name)),
        labels=len(labelled_positions(data.train, config, seed=0)) if counted else None,
        absent=start.absent,
        init=start.origin,
    )


def _changes(study: Study, arm: str) -> list[str]:
    return differences(to_dict(study.config), to_dict(study.config_of(arm)))


def gather(workdir: Path) -> None:
    """Writes results.jsonl from the finished stages; processes that share the folder take turns."""
    with locked(workdir / _LOCK):
        gather_results(workdir)


def claimed(folder: Path) -> AbstractContextManager[bool]:
    """Whether a unit is ours to do while the context lasts: no other process holds it.

    Args:
      folder: Folder of the unit whose pretraining counts, made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return locked(folder / _LOCK, wait=False)
