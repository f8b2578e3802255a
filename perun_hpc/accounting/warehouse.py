"""The ledger's records as Parquet files, for DuckDB, Spark, Trino or a spreadsheet to ask what perun does not answer.

`DIRECTORY/jobs/month=YYYY-MM/part-TIME-PROCESS.parquet`, by the local month in which a job ended; its steps and its
functions lie beside it in `DIRECTORY/steps` and `DIRECTORY/functions`. Files are only added: a record that has changed
since is there once more, and of the rows of one run the one that was exported last counts; `exported` leads from it to
its steps and functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perun_hpc import extras
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.data_model.record import EnergyRecord, known
from perun_hpc.errors import AccessError, DataError, UnavailableError
from perun_hpc.files import Replacement

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise UnavailableError(f"pyarrow is not installed here: {extras.remedy('pyarrow')}") from error

JOBS, STEPS, FUNCTIONS = "jobs", "steps", "functions"
BATCH = 2000
"""Records in memory at once, and rows in a group of a file."""
SETTLED_S = 86_400
"""A record without Slurm's word on it is exported once its job is so long over: until then names and state may come."""
NS = 1_000_000_000
_COMPONENTS = ("cpu", "dram", "gpu", "node", "other")
_TIME = pa.timestamp("s", "UTC")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("cluster", "run")),
        ("job_id", pa.int64()),
        ("restart_count", pa.int32()),
        *((name, pa.int64()) for name in ("array_job_id", "array_task_id", "het_job_id", "het_offset")),
        *((name, pa.string()) for name in ("sluid", "name", "user", "account", "partition", "qos", "nodelist")),
        *((name, pa.string()) for name in ("state", "status", "provenance")),
        *((name, _TIME) for name in ("submit", "start", "end")),
        *((name, pa.int32()) for name in ("nodes", "gpus", "exit_code", "revision")),
        *((name, pa.int64()) for name in ("cpus", "time_limit_s", "suspended_s", "cpu_time_ns", "mem_peak_b")),
        *((name, pa.int64()) for name in ("energy_uj", "u_uj", "static_uj", "dynamic_uj", "idle_uj", "suspended_uj")),
        *((name, pa.int64()) for name in ("wasted_uj", "modelled_uj", "estimated_uj")),
        *((f"{name}_uj", pa.int64()) for name in _COMPONENTS),
        *((name, pa.int64()) for name in ("gpu_held_s", "gpu_idle_s", "power_mean_mw", "power_peak_mw")),
        *((name, pa.float64()) for name in ("coverage", "co2_location_g", "co2_market_g", "cost")),
        ("currency", pa.string()),
        ("simulated", pa.bool_()),
        ("exported", _TIME),
        ("digest", pa.int64()),
        *((name, pa.float64()) for name in ("co2_upstream_g", "co2_life_cycle_g")),
    ]
)
"""The columns; energies in uJ, `u_uj` the standard uncertainty (k=1). What is not known is null, never 0."""
_OF_RUN = [("cluster", pa.string()), ("run", pa.string()), ("job_id", pa.int64()), ("sluid", pa.string())]
SCHEMAS = {
    JOBS: SCHEMA,
    STEPS: pa.schema(
        [
            *_OF_RUN, ("step", pa.string()), ("steps", pa.int32()), ("tasks", pa.int32()), ("nodes", pa.int32()),
            ("start", _TIME), ("end", _TIME), ("cpu_time_ns", pa.int64()), ("energy_uj", pa.int64()),
            ("u_uj", pa.int64()), ("why", pa.string()), ("exported", _TIME),
        ]
    ),
    FUNCTIONS: pa.schema(
        [
            *_OF_RUN, ("step", pa.string()), ("name", pa.string()), ("calls", pa.int64()), ("ranks", pa.int64()),
            ("time_ns", pa.int64()), ("time_min_ns", pa.int64()), ("time_max_ns", pa.int64()),
            ("energy_uj", pa.int64()), ("u_uj", pa.int64()), ("method", pa.string()), ("exported", _TIME),
        ]
    ),
}  # fmt: skip
"""The columns of each table; `why` says what is missing in a step's energy, `method` what a function's rests on."""


@dataclass(frozen=True)
class Exported:
    """How many rows of jobs, and how many files, were added."""

    rows: int
    files: int


def export(
    ledger: Ledger,
    directory: Path,
    cluster: str = "",
    now_s: float | None = None,
    damaged: Callable[[str], object] | None = None,
) -> Exported:
    """Add files with the records that are in none yet as they are now; `cluster` empty: of all clusters.

    A damaged record is left out, and `damaged` called with what is wrong; without it that is a DataError.

    Raises
    ------
    AccessError
        Where the files cannot be written.
    DataError
        Where a file that is there is no export of perun's.
    """
    at_s = int(time.time() if now_s is None else now_s)
    rows = files = 0
    try:
        exported = set(_digests(directory / JOBS))
        for month, jobs in sorted(_pending(ledger, cluster, exported, at_s).items()):
            place = Path(f"month={month}", f"part-{at_s}-{os.getpid()}.parquet")
            # What was entered last is left first: a job's steps and functions are there before its own row is.
            with contextlib.ExitStack() as opened:
                writers: dict[str, parquet.ParquetWriter] = {}
                for tables in _tables(ledger, jobs, at_s, damaged):
                    rows += len(tables[JOBS])
                    for name in filter(tables.__getitem__, SCHEMAS):
                        if name not in writers:
                            writers[name] = _writer(opened, directory / name / place, SCHEMAS[name])
                        writers[name].write_table(pa.Table.from_pylist(tables[name], SCHEMAS[name]))
                files += len(writers)
    except pa.ArrowInvalid as error:
        raise DataError(f"{directory}: {error}: name a directory that holds exports of perun's alone") from error
    except OSError as error:
        raise AccessError(f"{directory}: {error.strerror or error}: name a directory that you may write") from error
    return Exported(rows, files)


