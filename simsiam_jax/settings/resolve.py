"""From a recipe, a preset and flags to one frozen `Config`, by the settings' names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from simsiam_jax.errors import InputError, require
from simsiam_jax.settings.declare import Declared, declared, plain_text
from simsiam_jax.settings.schema import Config

# Every setting of a `Config` by the name of its flag.
SETTINGS: Mapping[str, Declared] = {each.flag: each for each in declared(Config)}

# Two ways to say one thing: the later one counts.
_OTHER_WAY = {"labels_per_class": "label_fraction", "label_fraction": "labels_per_class"}


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some settings replaced.

    A learning rate given so is the peak, not scaled by the batch, unless the scaling batch is given too.

    Args:
      config: Settings to start from.
      values: New values by the names of `SETTINGS`, the later ones counting.

    Raises:
      InputError: For an unknown setting, or a value that its declaration does not allow.
    """
    for name, value in values.items():
        require(name in SETTINGS, f"unknown setting {name!r}; known: {', '.join(SETTINGS)}")
        SETTINGS[name].check(value)
        if value is not None and name in _OTHER_WAY:
            config = _replaced(config, SETTINGS[_OTHER_WAY[name]].path, None)
        config = _replaced(config, SETTINGS[name].path, value)
        scaling = f"{name.removesuffix('learning_rate')}scaling_batch"
        if name.endswith("learning_rate") and scaling not in values:
            config = _replaced(config, SETTINGS[scaling].path, "none")
    return config


def values_of(config: Config) -> dict[str, Any]:
    """The value of every setting by the name of its flag."""
    return {name: each.of(config) for name, each in SETTINGS.items()}


def check_warmup(config: Config, given: Mapping[str, Any]) -> None:
    """Refuses a warm-up that was asked for and is longer than the training; a recipe's own is cut instead.

    Args:
      config: The resolved settings.
      given: The settings that the user gave.

    Raises:
      InputError: Naming the flag.
    """
    for prefix, epochs in (("", config.pretrain.epochs), ("finetune_", config.finetune.epochs)):
        warmup = given.get(f"{prefix}warmup_epochs")
        if warmup is not None and warmup > epochs:
            raise InputError(
                f"--{prefix}warmup_epochs={plain_text(warmup)} is longer than --{prefix}epochs={epochs}: lower it"
            )


def _replaced(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    inner = _replaced(getattr(tree, name), tuple(rest), value) if rest else value
    return dataclasses.replace(tree, **{name: inner})
