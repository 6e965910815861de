"""The whole way through, on the real digits at the smallest size."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.files import read_sealed, sha256
from simsiam_jax.inference import open_model
from simsiam_jax.models import create_backbone
from simsiam_jax.records.results import read_results
from simsiam_jax.settings.recipes import PRESETS, recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study.definition import THREE_ARMS, Arm, Study
from simsiam_jax.study.evaluations import evaluate
from simsiam_jax.study.images import load_data
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.study.run import units
from simsiam_jax.study.stages import Unit
from simsiam_jax.study.workdir import claimed
from simsiam_jax.weights import to_timm
from simsiam_jax.weights.state_dicts import write_safetensors
from tests.support.launchers import ROOT, finish, json_lines, launch, launch_in_one_process, numbers, refused, start

NAMES = ("experiment", "arm", "backbone", "pretrain", "seed", "eval", "split", "metrics", "config_hash")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    base = tmp_path_factory.mktemp("study")
    return base / "done", base / "data"


def _command(places, workdir, *flags):
    # A report takes longer than all that it reports here: where it is not looked at, there is none.
    usual = ("--preset=smoke", "--epochs=3", "--evals=knn,linear,finetune", "--noreport")
    return ["demo", *usual, f"--workdir={workdir}", f"--data_dir={places[1]}", *flags]


def _start(places, workdir, *flags):
    return start(*_command(places, workdir, *flags))


def _demo(places, workdir, *flags):
    return finish(_start(places, workdir, *flags))


@pytest.fixture(scope="module")
def demo(places):
    """The finished workdir of the demo's smoke preset, and what it printed."""
    result = _demo(places, places[0], "--report")
    assert result.returncode == 0, result.stderr
    return places[0], result


def test_every_unit_leaves_its_lines_and_the_table_is_printed(demo):
    workdir, result = demo
    arms = ("none", "random", "in_domain")
    expected = {
        (arm, 0, name, split)
        for arm in arms
        for name in ("knn", "linear", "finetune")
        for split in ("validation", "test")
    }
    expected |= {(arm, 0, "pretrain", split) for arm in arms[1:] for split in ("train", "validation")}
    assert set(numbers(workdir)) == expected
    line = json.loads((workdir / "results.jsonl").read_text().splitlines()[0])
    assert set(NAMES) < set(line)
    assert {"seconds", "git_revision", "versions", "device"} < set(line)
    assert all(
        0 <= metrics["top1"] <= 1 for (_, _, name, _), (metrics, _) in numbers(workdir).items() if name != "pretrain"
    )
    for words in ("no pretraining", "random images", "digits images", "index.html", "results.jsonl"):
        assert words in result.stdout
    assert (workdir / "report" / "index.html").stat().st_size > 50_000


def test_the_terminal_says_what_was_found_and_the_settings_are_saved(demo):
    workdir, result = demo
    assert "digits: 1,797 images in 10 classes" in result.stdout.splitlines()[0]
    assert "projector_dim" not in result.stdout
    saved = json.loads((workdir / "in_domain" / "seed-0" / "pretrain" / "config.json").read_text())
    assert saved["config"]["program"]["head"]["projector_dim"] == 64
    assert (saved["arm"], saved["pretrain"], saved["stage"]) == ("in_domain", "digits", "pretrain")


def test_stages_leave_metrics_checkpoints_and_tensorboard_events(demo):
    folder = demo[0] / "in_domain" / "seed-0" / "pretrain"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    # Before training there is what is measured of held-out images, and nothing of training.
    assert {"heldout_loss", "heldout_z_spread", "knn_top1"} <= set(lines[0])
    assert "loss" not in lines[0]
    assert {"loss", "learning_rate", "images_per_second", "heldout_loss", "z_spread", "knn_top1"} <= set(lines[-1])
    assert (folder / "checkpoints" / str(lines[-1]["update"])).is_dir()
    assert list((folder / "tensorboard").glob("events.*"))


def test_a_plain_pipe_gets_plain_lines_with_loss_rate_speed_and_time_left(demo):
    lines = [line for line in demo[1].stderr.splitlines() if line.startswith("in_domain seed 0 pretrain: 100%")]
    assert len(lines) == 1
    for words in ("epoch 3", "loss", "lr", "images/s", "s left"):
        assert words in lines[0]
    assert "\x1b" not in demo[1].stderr


