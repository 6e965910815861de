"""How much of a disk a study takes, and which checkpoints stay."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import OptimizerConfig
from simsiam_jax.study.definition import Arm
from simsiam_jax.study.disk import bytes_needed, checkpoint_bytes, disk_line, size_text, tidy
from simsiam_jax.study.run import check
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.state import create_state
from tests.study.test_evaluations import Network, make_unit

ARMS = {
    "none": Arm("none", "none"),
    "own": Arm("in_domain", "own"),
    "more": Arm("in_domain", "more", settings={"label_fraction": 1.0}, shares="own"),
}


def unit_keeping(tmp_path, keep):
    """The unit `own` of a study with an arm that shares its pretraining; both have checkpoints of every stage."""
    unit = make_unit(tmp_path, "classes", np.arange(90) // 3 % 3, evals=("linear", "finetune"))
    study = dataclasses.replace(unit.study, arms=ARMS, keep=keep)
    unit = dataclasses.replace(unit, study=study, name="own")
    for arm, stage in (("own", "pretrain"), ("own", "finetune"), ("own", "finetune/draw-1"), ("more", "finetune")):
        for update in (8, 9, 10):
            (study.workdir / arm / "seed-0" / stage / "checkpoints" / str(update)).mkdir(parents=True)
    return unit


def finish(unit):
    for stage in ("pretrain", *unit.study.evaluations):
        if stage != "pretrain" or unit.arm.shares is None:
            unit.stage_folder(stage)
            unit.record(stage, {"test": {"top1": 0.5}}, 1.0)


def kept(unit):
    found = unit.study.workdir.rglob("checkpoints/*")
    return sorted(str(path.relative_to(unit.study.workdir)).replace("/seed-0", "") for path in found)


def test_all_checkpoints_stay_unless_fewer_are_asked_for(tmp_path):
    unit = unit_keeping(tmp_path, "all")
    before = kept(unit)
    tidy(unit)
    assert kept(unit) == before


def test_the_last_checkpoint_of_each_stage_and_draw_stays_by_number(tmp_path):
    unit = unit_keeping(tmp_path, "last")
    finish(unit)
    tidy(unit)
    ours = [path for path in kept(unit) if path.startswith("own")]
    assert ours == [
        "own/finetune/checkpoints/10", "own/finetune/draw-1/checkpoints/10", "own/pretrain/checkpoints/10"
    ]  # fmt: skip
    assert len(kept(unit)) == len(ours) + 3  # the other arm has not ended


def test_with_none_a_pretraining_that_another_arm_needs_stays_until_that_has_ended(tmp_path):
    unit = unit_keeping(tmp_path, "none")
    finish(unit)
    tidy(unit)
    assert {path.split("/checkpoints")[0] for path in kept(unit)} == {"own/pretrain", "more/finetune"}
    other = unit.of("more")
    finish(other)
    tidy(other)
    assert kept(unit) == []
    assert (unit.folder / "finetune" / "result.json").exists()


def test_a_study_without_evaluations_cannot_keep_nothing(tmp_path):
    unit = make_unit(tmp_path, "classes", np.arange(90) // 3 % 3, evals=())
    study = dataclasses.replace(unit.study, arms={}, config=unit.config, keep="none")
    with pytest.raises(InputError, match=r"^--keep=none: without evaluations"):
        check(study)


class Small(Network):
    """A network of one matrix of 100 × 50 weights, trained by Adam."""

    def pretrain_state(self, seed, start=None):
        return create_state({"params": {"w": jnp.ones((100, 50))}}, create_optimizer(OptimizerConfig()))

    def finetune_state(self, seed, backbone):
        return self.pretrain_state(seed)


def test_a_checkpoint_holds_weights_and_moments_and_that_of_fine_tuning_the_best_weights_too():
    weights = 100 * 50 * 4
    pretrain, finetune = (checkpoint_bytes(Small(), stage) for stage in ("pretrain", "finetune"))
    # Adam has two moments of each weight; beside them are a few counts.
    assert pretrain == pytest.approx(3 * weights, abs=100)
    assert finetune == pretrain + weights


def test_a_run_that_does_not_fit_is_warned_of_and_says_what_it_takes(tmp_path, monkeypatch, caplog):
    unit = unit_keeping(tmp_path, "last")
    sizes = {"pretrain": 10**9, "finetune": 10**8}
    monkeypatch.setattr("simsiam_jax.study.disk.checkpoint_bytes", lambda network, stage: sizes[stage])
    draws = unit.config.label_draws("finetune")
    one = 1e9 + draws * 1e8
    # One checkpoint of each stage stays, three are there while a unit trains, and a little beside them.
    assert bytes_needed(unit.study, [unit]) == pytest.approx(4 * one + 6e6)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3e6, total=1e9))
    line = disk_line(unit.study, [unit])
    assert line == f"disk        about {size_text(4 * one + 6e6)} in the workdir, where 3 MB are free"
    assert "--keep=last" in caplog.text
    finish(unit)
    caplog.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1e12, total=1e12))
    assert "about 5 MB in the workdir, where 1,000.0 GB are free" in disk_line(unit.study, [unit])
    assert not caplog.text