def _writer(opened: contextlib.ExitStack, path: Path, schema: pa.Schema) -> parquet.ParquetWriter:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    partial = opened.enter_context(Replacement(path))
    writer = opened.enter_context(parquet.ParquetWriter(partial, schema, compression="zstd"))
    partial.chmod(0o640)
    return writer


def _digests(jobs: Path) -> Iterator[int]:
    """What is in the files that are there."""
    for path in sorted(jobs.glob("month=*/*.parquet")):
        yield from parquet.read_table(path, columns=["digest"], partitioning=None).column("digest").to_pylist()


def _pending(ledger: Ledger, cluster: str, exported: Collection[int], at_s: int) -> dict[str, dict[int, int]]:
    """Local month -> row id of a record, and the digest of what the ledger says of it now."""
    query = f"SELECT * FROM job WHERE (state <> '' OR end_s < :settled) {'AND cluster = :c' if cluster else ''}"
    values = {"settled": at_s - SETTLED_S, "c": cluster}
    found: dict[str, dict[int, int]] = {}
    with ledger.read() as connection:
        for row in connection.stream(f"{query} ORDER BY end_s, id", values):
            digest = _digest(row._asdict())
            if digest not in exported:
                month = datetime.fromtimestamp(row.end_s).strftime("%Y-%m")
                found.setdefault(month, {})[row.id] = digest
    return found


def _digest(row: Mapping[Any, Any]) -> int:
    """A number for what a row of the ledger says; its id is not part of it, since a ledger made anew has others."""
    said = "\0".join(f"{name}={value}" for name, value in row.items() if name != "id")
    return int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


def _tables(
    ledger: Ledger, jobs: Mapping[int, int], at_s: int, damaged: Callable[[str], object] | None
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The rows of each table, some records at a time."""
    ids = list(jobs)
    for start in range(0, len(ids), BATCH):
        found = ledger.by_row(ids[start : start + BATCH], False, damaged)
        yield {
            JOBS: [_row(record, at_s, jobs[job]) for job, record in found.items()],
            STEPS: [row for record in found.values() for row in _steps(record, at_s)],
            FUNCTIONS: [row for record in found.values() for row in _functions(record, at_s)],
        }


def _of_run(record: EnergyRecord, at_s: int) -> dict[str, Any]:
    """What the rows of one run have in common in all tables."""
    return {
        "cluster": record.cluster,
        "run": f"{record.job_id}.{record.restart_count}@{record.submit_s or record.start_ns // NS}",
        "job_id": record.job_id,
        "sluid": record.sluid,
        "exported": _time(at_s),
    }


def _steps(record: EnergyRecord, at_s: int) -> Iterator[dict[str, Any]]:
    for step in record.steps:
        yield {
            **vars(step),
            **_of_run(record, at_s),
            "step": step.step_id,
            "tasks": step.tasks or None,
            "start": _time(step.start_ns // NS),
            "end": _time(step.end_ns // NS),
            "cpu_time_ns": step.cpu_ns or None,
            "u_uj": step.u_uj or None,
        }


def _functions(record: EnergyRecord, at_s: int) -> Iterator[dict[str, Any]]:
    for region in record.regions:
        yield {**vars(region), **_of_run(record, at_s), "step": region.step_id, "u_uj": region.u_uj or None}


def _row(record: EnergyRecord, at_s: int, digest: int) -> dict[str, Any]:
    """A record's row; columns that are the record's own fields have its names."""
    start_s, end_s = record.start_ns // NS, record.end_ns // NS
    foot = record.footprint
    row = {name: known(record, name) for name in SCHEMA.names if hasattr(record, name)}
    components = {one.component: one.energy_uj for one in record.components}
    return {
        **row,
        **{f"{name}_uj": components.get(name) for name in _COMPONENTS},
        **_of_run(record, at_s),
        "submit": _time(record.submit_s),
        "start": _time(start_s),
        "end": _time(end_s),
        "nodes": record.num_nodes,
        "cpu_time_ns": record.cpu_ns,
        "co2_location_g": foot.co2_location_g if foot else None,
        "co2_market_g": foot.co2_market_g if foot else None,
        "co2_upstream_g": foot.co2_upstream_g if foot else None,
        "co2_life_cycle_g": foot.co2_life_cycle_g if foot else None,
        "cost": foot.cost if foot else None,
        "currency": foot.currency if foot else None,
        "digest": digest,
    }


def _time(epoch_s: int | None) -> datetime | None:
    return datetime.fromtimestamp(epoch_s, UTC) if epoch_s else None
