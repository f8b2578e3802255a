"""The ledger's large tables in PostgreSQL: declarative partitions by the UTC month in which a job ended.

`job`, `record` and `job_share` each have a partition `TABLE_YYYY_MM` a month, one for all that was there before the
ledger was partitioned (`TABLE_before`), and one for what has no other (`TABLE_rest`), so that no record is ever refused
for the want of one. In `record` and `job_share` the column `end_s` is the job's; rows of before have 0 there, and
shares of days long after their job, as a node with a wrong clock gives.

Keys are those of each partition: which rows are one run's is decided by who holds its part of the job ids, or the lock
that all other writers take.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perun_hpc.accounting.database import POSTGRESQL
from perun_hpc.errors import PerunError

if TYPE_CHECKING:
    from perun_hpc.accounting.database import Connection, Database

log = logging.getLogger(__name__)

KEYS = {
    "job": ("PRIMARY KEY (id)", "UNIQUE (job_id, cluster, submit_s, restart_count, sluid)"),
    "record": ("PRIMARY KEY (job)",),
    "job_share": ("PRIMARY KEY (job, node, domain, day)",),
}
"""The tables, and the keys of each of their partitions."""
BEFORE, REST = "before", "rest"
FIRST_S = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
"""What ended earlier ended by a clock that was wrong."""
PATIENCE = "SET LOCAL lock_timeout = '500ms'"
"""So long another's lock is waited for: less than the second after which a server ends one of two that wait for each
other, which might be a reader."""
_NOT_IN_TIME = "55P03"
"""What PostgreSQL calls a lock that did not come in time."""
TRIES = 5
"""To partition a ledger, a second apart."""
PAUSE_S = 600
"""After so long what failed is tried again, and seen what others have made or dropped."""
_OF_A_MONTH = re.compile(r"42(?!501)|23")
"""SQLSTATEs of what stands in the way of one month: a table that has its name, rows that do not fit."""
_BOUND = re.compile(r"FOR VALUES FROM \((MINVALUE|'?-?\d+'?)\) TO \((MAXVALUE|'?-?\d+'?)\)")
_FAR = 1 << 62
_PARTS = (
    "SELECT part.relname AS name, pg_get_expr(part.relpartbound, part.oid) AS bound FROM pg_inherits "
    "JOIN pg_class part ON part.oid = inhrelid WHERE inhparent = to_regclass('job')"
)
_KIND = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('job')"
_RESTING = (
    "SELECT DISTINCT seen.relname FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid "
    "JOIN pg_class seen ON seen.oid = ev_class WHERE pg_depend.classid = 'pg_rewrite'::regclass "
    "AND refobjid = to_regclass(:name) "
    "UNION SELECT conname FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(:name) "
    "UNION SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = to_regclass(:name)"
)
"""Views, foreign keys and triggers, which would go on with the rows of before alone."""
_INDEXES = (
    "SELECT pg_class.relname AS name, pg_get_indexdef(indexrelid) AS made FROM pg_index "
    "JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = to_regclass(:name) AND NOT indisunique"
)
_GRANTS = (
    "SELECT privilege_type, grantee::regrole::text AS who, is_grantable, grantee = 0 AS everybody "
    "FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass(:name) AND grantee <> relowner"
)


@dataclass(frozen=True)
class Part:
    """A partition of each table, for jobs that ended in [first, last) (epoch seconds)."""

    name: str
    first_s: int
    last_s: int


class Partitions:
    """The partitions of an open ledger; in SQLite, which has none, nothing is done."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._there: list[Part] | None = None
        self._seen_s = self._again_s = 0.0
        self._spoilt: dict[tuple[int, int], float] = {}

    def begin(self, now_s: float) -> None:
        """Partition the tables if they are not; what stops that is logged, and they stay as they are."""
        for left in reversed(range(TRIES)):
            try:
                with self._database.write() as connection:
                    partition(connection, now_s)
                return
            except PerunError as error:
                if not left or getattr(error.__cause__, "sqlstate", "") != _NOT_IN_TIME:
                    log.warning("the ledger is not partitioned, the next start tries again: %s", error)
                    return
            time.sleep(1)

    def make(self, ends_s: Iterable[int], now_s: float) -> None:
        """See that the months of these ends have partitions, and the next one, before rows go there.

        What stops that is logged, and stops nothing else: `REST` takes what comes.
        """
        if self._database.dialect != POSTGRESQL or now_s < self._again_s:
            return
        soon_s = _month(_month(int(now_s))[1])[1]
        wanted = {_month(at) for at in (*ends_s, int(now_s), soon_s - 1) if FIRST_S <= at < soon_s}
        try:
            if self._there is None or not self._seen_s <= now_s < self._seen_s + PAUSE_S:
                with self._database.read() as connection:
                    self._there = parts(connection) if partitioned(connection) else []
                self._seen_s = now_s
            for span in sorted(wanted) if self._there else ():
                if not _covered(self._there, *span) and self._spoilt.get(span, now_s) <= now_s:
                    self._there = self._make(span, now_s)
        except PerunError as error:
            self._there, self._again_s = None, now_s + PAUSE_S
            log.warning("no new partition for now, %s takes what comes: %s", REST, error)

    def _make(self, span: tuple[int, int], now_s: float) -> list[Part]:
        """Make a month; what stands in its way alone is logged, and stops no other one."""
        part = Part(datetime.fromtimestamp(span[0], UTC).strftime("%Y_%m"), *span)
        try:
            with self._database.write() as connection:
                connection.execute(PATIENCE)
                if not _covered(parts(connection), *span):
                    _add(connection, part)
                return parts(connection)
        except PerunError as error:
            if not _OF_A_MONTH.match(getattr(error.__cause__, "sqlstate", None) or ""):
                raise
            self._spoilt[span] = now_s + PAUSE_S
            log.warning("no partition %s for now, %s takes what comes of it: %s", part.name, REST, error)
            return self._there or []

    def drop_empty(self, before_s: int) -> int:
        """Drop the partitions that end before a time and hold nothing any more; returns how many months went."""
        if self._database.dialect != POSTGRESQL:
            return 0
        self._there, dropped = None, 0
        try:
            with self._database.write() as connection:
                connection.execute(PATIENCE)
                for part in parts(connection) if partitioned(connection) else ():
                    names = [f"{table}_{part.name}" for table in KEYS]
                    if part.last_s <= before_s and all(_is_empty(connection, name) for name in names):
                        for name in names:
                            connection.execute(f"DROP TABLE {name}")
                        dropped += 1
        except PerunError as error:
            log.warning("empty partitions stay for now: %s", error)
            return 0
        return dropped


