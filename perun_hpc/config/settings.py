"""What a job's settings say, as they are stored with its session and its record: typed, and asked as questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from perun_hpc.config.schema import SECTIONS, Store

Section = TypeVar("Section")
_NAMES = {kind: name for name, kind in SECTIONS.items()}
_KNOWN = {name: frozenset(field.name for field in dataclasses.fields(kind)) for name, kind in SECTIONS.items()}


def section(settings: Mapping[str, Any], kind: type[Section]) -> Section:
    """One section of what `JobSettings.to_json` gave, as the class that declares its fields.

    A field that an older perun did not store has its default; one that this perun does not know is left out.
    """
    name = _NAMES[kind]
    return kind(**{key: value for key, value in settings.get(name, {}).items() if key in _KNOWN[name]})


def trace_wanted(settings: Mapping[str, Any], flagged: bool, duration_ns: int) -> bool:
    """Whether a job of that length leaves a trace."""
    store = section(settings, Store)
    if store.trace == "none":
        return False
    return flagged or (store.trace == "all" and duration_ns >= store.trace_min_duration_ns)


def trace_may_be_wanted(settings: Mapping[str, Any]) -> bool:
    """Whether rows must be written from the start, since the job's length is not known yet."""
    return section(settings, Store).trace == "all"
