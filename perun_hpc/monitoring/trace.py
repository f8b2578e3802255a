"""Reading back what the sampling process stored of a run: all readings of a host, edges included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.errors import NotFoundError
from perun_hpc.store import layout


def read(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Times (CLOCK_MONOTONIC ns, increasing) and values of all sensors in base units, NaN for gaps.

    Counters are unwrapped and start at 0 with their first reading, the first edge's as a rule. Shapes (readings,) and
    (sensors, readings).
    """
    edges = summary["edges"]
    edge_times = np.array([edge["mono_ns"] for edge in edges], dtype=np.int64)
    edge_values = np.array(
        [[np.nan if v is None else float(s.base(v - _zero(s, edges, c))) for c, (s, v) in enumerate(zip(sensors,
        edge["values"], strict=True))]
         for edge in edges]
    ).T.reshape(len(sensors), len(edges))  # fmt: skip
    for column, sensor in enumerate(sensors):
        if sensor.kind is Kind.COUNTER and edges[-1]["values"][column] is not None:
            # The last edge as the running sum gives it: it knows of wraps.
            base = summary["results"][column]["base"]
            edge_values[column, -1] = np.nan if base is None else base
    times, values = _rows(directory, summary, sensors)
    inside = (times > edge_times[0]) & (times < edge_times[-1])
    times, values = times[inside], values[:, inside]
    all_times = np.concatenate((edge_times[:1], times, edge_times[-1:]))
    all_values = np.concatenate((edge_values[:, :1], values, edge_values[:, -1:]), axis=1)
    keep = np.concatenate(([True], np.diff(all_times) > 0))
    return all_times[keep], all_values[:, keep]


def _zero(sensor: Sensor, edges: Sequence[dict[str, Any]], column: int) -> int:
    if sensor.kind is not Kind.COUNTER:
        return 0
    first = edges[0]["values"][column]
    return 0 if first is None else int(first)


def _rows(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    if not summary["rows"]:
        return np.empty(0, dtype=np.int64), np.empty((len(sensors), 0))
    from perun_hpc.store.job_store import open_group

    group = open_group(directory)
    attributes = dict(group.attrs)
    period_ns = int(summary["period_ns"])
    start, stop = int(attributes.get("time_start", 0)), int(attributes.get("time_stop", group[layout.OFFSET].shape[-1]))  # type: ignore[arg-type, union-attr]
    offsets = np.asarray(group[layout.OFFSET][0, start:stop])  # type: ignore[index]
    filled = np.flatnonzero(offsets != layout.fill(layout.OFFSET_FORM.dtype))
    if not len(filled):
        raise NotFoundError(f"{directory}: the trace holds no rows")
    track: dict[str, Any] = attributes["perun_track"]  # type: ignore[assignment]
    ticks = int(track["origin_tick"]) + start + filled
    real_ns = ticks * period_ns + offsets[filled].astype(np.int64) * 1000
    times = real_ns - (int(summary["start_real_ns"]) - int(summary["start_mono_ns"]))
    values = np.full((len(sensors), len(filled)), np.nan)
    for part in layout.arrays(sensors):
        stored = np.asarray(group[part.form.name][0, :, start:stop])  # type: ignore[index]
        for channel, column in enumerate(part.columns):
            taken = stored[channel, filled]
            value = taken.astype(np.float64) * part.form.divisor
            if sensors[column].kind is Kind.COUNTER:
                first = summary["edges"][0]["values"][column]
                known = taken[taken != layout.fill(part.form.dtype)]
                zero = int(known[0]) if first is None and len(known) else sensors[column].base(first or 0)
                value = (taken.astype(np.int64) - zero).astype(np.float64)
            values[column] = np.where(taken == layout.fill(part.form.dtype), np.nan, value)
    return times, values
