"""Recipes and presets: named sets of settings.

A *recipe* is a complete method (heads, optimiser, augmentation). Three readings of the study are recipes: `paper` is
the text of arXiv 2112.02297 and, where the text is silent, its code; `code` is what the code does; `reference` is
SimSiam's own (Chen and He 2021). `experiments/PAPER.md` says where they differ.

A *preset* changes size and length alone. These are for launchers that have no better ones for their data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from simsiam_jax.errors import require
from simsiam_jax.settings.resolve import SETTINGS
from simsiam_jax.settings.schema import (
    BackboneConfig,
    Config,
    HeadConfig,
    MethodConfig,
    OptimizerConfig,
    ProgramConfig,
    ScheduleConfig,
    ViewSpec,
)

RECIPES = ("paper", "code", "reference", "practice")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "width": 0.125,
        "projector_dim": 64,
        "predictor_dim": 16,
        "pretrain_images": 256,
        "noise_images": 128,
        "epochs": 2,
        "min_updates": None,
        "warmup_epochs": 0.5,
        "knn_every": 1,
        "micro_batch_size": 32,
        "accumulation": 1,
        "labels_per_class": 5,
        "label_draws": 3,
        "finetune_label_draws": 1,
        "validation_images": 100,
        "finetune_epochs": 2,
        "seeds": 1,
    },
    "small": {
        "width": 0.25,
        "epochs": 30,
        "warmup_epochs": 2.0,
        "accumulation": 1,
        "learning_rate": 1e-3,
        "labels_per_class": 10,
        "validation_images": 1000,
        "finetune_epochs": 30,
        "seeds": 2,
    },
    "full": {"seeds": 1},
}


def preset_settings(settings: Mapping[str, Any], *, recipe: str, preset: str) -> dict[str, Any]:
    """The settings of a preset under a recipe.

    Presets of fewer epochs than the paper's bring the paper's recipes a batch and a learning rate for them. The recipe
    `practice` has its own, and takes from a preset only what changes size and length. `smoke` only shows that
    everything runs: it is taken whole.

    Args:
      settings: Settings by name.
      recipe: Name of the recipe.
      preset: Name of the preset.
    """
    if recipe != "practice" or preset == "smoke":
        return dict(settings)
    return {name: value for name, value in settings.items() if name not in SETTINGS or SETTINGS[name].group != "method"}


def recipe_config(
    recipe: str,
    *,
    dataset: str,
    image_size: int,
    backbone: str = "resnet18",
    view_changes: Mapping[str, Any] | None = None,
    finetune_view_changes: Mapping[str, Any] | None = None,
) -> Config:
    """The complete settings of a recipe for a data set.

    Args:
      recipe: One of `RECIPES`.
      dataset: Name of the data set.
      image_size: Side of the views in pixels.
      backbone: Name of the backbone, on which the recipe `practice` depends.
      view_changes: Fields of `ViewSpec` in which the data set departs from the recipe (no mirroring of digits, say).
      finetune_view_changes: Fields in which fine-tuning's views depart from the recipe.

    Raises:
      InputError: For an unknown recipe.
    """
    require(recipe in RECIPES, f"--recipe={recipe}: unknown recipe; known: {', '.join(RECIPES)}")
    # Small images get no blur, and first layers that keep more of them (PAPER.md, "Augmentation" and "Stem").
    small = image_size <= 32
    finetune_views: dict[str, Any] = {
        "crop_scale": (0.8, 1.2),
        "jitter_probability": 0.0,
        "greyscale_probability": 0.0,
        "blur_probability": 0.0,
    }
    program = ProgramConfig(
        image_size=image_size,
        views=ViewSpec(image_size, **{"blur_probability": 0.0 if small else 0.5, **(view_changes or {})}),
        finetune_views=ViewSpec(image_size, **{**finetune_views, **(finetune_view_changes or {})}),
        backbone=BackboneConfig(backbone, stem="paper32" if small else "imagenet", patch_size=4 if small else 16),
    )
    config = Config(program=program, dataset=dataset, recipe=recipe)
    made = {"paper": lambda: config, "code": lambda: _code(config), "practice": lambda: _practice(config)}
    return {**made, "reference": lambda: _reference(config, small)}[recipe]()


def _code(config: Config) -> Config:
    """What the paper's code does. Differs from it: the rate is lowered by a cosine there, not on a plateau."""
    return dataclasses.replace(
        config,
        program=dataclasses.replace(config.program, finetune_optimizer=OptimizerConfig("sgd", weight_decay=1e-6)),
        finetune=dataclasses.replace(config.finetune, schedule=ScheduleConfig(1e-2, schedule="cosine")),
    )


def _reference(config: Config, small: bool) -> Config:
    """SimSiam, section 3 and, for images of 32 pixels, appendix D."""
    return dataclasses.replace(
        config,
        program=dataclasses.replace(
            config.program,
            backbone=dataclasses.replace(config.program.backbone, stem="cifar" if small else "imagenet"),
            head=HeadConfig(
                projector_dim=2048,
                projector_layers=2 if small else 3,
                projector_output_norm="plain",
                predictor_dim=512,
            ),
            optimizer=OptimizerConfig("sgd", weight_decay=5e-4 if small else 1e-4),
            accumulation=1,
        ),
        pretrain=dataclasses.replace(
            config.pretrain,
            micro_batch_size=512,
            schedule=ScheduleConfig(0.03 if small else 0.05, scaling_batch="effective", schedule="cosine"),
        ),
    )


# Backbones whose settings under `practice` are those of a transformer.
_TRANSFORMERS = ("vit_s", "vit_s_2021", "pit_ti")


def _practice(config: Config) -> Config:
    """SimSiam for small data and few updates, found by `experiments.search_recipe`; its equations are unchanged.

    The rule: a predictor that learns ten times as fast as the rest, which keeps the features' dimensions; SGD with
    momentum at a high rate, 0.1; a projector that ends in a norm without scale and bias; batches of 64 without
    accumulation, and at least 1,500 updates however few the images are. Transformers get AdamW, a low rate, a long
    warm-up and a patch embedding that stays as it was drawn (MoCo v3, arXiv 2104.02057, section 4).
    """
    transformer = config.program.backbone.name in _TRANSFORMERS
    optimizer, decay, rate, warmup = ("adamw", 0.1, 1.5e-4, 10.0) if transformer else ("sgd", 5e-4, 0.1, 2.0)
    return dataclasses.replace(
        config,
        program=dataclasses.replace(
            config.program,
            head=HeadConfig(projector_dim=512, projector_output_norm="plain", predictor_dim=128),
            method=MethodConfig(predictor_rate=10.0, frozen_patch_embedding=transformer),
            optimizer=OptimizerConfig(optimizer, weight_decay=decay),
            accumulation=1,
        ),
        pretrain=dataclasses.replace(
            config.pretrain,
            min_updates=1500,
            micro_batch_size=64,
            schedule=ScheduleConfig(rate, warmup_epochs=warmup, schedule="cosine"),
        ),
    )
