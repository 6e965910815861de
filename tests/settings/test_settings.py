"""Every setting is declared once: ranges, flags and names are made from the declaration, and each has a use."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

import simsiam_jax
from simsiam_jax.errors import InputError
from simsiam_jax.files import digest
from simsiam_jax.settings.declare import GROUPS, declared
from simsiam_jax.settings.recipes import PRESETS, RECIPES, recipe_config
from simsiam_jax.settings.resolve import SETTINGS, check_warmup, values_of, with_settings
from simsiam_jax.settings.run import RunConfig
from simsiam_jax.settings.schema import Config, FinetuneConfig, PretrainConfig, ScheduleConfig, ViewSpec
from simsiam_jax.settings.values import differences, from_dict, to_dict

CONFIG = recipe_config("paper", dataset="digits", image_size=16)
NUMBERS = [name for name, each in SETTINGS.items() if each.kind in (int, float)]


def test_every_setting_has_a_flag_of_its_own_a_heading_and_a_sentence():
    everything = [*declared(Config), *declared(RunConfig)]
    assert len({each.flag for each in everything}) == len(everything)
    for each in everything:
        assert each.group in GROUPS
        assert each.setting.help.endswith(".")
        assert len(each.setting.help.split()) >= 1


def test_every_setting_is_used_outside_its_declaration():
    package = Path(simsiam_jax.__file__).parent
    code = "".join(path.read_text() for path in package.rglob("*.py") if path.parent.name != "settings")
    code += (package / "settings" / "recipes.py").read_text()
    # A schedule and a backbone's fields are read by methods of their own dataclasses.
    code += (package / "settings" / "schema.py").read_text().replace(" = setting(", " ")
    for each in declared(Config):
        assert re.search(rf"(\.|getattr\(\w+, \"){each.path[-1]}\b", code), each.flag


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_not_finite_or_beyond_its_range_is_refused_by_its_flag(name):
    setting = SETTINGS[name].setting
    assert setting.high is not None or setting.below is not None, "a number without an upper limit"
    assert setting.low is not None or setting.above is not None, "a number without a lower limit"
    for value in (math.inf, -math.inf, math.nan, -1e9, 10**20):
        with pytest.raises(InputError, match=f"--{name}="):
            with_settings(CONFIG, {name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"crop_scale": (0.5, 3.0)},
        {"crop_scale": (0.9, 0.5)},
        {"crop_scale": (0.0, 0.5)},
        {"finetune_crop_scale": (0.5, math.nan)},
        {"dtype": "float16"},
        {"projector_output_norm": "layer"},
        {"finetune_schedule": "linear"},
        {"init": ""},
        {"nonsense": 1},
    ],
)
def test_what_a_declaration_does_not_allow_is_refused(values):
    (name,) = values
    with pytest.raises(InputError, match=name):
        with_settings(CONFIG, values)


def test_a_value_of_a_dataclass_is_checked_when_it_is_made():
    with pytest.raises(InputError, match="epochs=0: must be at least 1"):
        FinetuneConfig(epochs=0)
    with pytest.raises(InputError, match=r"flip_probability=1\.5"):
        ViewSpec(32, flip_probability=1.5)
    with pytest.raises(InputError, match="image_size"):
        dataclasses.replace(CONFIG.program, views=ViewSpec(32))


def test_values_by_name_are_those_of_the_configuration():
    values = values_of(CONFIG)
    assert values["width"] == 1.0
    assert values["finetune_epochs"] == CONFIG.finetune.epochs
    assert values["crop_scale"] == CONFIG.program.views.crop_scale
    assert with_settings(CONFIG, {name: value for name, value in values.items() if value is not None}) == CONFIG


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_setting_changes_the_field_that_it_names_and_no_other(name):
    if name == "image_size":  # views and program must agree in it: it is an argument of the recipe
        return
    changed = with_settings(CONFIG, {name: another(name, CONFIG)})
    found = [line.split(":")[0] for line in differences(to_dict(CONFIG), to_dict(changed))]
    expected = [".".join(SETTINGS[name].path)]
    if name == "learning_rate":  # a rate that is given is not scaled
        expected.append("pretrain.schedule.scaling_batch")
    assert found == expected


def another(name, config):
    """A value of a setting that is allowed and is not the one it has."""
    each = SETTINGS[name]
    value = each.of(config)
    if each.choices:
        return next(choice for choice in each.choices if choice != value)
    if each.items is not None:
        return (each.setting.high * 0.5, each.setting.high * 0.6)
    if each.kind is bool:
        return not value
    if each.kind is str:
        return f"{value}-other"
    if each.kind is int:
        return (value or each.setting.low) + 1
    limits = each.setting
    low = limits.low if limits.low is not None else limits.above
    high = limits.high if limits.high is not None else limits.below
    return next(number for number in (low + (high - low) * share for share in (0.25, 0.5)) if number != value)


@pytest.mark.parametrize(
    ("min_updates", "updates_per_epoch", "epochs"),
    [(None, 1, 10), (20, 2, 10), (21, 2, 11), (5, 100, 10), (1000, 1, 1000), (10**9, 3, 333_333_334)],
)
def test_few_updates_in_an_epoch_make_more_epochs_where_a_least_number_is_asked_for(
    min_updates, updates_per_epoch, epochs
):
    assert PretrainConfig(epochs=10, min_updates=min_updates).epochs_for(updates_per_epoch) == epochs


@pytest.mark.parametrize(("epochs", "interval"), [(10, 2), (19, 2), (94, 18)])
def test_more_epochs_are_not_measured_more_often(epochs, interval):
    assert PretrainConfig(epochs=10, knn_every=2).knn_interval(epochs) == interval


def test_of_two_ways_to_say_the_labels_the_later_one_counts():
    some = with_settings(CONFIG, {"labels_per_class": 10})
    share = with_settings(some, {"label_fraction": 0.5})
    assert share.evaluation.labels_per_class is None
    assert with_settings(share, {"labels_per_class": 3}).evaluation.label_fraction is None


def test_a_rate_that_is_given_is_scaled_only_where_the_scaling_is_given_too():
    assert with_settings(CONFIG, {"learning_rate": 0.1}).pretrain.schedule.scaling_batch == "none"
    both = with_settings(CONFIG, {"scaling_batch": "micro", "learning_rate": 0.1})
    assert both.pretrain.schedule == dataclasses.replace(
        CONFIG.pretrain.schedule, learning_rate=0.1, scaling_batch="micro"
    )


def test_a_warm_up_that_is_asked_for_must_fit_and_a_recipes_own_is_cut():
    short = with_settings(CONFIG, {"epochs": 2})
    check_warmup(short, {"epochs": 2})
    with pytest.raises(InputError, match="--warmup_epochs=5 is longer than --epochs=2"):
        check_warmup(short, {"epochs": 2, "warmup_epochs": 5.0})
    with pytest.raises(InputError, match="--finetune_warmup_epochs=101 is longer than --finetune_epochs=100"):
        check_warmup(CONFIG, {"finetune_warmup_epochs": 101.0})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_configuration_survives_json_to_the_last_field(recipe):
    config = recipe_config(recipe, dataset="digits", image_size=96)
    assert from_dict(Config, to_dict(config)) == config
    assert digest(to_dict(config)) == digest(dict(reversed(to_dict(config).items())))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"program": 3}, "program should be an object, not 3"),
        ({"dataset": None}, "dataset should be a text"),
        ({"unheard_of": 1}, "unheard_of is unknown"),
        ({"max_bad_images": "all"}, "max_bad_images should be a number"),
        ({"max_bad_images": True}, "max_bad_images should be a number"),
        ({"evaluation": {"knn_k": 1.5}}, r"evaluation.knn_k should be a whole number"),
    ],
)
def test_plain_values_of_another_type_are_named(change, words):
    with pytest.raises(InputError, match=words):
        from_dict(Config, {**to_dict(CONFIG), **change})


def test_a_missing_field_without_a_default_is_named():
    values = to_dict(CONFIG)
    del values["program"]["views"]["image_size"]
    with pytest.raises(InputError, match=r"program.views.image_size is missing"):
        from_dict(Config, values)
    assert from_dict(ScheduleConfig, {}) == ScheduleConfig()


def test_presets_name_settings_that_exist():
    for preset in PRESETS.values():
        with_settings(CONFIG, {name: value for name, value in preset.items() if name != "seeds"})