def test_all_arms_start_from_the_same_backbone_and_see_the_same_labels(places, demo, tmp_path):
    study = make_study(tmp_path, THREE_ARMS, data_dir=places[1], config=SMOKE)
    data = load_data(study)
    network = CompiledNetwork(SMOKE.program, data.info.num_classes)
    for seed in (0, 1):
        arms = [Unit(study, network, None, data, name, seed, {}) for name in study.arms]
        first, *others = arms
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, other.initial_backbone(), first.initial_backbone())
            for draw in (0, 1, 19):
                np.testing.assert_array_equal(other.labelled(draw), first.labelled(draw))
        # What is pretrained begins with the same backbone.
        pretrained = backbone_variables(network.pretrain_state(seed).variables)
        jax.tree.map(np.testing.assert_array_equal, pretrained, first.initial_backbone())
    one, other = (Unit(study, network, None, data, "none", seed, {}) for seed in (0, 1))
    assert not np.array_equal(one.labelled(0), other.labelled(0))
    assert not np.array_equal(one.labelled(0), one.labelled(1))


def test_an_evaluation_is_the_mean_over_its_draws_each_of_other_labels(demo):
    for name, count in (("knn", 3), ("linear", 3), ("finetune", 1)):
        lines = [line for line in json_lines(demo[0] / "results.jsonl") if line["eval"] == name]
        for line in lines:
            assert len(line["draws"]) == count
            assert line["metrics"]["top1"] == pytest.approx(np.mean(line["draws"]))
        # Other labels give other numbers, but for a coincidence.
        assert any(len(set(line["draws"])) > 1 for line in lines) == (count > 1)
    assert json.loads((demo[0] / "experiment.json").read_text())["label_draws"] == {
        "knn": 3,
        "linear": 3,
        "finetune": 1,
    }


def test_a_draw_by_itself_finds_what_it_finds_among_others(demo, places, tmp_path):
    result = _demo(places, tmp_path / "w", "--arms=none", "--label_draws=2", "--finetune_label_draws=2")
    assert result.returncode == 0, result.stderr
    one = {(x["eval"], x["split"]): x["draws"] for x in json_lines(demo[0] / "results.jsonl") if x["arm"] == "none"}
    for line in json_lines(tmp_path / "w" / "results.jsonl"):
        assert len(line["draws"]) == 2
        shared = min(2, len(one[line["eval"], line["split"]]))
        assert line["draws"][:shared] == one[line["eval"], line["split"]][:shared]
    # Each further draw of fine-tuning can be resumed by itself.
    assert (tmp_path / "w" / "none" / "seed-0" / "finetune" / "draw-1" / "metrics.jsonl").exists()


def test_with_all_labels_there_is_one_draw():
    everything = with_settings(SMOKE, {"labels_per_class": None})
    assert [everything.label_draws(name) for name in ("knn", "linear", "finetune")] == [1, 1, 1]
    assert with_settings(SMOKE, {"label_fraction": 1.0}).label_draws("linear") == 1
    assert with_settings(SMOKE, {"label_fraction": 0.5, "label_draws": 7}).label_draws("linear") == 7


def test_seeds_are_added_by_looks_until_the_primary_comparison_is_decided(demo, places, tmp_path):
    workdir = tmp_path / "auto"
    flags = ["--evals=linear", "--seeds=auto", "--looks=2,3", "--first_seed=7"]
    result = _demo(places, workdir, *flags)
    assert result.returncode == 0, result.stderr
    experiment = json.loads((workdir / "experiment.json").read_text())
    assert experiment["plan"] == {
        "evaluation": "linear",
        "primary": ["in_domain"],
        "looks": [2, 3],
        "first_seed": 7,
        "smallest_effect": 1.0,
        "alpha": 0.05,
    }
    # The run says after each look what it decided, by the rule that the report uses.
    said = [line for line in result.stdout.splitlines() if line.startswith("in_domain ")]
    decided = not said[0].startswith("in_domain undecided")
    seeds = {key[1] for key in numbers(workdir)}
    assert seeds == ({7, 8} if decided else {7, 8, 9})
    assert said[-1].endswith("the run ends")
    # Looks are fixed beforehand.
    others = (["--seeds=2"], ["--seeds=auto", "--looks=2,4"], ["--seeds=auto", "--smallest_effect=2"])
    commands = [
        _command(places, workdir, *flags[:1], *(flags[1:3] if len(other) == 1 else []), *flags[3:], *other)
        for other in others
    ]
    for result in launch_in_one_process(commands):
        refused(result, "decides in another way")


