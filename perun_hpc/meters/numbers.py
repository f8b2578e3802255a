"""What a device's answer says: a number, a time, or nothing. What is not surely a number is none, and none is not 0."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

_TEXT = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,2})?", re.ASCII)
_FIRST_S = 946_684_800 + 365 * 86_400
"""2001: a clock that shows less was never set."""


def number(value: Any) -> float | None:
    """A number of at least 0: an int, a float, or text that is one; None for all else.

    null, "N/A", booleans, -1 (many devices' word for "not supported") and other negatives are no readings.
    """
    if isinstance(value, str) and _TEXT.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def pointed(document: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) names in a document; None where there is nothing."""
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            document = document[int(step)] if step.isdecimal() and int(step) < len(document) else None
        elif isinstance(document, dict):
            document = document.get(step)
        else:
            return None
    return document


def moment(value: Any) -> float | None:
    """The epoch seconds that a device's time stamp means, whatever its offset; None where its clock was never set."""
    stamp_s = number(value)
    if stamp_s is None and isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        stamp_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return stamp_s if stamp_s is not None and stamp_s >= _FIRST_S else None


def stamp(value: Any) -> str:
    """A counter's start as one word that changes when the counter begins anew; empty where the device gives none."""
    at_s = moment(value)
    if at_s is not None:
        return f"{at_s:.0f}"
    return re.sub(r"[\s,]+", "_", value.strip())[:40] if isinstance(value, str) else ""