def partitioned(connection: Connection) -> bool:
    """Whether the tables are partitioned."""
    return connection.dialect == POSTGRESQL and connection.value(_KIND) == "p"


def parts(connection: Connection) -> list[Part]:
    """The partitions that there are, in order of time; `REST` last."""
    found = []
    for row in connection.execute(_PARTS):
        bound = _BOUND.fullmatch(row.bound)
        first_s, last_s = (_number(bound[1]), _number(bound[2])) if bound else (_FAR, _FAR)
        found.append(Part(row.name.removeprefix("job_"), first_s, last_s))
    return sorted(found, key=lambda part: part.first_s)


def partition(connection: Connection, now_s: float) -> bool:
    """Partition the tables, in the caller's transaction, if they are not; the old ones become one partition each.

    No row is copied: each old table is read once by the server, to see that its rows belong there. Where views,
    foreign keys or triggers rest on a table, nothing is done and it is said: they would go on with the old part alone.
    """
    if connection.value(_KIND) != "r":
        return False
    connection.execute(PATIENCE)
    for table in KEYS:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    if connection.value(_KIND) != "r":  # another collector was faster
        return False
    resting = sorted({row.relname for table in KEYS for row in connection.execute(_RESTING, {"name": table})})
    if resting:
        log.warning(
            "the ledger is not partitioned: views, foreign keys or triggers rest on its tables (%s): drop them first",
            ", ".join(resting),
        )
        return False
    until_s = _month(int(now_s))[1]
    for table in ("record", "job_share"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN end_s BIGINT NOT NULL DEFAULT 0")
    for table in KEYS:
        _replace(connection, table)
    if not _is_empty(connection, f"job_{BEFORE}"):
        # Ends that lie ahead, by a clock that was wrong; their records and shares are found by 0.
        connection.execute(
            f"WITH later AS (DELETE FROM job_{BEFORE} WHERE end_s >= :until RETURNING *) INSERT INTO job "
            "SELECT * FROM later",
            {"until": until_s},
        )
        for table in KEYS:
            connection.execute(
                f"ALTER TABLE {table} ATTACH PARTITION {table}_{BEFORE} FOR VALUES FROM (MINVALUE) TO ({until_s})"
            )
    else:
        for table in KEYS:
            connection.execute(f"DROP TABLE {table}_{BEFORE}")
    return True


def _replace(connection: Connection, table: str) -> None:
    """Put a partitioned table in a table's place, with its indexes and grants, and a partition for the rest."""
    old = f"{table}_{BEFORE}"
    indexes = connection.execute(_INDEXES, {"name": table}).fetchall()
    owner = connection.value(
        "SELECT relowner::regrole::text FROM pg_class WHERE oid = to_regclass(:name)", {"name": table}
    )
    connection.execute(f"ALTER TABLE {table} RENAME TO {old}")
    for row in indexes:
        connection.execute(f'ALTER INDEX "{row.name}" RENAME TO "{row.name[:55]}_{BEFORE}"')
    connection.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS) PARTITION BY RANGE (end_s)")
    for row in indexes:
        connection.execute(row.made)
    connection.execute(f"CREATE TABLE {table}_{REST} PARTITION OF {table} ({', '.join(KEYS[table])}) DEFAULT")
    for name in (table, f"{table}_{REST}"):
        _grant(connection, old, name)
        connection.execute(f"ALTER TABLE {name} OWNER TO {owner}")


