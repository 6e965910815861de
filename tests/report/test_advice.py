"""Advice follows from the report's own numbers, names them, and gives a command that does what it says."""

import dataclasses
import shlex

import pytest

from simsiam_jax.report.advice import advice, with_flags
from simsiam_jax.report.curves import Curves
from simsiam_jax.report.page import write_report
from simsiam_jax.report.summary import summarise
from tests.support.launchers import command_faults
from tests.support.made_up import make_ends, make_experiment, make_plan, make_result, make_scores, write_results

BASE = [0.70, 0.72, 0.77]
HELPED, HURT, UNDECIDED = [0.801, 0.82, 0.869], [0.601, 0.62, 0.669], [0.71, 0.73, 0.82]
CONFIG = {
    "recipe": "paper",
    "init": "random",
    "program": {"backbone": {"name": "resnet18", "width": 1.0}, "views": {"crop_scale": [0.2, 1.0]}},
    "pretrain": {"epochs": 10, "max_images": None, "schedule": {"learning_rate": 0.001}},
}


def steps_for(own, logs=(), extra=(), **changes):
    experiment = make_experiment(**{"plan": make_plan(), "config": CONFIG} | changes)
    results = [*make_scores("none", BASE), *make_scores("own", own), *extra]
    curves = [Curves("none", 0, {}), Curves("own", 1, {0: logs} if logs else {})]
    return advice(summarise(results, experiment), experiment, curves)


def test_a_pretraining_that_helped_is_to_be_used():
    first, *rest = steps_for(HELPED)
    assert first.words == "Use the pretraining “own”, whose checkpoint is own/seed-0/pretrain in this run's folder"
    assert first.reason.startswith("it raised fine-tuned test accuracy by +10.0 points (")
    assert first.command == "simsiam export --checkpoint=WORKDIR/own/seed-0/pretrain --out=exported"
    assert rest == []


@pytest.mark.parametrize(
    ("own", "margin", "said"), [(HURT, 0.0, "a loss"), ([0.701, 0.72, 0.769], 1.0, "too small to matter")]
)
def test_a_pretraining_that_did_not_help_is_to_be_left_out_and_others_to_be_tried(own, margin, said):
    found = steps_for(own, plan=make_plan(smallest_effect=margin))
    assert found[0].words == "Do without this pretraining: start from “none”"
    assert found[0].reason.endswith(f"which is {said}")
    assert [step.command for step in found[1:]] == [
        "python -m experiments.search_augmentation --dataset=digits",
        "python -m experiments.demo --init=imagenet --workdir=runs/demo-imagenet",
        "python -m experiments.demo --backbone=pit_ti --workdir=runs/demo-pit_ti",
    ]
    assert "crops from 0.2" in found[1].reason


@pytest.mark.parametrize("change", [{"name": "vit_s"}, {"width": 0.25}])
def test_imagenet_weights_are_named_only_for_a_backbone_that_has_them(change):
    program = {**CONFIG["program"], "backbone": {**CONFIG["program"]["backbone"], **change}}
    found = steps_for(HURT, config={**CONFIG, "program": program})
    assert "imagenet" not in " ".join(str(step.command) for step in found)
    assert found[0].words.startswith("Do without")


def test_an_open_plan_goes_on_and_a_finished_one_asks_again_with_new_seeds():
    going_on = steps_for(UNDECIDED, plan=make_plan(looks=(3, 5)))[0]
    assert (going_on.words, going_on.command) == ("Go on to 5 seeds", "python -m experiments.demo")
    finished = steps_for(UNDECIDED, plan=make_plan(looks=(3,)))[0]
    assert finished.words.startswith("Ask again with 6 seeds that are new")
    assert "“own” is undecided after 3 seeds (+2.3 points (−3.4 to +8.1))" in finished.reason
    assert finished.command == (
        "python -m experiments.demo --first_seed=3 --seeds=6 --workdir=runs/demo-new-seeds"
    )  # fmt: skip


