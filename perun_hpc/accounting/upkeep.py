"""Keeping a ledger for ever: backup and restore, users pseudonymised or deleted, traces that have had their day.

Whatever is taken out of a record, the sums stay: energies move to the pseudonym, or to `removed`, in one transaction.
"""

from __future__ import annotations

import gzip
import hmac
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from perun_hpc.accounting.deleted import REMOVED
from perun_hpc.accounting.evidence import HIDDEN, adds, combine
from perun_hpc.accounting.homes import known_records, record_in, run_in
from perun_hpc.accounting.identity import Identity, Likeness, of_record
from perun_hpc.accounting.ledger import FOR_EVER_S, Ledger, Put, Refused
from perun_hpc.accounting.owned import forget_run
from perun_hpc.accounting.packing import OF_RECORDS, Access, LostError, PackLease, finish, forget
from perun_hpc.accounting.turns import no_sweep
from perun_hpc.archive import kept
from perun_hpc.archive.packs import damaged_packs, packed
from perun_hpc.archive.places import BOUNDARIES, PER_BUCKET, RECORD, Archive, Run, order
from perun_hpc.config.schema import Store
from perun_hpc.data_model import wording
from perun_hpc.data_model.record import EnergyRecord, from_dict, from_json, to_json
from perun_hpc.errors import DataError, PerunError
from perun_hpc.files import give_to_owner, write_new, write_pieces
from perun_hpc.store.layout import STORE, THINNED

log = logging.getLogger(__name__)

BACKUP = "perun.backup/1"
RECORDED, DELETED = "record", "deleted"
"""Kinds of lines of a backup, with `REMOVED`: a record, what is left of a deleted one, sums of these."""
BATCH = 500
CHUNK = 2000
"""Records for which the archive is looked through at once."""
RENEW_EVERY = 100
"""Records that are taken out of the archive between two renewals of what leases there are."""
HOUR_NS = 3600 * 10**9

First = Callable[[Sequence[EnergyRecord]], object]
"""What is done with records before the ledger forgets whose they are."""
StoreOf = Callable[[str, str], Store]
"""What the policy says of traces, by partition and account."""


class StaysError(DataError):
    """Of some thousands of job ids (cluster and number) the archive keeps what it was to forget, and why."""

    def __init__(self, places: Mapping[tuple[str, int], str], done: str = "") -> None:
        self.places = dict(places)
        (cluster, number), why = next(iter(places.items()))
        first = f"job ids from {number * PER_BUCKET} on of cluster {cluster} stay as they were: {why}"
        more = f", and {wording.count(len(places) - 1, 'more thousand', 'more thousands')}" if len(places) > 1 else ""
        super().__init__(f"{done}; {first}{more}" if done else f"{first}{more}")


