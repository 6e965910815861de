"""The launchers as a person runs them: every mistake is one line and exit code 2."""

import json
import os
import stat

import pytest

from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.values import differences, to_dict
from tests.support.launchers import launch, launch_in_one_process, refused

# Launchers that are a command of `simsiam` too, whose help they show.
COMMANDS = ("pretrain", "evaluate", "export", "report", "prepare_data")
LAUNCHERS = (
    *("demo", "table1_fashion_mnist", "table1_cifar10", "table2_stl10", "table2_digits", "table3_celeba"),
    *("table2_solar_cells", "table3_solar_attributes", "ablate_simsiam", "label_efficiency", "search_augmentation"),
    *("search_recipe", "own_images", *COMMANDS),
)
KEPT_SMALL = ("--help", "--cached_size=12")
OTHER_HELP = ("--help", "--preset=smoke", "--recipe=reference")
MISTAKES = (
    (["--arms=none,nonsense"], ["--arms", "'nonsense'", "none, random, in_domain"]),
    (["--arms="], ["--arms", "names nothing"]),
    (["--backbone=resnet81"], ["--backbone=resnet81", "did you mean resnet18"]),
    (["--stem=vgg"], ["unknown stem 'vgg'", "paper32"]),
    (["--dataset=mnist"], ["'mnist'", "--dataset", "digits, fashion_mnist"]),
    (["--dataset=random_images"], ["random_images", "no labels"]),
    (["--dataset=stl10:fold10"], ["stl10", "'fold10'", "--dataset", "fold0, fold1"]),
    (["--dataset=digits:fold0"], ["digits", "no variant 'fold0'", "--dataset"]),
    (["--dataset=folder:/no/such/place"], ["/no/such/place"]),
    (["--labels=labels.csv"], ["--labels", "--dataset=folder:PATH", "digits"]),
    (["--pretrain_split=unlabelled"], ["--pretrain_split=unlabelled", "digits has train"]),
    (["--pretrain_dataset=cats"], ["'cats'", "known are digits"]),
    (["--feed=disk"], ["--feed=disk", "auto, resident, streamed"]),
    (["--accumulate_by=pairs"], ["--accumulate_by=pairs", "auto, one_pass, scan, loop, multi_steps"]),
    (["--max_bad_images=2"], ["--max_bad_images=2", "at least 0 and at most 1"]),
    (["--threshold=1"], ["--threshold=1", "above 0 and below 1"]),
    (["--recipe=soup"], ["--recipe=soup", "paper, code, reference"]),
    (["--preset=huge"], ["--preset=huge", "smoke, small, full"]),
    (["--evals=guess"], ["--evals", "'guess'", "knn, linear, finetune"]),
    (["--dtype=float16"], ["--dtype=float16", "auto, float32, bfloat16"]),
    (["--micro_batch_size=0"], ["--micro_batch_size=0", "at least 2"]),
    (["--accumulation=0"], ["--accumulation=0", "at least 1"]),
    (["--accumulation=-3"], ["--accumulation=-3"]),
    (["--epochs=0"], ["--epochs=0", "at least 1"]),
    (["--learning_rate=0"], ["--learning_rate=0", "above 0"]),
    (["--seeds=0"], ["--seeds=0", "at least 1"]),
    (["--width=0"], ["--width=0", "above 0"]),
    (["--width=16"], ["--width=16", "at most 8", "multiple of the published"]),
    # What was accepted, or ended in a traceback, before each setting declared its range.
    (["--learning_rate=inf"], ["--learning_rate=inf", "at most 1,000"]),
    (["--learning_rate=nan"], ["--learning_rate=nan", "above 0"]),
    (["--weight_decay=1e400"], ["--weight_decay=inf", "at most 10"]),
    (["--image_size=100000"], ["--image_size=100000", "at most 2,048"]),
    (["--epochs=99999999999999999999"], ["--epochs=99999999999999999999", "at most 100,000"]),
    (["--seeds=99999999999"], ["--seeds=99999999999", "at most 1,000"]),
    (["--crop_scale=0.5,3"], ["--crop_scale=0.5,3", "at most 1.5"]),
    (["--crop_scale=0.9,0.5"], ["--crop_scale=0.9,0.5", "must not exceed the second"]),
    (["--warmup_epochs=30", "--epochs=20"], ["--warmup_epochs=30", "--epochs=20"]),
    (["--finetune_warmup_epochs=70"], ["--finetune_warmup_epochs=70", "--finetune_epochs=60"]),
    (["--workdir="], ["--workdir=", "must not be empty"]),
    (["--evals="], ["--evals=", "names nothing"]),
    (["--evals=knn,,linear"], ["--evals=knn,,linear", "names nothing"]),
    (["--patch_size=4"], ["--patch_size=4", "resnet18 has no patch_size"]),
    (["--backbone=vit_s", "--stem=cifar"], ["--stem=cifar", "vit_s has no stem"]),
    (["--backbone=vit_s", "--patch_size=3"], ["vit_s", "--image_size=16", "--patch_size=3", "no multiple"]),
    (["--backbone=pit_ti", "--drop_path=1.5"], ["--drop_path=1.5", "probability", "below 1"]),
    (["--init=nowhere.safetensors"], ["--init=nowhere.safetensors", "no such file"]),
    (["--init=imagenet", "--backbone=vit_s_2021"], ["--init=imagenet", "no ImageNet weights", "vit_s_2021"]),
    (["--init=hf:nonsense"], ["--init=hf:nonsense", "hf:OWNER/REPO"]),
    (["--image_size=0"], ["--image_size=0", "at least 1"]),
    (["--image_size=7", "--stem=cifar"], ["--image_size=7", "cifar stem", "8 pixels"]),
    (["--labels_per_class=0"], ["--labels_per_class=0", "at least 1"]),
    (["--noise_images=1"], ["--noise_images=1", "at least 2"]),
    (["--epochs=many"], ["--epochs", "many"]),
    (["--no_such_flag=1"], ["no_such_flag"]),
    (["stray"], ["'stray'", "flags"]),
    (["--seeds=some"], ["--seeds=some", "whole number", "auto"]),
    (["--seeds=auto", "--looks=3,3"], ["--looks=3,3", "ascending"]),
    (["--seeds=auto", "--looks=2.5"], ["--looks=", "whole numbers"]),
    (["--seeds=auto", "--evals=knn"], ["--evals=knn", "linear"]),
    (["--budget=soon"], ["--budget=soon", "2h"]),
    (["--crop_scale=0.5"], ["--crop_scale=0.5", "two numbers", "--crop_scale=0.2,1"]),
    (["--finetune_crop_scale=small,large"], ["--finetune_crop_scale=small,large", "two numbers"]),
    (["--label_fraction=2"], ["--label_fraction=2", "at most 1"]),
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """How the launchers of this file's quick tests end, by their module and flags, all run in one process."""
    folder = tmp_path_factory.mktemp("outcomes")
    places = [f"--workdir={folder / 'w'}", f"--data_dir={folder}"]
    commands = [(module, "--help") for module in LAUNCHERS]
    commands += [("demo", *OTHER_HELP), ("demo", "--help", "--preset=huge"), ("demo", *KEPT_SMALL)]
    commands += [("demo", *flags) for flags, _ in MISTAKES]
    results = launch_in_one_process(
        [[module, *places[: 2 * (module == "demo")], *flags] for module, *flags in commands]
    )
    assert not (folder / "w" / "results.jsonl").exists()
    return dict(zip(commands, results, strict=True))


@pytest.mark.parametrize("module", LAUNCHERS)
def test_help_lists_the_flags_under_their_headings(outcomes, module):
    result = outcomes[module, "--help"]
    assert result.returncode == 0, result.stderr
    assert {"export": "--out", "prepare_data": "--data_dir"}.get(module, "--workdir") in result.stdout
    example = "Example: simsiam " if module in COMMANDS else f"Command: python -m experiments.{module}"
    assert example in result.stdout
    headings = [line for line in result.stdout.splitlines() if line in HEADINGS]
    assert headings == [each for each in HEADINGS if each in headings]
    assert {"prepare_data": "data:"}.get(module, "output:") in headings


HEADINGS = ("data:", "method:", "size:", "evaluation:", "output:", "launcher:")


def test_views_are_not_drawn_larger_than_images_are_kept(outcomes):
    # Views of digits have 16 pixels.
    assert "--image_size=16 " in outcomes["demo", "--help"].stdout
    assert "--image_size=12 " in outcomes["demo", *KEPT_SMALL].stdout


def test_help_gives_each_flag_the_value_of_the_chosen_recipe_and_preset(outcomes):
    shown = outcomes["demo", "--help"].stdout
    assert "--width=0.25 " in shown
    # The recipe `practice` has this norm, and the preset no say in the method.
    assert "--projector_output_norm=plain" in shown
    assert "--micro_batch_size=64 " in shown
    assert "--seeds=auto " in shown
    assert "--looks=3,5,8,12 " in shown
    shown = outcomes["demo", *OTHER_HELP].stdout
    assert "--width=0.125 " in shown
    assert "--projector_output_norm=plain" in shown
    assert "--optimizer=sgd " in shown
    assert "--patch_size=4 " in shown
    refused(outcomes["demo", "--help", "--preset=huge"], "--preset=huge")


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_a_mistake_in_a_flag_is_one_line(outcomes, flags, words):
    refused(outcomes["demo", *flags], *words)


def test_a_mistake_ends_a_launcher_by_itself_as_it_does_beside_others(outcomes, tmp_path):
    alone = launch("demo", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}", "--epochs=0")
    refused(alone, "--epochs=0")
    assert alone.stderr == outcomes["demo", "--epochs=0"].stderr


def test_more_labels_than_any_class_has_names_the_flag(tmp_path):
    result = launch("demo", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}", "--labels_per_class=500")
    refused(result, "--labels_per_class=500")


def test_accumulation_beyond_an_epoch_is_refused_before_training(tmp_path):
    flags = ["--pretrain_images=128", "--micro_batch_size=32", "--accumulation=8"]
    result = launch("demo", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}", "--preset=smoke", *flags)
    refused(result, "--accumulation=8", "4 micro-batches of 32")


def test_a_micro_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    result = launch(
        "demo",
        f"--workdir={tmp_path / 'w'}",
        f"--data_dir={tmp_path}",
        "--micro_batch_size=33",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    refused(result, "--micro_batch_size=33", "2 devices")


def test_a_damaged_archive_is_named(tmp_path):
    # Data that is nowhere to be had is tested in test_builders: here Debian's package may be installed.
    manual = tmp_path / "manual"
    manual.mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (manual / f"{part}-ubyte.gz").write_bytes(b"\x1f\x8b\x08 cut short")
    flags = [f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={manual}"]
    refused(launch("table1_fashion_mnist", *flags), "-ubyte.gz", str(manual))


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    result = launch("demo", f"--workdir={tmp_path / 'file' / 'w'}", f"--data_dir={tmp_path}")
    refused(result, "--workdir", "cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_workdir_without_permission_is_refused(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w").chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(launch("demo", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}"), "--workdir", "cannot be written")


def test_evaluate_needs_a_checkpoint(tmp_path):
    none, other = launch_in_one_process([["evaluate"], ["evaluate", f"--checkpoint={tmp_path}"]])
    refused(none, "--checkpoint")
    refused(other, f"--checkpoint={tmp_path}", "WORKDIR/ARM/seed-K/pretrain")


def test_a_setting_in_which_the_arms_differ_is_no_flag(tmp_path):
    flags = (f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}")
    predictor, backbone, init = launch_in_one_process(
        [
            ["ablate_simsiam", "--nopredictor", *flags],
            ["table2_stl10", "--backbone=vit_s", *flags],
            ["table3_celeba", "--init=hf:a/b", *flags],
        ]
    )
    refused(predictor, "--predictor=False", "arms of this table", "--arms")
    refused(backbone, "--backbone=vit_s", "arms of this table", "--arms")
    refused(init, "--init=hf:a/b", "--arms")


def shown(module, *flags):
    """The settings of each arm that --show_config prints, for each list of flags."""
    results = launch_in_one_process([[module, "--show_config", *each] for each in flags])
    for result in results:
        assert result.returncode == 0, result.stderr
    return [json.loads(result.stdout) for result in results]


def test_show_config_prints_every_setting_of_every_arm_and_writes_nothing(tmp_path):
    (arms,) = shown("ablate_simsiam", [f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path}"])
    assert not list(tmp_path.iterdir())
    assert len(arms) == 16
    assert arms["no-stop-gradient"]["program"]["method"]["stop_gradient"] is False
    assert arms["simsiam"]["program"]["method"]["stop_gradient"] is True
    assert arms["no-crop"]["program"]["views"]["crop_scale"] == [1.0, 1.0]
    # An arm differs from SimSiam as it is in what its row says, and in nothing else.
    assert differences(arms["simsiam"], arms["no-predictor"]) == ["program.head.predictor: true -> false"]
    assert differences(arms["simsiam"], arms["none"]) == []


RATE, SCALING = "pretrain.schedule.learning_rate", "pretrain.schedule.scaling_batch"
# What tells SimSiam's own recipe from the paper's at 32 pixels (experiments/PAPER.md), and the flags that switch it.
REFERENCE = {
    "--stem=cifar": "program.backbone.stem",
    "--projector_dim=2048": "program.head.projector_dim",
    "--projector_layers=2": "program.head.projector_layers",
    "--projector_output_norm=plain": "program.head.projector_output_norm",
    "--predictor_dim=512": "program.head.predictor_dim",
    "--optimizer=sgd": "program.optimizer.name",
    "--learning_rate=0.06": RATE,
    "--warmup_epochs=0": "pretrain.schedule.warmup_epochs",
    "--weight_decay=0.0005": "program.optimizer.weight_decay",
    "--micro_batch_size=512": "pretrain.micro_batch_size",
    "--accumulation=1": "program.accumulation",
}


def test_a_flag_switches_each_difference_of_the_recipes_alone():
    paper, code, reference = (
        to_dict(recipe_config(name, dataset="cifar10", image_size=32)) for name in ("paper", "code", "reference")
    )
    named = {line.split(":")[0] for line in differences(paper, reference)}
    assert named == {*REFERENCE.values(), "recipe"}
    assert {line.split(":")[0] for line in differences(paper, code)} == {
        "recipe",
        "program.finetune_optimizer.name",
        "program.finetune_optimizer.weight_decay",
        "finetune.schedule.learning_rate",
        "finetune.schedule.schedule",
    }


def test_every_flag_of_a_recipe_changes_what_it_names():
    base, *others = (arms["none"] for arms in shown("table1_cifar10", [], *([flag] for flag in REFERENCE)))
    for (flag, setting), other in zip(REFERENCE.items(), others, strict=True):
        changed = [line.split(":")[0] for line in differences(base, other)]
        # The flag says the rate itself, whatever the batch.
        assert changed == [setting, SCALING][: 1 + (setting == RATE)], flag
