"""What the boundary records of a flagged job say of steps, ranks and regions, as small arrays beside the samples.

Each is a group of one-dimensional arrays of equal length, so that `xarray.open_zarr(path, group="regions")` is a table.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.store import codec, create, layout

Row = dict[str, Any]


def write(job_dir: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables that have rows into the store in `job_dir`; `records` are boundary records."""
    for name, rows in (("steps", _steps(records)), ("ranks", _ranks(records)), ("regions", _regions(records))):
        found = list(rows)
        if found:
            _write(job_dir / layout.STORE / name, name, found)


def documents(job_dir: Path) -> dict[str, layout.Json]:
    """The Zarr documents of all tables that were written, by path in the store.

    The group's own is written last: where it is not there, whoever wrote the table did not come to its end.
    """
    store = job_dir / layout.STORE
    found = {}
    for name in [name for name in layout.TABLES if (store / name / "zarr.json").exists()]:
        for path in sorted((store / name).rglob("zarr.json")):
            found[str(path.parent.relative_to(store))] = json.loads(path.read_bytes())
    return found


def _steps(records: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for record in records:
        for step in record.get("steps") or ():
            yield {"node": record["node"], **_scalars(step)}


def _ranks(records: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for record in records:
        for step in record.get("steps") or ():
            for rank in step.get("ranks") or ():
                yield {"node": record["node"], "step_id": step["step_id"], **_scalars(rank)}


def _regions(records: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for record in records:
        for region in record.get("regions") or ():
            yield {"node": record["node"], **_scalars(region)}


def _scalars(row: Mapping[str, Any]) -> Row:
    return {key: value for key, value in row.items() if not isinstance(value, (list, dict))}


def _write(group: Path, name: str, rows: Sequence[Row]) -> None:
    dim = name[:-1]
    keys = [key for key in dict.fromkeys(key for row in rows for key in row)]
    for key in keys:
        values = [row.get(key) for row in rows]
        numbers = all(value is None or isinstance(value, int) for value in values)
        document = layout.column(key, len(rows), dim, "int64" if numbers else "string")
        if numbers:
            missing = layout.fill("int64")
            data = codec.encode_chunk(array("q", [missing if v is None else v for v in values]).tobytes(), 8)
        else:
            data = codec.vlen_utf8(["" if value is None else str(value) for value in values])
        create.make_directory(group / key)
        files.write_new(group / key / layout.chunk_key(0), data, durable=False)
        files.write_new(group / key / "zarr.json", create.encode(document), durable=False)
    files.write_new(group / "zarr.json", create.encode(layout.group_document({"long_name": f"{name} of the job"})))
