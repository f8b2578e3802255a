"""Whether what a file held is what was written there: every value of the type that the field of its class names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, with all that is in it; `hint` is a type as a field is annotated with it."""
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
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
    fields = _fields(hint)
    if fields:
        return isinstance(value, hint) and all(fits(getattr(value, name), one) for name, one in fields.items())
    return type(value) is hint


def wrong(value: Any) -> list[str]:
    """The fields of an object whose values are not of their types."""
    kind: Any = type(value)
    return [name for name, hint in _fields(kind).items() if not fits(getattr(value, name), hint)]


@cache
def _fields(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind) if kind.__module__.startswith("perun_hpc.") else {}
