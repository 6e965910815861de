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
from simsiam_jax.settings.schema import (
    BackboneConfig,
    Config,
    HeadConfig,
    OptimizerConfig,
    ProgramConfig,
    ScheduleConfig,
    ViewSpec,
)

RECIPES = ("paper", "code", "reference")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "width": 0.125,
        "projector_dim": 64,
        "predictor_dim": 16,
        "pretrain_images": 256,
        "noise_images": 128,
        "epochs": 2,
        "warmup_epochs": 0.5,
        "knn_every": 1,
        "micro_batch_size": 32,
        "accumulation": 1,
        "labels_per_class": 5,
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


def recipe_config(
    recipe: str,
    *,
    dataset: str,
    image_size: int,
    view_changes: Mapping[str, Any] | None = None,
    finetune_view_changes: Mapping[str, Any] | None = None,
) -> Config:
    """The complete settings of a recipe for a data set.

    Args:
      recipe: One of `RECIPES`.
      dataset: Name of the data set.
      image_size: Side of the views in pixels.
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
        backbone=BackboneConfig(stem="paper32" if small else "imagenet", patch_size=4 if small else 16),
    )
    config = Config(program=program, dataset=dataset, recipe=recipe)
    return {"paper": lambda: config, "code": lambda: _code(config), "reference": lambda: _reference(config, small)}[
        recipe
    ]()


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