class Staying:
    """The records that stay in the ledger as they are, since the archive could not forget whose they are."""

    def __init__(self) -> None:
        """None yet."""
        self._places: dict[tuple[str, int], str] = {}

    def try_first(self, first: First, records: Sequence[EnergyRecord]) -> None:
        """Do `first` with records, as far as that can be."""
        try:
            first(records)
        except StaysError as error:
            self._places |= error.places

    def has(self, record: EnergyRecord) -> bool:
        """Whether a record is among them."""
        return (record.cluster, record.job_id // PER_BUCKET) in self._places

    def complain(self, done: str) -> None:
        """Raise `StaysError`, which says what was `done` besides, where there are some."""
        if self._places:
            raise StaysError(self._places, done)


def nothing(records: Sequence[EnergyRecord]) -> None:
    """Do nothing before."""


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
    """A run's trace: where it lies, its job's end, partition and account, and to one reading in how many it was
    thinned."""

    directory: Path
    end_ns: int
    partition: str
    account: str
    thinned: int | None

    @property
    def size_b(self) -> int:
        """Its bytes, as its files say."""
        return sum(path.stat().st_size for path in (self.directory / STORE).rglob("*") if path.is_file())


@dataclass(frozen=True)
class Cut:
    """Which traces are too many: those of jobs that ended before `from_ns`, and these others."""

    from_ns: int = 0
    others: frozenset[Path] = frozenset()

    def takes(self, trace: Trace) -> bool:
        """Whether a trace is among them."""
        return trace.end_ns < self.from_ns or trace.directory in self.others


@dataclass(frozen=True)
class Keeping:
    """What changing packs needs: the ledger, which has their lease, who may read them, and the epoch time."""

    ledger: Ledger
    access: Access
    now_s: float


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
    """Put what the jobs' directories and packs hold into a ledger that lost it; returns how many records changed.

    What the ledger knows better stays. A record that cannot be read, or that is older than the boundary records beside
    it, is summed from these. `DataError` as in `restore`, and of a damaged pack: all other records are there then.
    """
    changed = _put_all(ledger, _in_directories(archive), str(archive.base))
    lost = [pack for number in archive.buckets() for pack in damaged_packs(archive, number)]
    if lost:
        raise DataError(
            f"{wording.count(changed, 'record')} taken; of {wording.count(len(lost), 'damaged pack')} none, the first "
            f"is {lost[0]}: restore it from a backup, then rebuild again"
        )
    return changed


def _in_directories(archive: Archive) -> Iterator[EnergyRecord]:
    for part in kept.portions(archive):
        for _, runs in groupby(part, key=lambda run: (run.job_id, run.restart_count)):
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


def pseudonymise(ledger: Ledger, who: Who, first: First = nothing, patience_s: float = 0) -> int:
    """Replace user, uid, gid and job name by a pseudonym that nobody can undo; returns of how many records.

    One user has one pseudonym within one call, another in the next: records of different calls cannot be linked. What
    dies half way is done again by the next call, since `first` is done before the ledger forgets whose records it has.
    `StaysError` at the end, where `first` could not do it for some, which the ledger has as before. No collector sweeps
    meanwhile: `UnavailableError` where one does for longer than `patience_s`.
    """
    key = secrets.token_bytes(32)

    def hide(record: EnergyRecord) -> EnergyRecord:
        mark = hmac.digest(key, f"{record.uid}:{record.user}".encode(), "sha256").hex()[:10]
        return replace(record, user=f"{HIDDEN}{mark}", uid=None, gid=None, name="")

    count, stay = _rewrite(ledger, replace(who, named=True), first, hide, patience_s)
    stay.complain(f"{wording.count(count, 'record')} pseudonymised")
    return count


def delete(ledger: Ledger, who: Who, first: First = nothing, patience_s: float = 0) -> int:
    """Delete records; their energies stay in the sums, under the user `removed`. Returns how many.

    `first` and errors as for `pseudonymise`.
    """
    count, stay = _rewrite(ledger, who, first, lambda record: None, patience_s)
    if who.before_s is not None:
        ledger.partitions.drop_empty(who.before_s)
    stay.complain(f"{wording.count(count, 'record')} deleted")
    return count


def hide_in_directories(archive: Archive, records: Sequence[EnergyRecord], keeping: Keeping) -> int:
    """Rewrite pseudonymised records that lie in the archive, without their owner's access; returns how many.

    The boundary records there name the user as well, so they go.
    """

    def text(record: EnergyRecord) -> bytes:
        return (to_json(record, indent=1) + "\n").encode()

    return _forget(archive, records, keeping, text)


def remove_directories(archive: Archive, records: Sequence[EnergyRecord], keeping: Keeping) -> int:
    """Remove what the archive keeps of deleted records, traces and all; returns of how many."""
    return _forget(archive, records, keeping, None)


def _forget(
    archive: Archive,
    records: Sequence[EnergyRecord],
    keeping: Keeping,
    text: Callable[[EnergyRecord], bytes] | None,
) -> int:
    """Take records out of the archive, or leave `text` of them there alone; returns of how many something was there."""
    count, failed = 0, {}
    for cluster in sorted({record.cluster for record in records}):
        part = Archive(archive.root, cluster)
        mine = [record for record in records if record.cluster == cluster]
        with PackLease(keeping.ledger, cluster) as lease:
            for number in sorted({record.job_id // PER_BUCKET for record in mine}):
                finish(part, number, keeping.now_s)
                if damaged := damaged_packs(part, number):
                    failed[cluster, number] = f"{damaged[0]}: damaged pack: restore it from a backup"
            for number, found in _found(
                part, [one for one in mine if (cluster, one.job_id // PER_BUCKET) not in failed]
            ):
                try:
                    count += _forget_bucket(part, number, found, keeping, lease, text)
                except LostError:
                    raise
                except (PerunError, OSError) as error:
                    failed[cluster, number] = str(error)
    if failed:
        raise StaysError(failed)
    return count


def _forget_bucket(
    archive: Archive,
    number: int,
    found: Iterable[tuple[Run, EnergyRecord]],
    keeping: Keeping,
    lease: PackLease,
    text: Callable[[EnergyRecord], bytes] | None,
) -> int:
    gone, hidden, count = set(), {}, 0
    for at, (run, record) in enumerate(found):
        if at % RENEW_EVERY == 0:
            lease.renew()
        if os.path.lexists(directory := archive.job(run)):
            try:
                if not _is(run_in(archive, run), record):
                    continue  # it has another name by now, under which it comes again; this one may be another run's
                record = _with_all_of(record_in(archive, run), record)
                _forget_directory(directory, record, text)
            except FileNotFoundError:
                continue
        count += 1
        if text is None:
            gone.add(run)
        else:
            hidden[run] = text(record)
        forget_run(archive, record)
    old = packed(archive, number)
    gone, hidden = gone & old.keys(), {run: data for run, data in hidden.items() if run in old}
    if gone or hidden:
        lease.renew()
        forget(archive, number, gone, hidden, keeping.now_s, keeping.access, lease)
    return count


def _with_all_of(there: EnergyRecord | None, record: EnergyRecord) -> EnergyRecord:
    """A record with what a node has added to it in its directory meanwhile, under its own names."""
    if there is None or not adds(there, record):
        return record
    return replace(combine(there, record), user=record.user, uid=record.uid, gid=record.gid, name=record.name)


def _forget_directory(directory: Path, record: EnergyRecord, text: Callable[[EnergyRecord], bytes] | None) -> None:
    if text is None:
        shutil.rmtree(directory)
        return
    write_new(directory / RECORD, text(record), mode=0o600)
    give_to_owner(directory / RECORD)
    shutil.rmtree(directory / BOUNDARIES, ignore_errors=True)


def _found(archive: Archive, records: Sequence[EnergyRecord]) -> Iterator[tuple[int, list[tuple[Run, EnergyRecord]]]]:
    """Yield, by the thousands of job ids, the runs of which something is kept that are these records'.

    Those that got other names until the caller is done with them come again, under these.
    """
    mine: dict[int, list[EnergyRecord]] = {}
    for record in records:
        mine.setdefault(record.job_id, []).append(record)
    flat: dict[int, list[Run]] = {}
    for run in chain.from_iterable(archive.flat()):
        if run.job_id in mine:
            flat.setdefault(run.job_id // PER_BUCKET, []).append(run)
    for number in sorted({job_id // PER_BUCKET for job_id in mine}):
        seen: set[Run] = set()
        while new := {*flat.get(number, ()), *archive.in_bucket(number), *packed(archive, number)} - seen:
            found = []
            for run in sorted(new, key=order):
                who = run_in(archive, run) if run.job_id in mine else None
                found += [(run, one) for one in mine.get(run.job_id, ()) if _is(who, one)][:1]
            if found:
                yield number, found
            seen |= new


def _is(who: Identity | None, record: EnergyRecord) -> bool:
    return who is not None and who.likeness(of_record(record)) is Likeness.SAME


def matching(ledger: Ledger, who: Who) -> int:
    """Return how many records `who` means."""
    with ledger.read() as connection:
        return int(connection.value(*_chosen("COUNT(*)", who)))


def traces(archive: Archive, runs: Iterable[Run]) -> Iterator[Trace]:
    """Yield the traces of some runs, in their order."""
    for run in runs:
        directory = archive.job(run)
        try:
            if (directory / STORE).is_dir():  # most jobs of most sites have none
                record = from_json((directory / RECORD).read_bytes(), str(directory))
                yield Trace(directory, record.end_ns, record.partition, record.account, _thinned(directory))
        except (OSError, DataError):
            continue


def oldest_above(found: Callable[[], Iterable[Trace]], store_of: StoreOf, quota_b: int, now_s: float) -> Cut:
    """Return from which end on traces stay, that all together are at most `quota_b` bytes; the oldest go.

    `found` yields all traces, once or twice; of those that are outdated nothing counts.
    """
    sizes: dict[int, int] = {}
    for trace in found():
        if not outdated(trace, store_of, now_s):
            sizes[trace.end_ns // HOUR_NS] = sizes.get(trace.end_ns // HOUR_NS, 0) + trace.size_b
    over_b = sum(sizes.values()) - quota_b
    if over_b <= 0:
        return Cut()
    for hour in sorted(sizes):
        if sizes[hour] >= over_b:
            break
        over_b -= sizes[hour]
    last: list[Trace] = [trace for trace in found() if trace.end_ns // HOUR_NS == hour]
    gone: set[Path] = set()
    for trace in sorted(last, key=lambda one: (one.end_ns, str(one.directory))):
        if over_b <= 0:
            break
        if not outdated(trace, store_of, now_s):
            gone.add(trace.directory)
            over_b -= trace.size_b
    return Cut(hour * HOUR_NS, frozenset(gone))


def outdated(trace: Trace, store_of: StoreOf, now_s: float) -> bool:
    """Whether a trace has had its time."""
    return trace.end_ns / 1e9 + store_of(trace.partition, trace.account).retention_ns / 1e9 < now_s


def thinned_to(trace: Trace, store_of: StoreOf, now_s: float) -> int | None:
    """One reading in how many is to stay of a trace that is old enough to be thinned and is not yet; else None."""
    store = store_of(trace.partition, trace.account)
    after_ns = store.thin_after_ns
    if isinstance(after_ns, int) and (trace.end_ns + after_ns) / 1e9 < now_s and trace.thinned is None:
        return store.thin_to
    return None


def _thinned(directory: Path) -> int | None:
    try:
        return int(json.loads((directory / THINNED).read_bytes())["every"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def drop_trace(directory: Path) -> None:
    """Delete all of a run's trace, its samples last, by which it is found; its record and boundary records stay."""
    names = {path.name for path in directory.iterdir()} - OF_RECORDS - {BOUNDARIES}
    for name in sorted(names, key=lambda name: (name == STORE, name)):
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _rewrite(
    ledger: Ledger,
    who: Who,
    first: First,
    change: Callable[[EnergyRecord], EnergyRecord | None],
    patience_s: float,
) -> tuple[int, Staying]:
    """Change the matching records, None: delete, where `first` could be done; how many, and what stays.

    `first` gets them as they become, deleted ones as they were. Those that nodes add to meanwhile come again.
    """
    count, stay, again = 0, Staying(), True
    while again:
        again = False
        for records in _chunks(ledger, who):
            changes = [(job, before, after) for job, before in records if (after := change(before)) != before]
            # A collector that read them before would write them as they were, names and all.
            with no_sweep(ledger, ((one.cluster, one.job_id) for _, one, _ in changes), patience_s) as renew:
                stay.try_first(first, [before if after is None else after for _, before, after in changes])
                changes = [one for one in changes if not stay.has(one[1])]
                for at in range(0, len(changes), BATCH):
                    part = changes[at : at + BATCH]
                    renew()
                    done = ledger.rewrite(part)
                    count += done
                    again = again or done < len(part)
    return count, stay


def _chunks(ledger: Ledger, who: Who) -> Iterator[list[tuple[int, EnergyRecord]]]:
    """Yield all matching records with their row ids, as many at once as the archive is looked through for."""
    chunk: list[tuple[int, EnergyRecord]] = []
    for records in _batches(ledger, who):
        chunk += records
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _batches(ledger: Ledger, who: Who) -> Iterator[list[tuple[int, EnergyRecord]]]:
    """Yield all matching records with their row ids, a batch at a time: by an index where some are meant."""
    query, values = _chosen("id, end_s", who)
    everybody = who.user is None and who.before_s is None
    after, order = ("id > :job", "id") if everybody else ("end_s >= :end AND (end_s, id) > (:end, :job)", "end_s, id")
    last = {"end": -FOR_EVER_S, "job": 0}
    while True:
        with ledger.read() as connection:
            page = connection.execute(f"{query} AND {after} ORDER BY {order} LIMIT {BATCH}", {**values, **last})
            rows = {row.id: row.end_s for row in page}
        if not rows:
            return
        job, end_s = list(rows.items())[-1]
        last = {"end": end_s, "job": job}
        yield list(zip(rows, ledger.load(rows), strict=True))


def _chosen(what: str, who: Who) -> tuple[str, dict[str, Any]]:
    """The question for `what` of the rows that are meant, and its parameters."""
    conditions = ["1 = 1"]
    if who.user is not None:
        # By the first one's index; SQLite would put a plain second one's value into the first.
        conditions += ["LOWER(user_name) = LOWER(:user)", "user_name || '' = :user"]
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
