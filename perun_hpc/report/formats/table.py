"""The readings of a run as CSV: run id, hostname, device_group, sensor, unit, magnitude, timestep, value."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from perun_hpc.data_model.data import DataNode
from perun_hpc.report.formats.readings import series

COLUMNS = ("run id", "hostname", "device_group", "sensor", "unit", "magnitude", "timestep", "value")
_UNITS = {
    "uJ": ("J", 1e-6), "uW": ("W", 1e-6), "ns": ("s", 1e-9), "permille": ("%", 0.1),
    "kHz": ("Hz", 1e3), "mC": ("degC", 1e-3),
}  # fmt: skip


def csv_text(tree: DataNode, directory: Path) -> str:
    """One line per reading; an empty value is a gap. A value times its magnitude is in its unit; timesteps are
    seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in series(tree, directory):
        unit, magnitude = _UNITS.get(one.raw.unit, (one.raw.unit, 1.0))
        head = [f"{tree.id}/{one.round}", one.host, one.group, one.sensor.id, unit, magnitude]
        for mono_ns, value in zip(one.raw.mono_ns, one.raw.values, strict=True):
            writer.writerow([*head, f"{mono_ns / 1e9:.9f}", "" if value is None else value])
    return text.getvalue()
