"""How a setting is declared: one field with its default, range, help and flag.

A dataclass of settings has fields made by `setting`, and by `part` where a field holds further settings. Everything
else is read off these declarations: the flags and their help (`cli.flags`), the settings that a preset or an arm may
change (`settings.resolve`), and the checks of what is given.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from simsiam_jax.errors import require

Group = Literal["data", "method", "size", "evaluation", "hosts", "output"]
GROUPS: tuple[Group, ...] = typing.get_args(Group)


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting.

    Attributes:
      help: Sentence that says what the setting is, with its unit.
      group: Heading under which `--help` lists it.
      flag: Flag name within its part; None takes the field's name.
      low: Smallest value that is allowed; None sets no limit.
      high: Largest value that is allowed; None sets no limit.
      above: Value above which the setting must lie; None sets no limit.
      below: Value below which the setting must lie; None sets no limit.
      shared: Whether all arms of a study must agree in it.
      unset: Word that `--help` shows for None, which the flag takes too where it is a name.
    """

    help: str
    group: Group
    flag: str | None = None
    low: int | float | None = None
    high: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    shared: bool = False
    unset: str = "not set"

    @property
    def range_words(self) -> str:
        """The allowed range in words, such as `above 0 and at most 8`."""
        limits = (("at least", self.low), ("above", self.above), ("at most", self.high), ("below", self.below))
        return " and ".join(f"{words} {limit:,}" for words, limit in limits if limit is not None)

    def allows(self, number: int | float) -> bool:
        """Whether a number is finite and lies in the range."""
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def setting(default: Any, help: str, group: Group, **limits: Any) -> Any:
    """A field of a dataclass that is a setting.

    Args:
      default: Value where nothing else is said; `dataclasses.MISSING` for a setting that must be given.
      help: Sentence that says what the setting is, with its unit.
      group: Heading under which `--help` lists it.
      **limits: Further fields of `Setting`.
    """
    return dataclasses.field(default=default, metadata={"setting": Setting(help, group, **limits)})


def part(default: Any, *, prefix: str = "", group: Group | None = None) -> Any:
    """A field of a dataclass that holds further settings.

    Args:
      default: The frozen dataclass that holds their defaults, or `dataclasses.MISSING`.
      prefix: Text before the names of their flags.
      group: Heading for all of them in place of their own.
    """
    return dataclasses.field(default=default, metadata={"prefix": prefix, "group": group})


@dataclass(frozen=True)
class Declared:
    """A setting at its place in a tree of dataclasses.

    Attributes:
      flag: Name of its flag, which is also its name in presets and arms.
      path: Names of the fields that lead to it.
      kind: Type of its values, without None.
      optional: Whether None is a value.
      default: Value of the field in its own dataclass.
      setting: The declaration of the field.
      group: Heading under which `--help` lists it.
    """

    flag: str
    path: tuple[str, ...]
    kind: Any
    optional: bool
    default: Any
    setting: Setting
    group: Group

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that a setting of few values takes; empty for others."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def items(self) -> Any:
        """Type of the items of a setting that is a list: numbers or names; None for others."""
        return typing.get_args(self.kind)[0] if typing.get_origin(self.kind) is tuple else None

    @property
    def length(self) -> int | None:
        """Number of items of a setting that is a list; None where it may be any."""
        arguments = typing.get_args(self.kind) if self.items is not None else (...,)
        return None if Ellipsis in arguments else len(arguments)

    def of(self, tree: Any) -> Any:
        """Its value in a tree of dataclasses."""
        for name in self.path:
            tree = getattr(tree, name)
        return tree

    def check(self, value: Any, shown: str | None = None) -> None:
        """Refuses a value that its declaration does not allow.

        Args:
          value: The value.
          shown: Name and value in the message; None stands for `--flag=value`.

        Raises:
          InputError: Saying the setting, what it must be and what it is.
        """
        if value is None and self.optional:
            return
        what = f"{shown or f'--{self.flag}={plain_text(value)}'}:"
        explained = f"({self.setting.help[:1].lower()}{self.setting.help[1:].rstrip('.')})"
        if self.items is str:
            require(all(value or ()), f"{what} names nothing {explained}")
        elif self.choices:
            require(value in self.choices, f"{what} must be one of {', '.join(self.choices)} {explained}")
        elif self.kind is str:
            require(isinstance(value, str) and value != "", f"{what} must not be empty {explained}")
        elif self.kind is not bool:
            numbers: Any = value if isinstance(value, tuple) else (value,)
            words = self.setting.range_words or "finite"
            require(all(map(self.setting.allows, numbers)), f"{what} must be {words} {explained}")
            require(list(numbers) == sorted(numbers), f"{what} the first must not exceed the second {explained}")


def plain_text(value: Any) -> str:
    """A value as a person writes it in a flag."""
    if isinstance(value, tuple | list):
        return ",".join(map(plain_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def declared(cls: Any, prefix: str = "", group: Group | None = None, path: tuple[str, ...] = ()) -> Iterator[Declared]:
    """Every setting of a dataclass and of its parts, in the order of their fields.

    Args:
      cls: The dataclass.
      prefix: Text before the names of flags.
      group: Heading in place of the settings' own.
      path: Names of the fields that lead to `cls`.
    """
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, found, here = kinds[field.name], field.metadata.get("setting"), (*path, field.name)
        if "prefix" in field.metadata:
            yield from declared(kind, prefix + field.metadata["prefix"], group or field.metadata["group"], here)
        elif found is not None:
            inner = [each for each in typing.get_args(kind) if each is not type(None)]
            optional = type(None) in typing.get_args(kind)
            flag = prefix + (found.flag or field.name)
            yield Declared(
                flag, here, inner[0] if optional else kind, optional, field.default, found, group or found.group
            )


class Settings:
    """Base of the dataclasses of settings: what they hold is checked when they are made."""

    def __post_init__(self) -> None:
        for each in _own(type(self)):
            (name,) = each.path
            each.check(getattr(self, name), f"{name}={plain_text(getattr(self, name))}")


@functools.cache
def _own(cls: Any) -> tuple[Declared, ...]:
    return tuple(each for each in declared(cls) if len(each.path) == 1)
