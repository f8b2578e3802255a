"""Rows of perun's own formats as a Dataset: a column each, with its unit as CF and pint write it.

A name loses its unit (`energy_uj` becomes `energy`, in J) and gets words that stand alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

Row = Mapping[str, Any]

_UNITS = (("_uj", 1e-6, "J"), ("_mw", 1e-3, "W"), ("_ns", 1e-9, "s"), ("_s", 1.0, "s"), ("_b", 1.0, "byte"),
          ("_khz", 1e3, "Hz"))  # fmt: skip
_MOMENTS = {"start_ns": 1, "end_ns": 1, "submit_s": 10**9}
"""Times since 1970, by how many ns one is."""
_NAMES = {
    "node": "host",
    "node_uj": "counted",
    "u_uj": "uncertainty",
    "step_id": "step",
    "time_ns": "duration",
    "time_min_ns": "duration_min",
    "time_max_ns": "duration_max",
    "peak_mw": "power_peak",
    "limit_mw": "power_limit",
    "time_limit_s": "time_limit",
}
_TEXTS = frozenset(("why",))
"""Texts that may be missing in every row."""
_LONG_NAMES = {
    "counted": "energy that the host's counters counted between the job's edges",
    "uncertainty": "standard uncertainty (k=1) of energy",
    "coverage": "share of the time that was measured",
    "clock": "mean clock while the device was at work",
    "braked_time": "time for which it was seen whether something held the clock down",
    "capped_time": "time for which the power limit held the clock down",
    "slowed_time": "time for which heat or the hardware's own brake held the clock down",
}
COORDINATES = frozenset(("host", "step", "device", "component", "rank", "region", "job"))
"""Columns that say what a row is of."""


def table(rows: Iterable[Row], dim: str) -> xarray.Dataset:
    """Rows as columns along `dim`, which the column of that name labels; lists and parts of a row are left out.

    What is not known is NaN or NaT, and an empty text; never zero.
    """
    import xarray

    found = [{_name(key): (key, value) for key, value in row.items() if _fits(value)} for row in rows]
    columns = {}
    for name in dict.fromkeys(name for row in found for name in row):
        key = next(row[name][0] for row in found if name in row)
        values = [row[name][1] if name in row else None for row in found]
        columns[name] = (dim, *_column(key, name, values))
    made = xarray.Dataset(columns)
    if "uncertainty" in made and "energy" in made:
        made.energy.attrs["ancillary_variables"] = "uncertainty"
    return made.set_coords([name for name in made.data_vars if name in COORDINATES])


def _fits(value: object) -> bool:
    return value is None or isinstance(value, (str, bool, int, float))


def _name(key: str) -> str:
    if key in _NAMES:
        return _NAMES[key]
    if key in _MOMENTS:
        return key.rpartition("_")[0]
    end, _, units = next((unit for unit in _UNITS if key.endswith(unit[0])), ("", 1.0, ""))
    short = key.removesuffix(end)
    return f"{short}_time" if units == "s" else short


def _column(key: str, name: str, values: Sequence[Any]) -> tuple[Any, dict[str, str]]:
    """The values of a column as an array, and its attributes."""
    about = {"long_name": _LONG_NAMES.get(name, name.replace("_", " "))}
    if name in _TEXTS or any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=object), about
    if key in _MOMENTS:
        return np.array([value * _MOMENTS[key] if value else "NaT" for value in values], dtype="M8[ns]"), about
    factor, units = next(((factor, units) for end, factor, units in _UNITS if key.endswith(end)), (None, "1"))
    whole = not any(value is None or isinstance(value, float) for value in values)
    if factor is not None and (factor != 1.0 or not whole):
        return np.array([np.nan if value is None else value * factor for value in values], dtype=float), {
            **about,
            "units": units,
        }
    return np.array([np.nan if value is None else value for value in values], dtype=None if whole else float), {
        **about,
        "units": units,
    }
