"""The curve of a session: its energy on this node so far, point by point; regions are laid over it."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

POINT = struct.Struct("<qq")
MAX_B = 64 * 1024 * 1024
"""A longer curve is not continued: 46 days at one point a second."""


def extend(path: Path, points: Sequence[tuple[int, int]]) -> None:
    """Append points (monotonic ns, uJ so far)."""
    with path.open("ab") as file:
        if file.tell() < MAX_B:
            file.write(b"".join(POINT.pack(*point) for point in points))


def spread(points: Sequence[tuple[int, int]], before_uj: int, given_uj: int) -> list[tuple[int, int]]:
    """Points of a session inside one interval: its share, in proportion to what the node's counters show.

    `points` are (monotonic ns, uJ of the node so far), the first at the interval's start, the last at its end.
    """
    first, last = points[0][1], points[-1][1]
    whole = last - first
    if whole <= 0:
        return [(points[-1][0], before_uj + given_uj)]
    return [(mono_ns, before_uj + given_uj * (uj - first) // whole) for mono_ns, uj in points[1:]]


class Curve:
    """A curve read back: straight lines between its points, bounds by the points around."""

    def __init__(self, times: Sequence[int], values: Sequence[int]) -> None:
        self._times = times
        self._values = values

    @classmethod
    def read(cls, path: Path) -> Curve:
        """The curve in a file; empty where there is none. Points that do not go on in time are left out."""
        times, values = array("q"), array("q")
        data = path.read_bytes() if path.exists() else b""
        for mono_ns, uj in POINT.iter_unpack(data[: len(data) - len(data) % POINT.size]):
            if not times or mono_ns > times[-1]:
                times.append(mono_ns)
                values.append(uj)
        return cls(times, values)

    def at(self, mono_ns: int) -> int:
        """Energy at a moment in uJ; before the first and after the last point it stands still."""
        times, values = self._times, self._values
        if not times:
            return 0
        place = bisect_right(times, mono_ns)
        if place == 0:
            return values[0]
        if place == len(times):
            return values[-1]
        t0, t1 = times[place - 1], times[place]
        return values[place - 1] + (values[place] - values[place - 1]) * (mono_ns - t0) // (t1 - t0)

    def doubt(self, mono_ns: int) -> int:
        """How wrong `at` can be at most: the energy between the two points around the moment, in uJ."""
        place = bisect_right(self._times, mono_ns)
        if place == 0 or place == len(self._times) or self._times[place - 1] == mono_ns:
            return 0
        return abs(self._values[place] - self._values[place - 1])