def _grant(connection: Connection, like: str, table: str) -> None:
    """Let a table be read and written by who may do so with another one: a dump locks every partition by its name."""
    for row in connection.execute(_GRANTS, {"name": like}).fetchall():
        who, more = "PUBLIC" if row.everybody else row.who, " WITH GRANT OPTION" if row.is_grantable else ""
        connection.execute(f"GRANT {row.privilege_type} ON {table} TO {who}{more}")


def _add(connection: Connection, part: Part) -> None:
    """Make a month's partitions, and put there what the rest holds of it."""
    span = {"first": part.first_s, "last": part.last_s}
    for table, keys in KEYS.items():
        name = f"{table}_{part.name}"
        connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS, {', '.join(keys)})")
        _grant(connection, table, name)
        connection.execute(
            f"WITH held AS (DELETE FROM {table}_{REST} WHERE end_s >= :first AND end_s < :last RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM held",
            span,
        )
        connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({part.first_s}) TO ({part.last_s})"
        )


def _is_empty(connection: Connection, table: str) -> bool:
    return connection.value(f"SELECT 1 FROM {table} LIMIT 1") is None


def _covered(there: list[Part], first_s: int, last_s: int) -> bool:
    return any(part.first_s < last_s and first_s < part.last_s for part in there)


def _month(at_s: int) -> tuple[int, int]:
    """The first second of a time's month, and that of the next one."""
    at = datetime.fromtimestamp(at_s, UTC)
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    later = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()), int(later.timestamp())


def _number(text: str) -> int:
    return {"MINVALUE": -_FAR, "MAXVALUE": _FAR}.get(text) or int(text.strip("'"))