def drawn(draws_of, evaluation):
    """Results whose seeds agree but for their draws of labelled images."""
    return [
        make_result(seed, arm, eval=evaluation, metrics={"top1": sum(draws) / len(draws)}, draws=draws)
        for arm, seeds in draws_of.items()
        for seed, draws in enumerate(seeds)
    ]


def steps_with_draws(evaluation, **changes):
    """The advice where draws of labelled images differ more than seeds do."""
    own = [(0.4, 0.6), (0.3, 0.73), (0.64, 0.34)]
    results = drawn({"none": [(0.5, 0.5)] * 3, "own": own}, evaluation)
    plan = make_plan(evaluation=evaluation)
    experiment = make_experiment(
        **{"evals": (evaluation,), "plan": plan, "config": CONFIG, "label_draws": {evaluation: 2}} | changes
    )
    return advice(summarise(results, experiment), experiment, [Curves("none", 0, {}), Curves("own", 1, {})])


@pytest.mark.parametrize(("evaluation", "flag"), [("linear", "label_draws"), ("finetune", "finetune_label_draws")])
def test_draws_that_dominate_are_to_be_more(evaluation, flag):
    first = steps_with_draws(evaluation)[0]
    assert first.words == "Average each seed over 8 draws of labelled images"
    assert f"--{flag}=8" in first.command
    assert "draws of labelled images differ by" in first.reason


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"knn_top1": (0.30, 0.50, 0.55)}, "kNN accuracy still rose from 50.0 % to 55.0 % in epochs 5 to 10 of “own”"),
        ({"heldout_rank": (4.0, 5.0, 6.0)}, "the effective rank still rose from 5.0 to 6.0 in epochs 5 to 10 of “own”"),
    ],
)
def test_what_still_rises_is_to_go_on(values, said):
    ((name, numbers),) = values.items()
    logs = [{"epoch": epoch, name: number} for epoch, number in zip((0, 5, 10), numbers, strict=True)]
    longer = [step for step in steps_for(HELPED, logs) if "epochs" in step.words]
    assert [step.reason for step in longer] == [said]
    assert "--epochs=20" in longer[0].command
    flat = [{**line, name: numbers[1]} for line in logs]
    assert [step for step in steps_for(HELPED, flat) if "epochs" in step.words] == []


def test_twice_as_many_epochs_are_counted_from_those_that_there_were():
    # Ten were asked for, and a least number of updates made forty of them.
    logs = [{"epoch": epoch, "knn_top1": number} for epoch, number in ((0, 0.3), (20, 0.5), (40, 0.6))]
    (longer,) = [step for step in steps_for(HELPED, logs) if "epochs" in step.words]
    assert "--epochs=80" in longer.command


def test_a_damaged_pretraining_is_to_be_repaired():
    lost = make_ends("own", z_spread=[0.9] * 3, untrained_rank=[12.0] * 3, rank=[3.0] * 3)
    step = steps_for(UNDECIDED, extra=lost)[0]
    assert step.reason == "“own” lost dimensions in 3 of 3 seeds"
    assert step.command == "python -m experiments.demo --recipe=practice --workdir=runs/demo-practice"
    step = steps_for(UNDECIDED, extra=lost, config={**CONFIG, "recipe": "practice"})[0]
    assert step.command == "python -m experiments.demo --learning_rate=0.0005 --workdir=runs/demo-lower-rate"
    helped = steps_for(HELPED, extra=lost, config={**CONFIG, "recipe": "practice"})
    assert not any("--learning_rate" in (step.command or "") for step in helped)
    assert any("--recipe=practice" in (step.command or "") for step in steps_for(HELPED, extra=lost))


def test_few_images_are_to_be_more_where_pretraining_helped():
    few = steps_for(HELPED, data={"unlabelled": {"images": 500}})
    assert [step.words for step in few][1:] == ["Gather more unlabelled images of this kind"]
    config = {**CONFIG, "pretrain": {**CONFIG["pretrain"], "max_images": 8000}}
    capped = steps_for(HELPED, data={"unlabelled": {"images": 8000}}, config=config)
    assert "--pretrain_images=16000" in capped[1].command
    assert len(steps_for(HELPED, data={"unlabelled": {"images": 8000}})) == 1