def test_a_budget_ends_a_run_and_nothing_is_lost(demo, places, tmp_path):
    flags = ["--evals=linear", "--seeds=auto", "--looks=2,3"]
    result = _demo(places, tmp_path / "w", *flags, "--budget=0s")
    assert result.returncode == 0, result.stderr
    assert "the budget is spent" in result.stdout
    assert numbers(tmp_path / "w") == {}


def test_a_budget_does_not_shorten_a_run_of_a_fixed_number_of_seeds(demo, places, tmp_path):
    result = _demo(places, tmp_path / "w", "--arms=none", "--evals=knn", "--seeds=1", "--budget=0s")
    assert result.returncode == 0, result.stderr
    assert {key[:3] for key in numbers(tmp_path / "w")} == {("none", 0, "knn")}


def test_rank_is_watched_from_the_untrained_network_on(demo):
    folder = demo[0] / "in_domain" / "seed-0" / "pretrain"
    lines = json_lines(folder / "metrics.jsonl")
    assert all(line["heldout_rank"] >= 1 for line in lines)
    (validation,) = [
        x["metrics"]
        for x in json_lines(demo[0] / "results.jsonl")
        if (x["arm"], x["eval"], x["split"]) == ("in_domain", "pretrain", "validation")
    ]
    assert validation["untrained_rank"] == lines[0]["heldout_rank"]
    assert validation["rank"] == lines[-1]["heldout_rank"]
    assert validation["untrained_knn_top1"] == lines[0]["knn_top1"]


def test_running_again_repeats_nothing(demo, places):
    workdir, _ = demo
    before = (workdir / "results.jsonl").read_bytes()
    result = _demo(places, workdir)
    assert result.returncode == 0, result.stderr
    assert (workdir / "results.jsonl").read_bytes() == before
    assert "micro-steps" not in result.stderr
    assert "\nreport" not in result.stdout  # none was asked for


def test_stopped_half_way_and_run_again_it_ends_with_the_same_numbers(demo, places, tmp_path):
    workdir = tmp_path / "stopped"
    process = _start(places, workdir, "--arms=none,in_domain")
    log = workdir / "in_domain" / "seed-0" / "pretrain" / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stopped = finish(process)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command goes on" in stopped.stderr
    expected = {key: value for key, value in numbers(demo[0]).items() if key[0] != "random"}
    assert len(numbers(workdir)) < len(expected)
    result = _demo(places, workdir, "--arms=none,in_domain")
    assert result.returncode == 0, result.stderr
    assert numbers(workdir) == expected


def test_running_some_arms_alone_keeps_the_reference_arm(demo, places):
    workdir, _ = demo
    before = json.loads((workdir / "experiment.json").read_text())
    result = _demo(places, workdir, "--arms=in_domain", "--evals=knn")
    assert result.returncode == 0, result.stderr
    after = json.loads((workdir / "experiment.json").read_text())
    assert [arm["name"] for arm in after["arms"]] == ["none", "random", "in_domain"]
    assert after["evals"] == before["evals"] == ["knn", "linear", "finetune"]


def _weights_file(path, seed):
    """Weights of the smoke preset's network, as a timm model of its shape would save them."""
    module = create_backbone("resnet18", 16, stem="cifar", width=0.125)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32))
    draw = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: np.abs(draw.normal(0.1, 0.1, leaf.shape)).astype(np.float32), shapes)
    write_safetensors(path, to_timm("resnet18", variables), {})


