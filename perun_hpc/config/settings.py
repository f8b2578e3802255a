"""What a job's settings say, as they are stored with its session and its record: typed, and asked as questions.

What `JobSettings.to_json` gave is read as the classes that declare its fields: a field that an older perun did not
store has its default, one that this perun does not know is left out. The classes are imported when they are first
needed: an agent that a prolog waits for has no policy yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perun_hpc.config.schema import Monitor, Privacy, Sampling, Store


def monitor(settings: Mapping[str, Any]) -> Monitor:
    """Which jobs are measured."""
    found: Monitor = _section(settings, "monitor")
    return found


def privacy(settings: Mapping[str, Any]) -> Privacy:
    """Who sees what, and how finely."""
    found: Privacy = _section(settings, "privacy")
    return found


def sampling(settings: Mapping[str, Any]) -> Sampling:
    """How often is read."""
    found: Sampling = _section(settings, "sampling")
    return found


def store(settings: Mapping[str, Any]) -> Store:
    """What is kept, and where."""
    found: Store = _section(settings, "store")
    return found


def _section(settings: Mapping[str, Any], name: str) -> Any:
    kind, known = _fields(name)
    return kind(**{key: value for key, value in settings.get(name, {}).items() if key in known})


@cache
def _fields(name: str) -> tuple[type[Any], frozenset[str]]:
    """The class of a section, and the names of its fields."""
    from perun_hpc.config.schema import SECTIONS

    kind = SECTIONS[name]
    return kind, frozenset(field.name for field in dataclasses.fields(kind))


def trace_wanted(settings: Mapping[str, Any], flagged: bool, duration_ns: int) -> bool:
    """Whether a job of that length leaves a trace."""
    rule = store(settings)
    if rule.trace == "none":
        return False
    return flagged or (rule.trace == "all" and duration_ns >= rule.trace_min_duration_ns)


def trace_may_be_wanted(settings: Mapping[str, Any]) -> bool:
    """Whether rows must be written from the start, since the job's length is not known yet."""
    return store(settings).trace == "all"
