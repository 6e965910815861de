"""absl flags made from the declarations of settings, and the help that lists them."""

import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from simsiam_jax.data.datasets import DATASETS
from simsiam_jax.errors import InputError, require
from simsiam_jax.models import BACKBONES
from simsiam_jax.records.experiment import EVALUATIONS
from simsiam_jax.settings.declare import GROUPS, Declared, declared, plain_text
from simsiam_jax.settings.recipes import PRESETS, RECIPES
from simsiam_jax.settings.resolve import SETTINGS
from simsiam_jax.settings.run import RunConfig

# The settings of a run that are no part of its `Config`.
RUN_SETTINGS: Mapping[str, Declared] = {each.flag: each for each in declared(RunConfig)}
_EVERY = {**SETTINGS, **RUN_SETTINGS}

# The names that some flags take, beside those that settings declare.
_KNOWN = {"dataset": tuple(name for name, info in DATASETS.items() if info.num_classes), "backbone": tuple(BACKBONES)}
# Names that the help of these flags explains one by one.
_EXPLAINED = {"preset": tuple(PRESETS), "recipe": RECIPES, "evals": EVALUATIONS}

# Columns that the help is wrapped to.
_WIDTH = 110


def define(names: Iterable[str], **defaults: Any) -> None:
    """Defines the flags of some settings.

    Args:
      names: Names of settings of `Config` or `RunConfig`.
      **defaults: Values of flags where the launcher has better ones than the declaration. Flags of `Config`'s settings
        have no value until they are given, because recipe and preset decide.
    """
    for name in names:
        each = _EVERY[name]
        default = defaults.get(name, each.default if name in RUN_SETTINGS else None)
        if each.items is not None:
            flags.DEFINE_list(name, [plain_text(each) for each in default] if default else None, each.setting.help)
        elif each.kind is bool:
            flags.DEFINE_boolean(name, default, each.setting.help)
        elif each.kind is int:
            flags.DEFINE_integer(name, default, each.setting.help)
        elif each.kind is float:
            flags.DEFINE_float(name, default, each.setting.help)
        else:
            flags.DEFINE_string(name, default, each.setting.help)


def value(name: str) -> Any:
    """The value of a flag, checked; None where it has none or the launcher has no such flag.

    Raises:
      InputError: For a value that the setting's declaration does not allow.
    """
    if name not in flags.FLAGS:
        return None
    found = flags.FLAGS[name].value
    each = _EVERY.get(name)
    if found is None or each is None:
        return found
    if each.optional and found == each.setting.unset:
        return None
    if isinstance(found, list):
        require(bool(found) and found != [""], f"--{name}= names nothing; give {each.setting.help.rstrip('.').lower()}")
        found = _numbers(each, found) if each.items is float else tuple(found)
    each.check(found)
    return found


def choices_of(name: str) -> tuple[str, ...]:
    """The names that a flag takes; empty where it takes numbers, files or any name."""
    each = _EVERY.get(name)
    return (each.choices if each else ()) or _KNOWN.get(name) or _EXPLAINED.get(name, ())


def explicit(names: Iterable[str]) -> dict[str, Any]:
    """The values of those flags, of some settings, that have one, checked as `value` does."""
    found = {name: value(name) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def _numbers(each: Declared, words: list[str]) -> tuple[float, ...]:
    wanted = f"give {'two ' if each.length == 2 else ''}numbers, as in --{each.flag}={plain_text(each.default)}"
    fault = InputError(f"--{each.flag}={','.join(words)}: {wanted}")
    try:
        found = tuple(map(float, words))
    except ValueError:
        raise fault from None
    if each.length not in (None, len(found)):
        raise fault
    return found


def help_text(values: Mapping[str, Any], description: str | None = None) -> str:
    """A description and the flags in groups, each with its value.

    Args:
      values: Values under the chosen recipe and preset, by name; a flag's own value stands where one is missing.
      description: The description; None means the docstring of the module that was started.
    """
    description = description or sys.modules["__main__"].__doc__ or ""
    # Flags that a launcher defines itself belong to its module.
    own = [each for each in flags.FLAGS.get_key_flags_for_module(sys.argv[0]) if each.name not in _EVERY]
    own = [*(flags.FLAGS[name] for name in _EVERY if name in flags.FLAGS), *own]
    grouped: dict[str, list[str]] = {group: [] for group in (*GROUPS, "launcher")}
    for flag in own:
        name = flag.name
        each = _EVERY.get(name)
        shown = values.get(name, flag.value)
        text = f"--{name}={_shown(shown, each.setting.unset if each else 'not set')}"
        range_words = each.setting.range_words if each else ""
        choices = each.choices or _KNOWN.get(name, ()) if each else ()
        words = str(flag.help).rstrip(".") + (f" ({', '.join(choices)})" if choices else "")
        words += f"; {range_words}." if range_words else "."
        lines = textwrap.wrap(words, _WIDTH - 34)
        first = f"  {text:31} {lines[0]}" if len(text) < 32 else f"  {text}\n{'':34}{lines[0]}"
        grouped["launcher" if each is None else each.group].append(
            "\n".join([first, *(f"{'':34}{x}" for x in lines[1:])])
        )
    parts = [description.strip()]
    parts += [f"{group}:\n" + "\n".join(lines) for group, lines in grouped.items() if lines]
    return "\n\n".join([*parts, "--helpfull lists absl's own flags too."])


def _shown(shown: Any, unset: str) -> str:
    if shown is None or shown == [] or shown == ():
        return f"({unset})"
    return str(shown).lower() if isinstance(shown, bool) else plain_text(shown)
