"""Keeping a ledger for ever: backup and restore, users pseudonymised or deleted, traces that have had their day.

Whatever is taken out of a record, the sums stay: energies move to the pseudonym, or to `removed`, in one transaction.
"""

from __future__ import annotations

import gzip
import hmac
import json
import logging
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from perun_hpc.accounting.deleted import REMOVED
from perun_hpc.accounting.evidence import HIDDEN
from perun_hpc.accounting.homes import known_records, record_in
from perun_hpc.accounting.identity import Likeness, of_record
from perun_hpc.accounting.ledger import Ledger, Put, Refused
from perun_hpc.accounting.owned import forget_run
from perun_hpc.archive.places import BOUNDARIES, RECORD, Archive, Run
from perun_hpc.config.schema import Store
from perun_hpc.data_model import wording
from perun_hpc.data_model.record import EnergyRecord, from_dict, from_json, to_json
from perun_hpc.errors import DataError
from perun_hpc.files import write_new, write_pieces
from perun_hpc.store.layout import MARKS, PLAN, STORE, THINNED

log = logging.getLogger(__name__)

BACKUP = "perun.backup/1"
RECORDED, DELETED = "record", "deleted"
"""Kinds of lines of a backup, with `REMOVED`: a record, what is left of a deleted one, sums of these."""
BATCH = 500
_TRACE = (STORE, MARKS, PLAN)


@dataclass(frozen=True)
class Who:
    """Whose records: `user`'s, of runs that ended before `before_s`; None means anybody's or any time's.

    With `named` only those that no pseudonym hides yet.
    """

    user: str | None = None
    before_s: int | None = None
    named: bool = False


@dataclass(frozen=True)
class Trace:
    """A run's trace: where it lies, its record, its size in bytes, and to one reading in how many it was thinned."""

    directory: Path
    record: EnergyRecord
    size_b: int
    thinned: int | None


def backup(ledger: Ledger, path: Path) -> int:
    """Write all records to `path` (gzip, one JSON object a line, the same for every database); returns their number.

    Of deleted ones it holds what is left: their sums, and by what their evidence is known.
    Everybody's jobs stand in it: as the ledger's own file it is readable for the one who writes it alone.
    """
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        yield json.dumps({"schema": BACKUP})
        for records in _batches(ledger, Who()):
            for _, record in records:
                yield to_json(record)
                count += 1
        for row in ledger.sums_of(REMOVED):
            yield json.dumps({REMOVED: row})
        for body in ledger.deleted_records():
            yield f'{{"{DELETED}": {body}}}'
        yield json.dumps({"records": count})

    write_pieces(path, _gzipped(lines()), mode=0o600)
    return count


def _gzipped(lines: Iterable[str]) -> Iterator[bytes]:
    packer = zlib.compressobj(6, wbits=16 + zlib.MAX_WBITS)  # with gzip's header and checksum
    for line in lines:
        yield packer.compress(line.encode() + b"\n")
    yield packer.flush()


def restore(ledger: Ledger, path: Path) -> int:
    """Put a backup's records into a ledger; those that it holds, or whose deletion it knows of, change nothing.

    What is left of deleted ones is put where the ledger has lost all of their days.

    Raises
    ------
    DataError
        When the file is no backup, or cut short: nothing is stored then. When the ledger refuses records: all others
        are stored then.
    """
    removed: list[dict[str, Any]] = []
    count = 0
    for kind, value in _backed_up(path):
        count += kind == RECORDED
        if kind == REMOVED:
            removed.append(value)
    if removed and not ledger.add_lost_sums(removed, _of_kind(path, DELETED)):
        log.warning("%s: its sums of deleted records are left out: the ledger has sums of their days", path)
    _put_all(ledger, _of_kind(path, RECORDED), str(path))
    return count


def rebuild(ledger: Ledger, archive: Archive) -> int:
    """Put what the jobs' directories hold into a ledger that lost it; returns how many records changed.

    What the ledger knows better stays. A record that cannot be read, or that is older than the boundary records beside
    it, is summed from these. `DataError` as in `restore`.
    """
    return _put_all(ledger, _in_directories(archive), str(archive.base))


def _in_directories(archive: Archive) -> Iterator[EnergyRecord]:
    for _, runs in groupby(archive.all_runs(), key=lambda run: (run.job_id, run.restart_count)):
        yield from known_records(archive, runs)


