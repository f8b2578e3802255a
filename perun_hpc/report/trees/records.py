"""An energy record as Datasets: the job's own figures, and a table each of its hosts, devices, steps and so on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from perun_hpc.data_model.record import EnergyRecord, known
from perun_hpc.report.trees.columns import table

if TYPE_CHECKING:
    import xarray

_INTERNAL = frozenset(
    ("schema", "revision", "inputs", "digest", "sluid", "uid", "gid", "policy_hash", "simulated", "footprint")
)
"""Of no use to who reads a job's figures."""


def of_record(record: EnergyRecord) -> dict[str, xarray.Dataset]:
    """The parts of a job's tree that its record gives, by their paths in it."""
    parts = {
        "components": _part(record.components, "component", {}),
        "hosts": _part(record.nodes, "host", {}),
        "devices": _part(record.devices, "device", {"domain": "device"}),
        "steps": _part(record.steps, "step", {}),
        "ranks": _part(record.ranks, "rank", {}),
        "regions": _part(record.regions, "region", {"name": "region"}),
    }
    return {"/": _whole(record), **{name: part for name, part in parts.items() if part is not None}}


def of_records(records: Iterable[tuple[str, EnergyRecord]]) -> xarray.Dataset:
    """One row for each job, by the label that it is given."""
    return table([{"job": label, **_row(record)} for label, record in records], "job")


def _whole(record: EnergyRecord) -> xarray.Dataset:
    """Numbers as scalars with their units, texts as attributes."""
    one = table([_row(record)], "job").isel(job=0)
    texts = {str(name): one[name].item() for name in one.variables if one[name].dtype.kind == "O"}
    made = one.drop_vars(list(texts))
    made.attrs = {
        "title": f"job {record.display_id}",
        **{name: text for name, text in texts.items() if text},
        **({"missing": list(record.missing)} if record.missing else {}),
        **({"notes": list(record.notes)} if record.notes else {}),
    }
    return made


def _row(record: EnergyRecord) -> dict[str, Any]:
    return {key: known(record, key) for key in vars(record) if key not in _INTERNAL}


def _part(rows: Iterable[Any], dim: str, names: dict[str, str]) -> xarray.Dataset | None:
    renamed = [
        {
            names.get(key, key): value or None if key == "u_uj" else value  # 0: no bounds are known
            for key, value in vars(row).items()
            if key not in _INTERNAL
        }
        for row in rows
    ]
    return table(renamed, dim) if renamed else None
