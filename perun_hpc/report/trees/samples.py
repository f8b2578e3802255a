"""A job's store as Datasets: for every track one with its hosts and times, and below it one for each quantity.

The store keeps channels apart by quantity and calls them `energy_channel`; here each quantity has a place of its own,
so that its channels are simply `sensor`. Nothing is read before it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perun_hpc.errors import DataError
from perun_hpc.report.trees.columns import table
from perun_hpc.store import job_store, layout

if TYPE_CHECKING:
    import xarray

_UNITS = {"B": "byte"}
"""Units that CF calls otherwise: its B is the bel."""
_SENSOR = ("component", "backend", "provenance", "scope")


def of_store(path: Path) -> dict[str, xarray.Dataset]:
    """The parts of a job's tree that its store gives, by their paths in it; `path` is as for `job_store.open_job`."""
    parts: dict[str, xarray.Dataset] = {}
    for group, data in job_store.open_tracks(path).items():
        try:
            parts |= _of_track(group, data)
            parts.setdefault("/", _job(data.attrs))
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise DataError(f"{path}: what {group} is of is damaged ({error}); run perun collect --repair") from error
    for name, rows in job_store.read_tables(path).items():
        dim = name[:-1]
        named = [
            {("region" if key == "name" and dim == "region" else key): v for key, v in row.items()} for row in rows
        ]
        parts["rank_regions" if dim == "region" else name] = table(named, dim)
    return parts


def _job(about: dict[str, Any]) -> xarray.Dataset:
    import xarray

    said = {name: about[name] for name in ("cluster", "job_id", "restart_count", "state")}
    return xarray.Dataset(attrs={"title": f"job {said['job_id']}", **said})


def _of_track(group: str, data: xarray.Dataset) -> dict[str, xarray.Dataset]:
    about = data.attrs
    channels: dict[str, list[dict[str, Any]]] = about["perun_track"]["channels"]
    names = {"node": "host", "node_status": "host_status", "node_until": "host_until"}
    data = data.rename(names)
    data = data.assign_coords(host=_texts(data.host), host_status=("host", _texts(data.host_status)))
    shared = data[[layout.OFFSET]].drop_attrs(deep=False)
    shared.attrs = {
        "period_s": about["period_ns"] / layout.NS_PER_S,
        "state": about["state"],
        "simulated": str(bool(about["simulated"])).lower(),
    }
    parts = {group: _plain(shared)}
    for quantity, described in channels.items():
        form = next(form for form in layout.FORMS.values() if form.name == quantity)
        one = data[[quantity]].rename({f"{quantity}_channel": "sensor"})
        labels = {"sensor": _texts(one.sensor), "device": np.array([_device(c) for c in described], dtype=object)}
        labels |= {name: np.array([str(c.get(name, "")) for c in described], dtype=object) for name in _SENSOR}
        kinds = {str(c["kind"]) for c in described}
        one[quantity].attrs = {
            "long_name": form.long_name,
            "units": _UNITS.get(form.units, form.units),
            "resolution": float(one[quantity].encoding.get("scale_factor", 1.0)),
            "kind": "/".join(sorted(kinds)),
        }
        one = one.assign_coords({name: ("sensor", values) for name, values in labels.items()})
        inherited = [name for name in one.coords if name in shared.coords]
        parts[f"{group}/{quantity}"] = _plain(one.drop_vars(inherited).drop_attrs(deep=False))
    return parts


def _texts(array: Any) -> Any:
    return np.array([str(text) for text in array.values], dtype=object)


def _device(channel: dict[str, Any]) -> str:
    """The part of the machine that a channel is of: its name without what tells it from others of that part."""
    return str(channel["channel"]).partition("#")[0].removeprefix(f"{channel['backend']}:")


def _plain(data: xarray.Dataset) -> xarray.Dataset:
    """Without how it was stored: to be written again as whoever does likes it."""
    return data.drop_encoding()
