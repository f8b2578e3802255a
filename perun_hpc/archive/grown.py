"""A day of a node's ledger where it was delivered: it only grows, whatever its node says of it later.

The intervals of a domain follow each other. A clock that goes back is another boot's; an interval that was
reported before is not reported again with another content. A day has megabytes and grows once a minute: what goes on
where it ends is put there, at its place, so that it may be put there again; all else is compared with the whole day.
"""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from pathlib import Path

from perun_hpc.files import write_all

TAIL_B = 64 << 10
"""Where the last interval of each domain is looked for."""
EDGE_B = 512
"""By so many bytes before a place two files are seen to be the same up to there: each line has times of its own."""

Place = tuple[str, int, int]
"""Domain, begin and end (ns since boot) of a line's interval."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d\.jsonl", re.ASCII)


def days_of(directory: Path) -> list[Path]:
    """The days of the node ledger that lies in a directory, in order."""
    return sorted(path for path in directory.iterdir() if _DAY.fullmatch(path.name))


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


def whole_lines(path: Path, from_b: int) -> bytes:
    """What a day holds from a place on, without a line that is not whole yet."""
    with path.open("rb") as file:
        more = os.pread(file.fileno(), max(0, os.fstat(file.fileno()).st_size - from_b), from_b)
    return more[: more.rfind(b"\n") + 1]


def edge_of(path: Path, at_b: int) -> str:
    """What a day holds just before a place, a letter for each byte."""
    with path.open("rb") as file:
        return _edge(file.fileno(), at_b)


def _edge(fd: int, at_b: int) -> str:
    length = min(EDGE_B, at_b)
    return os.pread(fd, length, at_b - length).decode("latin-1")


def go_on(path: Path, from_b: int, edge: str, more: bytes) -> bool:
    """Let a day hold `more` behind its first `from_b` bytes, which end as `edge` says, durably.

    False where it does not go on there, and nothing was changed: it is another file up to there, holds something else
    behind, or a line is of an interval that may have been reported before.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        held = os.pread(fd, max(0, size - from_b), from_b)
        if size < from_b or _edge(fd, from_b) != edge or not more.startswith(held):
            return False
        if len(more) == len(held):
            if held:  # of a delivery that was broken off, perhaps before it was durable
                os.fsync(fd)
            return True
        if not _all_follow(os.pread(fd, min(TAIL_B, from_b), max(0, from_b - TAIL_B)), more):
            return False
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError:  # it is kept from changes: whoever may replace it does
        return False
    try:
        write_all(fd, more[len(held) :], size)
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _all_follow(day: bytes, more: bytes) -> bool:
    """Whether each new interval begins where the one before of its domain ended, or later; of a day its end is enough.

    The day is read from its end on, until each domain was found: a few lines, where 64 KiB are three hundred.
    """
    new = _places(more)
    last_ns: dict[str, int] = {}
    sought = {domain for domain, _, _ in new}
    for line in reversed(day.splitlines()):
        if not sought:
            break
        place = _place(line)
        if place is not None and place[0] in sought:
            last_ns[place[0]] = place[2]
            sought.remove(place[0])
    for domain, begin_ns, end_ns in new:
        if not last_ns.get(domain, begin_ns + 1) <= begin_ns <= end_ns:
            return False
        last_ns[domain] = end_ns
    return True


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
