"""From flags to a study, its report and its table."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from simsiam_jax import hosts
from simsiam_jax.cli.flags import define, explicit, value
from simsiam_jax.cli.guard import program
from simsiam_jax.cli.plan import looks
from simsiam_jax.data.datasets import DatasetInfo, any_folder, dataset_info, pretraining_source
from simsiam_jax.errors import InputError, require
from simsiam_jax.models import backbone_fields, without_absent_fields
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.failures import read_failures
from simsiam_jax.records.results import RESULTS_FILE, read_results
from simsiam_jax.report.page import write_report
from simsiam_jax.report.render import format_terminal
from simsiam_jax.report.summary import summarise
from simsiam_jax.settings.declare import plain_text
from simsiam_jax.settings.recipes import preset_settings, recipe_config
from simsiam_jax.settings.resolve import SETTINGS, check_warmup, values_of, with_settings
from simsiam_jax.settings.schema import BackboneConfig, Config
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study import run as studies
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.study.estimate import print_estimate
from simsiam_jax.terminal import Console, say

# Flags of every launcher that trains, beside those of the settings that it takes.
RUNNING = (
    *("workdir", "data_dir", "cache_limit", "manual_dir", "feed", "accumulate_by", "keep", "report"),
    *("coordinator", "num_processes", "process_id"),
)
# Settings of the backbone that not every backbone has.
_BACKBONE_FIELDS = ("stem", "width", "patch_size", "drop_path")


def define_study_flags(
    *,
    experiment: str,
    dataset: str | None,
    preset: str,
    recipe: str = "paper",
    budget: str | None = None,
    first_seed: int = 0,
) -> None:
    """Defines the flags of a launcher that pretrains: every setting, and those of the run but arms and evaluations.

    Args:
      experiment: Name of the launcher, which names its default workdir.
      dataset: The default data set; None where the command line has to name one.
      preset: The default preset.
      recipe: The default recipe.
      budget: The default budget.
      first_seed: The default first seed.
    """
    run = ("recipe", "preset", "seeds", "first_seed", "looks", "budget", "show_config", "dry_run")
    values = {"dataset": dataset, "preset": preset, "recipe": recipe, "budget": budget, "first_seed": first_seed}
    define((*SETTINGS, *run, *RUNNING), workdir=f"runs/{experiment}", **values)


def config_from_flags(
    presets: Mapping[str, Mapping[str, Any]],
    *,
    one_backbone: bool = True,
    backbone: str | None = None,
    info: DatasetInfo | None = None,
) -> tuple[Config, tuple[int, ...]]:
    """Recipe, then preset, then flags: the whole configuration, and the looks, as `cli.plan.looks` gives them.

    Args:
      presets: Settings by the preset's name, as `settings.recipes.PRESETS`.
      one_backbone: Whether to drop the settings that the backbone does not have; False where each arm has its own.
      backbone: The backbone that a recipe's settings are for; None takes the flag's.
      info: The data set; None takes the flag's.

    Raises:
      InputError: For an unknown name or an impossible number.
    """
    info = info or dataset_info(value("dataset"), labels_flag())
    other, preset, recipe = value("pretrain_dataset"), value("preset"), value("recipe")
    source = info if other is None else pretraining_source(other)
    require(preset in presets, f"--preset={preset}: unknown preset; known: {', '.join(presets)}")
    given = explicit(SETTINGS)
    sized = preset_settings(presets[preset], recipe=recipe, preset=preset)
    # Views are not drawn larger than images are kept, unless they are asked for.
    largest = min(info.image_size, given.get("cached_size") or info.image_size)
    settings = {"image_size": largest, **sized, **given, **explicit(["seeds"])}
    image_size, seeds = settings.pop("image_size"), settings.pop("seeds")
    SETTINGS["image_size"].check(image_size)
    config = recipe_config(
        recipe,
        dataset=info.name,
        image_size=image_size,
        backbone=backbone or settings.get("backbone", BackboneConfig().name),
        view_changes=source.views,
        finetune_view_changes=info.finetune_views,
    )
    names = {"pretrain_split": source.pretrain_splits.get(recipe, "train")}
    settings |= {"dataset": info.name, "labels": labels_flag()}
    settings |= {} if other is None else {"pretrain_dataset": source.name}
    config = with_settings(config, {**names, **settings})
    check_warmup(config, given)
    if one_backbone:
        config = _with_backbone(config, own_fields_alone(config.program.backbone))
    return config, looks(seeds)


def labels_flag() -> str | None:
    """The flag --labels, a file's path made absolute."""
    labels = value("labels")
    return labels if labels in (None, "none") else str(Path(labels).expanduser().absolute())


