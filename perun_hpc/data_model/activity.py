"""When something ran, coarsely: the part of each of some stretches of the wall clock.

Stretches are as long as a power of two (ns) and counted from 1970 on, so that those of several nodes fit each other. It
is flat, as records hold it: how long a stretch is (ns), the number of the first one, and of each from there on the
permille of it in which it ran, summed over ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST = 64
"""Stretches of a job, about."""
LEAST_NS = 1 << 27
"""No stretch is shorter, 0.13 s: it would show single readings."""
MOST_RANKS = 1 << 32
"""More than any job has."""


def width_ns(length_ns: int) -> int:
    """How long stretches are so that some dozens of them cover so much time."""
    width = LEAST_NS
    while width * (MOST - 1) < length_ns:
        width *= 2
    return width


def of_spans(spans: Iterable[tuple[int, int]], clock_ns: int, width: int) -> list[int]:
    """When disjoint stretches of time were, in order.

    Parameters
    ----------
    spans : their begins and ends (ns, monotonic).
    clock_ns : what that clock lacks to the wall clock.
    width : as `width_ns` says it.
    """
    found: dict[int, int] = {}
    for begin, end in spans:
        begin, end = begin + clock_ns, end + clock_ns
        while begin < end:
            until = min(end, (begin // width + 1) * width)
            found[begin // width] = found.get(begin // width, 0) + until - begin
            begin = until
    if not found:
        return []
    first, last = min(found), max(found)
    if last - first >= 2 * MOST:
        return []  # the rank outlived its job: a clock that was set
    return [width, first, *(round(1000 * found.get(place, 0) / width) for place in range(first, last + 1))]


def parsed(value: object) -> tuple[int, ...]:
    """What a record says, of whoever wrote it; empty where it cannot be."""
    if not isinstance(value, (list, tuple)) or not 3 <= len(value) <= 2 * MOST + 2:
        return ()
    sound = all(type(one) is int and 0 <= one < 1 << 63 for one in value)
    if not sound or value[0] < LEAST_NS or value[0] & (value[0] - 1) or max(value[2:]) > 1000 * MOST_RANKS:
        return ()
    return tuple(value)


def together(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The sum of several, in stretches as long as the longest of theirs; empty where they lie too far apart."""
    known = [part for part in parts if part]
    if not known:
        return ()
    width = max(part[0] for part in known)
    found: dict[int, float] = {}
    for own, first, *permille in known:
        for place, one in enumerate(permille, first):
            at = place * own // width
            found[at] = found.get(at, 0.0) + one * own / width
    first, last = min(found), max(found)
    if last - first >= 2 * MOST:
        return ()
    return (width, first, *(round(found.get(place, 0.0)) for place in range(first, last + 1)))
