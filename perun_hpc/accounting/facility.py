"""Facility meters: counters of a hall or a building, declared as `file` sensors and read by the collector alone.

What they counted lies in `ARCHIVE/CLUSTER/facility/NAME.csv`, in the columns that `perun audit --meter` takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from perun_hpc.accounting.audit import Finding, beside_meter, compare_meter, read_meter
from perun_hpc.archive.places import Archive
from perun_hpc.backend.file import FACILITY, Declaration, DeclaredFile
from perun_hpc.errors import DataError, PerunError

HEAD = "time,kwh\n"
PERIOD_S = 300
UJ_PER_KWH = 3.6e12


def declared(files: Iterable[Mapping[str, Any]]) -> list[Declaration]:
    """The facility meters among the policy's `sensors.files`."""
    return [d for d in map(Declaration.from_policy, files) if d.component == FACILITY]


def note_readings(archive: Archive, meters: Iterable[Declaration], now_s: float, root: Path = Path("/")) -> list[str]:
    """Append what each meter shows now, at most every `PERIOD_S`; returns a sentence for each that shows nothing."""
    problems = []
    for meter in meters:
        path = archive.facility(meter.name)
        try:
            if path.exists() and now_s < path.stat().st_mtime + PERIOD_S:
                continue
            with contextlib.closing(DeclaredFile(meter, root)) as reader:
                (reading,), (sensor,) = reader.read(), reader.sensors
            if reading.ticks is None:
                raise DataError(str(reading.error))
            path.parent.mkdir(mode=0o750, exist_ok=True)
            with path.open("a+b") as file:
                head = _mend(file)
                file.write(f"{head}{now_s:.0f},{sensor.base(reading.ticks) / UJ_PER_KWH:.9f}\n".encode())
            os.utime(path, (now_s, now_s))
        except (OSError, PerunError) as error:
            problems.append(f"facility meter {meter.name} ({meter.path}): {error}: no reading in this sweep")
    return problems


def _mend(file: BinaryIO) -> str:
    """Drop a last line that a full disk cut short; returns what must stand before the next one."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return HEAD
    last = file.seek(-min(size, 200), os.SEEK_END)
    tail = file.read()
    if not tail.endswith(b"\n"):
        file.truncate(last + tail.rfind(b"\n") + 1 if b"\n" in tail else size)
    return "" if b"\n" in tail else "\n"


def compare(
    archive: Archive, meters: Iterable[Declaration], counted_uj: int, since_s: int, until_s: int, tolerance: float
) -> tuple[list[Finding], str]:
    """Compare the nodes' sum with that of all facility meters; returns findings, and what there is to say of it."""
    metered_uj, names = 0, []
    for meter in meters:
        try:
            path = archive.facility(meter.name)
            metered_uj += read_meter(path, since_s, until_s, meter.range_uj)
        except DataError as error:
            return [], f"not compared with the facility's meters: {error}"
        names.append(meter.name)
    if not names:
        return [], ""
    return compare_meter(counted_uj, metered_uj, tolerance), beside_meter(
        f"the facility's {', '.join(names)}", counted_uj, metered_uj
    )