def _put_all(ledger: Ledger, records: Iterator[EnergyRecord], source: str) -> int:
    """Put records a batch at a time; returns how many changed the ledger."""
    changed, refused = 0, []
    for batch in _batched(records):
        answers = ledger.offer(batch)
        changed += sum(answer.changed for answer in answers if isinstance(answer, Put))
        refused += [answer for answer in answers if isinstance(answer, Refused)]
    if refused:
        first = refused[0]
        raise DataError(
            f"{source}: {wording.count(len(refused), 'record')} refused, all others are in the ledger; the first, "
            f"job {first.record.job_id}.{first.record.restart_count}: {first.why}"
        )
    return changed


def _batched(records: Iterator[EnergyRecord]) -> Iterator[list[EnergyRecord]]:
    """Yield records a batch at a time, of one name one in each: the ledger distinguishes runs by what it holds."""
    batch: list[EnergyRecord] = []
    names: set[tuple[str, int, int]] = set()
    for record in records:
        name = (record.cluster, record.job_id, record.restart_count)
        if len(batch) == BATCH or name in names:
            yield batch
            batch, names = [], set()
        batch.append(record)
        names.add(name)
    if batch:
        yield batch


def pseudonymise(ledger: Ledger, who: Who) -> list[EnergyRecord]:
    """Replace user, uid, gid and job name by a pseudonym that nobody can undo; returns the new records.

    One user has one pseudonym within one call, another in the next: records of different calls cannot be linked.
    """
    key = secrets.token_bytes(32)

    def hide(record: EnergyRecord) -> EnergyRecord | None:
        mark = hmac.digest(key, f"{record.uid}:{record.user}".encode(), "sha256").hex()[:10]
        return replace(record, user=f"{HIDDEN}{mark}", uid=None, gid=None, name="")

    return _rewrite(ledger, replace(who, named=True), hide)


def delete(ledger: Ledger, who: Who) -> list[EnergyRecord]:
    """Delete records; their energies stay in the sums, under the user `removed`. Returns what was deleted."""
    deleted = []
    for records in _batches(ledger, who):
        ledger.rewrite([(job, record, None) for job, record in records])
        deleted += [record for _, record in records]
    if who.before_s is not None:
        ledger.partitions.drop_empty(who.before_s)
    return deleted


def hide_in_directories(archive: Archive, records: Sequence[EnergyRecord]) -> int:
    """Rewrite pseudonymised records in the jobs' directories, without their owner's access; returns how many.

    The boundary records there name the user as well, so they go.
    """
    found = list(_directories(archive, records))
    for directory, record in found:
        write_new(directory / RECORD, (to_json(record, indent=1) + "\n").encode(), mode=0o600)
        shutil.rmtree(directory / BOUNDARIES, ignore_errors=True)
        forget_run(Archive(archive.root, record.cluster), record)
    return len(found)


def remove_directories(archive: Archive, records: Sequence[EnergyRecord]) -> int:
    """Remove the directories of deleted records, traces and all; returns how many."""
    found = list(_directories(archive, records))
    for directory, record in found:
        shutil.rmtree(directory)
        forget_run(Archive(archive.root, record.cluster), record)
    return len(found)


def _directories(archive: Archive, records: Sequence[EnergyRecord]) -> Iterator[tuple[Path, EnergyRecord]]:
    """Yield the directories of records of whatever cluster of this archive."""
    for cluster in sorted({record.cluster for record in records}):
        part = Archive(archive.root, cluster)
        mine = [record for record in records if record.cluster == cluster]
        runs: dict[int, list[Run]] = {record.job_id: [] for record in mine}
        for run in part.each_run():
            if run.job_id in runs:
                runs[run.job_id].append(run)
        for record in mine:
            for run in sorted(runs[record.job_id], key=lambda run: (run.restart_count, run.submit_s or 0)):
                stored = record_in(part, run)
                if stored is not None and of_record(stored).likeness(of_record(record)) is Likeness.SAME:
                    yield part.job(run), record


def matching(ledger: Ledger, who: Who) -> int:
    """Return how many records `who` means."""
    with ledger.read() as connection:
        return int(connection.value(*_chosen("COUNT(*)", who)))


def traces(archive: Archive) -> list[Trace]:
    """Return every run's trace, the oldest first."""
    found = []
    for run in archive.each_run():
        directory = archive.job(run)
        try:
            if (directory / _TRACE[0]).is_dir():  # most jobs of most sites have none
                record = from_json((directory / RECORD).read_bytes(), str(directory))
                size_b = sum(p.stat().st_size for p in (directory / _TRACE[0]).rglob("*") if p.is_file())
                found.append(Trace(directory, record, size_b, _thinned(directory)))
        except (OSError, DataError):
            continue
    return sorted(found, key=lambda trace: (trace.record.end_ns, str(trace.directory)))


