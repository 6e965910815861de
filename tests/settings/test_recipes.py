"""What a recipe says of the method, and what a preset may change of it."""

import pytest

from simsiam_jax.models import BACKBONES
from simsiam_jax.settings.recipes import PRESETS, RECIPES, preset_settings, recipe_config
from simsiam_jax.settings.resolve import SETTINGS, values_of, with_settings

METHOD = {name for name, each in SETTINGS.items() if each.group == "method"}
RUN = {"seeds", "image_size"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "practice"])
def test_a_recipe_of_the_paper_takes_a_preset_whole(recipe, preset):
    assert preset_settings(PRESETS[preset], recipe=recipe, preset=preset) == PRESETS[preset]


def test_practice_takes_all_of_a_preset_but_its_method():
    small = PRESETS["small"]
    taken = preset_settings(small, recipe="practice", preset="small")
    assert METHOD & set(small) == {"warmup_epochs", "accumulation", "learning_rate"}
    assert taken == {name: value for name, value in small.items() if name not in METHOD}
    assert {"width", "epochs", "labels_per_class", "seeds"} <= set(taken)


def test_practice_takes_smoke_whole():
    assert preset_settings(PRESETS["smoke"], recipe="practice", preset="smoke") == PRESETS["smoke"]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "smoke"])
def test_the_method_of_practice_is_the_same_at_every_size(preset):
    config = recipe_config("practice", dataset="digits", image_size=16)
    sized = preset_settings(PRESETS[preset], recipe="practice", preset=preset)
    changed = with_settings(config, {name: value for name, value in sized.items() if name not in RUN})
    before, after = values_of(config), values_of(changed)
    assert {name: before[name] for name in METHOD} == {name: after[name] for name in METHOD}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_practice_trains_a_transformer_as_moco_v3_does(backbone):
    config = recipe_config("practice", dataset="digits", image_size=16, backbone=backbone)
    transformer = backbone.startswith(("vit", "pit"))
    assert config.program.optimizer.name == ("adamw" if transformer else "sgd")
    assert config.program.method.frozen_patch_embedding == transformer
    others = [recipe_config(name, dataset="digits", image_size=16, backbone=backbone) for name in RECIPES[:3]]
    assert not any(other.program.method.frozen_patch_embedding for other in others)
