"""Dataclasses as plain JSON values and back, and whether a value is of its type: every format's parts, one way.

A field's annotation says what belongs there: texts, numbers, enums, dataclasses, tuples, lists and mappings of them, or
None beside. A key that no field has is passed over, so that what a later version wrote is read.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
MISFITS = (KeyError, TypeError, ValueError, OverflowError)
"""What `decode` raises where a value is not what the type says; whoever reads a file says which one it was."""

_PLAIN = frozenset({str, int, float, bool, NoneType})


def encode(value: Any) -> Any:
    """A value as plain JSON types; `decode` reads it."""
    if type(value) in _PLAIN or isinstance(value, str):  # most are: a job's record has thousands of them
        return value
    if is_dataclass(value):
        cls: Any = type(value)
        return {name: one if type(one := getattr(value, name)) in _PLAIN else encode(one) for name in _names(cls)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): encode(item) for key, item in value.items()}
    return value


def decode(kind: type[T], data: Any) -> T:
    """A value of a type from plain JSON types.

    Parameters
    ----------
    kind : the type, a dataclass as a rule.
    data : what a JSON parser gave.

    Returns
    -------
    The value; nothing in it is of another type than the annotations say.

    Raises
    ------
    KeyError, TypeError, ValueError, OverflowError
        `MISFITS`: where that cannot be; they name the field.
    """
    return cast("T", decoder(cast("Any", kind))(data))


def made(kind: type[T], data: Mapping[str, Any]) -> T:
    """A dataclass of values as they are, unchecked (`wrong` says which do not fit); as in `decode` keys without a field
    are passed over. TypeError where one is missing that has to be there.
    """
    return kind(**{name: data[name] for name in _names(cast("Any", kind)) if name in data})


@cache
def decoder(hint: Any) -> Callable[[Any], Any]:
    """The function that checks and converts a JSON value to the type `hint`."""
    if is_dataclass(hint):
        return _dataclass(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(inner)
    if origin in (tuple, list):
        return _row(origin, inner)
    if origin in (dict, Mapping):
        return _mapping(*inner)
    if hint is Any:
        return lambda value: value
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return _scalar(NoneType if hint is None else hint)


def _scalar(hint: Any) -> Callable[[Any], Any]:
    wanted = (int, float) if hint is float else hint

    def scalar(value: Any) -> Any:
        if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
            raise TypeError(f"expected {hint.__name__}, got {value!r}")
        return float(value) if hint is float else value

    return scalar


def _one_of(hints: tuple[Any, ...]) -> Callable[[Any], Any]:
    """The first of several types that a value is of; None is looked for first."""
    others = [decoder(hint) for hint in hints if hint is not NoneType]
    none = len(others) < len(hints)

    def one_of(value: Any) -> Any:
        if value is None and none:
            return None
        for convert in others[:-1]:
            try:
                return convert(value)
            except MISFITS:
                continue
        return others[-1](value)

    return one_of


def _row(kind: Any, hints: tuple[Any, ...]) -> Callable[[Any], Any]:
    """A list, a tuple of any length, or one in which each place has its type."""
    if kind is list or hints[-1] is ...:
        item = decoder(hints[0])

        def row(value: Any) -> Any:
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"expected a list, got {value!r}")
            return kind(map(item, value))

        return row
    places = [decoder(hint) for hint in hints]

    def fixed(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(places):
            raise TypeError(f"expected a list of {len(places)}, got {value!r}")
        return tuple(convert(one) for convert, one in zip(places, value, strict=True))

    return fixed


def _mapping(key_hint: Any, hint: Any) -> Callable[[Any], Any]:
    """An object; its keys are texts in JSON, also those that are numbers here."""
    key_of, item = int if key_hint is int else decoder(key_hint), decoder(hint)

    def mapping(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {value!r}")
        return {key_of(key): item(one) for key, one in value.items()}

    return mapping


def _dataclass(cls: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(cls)
    plan = [
        (f.name, decoder(hints[f.name]), f.default is MISSING and f.default_factory is MISSING) for f in fields(cls)
    ]

    def decoded(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object for {cls.__name__}, got {value!r}")
        found: dict[str, Any] = {}
        for name, convert, required in plan:
            if name in value:
                try:
                    found[name] = convert(value[name])
                except TypeError as error:
                    raise TypeError(f"{name}: {error}") from None
            elif required:
                raise KeyError(f"{cls.__name__}.{name} is missing")
        return cls(**found)

    return decoded


@cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def wrong(value: Any) -> list[str]:
    """The fields of an object whose values are not of their types, with all that is in them."""
    kind: Any = type(value)
    return [name for name, hint in _hints(kind).items() if not fits(getattr(value, name), hint)]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, with all that is in it; `hint` is a type as a field is annotated with it."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(fits(value, one) for one in get_args(hint))
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items()
        )
    if kind is tuple and inner[-1] is not ...:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if kind is not None:
        return isinstance(value, kind) and all(fits(one, inner[0]) for one in value)
    if hint is NoneType:
        return value is None
    hints = _hints(hint)
    if hints:
        return isinstance(value, hint) and all(fits(getattr(value, name), one) for name, one in hints.items())
    return type(value) is hint


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind) if kind.__module__.startswith("perun_hpc.") else {}
