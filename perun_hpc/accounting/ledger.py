"""The ledger: every job run's record in SQLite or PostgreSQL, written by collectors under leases.

A record is put as often as one likes: the same inputs change nothing, other inputs make the next revision, and the
sums per day move by exactly the difference, all in one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perun_hpc.accounting import deleted
from perun_hpc.accounting.daily import MEASURES, Vector, add, by_day
from perun_hpc.accounting.database import POSTGRESQL, SQLITE, Connection, Database, opened
from perun_hpc.accounting.marks import Marks
from perun_hpc.accounting.packed import pack, unpack
from perun_hpc.archive.places import Run
from perun_hpc.data_model.record import EnergyRecord, from_dict, to_json
from perun_hpc.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from perun_hpc.accounting.partitions import Partitions

LEASE_S = 120
"""How long a collector's lease lasts without renewal."""
CHUNK = 500
"""How many ids one statement asks for; SQLite allows 999 parameters in old builds."""

_DAY = ("cluster", "day", "account", "user_name", "partition_name", "qos")
_UPSERT_DAY = (
    f"INSERT INTO usage_day (cluster, day, account, user_name, partition_name, qos, {', '.join(MEASURES)}) "
    f"VALUES (:cluster, :day, :account, :user_name, :partition_name, :qos, {', '.join(':' + m for m in MEASURES)}) "
    "ON CONFLICT (cluster, day, account, user_name, partition_name, qos) DO UPDATE SET "
    + ", ".join(f"{m} = usage_day.{m} + excluded.{m}" for m in MEASURES)
)
_INEXACT_DAY = (
    "SELECT 1 FROM usage_day WHERE cluster = :cluster AND day = :day "
    f"AND 'real' IN ({', '.join(f'typeof({m})' for m in MEASURES)})"
)
OF_CLUSTER = "cluster || '' = :c"
"""Beside a time: as an expression, so that SQLite looks for the time, not for all of the cluster (`job_start`)."""
NS = 1_000_000_000
FOR_EVER_S = 1 << 62
_IDS = int.from_bytes(b"perun id")
"""PostgreSQL's advisory lock of those who make new ids."""
_ZERO: Vector = (0,) * len(MEASURES)


Rows = Sequence[int] | Mapping[int, int]
"""Ids of rows of `job`; with the ends of these jobs (epoch seconds), by which they are found without a search."""
Key = tuple[str, str, str]
"""Node, day, domain."""


@dataclass(frozen=True)
class Put:
    """What became of a record: as stored (revision, Slurm's data of earlier times), and whether anything changed.

    `deleted`: all that it says was deleted, and stands in the sums of `removed`; it has no row.
    """

    record: EnergyRecord
    job: int
    changed: bool
    deleted: bool = False


@dataclass(frozen=True)
class Refused:
    """A record that the database does not take, such as one with a number beyond its column's range, and why."""

    record: EnergyRecord
    why: str


@dataclass(frozen=True)
class Due:
    """A record whose line slurmdbd should hold, and how often that was tried."""

    job: int
    tries: int
    record: EnergyRecord


class LeaseLostError(UnavailableError):
    """Another collector holds the lease now."""

    def __init__(self) -> None:
        super().__init__("another collector took over: nothing to do, it goes on with this one's work")