def test_a_study_starts_from_a_file_of_weights_and_keeps_to_it(demo, places, tmp_path):
    path, workdir = tmp_path / "mine.safetensors", tmp_path / "w"
    _weights_file(path, seed=0)
    flags = ["--arms=none", "--evals=knn", f"--init={path}"]
    result = _demo(places, workdir, *flags)
    assert result.returncode == 0, result.stderr
    experiment = json.loads((workdir / "experiment.json").read_text())
    assert experiment["arms"][0]["init"]["sha256"] == sha256(path)
    assert experiment["arms"][0]["label"] == "no pretraining, from mine.safetensors"
    assert {each.pretrain for each in read_results(workdir)} == {"mine.safetensors"}
    key = ("none", 0, "knn", "test")
    assert numbers(workdir)[key][0] != numbers(demo[0])[key][0]
    _weights_file(path, seed=1)
    refused(_demo(places, workdir, *flags), "--init=", "no longer the file", "--workdir")


def test_a_workdir_of_another_experiment_is_refused(demo, places):
    workdir, _ = demo
    result = launch("table1_fashion_mnist", "--preset=smoke", f"--workdir={workdir}", f"--data_dir={places[1]}")
    refused(result, "holds results of demo", "--workdir")


def test_a_workdir_with_other_settings_is_refused_and_names_them(demo, places):
    workdir, _ = demo
    before = (workdir / "results.jsonl").read_bytes()
    refused(_demo(places, workdir, "--labels_per_class=6"), "evaluation.labels_per_class: 5 -> 6", "--workdir")
    assert (workdir / "results.jsonl").read_bytes() == before


def test_evaluate_takes_an_arms_checkpoint_and_says_what_the_table_says(demo, places, tmp_path):
    workdir, _ = demo
    checkpoint = workdir / "in_domain" / "seed-0" / "pretrain"
    flags = [f"--checkpoint={checkpoint}", f"--data_dir={places[1]}", f"--workdir={tmp_path / 'e'}", "--noreport"]
    result = launch("evaluate", "--evals=linear", *flags)
    assert result.returncode == 0, result.stderr
    table, alone = numbers(workdir), numbers(tmp_path / "e")
    # The untrained network stands beside it: the same units as in the study.
    names = {"none": "none", "in_domain": open_model(checkpoint).arm_name}
    assert set(alone) == {(name, 0, "linear", split) for name in names.values() for split in ("validation", "test")}
    for arm, name in names.items():
        for split in ("validation", "test"):
            assert alone[(name, 0, "linear", split)][0] == table[(arm, 0, "linear", split)][0]
    other = {"--width=0.25": "width 0.125", "--image_size=32": "image_size 16", "--backbone=vit_s": "resnet18"}
    for result in launch_in_one_process([["evaluate", flag, *flags] for flag in other]):
        flag = result.args[1]
        refused(result, flag, other[flag])


def test_a_damaged_checkpoint_gives_one_clear_line(demo, places, tmp_path):
    folder = tmp_path / "pretrain"
    shutil.copytree(demo[0] / "in_domain" / "seed-0" / "pretrain", folder)
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:-5000])
    result = launch("evaluate", "--evals=knn", f"--checkpoint={folder}", f"--data_dir={places[1]}")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "no checkpoint can be restored" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_pairs_of_the_report_are_views_of_the_training_images(demo):
    with np.load(demo[0] / "pairs.npz") as pairs:
        assert pairs["originals"].dtype == np.uint8
        assert pairs["originals"].shape == (8, 8, 8, 3)
        for name in ("view1", "view2"):
            assert pairs[name].shape == (8, 16, 16, 3)
            assert pairs[name].min() >= 0
            assert pairs[name].max() <= 1
        assert np.abs(pairs["view1"] - pairs["view2"]).mean() > 0.01


def test_neither_tensorflow_nor_torch_is_needed_at_run_time(tmp_path):
    code = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in ("tensorflow", "torch") else find(name, *rest)
import experiments.demo, simsiam_jax.study.run, simsiam_jax.report.page
from simsiam_jax.data import load_split
print(len(load_split("digits", "test", data_dir={str(tmp_path)!r})))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "400", result.stderr


def test_every_launcher_is_one_short_file():
    launchers = [path for path in Path(ROOT, "experiments").glob("*.py") if "__main__" in path.read_text()]
    assert len(launchers) >= 9
    for path in launchers:
        assert len(path.read_text().splitlines()) <= 100, path


SMOKE = with_settings(
    recipe_config("paper", dataset="digits", image_size=16),
    {
        **{name: value for name, value in PRESETS["smoke"].items() if name != "seeds"},
        "stem": "cifar",
        "patch_size": None,
    },
)