def outdated(found: Sequence[Trace], store_of: Callable[[str, str], Store], quota_b: int, now_s: float) -> list[Trace]:
    """Return the traces to delete: those that have had their time, and the oldest that are too many."""
    gone: list[Trace] = []
    kept: list[Trace] = []
    for trace in found:
        keep_s = store_of(trace.record.partition, trace.record.account).retention_ns / 1e9
        (gone if trace.record.end_ns / 1e9 + keep_s < now_s else kept).append(trace)
    over_b = sum(trace.size_b for trace in kept) - quota_b
    for trace in kept:
        if over_b <= 0:
            break
        gone.append(trace)
        over_b -= trace.size_b
    return gone


def to_thin(found: Sequence[Trace], store_of: Callable[[str, str], Store], now_s: float) -> Iterator[tuple[Trace, int]]:
    """Yield the traces that are old enough to be thinned and are not yet, with one reading in how many is to stay."""
    for trace in found:
        store = store_of(trace.record.partition, trace.record.account)
        after_ns = store.thin_after_ns
        if isinstance(after_ns, int) and (trace.record.end_ns + after_ns) / 1e9 < now_s and trace.thinned is None:
            yield trace, store.thin_to


def _thinned(directory: Path) -> int | None:
    try:
        return int(json.loads((directory / THINNED).read_bytes())["every"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def drop_trace(directory: Path) -> None:
    """Delete a run's trace; its record and boundary records stay."""
    for name in _TRACE:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _rewrite(ledger: Ledger, who: Who, change: Callable[[EnergyRecord], EnergyRecord | None]) -> list[EnergyRecord]:
    changed = []
    for records in _batches(ledger, who):
        pairs = [(job, record, change(record)) for job, record in records]
        pairs = [(job, before, after) for job, before, after in pairs if after != before]
        ledger.rewrite(pairs)
        changed += [after for _, _, after in pairs if after is not None]
    return changed


def _batches(ledger: Ledger, who: Who) -> Iterator[list[tuple[int, EnergyRecord]]]:
    """Yield all matching records with their row ids, a batch at a time, in the order of their ids."""
    last = 0
    query, values = _chosen("id, end_s", who)
    while True:
        with ledger.read() as connection:
            page = connection.execute(f"{query} AND id > :last ORDER BY id LIMIT {BATCH}", {**values, "last": last})
            rows = {row.id: row.end_s for row in page}
        if not rows:
            return
        last = max(rows)
        yield list(zip(rows, ledger.load(rows), strict=True))


def _chosen(what: str, who: Who) -> tuple[str, dict[str, Any]]:
    """The question for `what` of the rows that are meant, and its parameters."""
    conditions = ["1 = 1"]
    if who.user is not None:
        conditions.append("user_name = :user")
    if who.before_s is not None:
        conditions.append("end_s < :before")
    if who.named:
        conditions.append("(uid IS NOT NULL OR user_name NOT LIKE :hidden)")
    values = {"user": who.user, "before": who.before_s, "hidden": f"{HIDDEN}%"}
    return f"SELECT {what} FROM job WHERE {' AND '.join(conditions)}", values


def _of_kind(path: Path, kind: str) -> Iterator[EnergyRecord]:
    return (value for found, value in _backed_up(path) if found == kind)


def _backed_up(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a backup holds, with its kind: records, what is left of deleted ones, and, as dicts, sums of these."""
    count, total = 0, None
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            if json.loads(file.readline()) != {"schema": BACKUP}:
                raise DataError(f"{path}: not a backup of a perun ledger ({BACKUP}): choose another file")
            for line in file:
                data = json.loads(line)
                if REMOVED in data:
                    yield REMOVED, data[REMOVED]
                elif DELETED in data:
                    yield DELETED, from_dict(data[DELETED], f"{path}, a deleted record")
                elif "schema" not in data:
                    total = data.get("records")
                    break
                else:
                    yield RECORDED, from_dict(data, f"{path}, record {count + 1}")
                    count += 1
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged backup ({error}): restore from another one") from error
    if total != count:
        raise DataError(f"{path}: cut short after record {count}: restore from another backup")
