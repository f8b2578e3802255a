"""What a job's settings say, asked as questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def trace_wanted(settings: Mapping[str, Any], flagged: bool, duration_ns: int) -> bool:
    """Whether a job of that length leaves a trace."""
    rule = settings["store"]["trace"]
    if rule == "none":
        return False
    return flagged or (rule == "all" and duration_ns >= settings["store"]["trace_min_duration_ns"])


def trace_may_be_wanted(settings: Mapping[str, Any]) -> bool:
    """Whether rows must be written from the start, since the job's length is not known yet."""
    return bool(settings["store"]["trace"] == "all")
