"""The values that a page's script tells where the pointer is: those that the picture was drawn from, no others."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.report import drawing
from perun_hpc.report.chart import COLOUR_MAP, LEVELS, Picture, bound_of, functions_with_times, steps_with_times
from perun_hpc.report.curves import Envelope, Floats, JobCurves
from perun_hpc.report.screen import printable


def values(record: EnergyRecord, curves: JobCurves, picture: Picture) -> str:
    """JSON for a `<script type="application/json">`: nothing in it can end that element."""
    names = [part for part in curves.components]
    made: dict[str, Any] = {
        "width": picture.width,
        "panels": [vars(panel) for panel in picture.panels],
        "seconds": float(curves.edges_s[-1]),
        "columns": len(curves.edges_s) - 1,
        "parts": [{"name": drawing.LABELS[name], "watts": _rounded(curves.components[name])} for name in names],
        "total": _envelope(curves.total),
        "meter": None if curves.meter is None else _rounded(curves.meter),
        "cpu": _envelope(curves.cpu),
        "gpu": _envelope(curves.gpu),
        "memory": _envelope(curves.memory),
        "bound": bound_of(record),
        "reporting": curves.reporting.tolist(),
        "nodes": curves.nodes,
        "steps": [
            {"id": printable(step.step_id), "from": (step.start_ns - record.start_ns) / 1e9,
             "to": (step.end_ns - record.start_ns) / 1e9}
            for step in steps_with_times(record)
        ],
        "functions": [
            {"name": printable(one.name), "from": one.start_s, "width": one.width_s,
             "parts": [round(part, 3) for part in one.parts]}
            for one in functions_with_times(record)
        ],
        "hosts": [printable(host.node) for host in curves.hosts],
        "heat": None if picture.heat is None else _heat(curves, picture),
    }  # fmt: skip
    text = json.dumps(made, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _heat(curves: JobCurves, picture: Picture) -> dict[str, Any]:
    from matplotlib import colormaps

    assert picture.heat is not None
    columns = len(curves.edges_s) - 1
    rows, cells = picture.heat.watts.shape
    together = -(-columns // cells)
    colours = (colormaps[COLOUR_MAP].resampled(LEVELS)(range(LEVELS), bytes=True))[:, :3].tolist()
    seconds = float(curves.edges_s[-1]) / columns * together * cells
    return {"rows": rows, "seconds": seconds, "most": picture.heat.most, "colours": colours}


def _envelope(found: Envelope | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"mean": _rounded(found.mean), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(numbers: Floats) -> list[float | int | None]:
    """Four digits, which is more than a screen shows; None for what is not known."""
    known = np.where(np.isnan(numbers), 0.0, numbers)
    with np.errstate(divide="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.maximum(np.abs(known), 1e-3))))
    whole = np.round(known * scale) / scale
    return [
        None if math.isnan(number) else int(value) if value == int(value) else float(f"{value:.6g}")
        for number, value in zip(numbers.tolist(), whole.tolist(), strict=True)
    ]
