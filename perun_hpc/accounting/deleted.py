"""What a deleted record leaves in the ledger: its energies and evidence, nobody's name, so that nothing counts twice.

The sums of a deleted record stand under the user `removed`. A backup that was made before, or a node that reports late,
may bring its evidence back: what these rows hold is not counted again, and a record that knows more takes the whole of
its run out of `removed` again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from perun_hpc.accounting.database import Connection
from perun_hpc.data_model.record import EnergyRecord, from_dict, to_json

REMOVED = "removed"
"""The user under whom the sums of deleted records stand."""
_COLUMNS = ("cluster", "job_id", "submit_s", "restart_count", "sluid", "start_s", "end_s", "body")
_ROWS = f"SELECT id, {', '.join(_COLUMNS)} FROM deleted WHERE cluster = :c AND job_id IN :ids"
_ENDED = f"SELECT id, {', '.join(_COLUMNS)} FROM deleted WHERE cluster = :c AND end_s >= :since AND end_s <= :until"
_INSERT = (
    f"INSERT INTO deleted (id, {', '.join(_COLUMNS)}) "
    f"VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM deleted), {', '.join(':' + name for name in _COLUMNS)})"
)


@dataclass(frozen=True)
class Deleted:
    """A row: its id, what identifies its run, and what is left of the record."""

    id: int
    job_id: int
    restart_count: int
    submit_s: int
    start_s: int
    end_s: int
    sluid: str
    record: EnergyRecord


def nameless(record: EnergyRecord) -> EnergyRecord:
    """Return what a deleted record leaves: the same sums per day, without user, names, commands and regions."""
    return replace(record, user=REMOVED, uid=None, gid=None, name="", steps=(), ranks=(), regions=(), notes=())


def rows_of(connection: Connection, cluster: str, job_ids: Sequence[int]) -> list[Deleted]:
    """Return what is left of deleted records of some jobs of a cluster."""
    rows = connection.execute(_ROWS, {"c": cluster, "ids": list(job_ids)})
    return [_parsed(row) for row in rows]


def ended_between(connection: Connection, cluster: str, since_s: int, until_s: int) -> list[Deleted]:
    """Return what is left of deleted runs of a cluster that ended in [since, until] (epoch seconds)."""
    rows = connection.execute(_ENDED, {"c": cluster, "since": since_s, "until": until_s})
    return [_parsed(row) for row in rows]


def every_body(connection: Connection) -> Iterator[str]:
    """Yield what is left of all deleted records, as JSON."""
    for row in connection.stream("SELECT body FROM deleted ORDER BY id"):
        yield row.body


def keep(connection: Connection, rows: Iterable[dict[str, Any]], records: Iterable[EnergyRecord]) -> None:
    """Keep what `nameless` leaves of records; `rows` are their values in the table `job`."""
    for row, record in zip(rows, records, strict=True):
        connection.execute(_INSERT, {**{name: row[name] for name in _COLUMNS[:-1]}, "body": to_json(record)})


def take_back(connection: Connection, ids: Iterable[int]) -> None:
    """Drop rows whose runs are counted under their own names again."""
    for one in sorted(ids):
        connection.execute("DELETE FROM deleted WHERE id = :id", {"id": one})


def says_nothing_new(record: EnergyRecord, rows: Sequence[Deleted]) -> bool:
    """Whether all evidence of a record was deleted with its run, of which these are the rows."""
    from perun_hpc.accounting.evidence import adds

    return bool(rows) and not adds(record, _sum(rows))


def brought_back(rows: Sequence[Deleted], record: EnergyRecord) -> EnergyRecord:
    """Return a record of a run together with what was deleted of it; the names are the record's."""
    from perun_hpc.accounting.evidence import combine

    whole = combine(_sum(rows), record)
    names = {name: getattr(record, name) for name in ("user", "uid", "gid", "name")}
    return replace(whole, revision=max(whole.revision, record.revision + 1), **names)


def with_same_evidence(record: EnergyRecord, rows: Sequence[Deleted]) -> list[Deleted]:
    """Return the rows that rest on a boundary record of this one, whatever their times say."""
    from perun_hpc.accounting.evidence import shared

    return [row for row in rows if shared(record, row.record)]


def _sum(rows: Sequence[Deleted]) -> EnergyRecord:
    from perun_hpc.accounting.evidence import combine

    return reduce(combine, (row.record for row in rows))


def _parsed(row: Any) -> Deleted:
    record = from_dict(json.loads(row.body), f"ledger, deleted row {row.id}")
    return Deleted(row.id, row.job_id, row.restart_count, row.submit_s, row.start_s, row.end_s, row.sluid, record)