def make_study(workdir, arms, **changes):
    """A study that is only looked at."""
    values = {
        "experiment": "made_up",
        "title": "t",
        "question": "q",
        "arms": arms,
        "config": recipe_config("paper", dataset="digits", image_size=16),
        "seeds": (0, 1),
        "evaluations": ("knn",),
        "workdir": workdir,
        "data_dir": workdir,
        "manual_dir": None,
        "command": "python",
    }
    return Study(**{**values, **changes})


SHARING = {
    "none": Arm("none", "none"),
    "few": Arm("in_domain", "few"),
    "many": Arm("in_domain", "many", settings={"label_fraction": 1.0}, shares="few"),
}


def test_units_go_seed_by_seed_in_the_order_of_the_arms(tmp_path):
    assert units(make_study(tmp_path, SHARING)) == [(arm, seed) for seed in (0, 1) for arm in SHARING]


def test_an_arm_may_not_differ_in_what_all_arms_share():
    with pytest.raises(TypeError, match="pretrain_images"):
        Arm("in_domain", "more images", settings={"pretrain_images": 7})


def test_a_unit_that_another_process_is_at_is_not_ours_nor_what_shares_its_pretraining(tmp_path):
    study = make_study(tmp_path, SHARING)
    folders = []
    for name in SHARING:
        unit = Unit.__new__(Unit)  # a unit without its images and networks
        vars(unit).update(study=study, name=name, seed=0)
        folders.append(unit.pretrained_folder.parent)
    none, few, many = folders
    with claimed(few) as first, claimed(many) as shared, claimed(none) as other:
        assert (first, shared, other) == (True, False, True)
    with claimed(many) as ours:
        assert ours


def test_pretraining_alone_draws_no_labels():
    evaluate(Unit.__new__(Unit), (), {})  # a unit without any image


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_processes_on_one_folder_at_once_end_with_the_numbers_of_one_process(demo, places, tmp_path, count):
    workdir = tmp_path / "shared"
    # Cold caches, too: they prepare the data at the same time.
    at_once = (places[0], tmp_path / "data")
    processes = [_start(at_once, workdir, "--evals=linear", "--report") for _ in range(count)]
    for result in [finish(process) for process in processes]:
        assert result.returncode == 0, result.stderr
    # `numbers` says that no result is there twice.
    found = numbers(workdir)
    assert found == {key: value for key, value in numbers(demo[0]).items() if key[2] in ("linear", "pretrain")}
    lines = json_lines(workdir / "results.jsonl")
    assert len(lines) == len(found)
    assert len(list(workdir.glob("*/seed-*/*/result.json"))) == len({(x["arm"], x["seed"], x["eval"]) for x in lines})
    report = (workdir / "report" / "report.md").read_text()
    assert "All 3 evaluations done" in report


@pytest.mark.exhaustive
def test_processes_with_different_arms_and_seeds_add_up(demo, places, tmp_path):
    workdir = tmp_path / "added"
    flags = (["--arms=none,in_domain", "--evals=knn"], ["--arms=none", "--evals=knn", "--seeds=2"])
    for result in [finish(process) for process in [_start(places, workdir, *each) for each in flags]]:
        assert result.returncode == 0, result.stderr
    done = {key[:3] for key in numbers(workdir)}
    assert done == {("none", 0, "knn"), ("none", 1, "knn"), ("in_domain", 0, "knn"), ("in_domain", 0, "pretrain")}
    experiment = json.loads((workdir / "experiment.json").read_text())
    assert [arm["name"] for arm in experiment["arms"]] == ["none", "in_domain"]
    assert experiment["seeds"] == [0, 1]


def test_a_failed_unit_is_reported_the_others_go_on_and_it_can_be_tried_again(demo, places, tmp_path):
    workdir = tmp_path / "failing"
    obstacle = workdir / "random" / "seed-0" / "knn"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("no folder")
    result = _demo(places, workdir, "--evals=knn", "--report")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("failed   random seed 0: FileExistsError")
    assert "Traceback" in (obstacle.parent / "error.txt").read_text()
    assert {arm for arm, _, name, _ in numbers(workdir) if name == "knn"} == {"none", "in_domain"}
    assert "Failed: random, seed-0: FileExistsError" in (workdir / "report" / "report.md").read_text()
    obstacle.unlink()
    result = _demo(places, workdir, "--evals=knn")
    assert result.returncode == 0, result.stderr
    assert not (obstacle.parent / "error.txt").exists()
    assert {key: value for key, value in numbers(demo[0]).items() if key[2] in ("knn", "pretrain")} == numbers(workdir)


