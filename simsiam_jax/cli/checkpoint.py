"""What --checkpoint names, one trained network or several, and what flags may change of their settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.errors import require
from simsiam_jax.inference import TrainedStage, find_stages
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import SETTINGS
from simsiam_jax.settings.schema import Config

# The settings that say which network it is.
NETWORK = ("backbone", "stem", "width", "patch_size", "image_size")


def checkpoint_flag(stages: Sequence[str]) -> list[Path]:
    """The folders of trained stages that --checkpoint names, each once.

    Args:
      stages: Names of the stages that the command takes, of `inference.TRAINED`.

    Raises:
      InputError: If the flag is missing, or a path of it means none.
    """
    words = value("checkpoint") or ()
    require(bool(words), f"--checkpoint=WORKDIR/ARM/seed-K/{' or '.join(stages)} is needed: which network to take")
    # A folder's own name may hold commas.
    whole = Path(",".join(words))
    paths = [whole] if whole.expanduser().exists() else [Path(word) for word in words]
    return list(dict.fromkeys(folder for path in paths for folder in find_stages(path, stages)))


def one_checkpoint(stages: Sequence[str]) -> Path:
    """The folder of the one trained stage that --checkpoint names; arguments as in `checkpoint_flag`.

    Raises:
      InputError: If the flag names none or several.
    """
    found = checkpoint_flag(stages)
    some = ", ".join(str(each) for each in found[:2])
    require(
        len(found) == 1,
        f"--checkpoint={','.join(value('checkpoint'))} means {len(found)} networks ({some}, ...): give one of them",
    )
    return found[0]


def check_same_network(stages: Sequence[TrainedStage]) -> None:
    """Refuses pretrainings of several networks, and flags that describe another network than theirs.

    Raises:
      InputError: Naming the first difference.
    """
    first, *others = stages
    for flag in NETWORK:
        has = SETTINGS[flag].of(first.config)
        for other in others:
            also = SETTINGS[flag].of(other.config)
            require(
                also == has,
                f"--checkpoint: {first.folder} has {flag} {has} and {other.folder} has {also}: evaluate networks that "
                "differ apart, each by a command of its own",
            )
        wanted = explicit([flag]).get(flag, has)
        require(
            wanted == has,
            f"--{flag}={wanted}: the checkpoint {first.folder} was pretrained with {flag} {has}; leave the flag out",
        )


def on_dataset(config: Config, dataset: str, labels: str | None) -> Config:
    """The settings of a pretraining, with the evaluations moved to another data set, or to other labels of a folder.

    Args:
      config: Settings of the pretraining.
      dataset: Data set as --dataset takes it.
      labels: Labels as --labels takes them.
    """
    info = dataset_info(dataset, labels)
    if (info.name, labels) == (config.dataset, config.labels):
        return config
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
