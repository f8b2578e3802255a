"""What a meter showed, as a series of readings in a file, and the energy between two times by it.

`ARCHIVE/CLUSTER/facility/NAME.csv` with the columns `time` (epoch seconds: the middle of the request by this host's
clock), `kwh` (what the meter counted since the file began, a power integrated), `covered_s` (for how much of the time
since then that is known), `reading` (the number as it came, in the meter's ticks) and `since` (a counter's start, as
the device says it). The first two are those of every facility meter.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from perun_hpc.errors import DataError
from perun_hpc.files import make_directory
from perun_hpc.inputs import read_text
from perun_hpc.meters.inventory import Pin

HEAD = "time,kwh,covered_s,reading,since\n"
GAP_PERIODS = 3
"""Power readings farther apart than so many periods have a gap between them, of which nothing is known."""
MOST_W = 1_000_000
"""More than any rack takes: a counter that runs faster has jumped."""
MAX_B = 64 << 20
COARSE = 10
"""A time with fewer readings in it is too coarse for this meter."""
J_PER_KWH = Decimal(3_600_000)


@dataclass(frozen=True)
class Row:
    """One reading, and the sums up to it."""

    time_s: float
    kwh: Decimal
    covered_s: float
    reading: Decimal
    since: str = ""

    @property
    def line(self) -> str:
        """As the file has it."""
        return f"{self.time_s:.3f},{self.kwh:.9f},{self.covered_s:.3f},{self.reading:f},{self.since}\n"


def follow(pin: Pin, period_s: float, before: Row | None, time_s: float, reading: Decimal, since: str = "") -> Row:
    """The row of a reading that follows `before`.

    A power is integrated by straight lines over at most `GAP_PERIODS` periods. A counter's difference counts, however
    long it took; not where it went back, began anew or jumped: that energy is not known.
    """
    if before is None:
        return Row(time_s, Decimal(0), 0.0, reading, since)
    step_s = time_s - before.time_s
    if step_s <= 0:
        return Row(time_s, before.kwh, before.covered_s, reading, since)
    if pin.kind == "power":
        known = step_s <= GAP_PERIODS * period_s * pin.every
        step_j = (before.reading + reading) / 2 * pin.base * Decimal(step_s)
    else:
        step_j = (reading - before.reading) * pin.base
        known = since == before.since and 0 <= step_j <= MOST_W * Decimal(step_s) + pin.base
    if not known:
        return Row(time_s, before.kwh, before.covered_s, reading, since)
    return Row(time_s, before.kwh + step_j / J_PER_KWH, before.covered_s + step_s, reading, since)


class Series:
    """One meter's file, to which readings are appended; the next process goes on from its last line."""

    def __init__(self, path: Path, pin: Pin, period_s: float) -> None:
        """Read the last line, and drop one that was cut short. OSError where the file cannot be used."""
        self.path, self._pin, self._period_s = path, pin, period_s
        self.last = self._mend()

    def add(self, time_s: float, reading: Decimal, since: str = "") -> Row:
        """Append one reading; OSError where the disk does not take it, then it was none."""
        row = follow(self._pin, self._period_s, self.last, time_s, reading, since)
        make_directory(self.path.parent)
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            data = ((HEAD if size == 0 else "") + row.line).encode()
            try:
                if file.write(data) != len(data):
                    raise OSError(28, os.strerror(28), str(self.path))
            except OSError:
                file.truncate(size)
                raise
        self.last = row
        return row

    def _mend(self) -> Row | None:
        if not self.path.exists():
            return None
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(-min(size, 4096), os.SEEK_END)
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            if len(whole) < len(tail):
                file.truncate(start + len(whole))
            for line in reversed(whole.decode("ascii", "replace").splitlines()):
                if row := _row(line.split(",")):
                    return row
        return None


def _row(words: Sequence[str]) -> Row | None:
    try:
        time_s, kwh, covered_s, reading, since = words
        row = Row(float(time_s), Decimal(kwh), float(covered_s), Decimal(reading), since)
    except (ValueError, ArithmeticError):
        return None
    return row if row.kwh.is_finite() and row.reading.is_finite() else None


def read_series(path: Path) -> list[Row]:
    """All rows of a meter's file, in time order. DataError where it cannot be read."""
    try:
        rows = [row for words in csv.reader(read_text(path, MAX_B).splitlines()) if (row := _row(words))]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: no meter readings ({error})") from error
    return sorted(rows, key=lambda row: row.time_s)


@dataclass(frozen=True)
class Metered:
    """What a meter says of a time: energy in J of the part of it that is covered, and how many readings lie in it.

    `tick_j` is how fine the meter counts; where the energy is less than ten of these, or the readings are fewer than
    ten, the time is too coarse for it.
    """

    energy_j: float
    covered: float
    readings: int
    tick_j: float

    @property
    def coarse(self) -> bool:
        """Whether the time is too short for this meter to say anything of it."""
        return self.readings < COARSE or self.energy_j < COARSE * self.tick_j


def between(rows: Sequence[Row], since_s: float, until_s: float, tick_j: float = 0.0) -> Metered:
    """What was counted in [since_s, until_s]; a step that reaches over an edge counts in proportion."""
    times = [row.time_s for row in rows]
    inside = bisect_right(times, until_s) - bisect_left(times, since_s)
    energy_kwh = covered_s = 0.0
    for index in range(max(1, bisect_left(times, since_s)), min(len(rows), bisect_right(times, until_s) + 1)):
        before, after = rows[index - 1], rows[index]
        step_s = after.time_s - before.time_s
        part_s = min(after.time_s, until_s) - max(before.time_s, since_s)
        if step_s > 0 and part_s > 0 and after.covered_s > before.covered_s:
            energy_kwh += float(after.kwh - before.kwh) * part_s / step_s
            covered_s += part_s
    span_s = until_s - since_s
    return Metered(energy_kwh * 3.6e6, min(1.0, covered_s / span_s) if span_s > 0 else 0.0, inside, tick_j)


def tick_j(pin: Pin, rows: Sequence[Row]) -> float:
    """How fine a counter counts, in J: the last decimal place that any of its readings has; 0 of a power."""
    if pin.kind == "power":
        return 0.0
    places = [row.reading.as_tuple().exponent for row in rows]
    finest = min((place for place in places if isinstance(place, int)), default=0)
    return float(pin.base * Decimal(10) ** min(finest, 0))
