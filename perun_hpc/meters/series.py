"""Readings of a meter on their way into its files: what each adds to the sums (`archive.meter_readings`)."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

from perun_hpc.archive.meter_readings import Row, files_of, month_file, month_of, parsed
from perun_hpc.files import make_directory, sync_directory
from perun_hpc.meters.inventory import Pin

HEAD = "time,kwh,covered_s,reading,since\n"
GAP_PERIODS = 3
"""Power readings farther apart than so many periods have a gap between them, of which nothing is known."""
MOST_W = 1_000_000
"""More than any rack takes: a counter that runs faster has jumped."""
WRAP = 2**32
"""SNMP's counters and unsigned numbers have 32 bits (RFC 2578): after the greatest comes 0."""
J_PER_KWH = Decimal(3_600_000)


def follow(pin: Pin, period_s: float, before: Row | None, time_s: float, reading: Decimal, since: str = "") -> Row:
    """The row of a reading that follows `before`.

    A power is integrated by straight lines over at most `GAP_PERIODS` periods. A counter's difference counts, however
    long it took; not where it went back, began anew or jumped: that energy is not known. One of 32 bits that went back
    goes on beyond its greatest number where that is near, and nothing says that it began anew.
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
        step = reading - before.reading
        near = step_s <= GAP_PERIODS * period_s * pin.every or since != ""
        if step < 0 and near and len(pin.read) == 1 and pin.by == "snmp":
            step += WRAP
        step_j = step * pin.base
        known = since == before.since and 0 <= step_j <= MOST_W * Decimal(step_s) + pin.base
    if not known:
        return Row(time_s, before.kwh, before.covered_s, reading, since)
    return Row(time_s, before.kwh + step_j / J_PER_KWH, before.covered_s + step_s, reading, since)


class Series:
    """One meter's files, to which readings are appended; the next process goes on from the last line."""

    def __init__(self, path: Path, pin: Pin, period_s: float) -> None:
        """Read the last line, and drop one that was cut short. OSError where the file cannot be used."""
        self.path, self._pin, self._period_s = path, pin, period_s
        self.last = self._mend()

    def add(self, time_s: float, reading: Decimal, since: str = "") -> Row:
        """Append one reading; OSError where the disk does not take it, then it was none."""
        row = follow(self._pin, self._period_s, self.last, time_s, reading, since)
        make_directory(self.path.parent)
        self._begin_month(time_s)
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            first = HEAD + (self.last.line if self.last else "")
            data = ((first if size == 0 else "") + row.line).encode()
            try:
                if file.write(data) != len(data):
                    raise OSError(28, os.strerror(28), str(self.path))
            except OSError:
                file.truncate(size)
                raise
        self.last = row
        return row

    def _begin_month(self, time_s: float) -> None:
        """Put the file aside, as evidence, where the next reading is of a later month than its last one."""
        if self.last is None or month_of(time_s) <= month_of(self.last.time_s) or not self.path.exists():
            return
        kept = month_file(self.path, month_of(self.last.time_s))
        if not kept.exists():  # else the clock went back meanwhile: this month's lie with the next
            self.path.rename(kept)
            sync_directory(self.path.parent)

    def _mend(self) -> Row | None:
        for path in reversed(files_of(self.path)):
            if path.exists() and (row := self._last_of(path)):
                return row
        return None

    @staticmethod
    def _last_of(path: Path) -> Row | None:
        """The last whole reading of a file, of which a line that was cut short is dropped."""
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(-min(size, 4096), os.SEEK_END)
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            if len(whole) < len(tail):
                file.truncate(start + len(whole))
            for line in reversed(whole.decode("ascii", "replace").splitlines()):
                if row := parsed(line.split(",")):
                    return row
        return None