def test_no_plan_or_no_look_is_no_advice():
    assert steps_for(HELPED, plan=None) == ()
    assert steps_for(HELPED[:2]) == ()


def test_there_are_four_steps_at_most():
    logs = [{"epoch": 5, "knn_top1": 0.5}, {"epoch": 10, "knn_top1": 0.6}]
    lost = make_ends("own", z_spread=[0.9] * 3, untrained_rank=[12.0] * 3, rank=[3.0] * 3)
    assert len(steps_for(UNDECIDED, logs, lost)) == 4


def test_flags_take_the_place_of_those_that_a_command_has():
    command = "python -m experiments.demo --seeds=3 --workdir 'my runs' --epochs=4"
    assert with_flags(command, seeds=5, workdir="other") == (
        "python -m experiments.demo --epochs=4 --seeds=5 --workdir=other"
    )
    assert with_flags("python -m experiments.own_images '--dataset=folder:my images'", seeds=2) == (
        "python -m experiments.own_images '--dataset=folder:my images' --seeds=2"
    )


ASKING = (
    *("demo", "own_images", "label_efficiency", "ablate_simsiam", "table1_fashion_mnist", "table1_cifar10"),
    *("table2_stl10", "table2_digits", "table2_solar_cells", "table3_celeba", "table3_solar_attributes"),
)


def every_step(launcher):
    """The advice of a launcher's runs, in all cases that have a command."""
    run = {"experiment": launcher, "command": f"python -m experiments.{launcher} --preset=smoke --seeds 3"}
    rising = [{"epoch": 5, "knn_top1": 0.5}, {"epoch": 10, "knn_top1": 0.6}]
    lost = make_ends("own", z_spread=[0.9] * 3, untrained_rank=[12.0] * 3, rank=[3.0] * 3)
    capped = {**CONFIG, "pretrain": {**CONFIG["pretrain"], "max_images": 800}}
    images = {"unlabelled": {"images": 800}}
    found = [
        *steps_for(HELPED, rising, data=images, config=capped, **run),
        *steps_for(HURT, **run),
        *steps_for(UNDECIDED, **run),
        *steps_for(UNDECIDED, plan=make_plan(looks=(3, 5)), **run),
        *steps_for(UNDECIDED, extra=lost, **run),
        *steps_for(UNDECIDED, extra=lost, config={**CONFIG, "recipe": "practice"}, **run),
        *(step for evaluation in ("linear", "finetune") for step in steps_with_draws(evaluation, **run)),
    ]
    return list(dict.fromkeys(step.command for step in found if step.command is not None))


def test_every_launcher_takes_the_flags_of_its_advice():
    words = [shlex.split(command) for launcher in ASKING for command in every_step(launcher)]
    commands = [each[2 if each[0] == "python" else 0 :] for each in words]
    given = {word.partition("=")[0] for command in commands for word in command if word.startswith("--")}
    assert given >= {
        *("--recipe", "--learning_rate", "--label_draws", "--finetune_label_draws", "--first_seed", "--seeds"),
        *("--epochs", "--pretrain_images", "--init", "--backbone", "--workdir", "--checkpoint", "--out", "--dataset"),
    }
    assert command_faults(commands) == []


def test_the_report_ends_with_its_advice(tmp_path):
    experiment = make_experiment(plan=make_plan(), config=CONFIG)
    experiment = dataclasses.replace(experiment, command="python -m experiments.demo '--workdir=a~~~b'")
    experiment.write(tmp_path)
    write_results(tmp_path, make_scores("none", BASE) + make_scores("own", HURT))
    path = write_report(tmp_path)
    markdown, page = (path.parent / "report.md").read_text(), path.read_text()
    assert markdown.index("| none |") < markdown.index("1. Do without this pretraining")
    assert "   ~~~\n   python -m experiments.search_augmentation --dataset=digits\n   ~~~" in markdown
    assert page.index("<table") < page.index("What to do next") < page.index("Do without this pretraining")
