"""A pretraining's folder as --checkpoint names it: its settings, and what flags may change of them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.errors import InputError, require
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import SETTINGS
from simsiam_jax.settings.schema import Config
from simsiam_jax.settings.values import from_dict

# The settings that say which network it is.
NETWORK = ("backbone", "stem", "width", "patch_size", "image_size")


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint's folder says of itself.

    Attributes:
      folder: Folder of the stage `pretrain`.
      config: Settings of the pretraining.
      source: Name of what was pretrained on.
      seed: Seed of the pretraining.
    """

    folder: Path
    config: Config
    source: str
    seed: int


def checkpoint_flag() -> Pretrained:
    """The pretraining that --checkpoint names.

    Raises:
      InputError: If the flag is missing or names no folder of a pretraining.
    """
    require(bool(value("checkpoint")), "--checkpoint=WORKDIR/ARM/seed-K/pretrain is needed: which pretraining to take")
    return open_pretrained(Path(value("checkpoint")).expanduser().absolute())


def open_pretrained(folder: Path) -> Pretrained:
    """Reads the settings of a pretraining.

    Args:
      folder: Folder of the stage, WORKDIR/ARM/seed-K/pretrain.

    Raises:
      InputError: If it is no such folder.
    """
    path = folder / "config.json"
    require(
        path.is_file() and (folder / "checkpoints").is_dir(),
        f"--checkpoint={folder} is no folder of a pretraining; give WORKDIR/ARM/seed-K/pretrain",
    )
    try:
        values = json.loads(path.read_text())
        return Pretrained(folder, from_dict(Config, values["config"]), values["pretrain"], values["seed"])
    except (ValueError, KeyError, TypeError) as fault:
        raise InputError(f"{path} is damaged or of another version ({fault}): pretrain again") from None


def check_same_network(pretrained: Pretrained) -> None:
    """Refuses flags that describe another network than the checkpoint's.

    Raises:
      InputError: Naming the first flag that does.
    """
    for flag, wanted in explicit(NETWORK).items():
        has = SETTINGS[flag].of(pretrained.config)
        require(
            wanted == has,
            f"--{flag}={wanted}: the checkpoint {pretrained.folder} was pretrained with {flag} {has}; "
            "leave the flag out",
        )


def on_dataset(config: Config, dataset: str, labels: str | None) -> Config:
    """The settings of a pretraining, with the evaluations moved to another data set, or to a folder's labels.

    Args:
      config: Settings of the pretraining.
      dataset: Data set as --dataset takes it.
      labels: Labels as --labels takes them.
    """
    info = dataset_info(dataset, labels)
    moved = recipe_config(
        config.recipe,
        dataset=info.name,
        image_size=config.image_size,
        backbone=config.program.backbone.name,
        finetune_view_changes=info.finetune_views,
    )
    return dataclasses.replace(
        config,
        dataset=info.name,
        labels=labels,
        group_duplicates=config.group_duplicates and info.listing is not None,
        pretrain=dataclasses.replace(config.pretrain, dataset=config.pretrain.dataset or config.dataset),
        program=dataclasses.replace(config.program, finetune_views=moved.program.finetune_views),
    )