def test_a_dry_run_prints_units_updates_and_time_and_writes_nothing(demo, places, tmp_path):
    result = _demo(places, tmp_path / "none", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "none").exists()
    lines = [line.split() for line in result.stdout.splitlines()]
    found = {line[0]: line[3:5] for line in lines if line[1:2] == ["seed"]}
    # 256 images in batches of 32, three epochs; 128 random ones; 50 labelled images, one batch an epoch, two epochs.
    assert found == {"none": ["–", "2"], "random": ["12", "2"], "in_domain": ["24", "2"]}
    assert "3 units, about" in result.stdout
    # Of a finished run nothing is left.
    assert "0 units" in _demo(places, demo[0], "--dry_run").stdout


def test_a_dry_run_with_auto_seeds_says_what_an_answer_takes(demo, places, tmp_path):
    flags = ["--dry_run", "--evals=linear", "--seeds=auto", "--looks=2,3", "--budget=0s"]
    result = _demo(places, tmp_path / "none", *flags)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "3 arms, 2, 3 seeds; timing a few steps of each network"
    assert "6 units, about" in result.stdout
    assert re.search(
        r"an answer takes [23]\.\d seeds on average, 3 at most: about .+ from here, .+ at most\.", lines[-1]
    )
    assert lines[-1].endswith("ends before the first look: there will be no answer.")
    assert not (tmp_path / "none").exists()


def test_a_dry_run_of_pretraining_prints_its_unit_and_names_no_checkpoint(places, tmp_path):
    flags = ["--preset=smoke", "--dry_run", f"--workdir={tmp_path / 'none'}", f"--data_dir={places[1]}"]
    result = launch("pretrain", *flags)
    assert result.returncode == 0, result.stderr
    assert "1 units, about" in result.stdout
    assert "in_domain seed 0" in result.stdout
    assert "checkpoint" not in result.stdout
    assert not (tmp_path / "none").exists()


def _without_times(path):
    """A file of a run, but for times, speeds and the folder in its command."""
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line.pop("digest")
            for values in (line, line.get("metrics", {})):
                values.pop("seconds", None)
                values.pop("images_per_second", None)
        return lines
    if path.name == "result.json":
        values = json.loads(path.read_text())
        values.pop("seconds")
        values.pop("digest")
        for numbers in values["metrics"].values():
            numbers.pop("images_per_second", None)
        return values
    if path.name == "experiment.json":
        return {name: value for name, value in read_sealed(path).items() if name != "command"}
    return path.read_bytes()


def test_two_runs_of_a_seed_leave_the_same_files_but_for_times(demo, places, tmp_path):
    first, second = demo[0], tmp_path / "again"
    result = _demo(places, second, "--report")
    assert result.returncode == 0, result.stderr
    files = {
        path.relative_to(second)
        for path in second.rglob("*")
        if path.is_file() and not {"checkpoints", "tensorboard", "report"} & set(path.relative_to(second).parts)
    }
    kinds = {path.name for path in files}
    assert {"results.jsonl", "result.json", "experiment.json", "metrics.jsonl", "config.json"} < kinds
    assert {"neighbours.npz", "map.npz", "pairs.npz", "samples.npz", "confusion.json"} <= kinds
    for path in files:
        assert _without_times(first / path) == _without_times(second / path), path
    for name in ("table.csv", "table.tex", "neighbours.png", "map.png", "loss.png"):
        assert (first / "report" / name).read_bytes() == (second / "report" / name).read_bytes(), name
    # The launcher of reports makes the same page of the same files.
    page = (second / "report" / "index.html").read_bytes()
    result = launch("report", f"--workdir={second}", f"--out={tmp_path / 'report'}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "report" / "index.html").read_bytes() == page
    none, other = launch_in_one_process([["report"], ["report", f"--workdir={tmp_path}"]])
    refused(none, "WORKDIR is missing")
    refused(other, str(tmp_path))
