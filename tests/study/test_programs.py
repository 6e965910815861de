"""What is compiled is one value: whatever changes a program changes its key, and a study shares programs by it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from simsiam_jax.data.feed import Batch
from simsiam_jax.errors import InputError
from simsiam_jax.settings.declare import declared
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import SETTINGS, with_settings
from simsiam_jax.settings.schema import Config, ProgramConfig
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import Hyper, whole_update

SMALL = {"width": 0.125, "projector_dim": 8, "predictor_dim": 4, "backbone": "resnet18", "stem": "cifar"}


def config_of(image_size):
    return with_settings(recipe_config("paper", dataset="digits", image_size=image_size), {**SMALL, "patch_size": None})


CONFIG = config_of(16)
COMPILED = {each.flag: each for each in declared(ProgramConfig)}
# A value for each setting of the program that is not the one it has above.
OTHERS = {
    "crop_scale": (0.3, 0.9),
    "crop_ratio": (0.5, 1.5),
    "flip_probability": 0.25,
    "jitter_probability": 0.25,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.2,
    "greyscale_probability": 0.3,
    "blur_probability": 0.25,
    "blur_sigma": (0.2, 1.0),
    "backbone": "efficientnet_b0",
    "stem": "paper32",
    "width": 0.25,
    "patch_size": 8,
    "drop_path": 0.3,
    "projector_dim": 16,
    "projector_layers": 2,
    "projector_output_norm": "plain",
    "predictor": False,
    "predictor_dim": 8,
    "predictor_output_norm": "affine",
    "hidden_norm": False,
    "stop_gradient": False,
    "symmetric": False,
    "constant_predictor": False,
    "predictor_rate": 10.0,
    "target_views": 3,
    "frozen_patch_embedding": True,
    "optimizer": "sgd",
    "weight_decay": 0.5,
    "momentum": 0.5,
    "accumulation": 2,
    "dtype": "bfloat16",
}
VIT = {"backbone": "vit_s", "stem": None, "width": 0.0625}
# What these change shows only beside another setting: blur where there is some, momentum where the optimiser has it.
BESIDE = {
    "blur_sigma": {"blur_probability": 0.5},
    "finetune_blur_sigma": {"finetune_blur_probability": 0.5},
    "momentum": {"optimizer": "sgd"},
    "finetune_momentum": {"finetune_optimizer": "sgd"},
    "drop_path": {"backbone": "efficientnet_b0"},
    "patch_size": VIT,
    "frozen_patch_embedding": VIT,
    **{
        f"{prefix}{name}": {f"{prefix}jitter_probability": 0.8}
        for prefix in ("", "finetune_")
        for name in ("brightness", "contrast", "saturation", "hue")
    },
}


def changed(flag):
    """The configuration beside which a setting shows, and the same with the setting changed."""
    # Images below 20 pixels have a blur of one pixel, which is none.
    base = with_settings(config_of(24) if "blur" in flag else CONFIG, BESIDE.get(flag, {}))
    return base, with_settings(base, {flag: OTHERS[flag.removeprefix("finetune_")]})


# Most settings are compared with the same other ones.
@functools.cache
def traced(config, stage):
    """The program of an update of `pretrain` or `finetune` as text, with the arrays that it holds."""
    network, size = CompiledNetwork(config.program, num_classes=3), config.image_size
    if stage == "pretrain":
        update, micro_batches, initial = network.pretraining, config.program.accumulation, network._initialise_simsiam
    else:
        update, micro_batches, initial = network.finetuning, 1, network._initialise_classifier
    state = jax.eval_shape(lambda: create_state(initial(jax.random.key(0)), update.optimizer))
    batch = Batch(np.zeros((4, size, size, 3), np.uint8), np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
    group = jax.tree.map(lambda part: np.stack([part] * micro_batches)[None], batch)
    hyper = Hyper(np.float32(0.1), np.float32(0.1), np.uint32(0), np.int32(0))
    mapped = jax.vmap(whole_update(update), axis_name=AXIS, in_axes=(None, 0, None), axis_size=1)
    program = jax.make_jaxpr(mapped)(state, group, hyper)
    # The text leaves out the arrays, such as the strengths of the colour jitter.
    return str(program), [np.asarray(each).tolist() for each in program.consts]


def test_the_others_cover_every_setting_of_the_program():
    assert {flag.removeprefix("finetune_") for flag in COMPILED} - {"image_size"} == set(OTHERS)


@pytest.mark.parametrize("flag", [flag for flag in COMPILED if flag != "image_size"])
def test_each_setting_of_the_program_gives_another_key(flag):
    base, other = changed(flag)
    assert base.program != other.program
    assert len({base.program: 1, other.program: 2}) == 2


def test_the_size_of_the_views_gives_another_key():
    other = recipe_config("paper", dataset="digits", image_size=20)
    assert other.program != CONFIG.program


def test_no_setting_outside_the_program_gives_another_key():
    outside = {
        "dataset": "cats",
        "epochs": 7,
        "finetune_epochs": 2,
        "init": "mine.safetensors",
        "knn_every": 2,
        "labels_per_class": 3,
        "learning_rate": 0.5,
        "micro_batch_size": 16,
        "noise_images": 9,
        "threshold": 0.4,
        "warmup_epochs": 1.0,
    }
    assert not set(outside) & set(COMPILED)
    for flag, value in outside.items():
        assert with_settings(CONFIG, {flag: value}).program == CONFIG.program, flag


@pytest.mark.exhaustive
@pytest.mark.parametrize("flag", [flag for flag in COMPILED if flag != "image_size"])
def test_each_setting_of_the_program_changes_what_is_traced(flag):
    # So that no two settings are compiled apart for nothing, and that the setting is used at all.
    base, other = changed(flag)
    stages = ["finetune", "pretrain"] if flag.startswith("finetune_") else ["pretrain", "finetune"]
    assert any(traced(base, stage) != traced(other, stage) for stage in stages)


@pytest.mark.slow
def test_the_same_settings_are_traced_to_the_same_text():
    for stage in ("pretrain", "finetune"):
        assert traced.__wrapped__(CONFIG, stage) == traced(CONFIG, stage)


def test_a_backbone_without_a_patch_embedding_cannot_keep_it():
    for backbone in ("resnet18", "efficientnet_b0"):
        with pytest.raises(InputError, match=f"^--frozen_patch_embedding: --backbone={backbone} has no .*out$"):
            CompiledNetwork(with_settings(CONFIG, {"backbone": backbone, "frozen_patch_embedding": True}).program)


def test_compiled_networks_are_given_the_program_and_nothing_else_of_the_settings():
    # What is not in the key cannot reach a program: there is no other way in.
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields & set(vars(CompiledNetwork(CONFIG.program, 3))) == {"program"}
    assert {name for name, each in SETTINGS.items() if each.path[0] == "program"} == set(COMPILED)
