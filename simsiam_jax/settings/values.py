"""Dataclasses as plain JSON values and back, and how two of them differ."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from simsiam_jax.errors import InputError

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "an object"}


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass as nested plain values, tuples as lists: what JSON gives back after a round trip."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def from_dict(cls: Any, values: Any) -> Any:
    """The dataclass that `to_dict` was given.

    Lists become tuples again and nested objects dataclasses. A field that is missing takes its default.

    Args:
      cls: The dataclass. Its fields may be numbers, texts, booleans, literals, tuples, mappings from texts, further
        dataclasses, unions of these with None, `float | int`, and anything.
      values: Plain values as JSON has them.

    Raises:
      InputError: For a value of another type, a missing field without a default, or an unknown field. The message
        begins with the field's path, such as `arms[0].name`.
    """
    return _read(cls, values, "")


def _read(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, path)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = {each for each in arguments if each is not type(None)}
        # `float | int` is how a field says that whole numbers stay whole.
        (only,) = {float} if inner == {float, int} else inner
        return _read(only, value, path)
    if origin is Literal:
        return _checked(value in arguments, value, path, f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        _checked(isinstance(value, list), value, path, "a list")
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        _checked(len(kinds) == len(value), value, path, f"a list of {len(kinds)}")
        return tuple(
            _read(each, item, f"{path}[{place}]") for place, (each, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin in (dict, Mapping):
        _checked(isinstance(value, dict), value, path, _WORDS[dict])
        return {name: _read(arguments[1], item, f"{path}.{name}") for name, item in value.items()}
    # JSON has one kind of number; true and false are none.
    accepted = (int, float) if kind is float else kind
    right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    return _checked(right, value, path, _WORDS.get(kind, str(kind)))


def _read_dataclass(cls: Any, values: Any, path: str) -> Any:
    _checked(isinstance(values, dict), values, path, _WORDS[dict])
    kinds = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in fields:
            raise InputError(f"{_at(path, name)} is unknown")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{_at(path, name)} is missing")
    return cls(**{name: _read(kinds[name], value, _at(path, name)) for name, value in values.items()})


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _checked(right: bool, value: Any, path: str, wanted: str) -> Any:
    if not right:
        shown = json.dumps(value, default=str)
        raise InputError(f"{path or 'the file'} should be {wanted}, not {shown[:60]}")
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two resolved configurations differ, such as `pretrain.epochs: 10 -> 20`."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return found
