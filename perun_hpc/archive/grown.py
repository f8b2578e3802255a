"""A day of a node's ledger where it was delivered: it only grows, whatever its node says of it later.

The intervals of a domain follow each other. A clock that goes back is another boot's; an interval that was
reported before is not reported again with another content.
"""

from __future__ import annotations

import json
from functools import cached_property

TAIL_B = 64 << 10
"""Where the last interval of each domain is looked for: a day has megabytes, and grows all the time."""

Place = tuple[str, int, int]
"""Domain, begin and end (ns since boot) of a line's interval."""


def grown(known: bytes, sent: bytes) -> tuple[bytes, list[bytes]]:
    """What a day becomes by what its node sends of it now, and the lines that contradict what it sent before.

    `sent` may lack the beginning, as of a node that lost its disk. A line that is not whole yet comes with the next
    delivery; one that cannot be read is kept as it is.
    """
    if sent.startswith(known):
        day = known[: known.rfind(b"\n") + 1]
        new = sent[len(day) :].splitlines(keepends=True)
    else:
        before = set(known.splitlines(keepends=True))
        day = known if known.endswith(b"\n") else known + b"\n"
        new = [line for line in sent.splitlines(keepends=True) if line not in before]
    if not new:
        return known, []
    intervals = _Intervals(day)
    fitting: list[bytes] = []
    odd: list[bytes] = []
    for line in new:
        if line.endswith(b"\n"):
            place = _place(line)
            (fitting if place is None or intervals.take(*place) else odd).append(line)
    return (day + b"".join(fitting) if fitting else known), odd


class _Intervals:
    """The intervals of a day, each reported once."""

    def __init__(self, day: bytes) -> None:
        self._day = day
        self._last = {domain: end_ns for domain, _, end_ns in _places(day[-TAIL_B:])}
        self._new: set[tuple[str, int]] = set()

    @cached_property
    def _before(self) -> set[tuple[str, int]]:
        return {(domain, begin_ns) for domain, begin_ns, _ in _places(self._day)}

    def take(self, domain: str, begin_ns: int, end_ns: int) -> bool:
        """Add an interval; False for one that ends before it begins, or was reported before."""
        goes_on = begin_ns >= self._last.get(domain, begin_ns + 1)
        interval = (domain, begin_ns)
        if end_ns < begin_ns or (not goes_on and (interval in self._new or interval in self._before)):
            return False
        self._last[domain] = end_ns
        self._new.add(interval)
        return True


def _places(lines: bytes) -> list[Place]:
    return [place for place in map(_place, lines.splitlines()) if place is not None]


def _place(line: bytes) -> Place | None:
    try:
        value = json.loads(line)
        return str(value.get("domain")), int(value["t0_ns"]), int(value.get("t1_ns", value["t0_ns"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
