"""The curve of a session: its energy on this node so far, point by point; regions are laid over it."""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

POINT = struct.Struct("<qq")
MAX_B = 64 * 1024 * 1024
"""A longer curve is not continued: 46 days at one point a second."""


PIECE_B = 4096 * POINT.size


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
        """The curve in a file; empty where there is none."""
        if not path.exists():
            return cls((), ())
        with path.open("rb") as file:
            return cls.of(file)

    @classmethod
    def of(cls, file: BinaryIO) -> Curve:
        """The curve in an open file. Points that do not go on in time are left out."""
        times, values = array("q"), array("q")
        while len(piece := file.read(PIECE_B)) >= POINT.size:
            for mono_ns, uj in POINT.iter_unpack(piece[: len(piece) - len(piece) % POINT.size]):
                if not times or mono_ns > times[-1]:
                    times.append(mono_ns)
                    values.append(uj)
        return cls(times, values)

    @property
    def known(self) -> bool:
        """Whether it has an interval at all."""
        return len(self._times) > 1

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

    def over(self, spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """Energy used during disjoint stretches of time in order, and its standard uncertainty; both in uJ.

        Inside one interval of the curve nobody knows when its energy was used: what a stretch that covers a part of it
        used lies between nothing and all (a rectangular distribution). The same code meets the same phase of every
        interval, so these errors correlate and are added, not averaged.
        """
        energy_uj = doubtful_uj = covered_ns = 0
        current = -1

        def settle() -> int:
            if not 0 <= current < len(self._times) - 1 or covered_ns >= self._times[current + 1] - self._times[current]:
                return 0
            return abs(self._values[current + 1] - self._values[current])

        for begin, end in spans:
            energy_uj += self.at(end) - self.at(begin)
            first, last = bisect_right(self._times, begin) - 1, bisect_left(self._times, end) - 1
            for place in (first,) if first == last else (first, last):
                inside_ns = min(end, self._bound(place + 1)) - max(begin, self._bound(place))
                if place != current:
                    doubtful_uj += settle()
                    current, covered_ns = place, 0
                covered_ns += inside_ns
        return energy_uj, math.ceil((doubtful_uj + settle()) / math.sqrt(12))

    def _bound(self, place: int) -> int:
        """Time of a point; far away outside the curve."""
        if place < 0:
            return -(1 << 62)
        return self._times[place] if place < len(self._times) else 1 << 62
