"""What a study does about units that fail or diverge: the others go on, and no verdict is drawn from their arms."""

import dataclasses
import json

import numpy as np
import pytest

from simsiam_jax.data.datasets import DatasetInfo
from simsiam_jax.errors import DivergenceError
from simsiam_jax.models import without_absent_fields
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.failures import read_failures
from simsiam_jax.records.results import read_results
from simsiam_jax.report.page import write_report
from simsiam_jax.report.summary import summarise
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study import run as runs
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.study.images import Data
from tests.study.test_evaluations import make_split
from tests.support.launchers import launch
from tests.support.made_up import make_plan

ARMS = {"none": Arm("none", "none"), "own": Arm("in_domain", "own"), "other": Arm("in_domain", "other")}
GAINS = {"none": 0.0, "own": 0.2, "other": 0.1}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of made-up images whose units are not trained; what decides is the linear probe."""
    labels = np.arange(300) // 3 % 3
    train, validation, test = (make_split(labels[part::3], part) for part in range(3))
    info = DatasetInfo("made_up", None, 3, ("a", "b", "c"), 8, 8, label_kind="classes")
    monkeypatch.setattr(runs, "load_data", lambda study: Data(info, train, train, train, validation, test))
    for name in ("disk_line", "save_pairs", "save_samples"):
        monkeypatch.setattr(runs, name, lambda *_, **__: "")
    config = recipe_config("paper", dataset="digits", image_size=16)
    config = with_settings(config, {"labels_per_class": None, "micro_batch_size": 10, "accumulation": 1})
    backbone = without_absent_fields(config.program.backbone)
    config = dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=backbone))

    def make(looks):
        return Study(
            *("demo", "t", "Does it help?", ARMS, config, tuple(range(looks[-1])), ("linear",)),
            *(tmp_path / "w", tmp_path / "data", None, "python"),
            plan=make_plan(looks=looks, evaluation="linear"),
        )

    return make


def finish_unit(unit):
    """Records what a unit that went well would."""
    top1 = 0.5 + GAINS[unit.name] + 0.01 * (unit.seed % 2) * (unit.name != "none")
    stages = ("linear",) if unit.name == "none" else ("pretrain", "linear")
    for stage in stages:
        unit.stage_folder(stage)
        unit.record(stage, {split: {"top1": top1} for split in ("validation", "test")}, 1.0)


def failing_in(*units, stage="pretrain"):
    """A `run_unit` that diverges in these arms and seeds."""

    def run_unit(unit):
        if (unit.name, unit.seed) in units:
            raise DivergenceError(f"the loss is nan in epoch 1 of {stage}", "at update 12")
        finish_unit(unit)

    return run_unit


def summary(workdir):
    return summarise(read_results(workdir), read_experiment(workdir), read_failures(workdir))


def test_one_diverged_seed_of_three_leaves_the_others_their_results_and_the_arm_no_verdict(study, monkeypatch, capsys):
    plan = study((3,))
    monkeypatch.setattr(runs, "run_unit", failing_in(("own", 1)))
    (failure,) = runs.run(plan)
    assert failure.startswith("own seed 1: diverged at update 12: the loss is nan")
    assert f"failed   {failure}" in capsys.readouterr().err
    done = {(result.arm, result.seed) for result in read_results(plan.workdir)}
    assert done == {(arm, seed) for arm in ARMS for seed in range(3)} - {("own", 1)}
    table = summary(plan.workdir)
    assert table.decisions["own"].outcome == "undecided"
    assert table.rows[1].flag == "diverged at update 12 of seed 1"
    assert "no pretraining" not in table.answer
    assert "Undecided: “own” diverged at update 12 of seed 1" in table.answer
    report = write_report(plan.workdir).with_name("report.md").read_text()
    assert "diverged at update 12 of seed 1" in report
    # A rerun tries the failed unit again, and nothing else.
    tried = []
    monkeypatch.setattr(runs, "run_unit", lambda unit: (tried.append((unit.name, unit.seed)), finish_unit(unit)))
    assert runs.run(plan) == ()
    assert tried == [("own", 1)]
    assert summary(plan.workdir).decisions["own"].outcome == "helped"


def test_a_run_that_adds_seeds_gives_none_to_an_arm_that_failed(study, monkeypatch):
    # Equal arms are never decided, so that all would go on to the last look.
    monkeypatch.setattr("tests.study.test_failures.GAINS", dict.fromkeys(ARMS, 0.0))
    plan = study((2, 3))
    monkeypatch.setattr(runs, "run_unit", failing_in(("other", 1)))
    assert len(runs.run(plan)) == 1
    done = {(result.arm, result.seed) for result in read_results(plan.workdir)}
    assert ("own", 2) in done
    assert ("other", 2) not in done
    table = summary(plan.workdir)
    assert table.decisions["other"].failed == "“other” diverged at update 12 of seed 1"
    assert table.decisions["own"].look == 1


def test_where_the_arm_diverged_that_others_are_compared_with_the_run_ends_undecided(study, monkeypatch):
    plan = study((2, 3))
    monkeypatch.setattr(runs, "run_unit", failing_in(("none", 0)))
    assert len(runs.run(plan)) == 1
    assert {decision.outcome for decision in summary(plan.workdir).decisions.values()} == {"undecided"}
    assert 2 not in {result.seed for result in read_results(plan.workdir)}


def test_an_evaluation_of_checkpoints_goes_on_behind_a_unit_that_fails(study, monkeypatch):
    plan = study((1,))

    def evaluate(unit, names, backbone):
        assert names == ("linear",)
        if unit.name == "own":
            raise DivergenceError("outputs of 3 of 100 images are not finite")
        unit.stage_folder("linear")
        unit.record("linear", {"test": {"top1": 0.5}}, 1.0)

    monkeypatch.setattr(runs, "evaluate", evaluate)
    failures = runs.run_evaluations(plan, {(arm, 0): {} for arm in ARMS})
    assert [failure.split(" (")[0] for failure in failures] == [
        "own seed 0: diverged: outputs of 3 of 100 images are not finite"
    ]
    assert {result.arm for result in read_results(plan.workdir)} == {"none", "other"}
    assert runs.run_evaluations(plan, {(arm, 0): {} for arm in ("none", "other")}) == ()


def strict_json(path):
    """The values of a JSON file that has no NaN and no infinity, as JSON wants it."""

    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


# Each update multiplies a weight by 1 - rate * decay, here by about -1000: after 13 of them it is beyond float32.
FAR_TOO_HIGH = {
    "pretrain": ("--optimizer=sgd", "--learning_rate=1000", "--weight_decay=1", "--epochs=20"),
    "finetune": (
        *("--finetune_optimizer=sgd", "--finetune_learning_rate=1000", "--finetune_weight_decay=1"),
        *("--finetune_epochs=30", "--epochs=1"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", FAR_TOO_HIGH)
def test_a_rate_that_is_far_too_high_ends_with_code_1_a_marked_arm_and_no_accuracy(tmp_path, stage):
    workdir = tmp_path / "w"
    result = launch(
        "demo", "--preset=smoke", "--arms=in_domain", "--evals=finetune", "--width=0.125", f"--workdir={workdir}",
        f"--data_dir={tmp_path / 'data'}", *FAR_TOO_HIGH[stage],
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "failed   in_domain seed 0: diverged at update " in result.stderr.splitlines()[-1]
    assert "diverged at update" in result.stdout
    assert "Traceback" not in result.stderr
    report = (workdir / "report" / "report.md").read_text()
    assert "diverged at update" in report
    assert not [line for line in read_results(workdir) if line.eval == "finetune"]
    logs = list(workdir.rglob("*.jsonl"))
    assert logs
    for path in logs:
        strict_json(path)