def arm_configs(arms: Mapping[str, Arm], config: Config, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Config]:
    """The settings of each arm: the run's, with the arm's own laid over them.

    An arm with a backbone of its own starts from what the recipe has for that backbone.

    Args:
      arms: The arms.
      config: The run's settings.
      presets: Settings by the preset's name, as `config_from_flags` takes them.

    Raises:
      InputError: For a flag that the arms decide, or that no arm's backbone has.
    """
    decided = {name for arm in arms.values() for name in arm.settings}
    for flag, given in explicit(sorted(decided)).items():
        raise InputError(
            f"--{flag}={plain_text(given)}: the arms of this table differ in it; choose among them with --arms"
        )
    backbones = {arm.settings["backbone"] for arm in arms.values() if "backbone" in arm.settings}
    bases = {name: config_from_flags(presets, one_backbone=False, backbone=name)[0] for name in backbones}
    found = {
        name: with_settings(bases.get(arm.settings.get("backbone"), config), _settings(arm))
        for name, arm in arms.items()
    }
    networks = {arm.program.backbone.name for arm in found.values()}
    if len(networks) > 1:
        # A flag that only some of the networks have is theirs alone.
        known = {field for name in networks for field in backbone_fields(name)}
        for flag, given in explicit(set(_BACKBONE_FIELDS) - known).items():
            raise InputError(
                f"--{flag}={plain_text(given)}: none of the backbones here has a {flag}; leave the flag out"
            )
        own_fields = without_absent_fields
    else:
        own_fields = own_fields_alone
    return {name: _with_backbone(arm, own_fields(arm.program.backbone)) for name, arm in found.items()}


def _settings(arm: Arm) -> dict[str, Any]:
    """An arm's settings; `imagenet` becomes the file for its backbone where --imagenet_weights names a folder."""
    folder, settings = value("imagenet_weights"), dict(arm.settings)
    if folder is None or settings.get("init") != "imagenet":
        return settings
    name = settings.get("backbone", "resnet18")
    files = list(Path(folder).expanduser().glob(f"{name}*.safetensors"))
    if files:
        settings["init"] = str(min(files).absolute())
    else:
        logging.warning("--imagenet_weights=%s holds no %s*.safetensors", folder, name)
    return settings


def own_fields_alone(backbone: BackboneConfig) -> BackboneConfig:
    """The same; a setting that it does not have must not have been given as a flag.

    Raises:
      InputError: If one was, or the backbone's name is unknown.
    """
    known = backbone_fields(backbone.name)
    for flag, given in explicit(name for name in _BACKBONE_FIELDS if name not in known).items():
        raise InputError(f"--{flag}={plain_text(given)}: --backbone={backbone.name} has no {flag}; leave the flag out")
    return without_absent_fields(backbone)


def _with_backbone(config: Config, backbone: BackboneConfig) -> Config:
    return dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=backbone))


def help_values(presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The value of every setting under the chosen recipe, preset and flags, for `--help`."""
    unnamed = value("dataset") is None
    config, planned = config_from_flags(presets, one_backbone=False, info=any_folder() if unnamed else None)
    found = {**values_of(config), "seeds": planned[0] if len(planned) == 1 else "auto"}
    return {**found, "dataset": None} if unnamed else found


def folders(workdir: str | None = None) -> dict[str, Any]:
    """The folders of a `Study`, its feed and the form of its updates, from their flags.

    Args:
      workdir: Folder of the results in place of its flag.
    """
    manual = value("manual_dir")
    return {
        "workdir": Path(workdir or value("workdir")).expanduser().absolute(),
        "data_dir": Path(value("data_dir")).expanduser().absolute(),
        "cache_limit": value("cache_limit") * 1e9,
        "manual_dir": Path(manual).expanduser().absolute() if manual else None,
        "feed": value("feed"),
        "accumulate_by": value("accumulate_by"),
        "keep": value("keep"),
    }


def command(experiment: str) -> str:
    """The command line that repeats this run, of a launcher in `experiments` or of `simsiam`."""
    started = program().split() if program().startswith("simsiam ") else ["python", "-m", f"experiments.{experiment}"]
    return shlex.join([*started, *sys.argv[1:]])


def run_study(study: Study, backbones: Mapping[tuple[str, int], Any] | None = None) -> None:
    """Does with a study what the flags ask for: print its settings, estimate its time, or run and report it.

    Args:
      study: The study.
      backbones: Backbones to evaluate in place of pretraining, as `study.run.run_evaluations` takes them.

    Exits with code 1 if a unit has failed.
    """
    study = study.on(jax.default_backend())
    if value("show_config"):
        say(json.dumps({arm: to_dict(study.config_of(arm)) for arm in study.arms}, indent=1))
        return
    if value("dry_run"):
        print_estimate(study)
        return
    if not hosts.leads():
        studies.follow(study)
    failures = studies.run(study) if backbones is None else studies.run_evaluations(study, backbones)
    report = write_report(study.workdir) if value("report") else None
    if study.evaluations:
        found = read_results(study.workdir), read_experiment(study.workdir), read_failures(study.workdir)
        Console().print(format_terminal(summarise(*found)))
    say(f"results  {study.workdir / RESULTS_FILE}")
    if report:
        say(f"report   {report}")
    for failure in failures:
        say(f"failed   {failure}", error=True)
    if failures:
        sys.exit(1)
