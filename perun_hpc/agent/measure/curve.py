"""The curve of a session: its energy on this node so far, point by point; regions are laid over it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from perun_hpc.energy import region_energy
from perun_hpc.energy.region_contrast import MOST_INTERVALS, MOST_SPANS
from perun_hpc.energy.region_energy import Estimate
from perun_hpc.energy.regions import NO_LIMITS, Limits, Loose, Spans

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
    """A curve read back; before its first and after its last point it stands still."""

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

    def over(
        self,
        spans: Spans,
        limits: Limits = NO_LIMITS,
        contrasted: bool = True,
        coarse_ns: int = 0,
        loose: Loose[Spans] | None = None,
    ) -> Estimate:
        """Energy used during stretches of time; see `region_energy.estimate`."""
        return region_energy.estimate(self._times, self._values, spans, limits, contrasted, coarse_ns, loose)

    def looked_at(self, spans: Spans) -> int:
        """How many calls and points an estimate of them looks at."""
        return min(len(spans), MOST_SPANS) + min(len(self._times), MOST_INTERVALS)