class Ledger(Database):
    """An open ledger; use `open_ledger`. `marks`: how far the collector has come with what it does bit by bit."""

    def __init__(self, url: str, dialect: str, connect: Callable[[], Any], clock: Callable[[], float]) -> None:
        super().__init__(url, dialect, connect)
        self.marks = Marks(self)
        self._clock = clock
        self._by_month: bool | None = None

    def prepare(self, create: bool) -> None:
        """Make or migrate the tables with `create`, partitions too where the database has them; else see that they are.

        Each in a transaction of its own, so that what was killed is done anew.
        """
        super().prepare(create)
        if create and self.dialect == POSTGRESQL:
            self.partitions.begin(self._clock())

    @cached_property
    def partitions(self) -> Partitions:
        """The partitions by month, of which SQLite has none."""
        from perun_hpc.accounting.partitions import Partitions

        return Partitions(self)

    def acquire(
        self,
        name: str,
        holder: str,
        seconds: float = LEASE_S,
        dead: Callable[[str], bool] = lambda _: False,
        again: bool = False,
    ) -> bool:
        """Take or renew the lease `name`; False while that of another holder, who is not `dead`, lasts.

        With `again` it is renewed, late at most: False where another one had it meanwhile, too.
        """
        now = int(self._clock())
        with self.agree() as connection:
            row = connection.execute("SELECT holder, until_s FROM lease WHERE name = :n", {"n": name}).fetchone()
            if again and (row is None or row.holder != holder):
                return False
            if row is not None and row.holder != holder and row.until_s > now and not dead(row.holder):
                return False
            seen, until_s = row or (holder, now)
            taken = connection.execute(
                "INSERT INTO lease (name, holder, until_s) VALUES (:n, :h, :u) "
                "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_s = excluded.until_s "
                "WHERE lease.holder = :seen AND lease.until_s = :until",  # else another one was faster
                {"n": name, "h": holder, "u": now + int(seconds), "seen": seen, "until": until_s},
            )
            return bool(taken.rowcount == 1)

    def prolong(self, holder: str) -> None:
        """Renew whatever leases are still a holder's."""
        with self.agree() as connection:
            until_s = int(self._clock()) + LEASE_S
            connection.execute("UPDATE lease SET until_s = :u WHERE holder = :h", {"u": until_s, "h": holder})

    def release(self, name: str, holder: str) -> None:
        """Give the lease back."""
        with self.agree() as connection:
            connection.execute("DELETE FROM lease WHERE name = :n AND holder = :h", {"n": name, "h": holder})

    def put(
        self, records: Sequence[EnergyRecord], queue: bool = False, lease: tuple[str, str] | None = None
    ) -> list[Put]:
        """Store records in one transaction.

        Parameters
        ----------
        records
            Any mixture of new, known and amended ones.
        queue
            Whether changed records are queued for slurmdbd.
        lease
            (name, holder): refuse where the lease was lost meanwhile. All records are of the part of the job ids that
            it is for, whose rows nobody else puts: those of other parts are put beside.

        Raises
        ------
        UnavailableError
            When the lease is lost or the database does not answer; nothing was stored then.
        DataError
            When the database does not take one of them; nothing was stored then, see `offer`.
        """
        if self.dialect == POSTGRESQL:
            self.partitions.make({record.end_ns // NS for record in records}, self._clock())
        with self.write(beside=lease is not None) as connection:
            if lease is not None:
                self._check_lease(connection, *lease)
            days: dict[tuple[str, ...], Vector] = {}
            puts = [put for part in _names_once(records) for put in self._put(connection, part, queue, days)]
            self._add_days(connection, days)  # last, in their order: those beside have the same rows to change
            return puts

    def offer(
        self, records: Sequence[EnergyRecord], queue: bool = False, lease: tuple[str, str] | None = None
    ) -> list[Put | Refused]:
        """Store what the database takes of `records`, as `put` does, and say for the rest why it does not.

        One transaction where all are taken; else as many as it takes to find the ones that are not, by halves.
        """
        try:
            return list(self.put(records, queue, lease))
        except DataError as error:
            if len(records) == 1:
                return [Refused(records[0], str(error))]
        half = len(records) // 2
        return [*self.offer(records[:half], queue, lease), *self.offer(records[half:], queue, lease)]

    def load(
        self, rows: Rows, shares: bool = True, damaged: Callable[[str], object] | None = None
    ) -> list[EnergyRecord]:
        """Return the records of these rows, in that order, as `by_row` finds them."""
        found = self.by_row(rows, shares, damaged)
        return [found[job] for job in rows if job in found]

    def by_row(
        self, rows: Rows, shares: bool = True, damaged: Callable[[str], object] | None = None
    ) -> dict[int, EnergyRecord]:
        """Return the records of these rows by their ids, of those that are there.

        One that is damaged is left out, and `damaged` called with what is wrong; without it that is a DataError.
        """
        with self.read() as connection:
            return self._bodies(connection, rows, shares, damaged)

    def records_of(self, cluster: str, job_ids: Sequence[int]) -> list[EnergyRecord]:
        """Return all stored runs of these jobs, without their shares."""
        with self.read() as connection:
            rows = self._rows(connection, cluster, job_ids)
            return list(self._bodies(connection, {row.id: row.end_s for row in rows}, shares=False).values())

    def members(self, cluster: str, shown: str, damaged: Callable[[str], object] | None = None) -> list[EnergyRecord]:
        """Return the runs of the job shown as `4711`, `4711_3` or `4711+1`; a plain id gives its array's.

        A damaged record is left out as by `by_row`.
        """
        head, _, tail = shown.replace("+", "_").partition("_")
        if "_" in shown:
            wanted = ["array_job_id = :head AND array_task_id = :tail"]
        elif "+" in shown:
            wanted = ["het_job_id = :head AND het_offset = :tail"]
        else:
            wanted = ["job_id = :head", "array_job_id = :head", "het_job_id = :head"]
        # A union, since databases answer an OR over several indexes by reading the whole cluster.
        query = " UNION ".join(f"SELECT id, end_s FROM job WHERE cluster = :c AND {one}" for one in wanted)
        values = {"c": cluster, "head": int(head), "tail": int(tail or 0)}
        with self.read() as connection:
            rows = {row.id: row.end_s for row in connection.execute(query, values)}
            found = self._bodies(connection, rows, True, damaged)
        return sorted(found.values(), key=lambda r: (r.start_ns, r.job_id, r.restart_count))

    def spans(self, cluster: str, job_ids: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
        """Return job id -> start and end, in epoch seconds, of each of its stored runs, deleted ones included."""
        out: dict[int, list[tuple[int, int]]] = {}
        for (job_id, _), runs in self.named(cluster, job_ids).items():
            out.setdefault(job_id, []).extend(runs)
        return out

    def named(self, cluster: str, job_ids: Sequence[int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Return job id and restart count -> start and end, in epoch seconds, of each stored run of that name.

        Deleted ones are included.
        """
        out: dict[tuple[int, int], list[tuple[int, int]]] = {}
        with self.read() as connection:
            rows: list[Any] = self._rows(connection, cluster, job_ids)
            for row in (*rows, *self._deleted_rows(connection, cluster, job_ids)):
                out.setdefault((row.job_id, row.restart_count), []).append((row.start_s, row.end_s))
        return out

    def due(self, cluster: str, limit: int) -> list[Due]:
        """Return up to `limit` records whose line is to be written to slurmdbd now, the longest due first."""
        query = (
            "SELECT queue.job, queue.tries, job.end_s FROM slurmdbd_queue queue CROSS JOIN job "  # in the queue's order
            "WHERE queue.job = job.id AND job.cluster = :c AND queue.due_s <= :now ORDER BY queue.due_s LIMIT :limit"
        )
        with self.read() as connection:
            rows = connection.execute(query, {"c": cluster, "now": int(self._clock()), "limit": limit}).fetchall()
            records = self._bodies(connection, {row.job: row.end_s for row in rows}, shares=False)
        return [Due(row.job, row.tries, records[row.job]) for row in rows]

    def settle(self, jobs: Sequence[int]) -> None:
        """Take rows out of the queue for slurmdbd."""
        with self.write() as connection:
            for job in jobs:
                connection.execute("DELETE FROM slurmdbd_queue WHERE job = :j", {"j": job})

    def postpone(self, jobs: Sequence[tuple[int, int]], tried: bool = True) -> None:
        """Put rows off by so many seconds each; `tried`: that counts as a try."""
        now = int(self._clock())
        with self.write() as connection:
            for job, seconds in jobs:
                connection.execute(
                    "UPDATE slurmdbd_queue SET due_s = :d, tries = tries + :t WHERE job = :j",
                    {"d": now + seconds, "j": job, "t": int(tried)},
                )

    def queue_arrays(self, cluster: str, arrays: Sequence[int]) -> None:
        """Queue the jobs whose own id is an array's for slurmdbd, as far as they are stored and not queued yet."""
        with self.write() as connection:
            for array in arrays:
                connection.execute(
                    "INSERT INTO slurmdbd_queue (job, due_s, tries) SELECT id, :d, 0 FROM job "
                    "WHERE cluster = :c AND job_id = :a AND array_job_id = :a ORDER BY end_s DESC LIMIT 1 "
                    "ON CONFLICT (job) DO NOTHING",
                    {"c": cluster, "a": array, "d": int(self._clock())},
                )

    def array_runs(self, cluster: str, array: int) -> Iterator[list[EnergyRecord]]:
        """Yield the runs of an array's tasks, some at a time, without their shares."""
        query = (
            "SELECT id, end_s FROM job WHERE cluster = :c AND array_job_id = :a AND id > :last ORDER BY id LIMIT :page"
        )
        last = 0
        while True:
            with self.read() as connection:
                rows = connection.execute(query, {"c": cluster, "a": array, "last": last, "page": CHUNK}).fetchall()
                if not rows:
                    return
                records = self._bodies(connection, {row.id: row.end_s for row in rows}, shares=False)
            yield list(records.values())
            last = rows[-1].id

    def rewrite(self, changes: Sequence[tuple[int, EnergyRecord, EnergyRecord | None]]) -> int:
        """Replace records (row id, before, after) in one transaction; None deletes, the sums go to user `removed`.

        Returns how many: one that is another one by now than `before`, by what a node reported meanwhile, stays.
        """
        days: dict[tuple[str, ...], Vector] = {}
        rows, kept = [], []
        ends_s = {job: before.end_ns // NS for job, before, _ in changes}
        gone: dict[int, EnergyRecord] = {}
        with self.write() as connection:
            held = self._bodies(connection, ends_s, shares=True)
            for job, before, after in changes:
                if held.get(job) != before:
                    continue
                _move(days, before, -1)
                if after is None:
                    gone[job] = deleted.nameless(before)
                _move(days, gone[job] if after is None else after, 1)
                if after is None:
                    continue
                rows.append(_row(job, after))
                kept.append((job, after))
            bodies = [self._body(connection, job, after) for job, after in kept]
            self._update(connection, rows, bodies, ends_s)
            deleted.keep(connection, (_row(job, record) for job, record in gone.items()), gone.values())
            self._drop(connection, {job: ends_s[job] for job in gone})
            self._add_days(connection, days)
            # A row of zeros would still show a name.
            connection.execute(f"DELETE FROM usage_day WHERE {' AND '.join(m + ' = 0' for m in MEASURES)}")
        return len(kept) + len(gone)

    def sums_of(self, user: str) -> list[dict[str, Any]]:
        """Return the sums per day of one name of a user, as columns and their values."""
        columns = ", ".join((*_DAY, *MEASURES))
        query = f"SELECT {columns} FROM usage_day WHERE user_name = :user ORDER BY {', '.join(_DAY)}"
        with self.read() as connection:
            return [row._asdict() for row in connection.execute(query, {"user": user})]

    def deleted_records(self) -> Iterator[str]:
        """Yield what is left of deleted records, as JSON."""
        with self.read() as connection:
            yield from deleted.every_body(connection)

    def add_lost_sums(self, rows: Sequence[dict[str, Any]], left: Iterable[EnergyRecord]) -> bool:
        """Add the sums of deleted records, and what is `left` of these, to a ledger that lost them.

        False, and no change, where it has something of their days or before.
        """
        last = max(row["day"] for row in rows)
        with self.write() as connection:
            if connection.value("SELECT 1 FROM usage_day WHERE day <= :last LIMIT 1", {"last": last}) is not None:
                return False
            connection.execute_many(_UPSERT_DAY, [{name: row[name] for name in (*_DAY, *MEASURES)} for row in rows])
            for record in left:
                deleted.keep(connection, [_row(0, record)], [record])
        return True

    def shares_between(self, cluster: str, since_day: str, until_day: str) -> dict[tuple[Key, tuple[int, int]], int]:
        """Return (node, day, domain), (job id, restart count) -> energy in uJ of the days [since, until].

        What deleted records had is in it.
        """
        from perun_hpc.slurm.sacct import CLOCK_S

        query = (
            "SELECT share.node, share.day, share.domain, job.job_id, job.restart_count, share.energy_uj "
            "FROM job_share share CROSS JOIN job "  # the day's shares first: SQLite would begin with the cluster's jobs
            "WHERE share.job = job.id AND job.cluster = :c AND share.day >= :since AND share.day <= :until"
        )
        began_s = int(datetime.fromisoformat(since_day).timestamp()) - CLOCK_S
        values: dict[str, Any] = {"c": cluster, "since": since_day, "until": until_day}
        found: dict[tuple[Key, tuple[int, int]], int] = {}
        with self.read() as connection:
            queries = [(query, values)]
            if self._partitioned(connection):
                queries = [
                    (f"{query} AND share.end_s = 0", values),
                    (f"{query} AND share.end_s = job.end_s AND share.end_s >= :began", {**values, "began": began_s}),
                ]
            for row in (row for asked in queries for row in connection.stream(*asked)):
                at = ((row.node, row.day, row.domain), (row.job_id, row.restart_count))
                found[at] = found.get(at, 0) + row.energy_uj
            for gone in deleted.ended_between(connection, cluster, began_s, FOR_EVER_S):
                for one in gone.record.shares:
                    if since_day <= one.day <= until_day:
                        at = ((one.node, one.day, one.domain), (gone.job_id, gone.restart_count))
                        found[at] = found.get(at, 0) + one.energy_uj
        return found

    def runs_between(self, cluster: str, since_s: int, until_s: int) -> dict[int, list[tuple[int, int]]]:
        """Return job id -> start and end of the runs that ended in [since, until], deleted ones included."""
        query = f"SELECT job_id, start_s, end_s FROM job WHERE {OF_CLUSTER} AND end_s >= :since AND end_s <= :until"
        values = {"c": cluster, "since": since_s, "until": until_s}
        found: dict[int, list[tuple[int, int]]] = {}
        with self.read() as connection:
            rows: list[Any] = connection.execute(query, values).fetchall()
            for row in (*rows, *deleted.ended_between(connection, cluster, since_s, until_s)):
                found.setdefault(row.job_id, []).append((row.start_s, row.end_s))
        return found

    def ended_runs(self, cluster: str, since_s: int, until_s: int) -> list[tuple[int, int, int]]:
        """Return job id, restart count and end (epoch seconds) of the runs that ended in (since, until]."""
        query = (
            f"SELECT job_id, restart_count, end_s FROM job WHERE {OF_CLUSTER} AND end_s > :since AND end_s <= :until"
        )
        with self.read() as connection:
            rows = connection.execute(query, {"c": cluster, "since": since_s, "until": until_s})
            return [tuple(row) for row in rows]

    def places_between(self, cluster: str, since_s: int, until_s: int) -> Iterator[Run]:
        """Yield the names under which directories of the runs that ended in [since, until] may lie, job by job."""
        query = (
            "SELECT job_id, restart_count, submit_s, end_s FROM job "
            f"WHERE {OF_CLUSTER} AND end_s >= :since AND end_s <= :until ORDER BY job_id, restart_count"
        )
        with self.read() as connection:
            rows = connection.execute(query, {"c": cluster, "since": since_s, "until": until_s}).fetchall()
        last = None
        for job_id, restart_count, submit_s, end_s in rows:
            if (bare := Run(job_id, restart_count)) != last:
                yield bare
            last = bare
            yield from (Run(job_id, restart_count, at_s) for at_s in {end_s, submit_s} if at_s > 0)

    def without_state(self, cluster: str, page: int) -> Iterator[dict[int, int]]:
        """Yield the rows that Slurm's accounting has not completed yet, the newest first, with ends, `page` a time."""
        query = (
            "SELECT id, end_s FROM job WHERE cluster = :c AND state = '' AND (end_s, id) < (:end, :id) "
            "ORDER BY end_s DESC, id DESC LIMIT :page"
        )
        end_s, job = FOR_EVER_S, 0
        while True:
            with self.read() as connection:
                rows = connection.execute(query, {"c": cluster, "end": end_s, "id": job, "page": page}).fetchall()
            if not rows:
                return
            yield {row.id: row.end_s for row in rows}
            end_s, job = rows[-1].end_s, rows[-1].id

    def first_start_s(self, cluster: str) -> int | None:
        """Return when the first job of the ledger started; None while it is empty."""
        with self.read() as connection:
            value = connection.value(
                "SELECT start_s FROM job WHERE cluster = :c ORDER BY start_s LIMIT 1", {"c": cluster}
            )
        return None if value is None else int(value)

    def pack_older(self, rows: int = CHUNK) -> bool:
        """Pack the next `rows` records that an older version wrote; False once all are, and in PostgreSQL at once.

        Each call is a transaction of its own: whenever it ends, every record is there, in one form or the other.
        """
        if self.dialect != SQLITE or (mark := self.marks.packed_until()) >= FOR_EVER_S:
            return False
        query = "SELECT job, body FROM record WHERE job > :mark ORDER BY job LIMIT :rows"
        with self.write() as connection:
            found = connection.execute(query, {"mark": mark, "rows": rows}).fetchall()
            older = [{"job": row.job, "body": pack(row.body)} for row in found if isinstance(row.body, str)]
            connection.execute_many("UPDATE record SET body = :body WHERE job = :job", older)
            # What comes from here on is packed by who writes it.
            self.marks.set_packed(connection, found[-1].job if len(found) == rows else FOR_EVER_S)
        return len(found) == rows

    def _body(self, connection: Connection, job: int, record: EnergyRecord) -> dict[str, Any]:
        text = to_json(record, shares=False)
        return {"job": job, "body": pack(text) if self.dialect == SQLITE else text, **self._end(connection, record)}

    def _shares(self, connection: Connection, job: int, record: EnergyRecord) -> list[dict[str, Any]]:
        end = self._end(connection, record)
        # A node's clock may be far ahead: `shares_between` begins with jobs that ended a day before, in any time zone.
        last = time.strftime("%Y-%m-%d", time.gmtime(record.end_ns // NS + 43_200))
        ends = [{"end_s": 0} if end and share.day > last else end for share in record.shares]
        return [{"job": job, **vars(share), **its} for share, its in zip(record.shares, ends, strict=True)]

    def _end(self, connection: Connection, record: EnergyRecord) -> dict[str, int]:
        """What a row of a partitioned table has besides."""
        return {"end_s": record.end_ns // NS} if self._partitioned(connection) else {}

    def _partitioned(self, connection: Connection) -> bool:
        """Whether tables that refer to jobs have these' ends: readers may come before a collector of this version."""
        if self._by_month is None:
            self._by_month = self.dialect == POSTGRESQL and "end_s" in connection.columns("record")
        return self._by_month

    def _within(self, connection: Connection, rows: Rows) -> list[tuple[str, dict[str, int]]]:
        """Conditions, with parameters, under which rows are looked for in turn: where they lie, then everywhere.

        Rows of before the ledger was partitioned have 0, and shares of days long after their job.
        """
        anywhere: tuple[str, dict[str, int]] = ("", {})
        if not (isinstance(rows, Mapping) and rows and self._partitioned(connection)):
            return [anywhere]
        span = {"first": min(rows.values()), "last": max(rows.values())}
        return [(" AND (end_s = 0 OR end_s >= :first AND end_s <= :last)", span), anywhere]

    def _check_lease(self, connection: Connection, name: str, holder: str) -> None:
        # Nobody takes it over before the transaction ends.
        held = " FOR SHARE" if self.dialect == POSTGRESQL else ""
        if connection.value(f"SELECT holder FROM lease WHERE name = :n{held}", {"n": name}) != holder:
            raise LeaseLostError

    def _rows(self, connection: Connection, cluster: str, job_ids: Sequence[int]) -> list[Any]:
        wanted = sorted(set(job_ids))
        query = (
            "SELECT id, job_id, restart_count, submit_s, start_s, end_s, sluid FROM job "
            "WHERE cluster = :c AND job_id IN :ids"
        )
        rows: list[Any] = []
        for at in range(0, len(wanted), CHUNK):
            rows += connection.execute(query, {"c": cluster, "ids": wanted[at : at + CHUNK]}).fetchall()
        return rows

    def _put(
        self, connection: Connection, records: Sequence[EnergyRecord], queue: bool, days: dict[tuple[str, ...], Vector]
    ) -> list[Put]:
        """Put records of one name each; to `days` is added what the days' sums change by."""
        from perun_hpc.accounting.evidence import combine  # the rules of writing, which no reader needs

        known: dict[tuple[str, int, int], list[Any]] = {}
        for cluster in {r.cluster for r in records}:
            for row in self._rows(connection, cluster, [r.job_id for r in records if r.cluster == cluster]):
                known.setdefault((cluster, row.job_id, row.restart_count), []).append(row)
        left = self._deleted(connection, records)
        matches = [self._match(connection, r, known.get((r.cluster, r.job_id, r.restart_count), ())) for r in records]
        ends_s = {row.id: row.end_s for rows in known.values() for row in rows}
        old = self._bodies(connection, {job: ends_s[job] for m in matches for job in m}, shares=True)
        now = int(self._clock())
        puts: list[Put] = []
        fresh = 0
        rows: list[dict[str, Any]] = []
        bodies: list[dict[str, Any]] = []
        shares: list[dict[str, Any]] = []
        amendments: list[dict[str, Any]] = []
        replaced: list[int] = []
        folded: set[int] = set()
        back: set[int] = set()
        for record, match in zip(records, matches, strict=True):
            job, before = (match[0], old[match[0]]) if match else (-1 - fresh, None)
            twins = [one for one in match[1:] if one not in folded]
            gone = left.get((record.cluster, record.job_id, record.restart_count), [])
            gone = _same_run(record, gone) or deleted.with_same_evidence(record, gone)
            if before is None and deleted.says_nothing_new(record, gone):
                puts.append(Put(record, 0, False, deleted=True))
                continue
            held = before
            for twin in twins:
                held = combine(held, old[twin]) if held is not None else None
            after = record if held is None else combine(held, record)
            if gone:
                after = deleted.brought_back(gone, after)
                back.update(row.id for row in gone)
                for one in gone:
                    _move(days, one.record, -1)
            if before is not None and after == before and not twins:
                puts.append(Put(before, job, False))
                continue
            if before is None:
                fresh += 1
            else:
                replaced.append(job)
                _move(days, before, -1)
                for twin in twins:
                    _move(days, old[twin], -1)
                folded.update(twins)
                if after.revision != before.revision:
                    amendments.append(
                        {"job": job, "revision": after.revision, "at_s": now,
                         "before_uj": before.energy_uj, "after_uj": after.energy_uj}
                    )  # fmt: skip
            _move(days, after, 1)
            rows.append(_row(job, after))
            bodies.append(self._body(connection, job, after))
            shares += self._shares(connection, job, after)
            puts.append(Put(after, job, True))
        self._drop(connection, {job: ends_s[job] for job in sorted(folded)})
        deleted.take_back(connection, back)
        if fresh:
            last = self._last_id(connection)
            for row, key in (*((row, "id") for row in rows), *((row, "job") for row in (*bodies, *shares))):
                row[key] = row[key] if row[key] > 0 else last - row[key]
            puts = [replace(put, job=put.job if put.job >= 0 else last - put.job) for put in puts]
        self._store(connection, rows, bodies, shares, {job: ends_s[job] for job in replaced})
        connection.insert("amendment", amendments)
        if queue:
            self._queue(connection, [p.job for p in puts if p.changed], now)
        return puts

    def _last_id(self, connection: Connection) -> int:
        """The last id of a row; those who put new ones take turns from here to the end of their transactions."""
        if self.dialect == POSTGRESQL:
            connection.execute("SELECT pg_advisory_xact_lock(:key)", {"key": _IDS})
        return int(connection.value("SELECT MAX(id) FROM job") or 0)

    def _deleted(
        self, connection: Connection, records: Sequence[EnergyRecord]
    ) -> dict[tuple[str, int, int], list[deleted.Deleted]]:
        """Return what is left of deleted records of the names that these records have."""
        found: dict[tuple[str, int, int], list[deleted.Deleted]] = {}
        for cluster in {r.cluster for r in records}:
            for row in self._deleted_rows(connection, cluster, [r.job_id for r in records if r.cluster == cluster]):
                found.setdefault((cluster, row.job_id, row.restart_count), []).append(row)
        return found

    def _deleted_rows(self, connection: Connection, cluster: str, job_ids: Sequence[int]) -> list[deleted.Deleted]:
        ids = sorted(set(job_ids))
        chunks = (ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK))
        return [row for chunk in chunks for row in deleted.rows_of(connection, cluster, chunk)]

    def _match(self, connection: Connection, record: EnergyRecord, rows: Sequence[Any]) -> list[int]:
        """Return the stored row of a record's run, then those that are to become a part of it; [] where it is new.

        Whatever the times say, the same evidence is never there twice. A run whose clocks were wrong may have two rows
        until more is known: that of its evidence, and Slurm's of a run that nobody reported.
        """
        from perun_hpc.accounting.evidence import shared

        same = _same_run(record, rows)
        if not rows or (same and len(rows) == 1):
            return [row.id for row in same]
        held = self._bodies(connection, {row.id: row.end_s for row in rows}, shares=False)
        alike = [row for row in (*same, *(row for row in rows if row not in same)) if shared(record, held[row.id])]
        found = [row.id for row in dict.fromkeys((*alike, *same))]
        certain = {row.id for row in alike}
        return [*found[:1], *(job for job in found[1:] if job in certain or not held[job].nodes)]

    def _drop(self, connection: Connection, ends_s: Mapping[int, int]) -> None:
        """Delete rows, with all that refers to them."""
        for job, end_s in ends_s.items():
            for table in ("slurmdbd_queue", "amendment"):
                connection.execute(f"DELETE FROM {table} WHERE job = :job", {"job": job})
            for table, key in (("job_share", "job"), ("record", "job"), ("job", "id")):
                self._change(connection, f"DELETE FROM {table} WHERE {key} = :job", {"job": job}, end_s)

    def _change(self, connection: Connection, statement: str, values: Mapping[str, Any], end_s: int) -> None:
        """Change the rows of one job: where a job of that end lies, and where nothing was there, everywhere."""
        for within, span in self._within(connection, {0: end_s}):
            if connection.execute(f"{statement}{within}", {**values, **span}).rowcount:
                return

    def _store(
        self,
        connection: Connection,
        rows: Sequence[dict[str, Any]],
        bodies: Sequence[dict[str, Any]],
        shares: Sequence[dict[str, Any]],
        replaced: Mapping[int, int],
    ) -> None:
        """Insert new rows; those of `replaced` (with their ends) are updated in place: what refers to them stays."""
        new_rows, new_bodies = (
            [r for r in rows if r["id"] not in replaced],
            [b for b in bodies if b["job"] not in replaced],
        )
        connection.insert("job", new_rows)
        connection.insert("record", new_bodies)
        old_rows, old_bodies = [r for r in rows if r["id"] in replaced], [b for b in bodies if b["job"] in replaced]
        self._update(connection, old_rows, old_bodies, replaced)
        for job in sorted(replaced):
            self._change(connection, "DELETE FROM job_share WHERE job = :job", {"job": job}, replaced[job])
        connection.insert("job_share", shares)

    def _update(
        self,
        connection: Connection,
        rows: Sequence[dict[str, Any]],
        bodies: Sequence[dict[str, Any]],
        ends_s: Mapping[int, int],
    ) -> None:
        """Replace rows, of jobs that had these ends, and bodies."""
        for row in rows:
            changed = ", ".join(f"{name} = :{name}" for name in row if name != "id")
            self._change(connection, f"UPDATE job SET {changed} WHERE id = :id", row, ends_s[row["id"]])
        for body in bodies:
            changed = ", ".join(f"{name} = :{name}" for name in body if name != "job")
            self._change(connection, f"UPDATE record SET {changed} WHERE job = :job", body, ends_s[body["job"]])

    def _add_days(self, connection: Connection, days: dict[tuple[str, ...], Vector]) -> None:
        moved = [_day_row(key, vector) for key, vector in sorted(days.items()) if any(vector)]
        if not moved:
            return
        connection.execute_many(_UPSERT_DAY, moved)
        if self.dialect == SQLITE:
            # Where PostgreSQL refuses a sum beyond 64 bits, SQLite makes a float of it.
            for cluster, day in sorted({key[:2] for key in days}):
                if connection.value(_INEXACT_DAY, {"cluster": cluster, "day": day}) is not None:
                    raise DataError(f"the sums of {day} would go beyond 64 bits: see the jobs of that day")

    def _queue(self, connection: Connection, jobs: Sequence[int], now: int) -> None:
        connection.execute_many(
            "INSERT INTO slurmdbd_queue (job, due_s, tries) VALUES (:job, :due, 0) "
            "ON CONFLICT (job) DO UPDATE SET due_s = excluded.due_s, tries = 0",
            [{"job": job, "due": now} for job in jobs],
        )

    def _bodies(
        self, connection: Connection, rows_of: Rows, shares: bool, damaged: Callable[[str], object] | None = None
    ) -> dict[int, EnergyRecord]:
        jobs = list(rows_of)
        bodies: dict[int, str | bytes] = {}
        parts_of: dict[int, list[dict[str, Any]]] = {}
        for within, span in self._within(connection, rows_of):
            whole = f"SELECT job, body FROM record WHERE job IN :jobs{within}"
            parts = (
                f"SELECT job, node, domain, day, energy_uj FROM job_share WHERE job IN :jobs{within} "
                "ORDER BY job, node, domain, day"
            )
            sought = [job for job in jobs if job not in bodies]
            for at in range(0, len(sought), CHUNK):
                asked = {"jobs": sought[at : at + CHUNK], **span}
                for row in connection.execute(whole, asked):
                    bodies[row.job] = row.body
                if shares:
                    for row in connection.execute(parts, asked):
                        part = {"node": row.node, "domain": row.domain, "day": row.day, "energy_uj": row.energy_uj}
                        parts_of.setdefault(row.job, []).append(part)
        lost: set[int] = set()
        if len(bodies) < len(jobs):
            # A row may have gone, and its record with it; a row without a record is damaged.
            without = [job for job in jobs if job not in bodies]
            for at in range(0, len(without), CHUNK):
                rows = connection.execute("SELECT id FROM job WHERE id IN :jobs", {"jobs": without[at : at + CHUNK]})
                lost.update(row.id for row in rows)
        found = {}
        for job in sorted({*bodies, *lost}):
            try:
                if job in lost:
                    raise DataError(f"ledger row {job}: its record is missing: {_REMEDY}")
                found[job] = _record_of(bodies[job], parts_of.get(job, ()), f"ledger row {job}")
            except DataError as error:
                if damaged is None:
                    raise
                damaged(str(error))
        return found


_REMEDY = "restore the ledger from a backup, or make a new one from the archive (perun ledger --ledger NEW rebuild)"
"""What helps a damaged row: whatever rewrites it reads it first."""


def _record_of(packed: str | bytes, shares: Sequence[Mapping[str, Any]], source: str) -> EnergyRecord:
    """A row's record with its shares, which the ledger keeps beside it; DataError where it is damaged."""
    try:
        body = json.loads(unpack(packed))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON ({error}): {_REMEDY}") from error
    if not isinstance(body, dict):
        raise DataError(f"{source}: not a record, but {body!r:.20}: {_REMEDY}")
    return from_dict({**body, "shares": shares} if shares else body, source, _REMEDY)


def open_ledger(url: str, create: bool = False, clock: Callable[[], float] = time.time) -> Ledger:
    """Open a ledger.

    Parameters
    ----------
    url
        A path, `sqlite:///path` or `postgresql+psycopg://...`.
    create
        Whether to make or migrate it; readers leave the schema alone.
    clock
        Epoch seconds.

    Raises
    ------
    NotFoundError, AccessError, UnavailableError, UsageError
        When there is none, it may not be read, the server does not answer, or the URL makes no sense.
    """
    ledger = Ledger(*opened(url, create), clock)
    ledger.prepare(create)
    return ledger


def _names_once(records: Sequence[EnergyRecord]) -> Iterator[Sequence[EnergyRecord]]:
    """Split records, in their order, so that no part holds two of one name: the second is held against the first."""
    start = 0
    names: set[tuple[str, int, int]] = set()
    for at, record in enumerate(records):
        name = (record.cluster, record.job_id, record.restart_count)
        if name in names:
            yield records[start:at]
            start, names = at, set()
        names.add(name)
    yield records[start:]


def _same_run(record: EnergyRecord, rows: Sequence[Any]) -> list[Any]:
    """Return the stored rows of the same run, the one first that is nearest in time."""
    from perun_hpc.accounting.identity import Identity, Likeness, likest, of_record

    who = of_record(record)
    held = [
        Identity(
            row.job_id,
            row.restart_count,
            row.start_s * NS,
            (row.end_s + 1) * NS,
            row.submit_s if row.submit_s > 0 else None,
            row.sluid or None,
        )
        for row in rows
    ]
    same = [at for at in likest(who, held) if held[at].likeness(who) is Likeness.SAME]
    return [rows[at] for at in sorted(same, key=lambda at: who.overlap_ns(held[at]), reverse=True)]


def _move(days: dict[tuple[str, ...], Vector], record: EnergyRecord, sign: int) -> None:
    for day, vector in by_day(record).items():
        key = (record.cluster, day, record.account, record.user, record.partition, record.qos)
        days[key] = add(days.get(key, _ZERO), vector, sign)


def _day_row(key: tuple[str, ...], vector: Vector) -> dict[str, Any]:
    return {**dict(zip(_DAY, key, strict=True)), **dict(zip(MEASURES, vector, strict=True))}


def _row(job: int, r: EnergyRecord) -> dict[str, Any]:
    return {
        "id": job,
        "cluster": r.cluster,
        "job_id": r.job_id,
        "submit_s": r.submit_s or -(r.start_ns // 1_000_000_000),
        "restart_count": r.restart_count,
        "sluid": r.sluid or "",
        "array_job_id": r.array_job_id,
        "array_task_id": r.array_task_id,
        "het_job_id": r.het_job_id,
        "het_offset": r.het_offset,
        "name": r.name,
        "uid": r.uid,
        "user_name": r.user,
        "account": r.account,
        "partition_name": r.partition,
        "qos": r.qos,
        "state": r.state,
        "status": r.status,
        "provenance": r.provenance,
        "start_s": r.start_ns // 1_000_000_000,
        "end_s": r.end_ns // 1_000_000_000,
        "num_nodes": r.num_nodes,
        "cpus": r.cpus,
        "gpus": r.gpus,
        "energy_uj": r.energy_uj,
        "u_uj": r.u_uj,
        "idle_uj": r.idle_uj,
        "wasted_uj": r.wasted_uj,
        "gpu_held_s": r.gpu_held_s,
        "gpu_idle_s": r.gpu_idle_s,
        "revision": r.revision,
        "inputs": r.inputs,
    }
