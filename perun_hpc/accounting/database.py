"""The database below the ledger: SQLite by the standard library or PostgreSQL by psycopg, asked in the SQL of both.

A statement has its parameters as `:name`; one that is a list stands for `(:name_0, :name_1, ...)`. Rows are named
tuples. The drivers' errors are put in the words of ours.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from perun_hpc.accounting.tables import migrate
from perun_hpc.errors import AccessError, DataError, NotFoundError, UnavailableError, UsageError
from perun_hpc.files import make_directory, sync_directory

SQLITE, POSTGRESQL = "sqlite", "postgresql"
PAGE_B = 16_384
WAIT_S = 60.0
"""How long a writer of SQLite waits for another."""
_DURABLE = "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'"
"""Where a server may take back commits: not those after which evidence leaves `incoming/`."""
_NAMED = re.compile(r"(?<![:\w]):([a-z]\w*)")
_OTHERS: list[Any] = []
"""Connections of the process that this one was forked from: to close them here would end them there."""
_PASSWORD = re.compile(r"(//[^/@:]*:)[^/@]*@|(\bpassword=)[^&]*")


class Connection:
    """A connection inside a transaction."""

    def __init__(self, raw: Any, dialect: str) -> None:
        self.raw = raw
        self.dialect = dialect

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> Any:
        """Run one statement; a cursor: iterated over, or by `fetchone` and `fetchall`, it gives the rows."""
        sql, values = _listed(sql, values or {})
        return self.raw.execute(self._own(sql), values)

    def execute_many(self, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each of `rows`."""
        if rows:
            self.raw.cursor().executemany(self._own(sql), rows)

    def value(self, sql: str, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def tuples(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a question without their columns' names: where there are very many."""
        cursor = self.execute(sql, values)
        if self.dialect == SQLITE:
            cursor.row_factory = None
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    def stream(self, sql: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """The rows of a question that may be more than memory holds."""
        if self.dialect == SQLITE:
            yield from self.execute(sql, values)
            return
        sql, values = _listed(sql, values or {})
        with self.raw.cursor(name="perun") as cursor:
            yield from cursor.execute(self._own(sql), values)

    def columns(self, table: str) -> tuple[str, ...]:
        """The names of a table's columns, in order."""
        return tuple(column[0] for column in self.execute(f"SELECT * FROM {table} LIMIT 0").description)

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert many rows the fastest way that the database has; all rows have the same keys."""
        if not rows:
            return
        names = ", ".join(rows[0])
        values = (tuple(row.values()) for row in rows)
        if self.dialect == SQLITE:
            marks = ", ".join("?" * len(rows[0]))
            self.raw.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
            return
        with self.raw.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
            for row in values:
                copy.write_row(row)

    def _own(self, sql: str) -> str:
        return sql if self.dialect == SQLITE else _for_psycopg(sql)


class Database:
    """An open database with the ledger's tables.

    `connect` makes a connection of the driver's; those that nobody uses are kept for the next, by any thread.
    """

    def __init__(self, url: str, dialect: str, connect: Callable[[], Any]) -> None:
        self.url = url
        self.dialect = dialect
        self._connect = connect
        self._idle: list[tuple[int, Any]] = []

    def prepare(self, create: bool) -> None:
        """Make or migrate the tables with `create`; else see that they are there."""
        with self._transaction("BEGIN IMMEDIATE" if create else "BEGIN") as connection:
            if create:
                migrate(connection)
            connection.execute("SELECT number FROM migration LIMIT 0")

    def close(self) -> None:
        """Close the connections."""
        while (raw := self._kept()) is not None:
            raw.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self, beside: bool = False) -> Iterator[Connection]:
        """A transaction that writes; writers wait for each other, but those that are `beside` others where they may be.

        Who writes `beside` others changes rows that no other such writer does: those of one part of the job ids.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            if self.dialect == POSTGRESQL:
                connection.execute(_DURABLE)
                connection.execute(f"LOCK TABLE ONLY job IN {'' if beside else 'SHARE '}ROW EXCLUSIVE MODE")
            yield connection

    @contextmanager
    def agree(self) -> Iterator[Connection]:
        """A transaction that writes what processes agree on: it waits for no writer, nor for PostgreSQL's disk.

        A loss of power may take it back, and whatever was committed later.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            if self.dialect == POSTGRESQL:
                connection.execute("SET LOCAL synchronous_commit = off")
            yield connection

    def commit(self, connection: Connection) -> None:
        """End a transaction well."""
        connection.raw.commit()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._translated():
            raw = self._kept() or self._connect()
            connection = Connection(raw, self.dialect)
            try:
                if self.dialect == SQLITE:
                    raw.execute(begin)
                yield connection
                self.commit(connection)
            except BaseException:
                # Without its transaction; after an error of the server's the others may be broken, too.
                raw.close()
                self.close()
                raise
            self._idle.append((os.getpid(), raw))

    def _kept(self) -> Any:
        """A connection that waits; those of the process that this one was forked from are that one's alone."""
        while self._idle:
            pid, raw = self._idle.pop()
            if pid == os.getpid():
                return raw
            _OTHERS.append(raw)
        return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        driver = sqlite3 if self.dialect == SQLITE else _psycopg()
        # Python's own errors are those of numbers and texts that the drivers cannot even send.
        refusals = (driver.DataError, driver.IntegrityError, OverflowError, UnicodeError)
        try:
            yield
        except (driver.Error, OverflowError, UnicodeError) as error:
            where = _PASSWORD.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", self.url)
            first = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, refusals):
                raise DataError(
                    f"ledger {where} does not take it: {first}: see the values of the job's record"
                ) from error
            raise UnavailableError(f"ledger {where}: {first}: is it up, migrated and writable?") from error


def opened(url: str, create: bool) -> tuple[str, str, Callable[[], Any]]:
    """What a `Database` is made of, for what `open_ledger` names, which says what each may be."""
    path = _sqlite_path(url)
    if path is not None:
        _check_file(path, create)
        return f"sqlite:///{path}", SQLITE, lambda: _sqlite(str(path), create)
    return url, POSTGRESQL, _postgresql(url)


def scratch() -> tuple[str, str, Callable[[], Any]]:
    """What a `Database` is made of that lies in this process' memory: for what a person may see."""
    return "sqlite://", SQLITE, lambda: _sqlite(":memory:", create=False)


def _sqlite(path: str, create: bool) -> sqlite3.Connection:
    raw = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        raw.row_factory = _row
        if create:
            # Counts for a file that is made now: large pages hold more of records of a kilobyte or two.
            raw.execute(f"PRAGMA page_size = {PAGE_B}")
            raw.execute("PRAGMA journal_mode = WAL")
        # With NORMAL a loss of power takes back commits after which evidence has left `incoming/`.
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA cache_size = -65536")
    except sqlite3.Error:
        raw.close()
        raise
    return raw


def _postgresql(url: str) -> Callable[[], Any]:
    """What connects to the server that a URL names."""
    remedy = "write a path or postgresql+psycopg://user@host/database"
    scheme, _, rest = url.partition("://")
    if scheme not in (POSTGRESQL, f"{POSTGRESQL}+psycopg"):
        raise UsageError(f"ledger '{url}': no database of perun's: {remedy}")
    try:
        driver = _psycopg()
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.rows import namedtuple_row

        options = conninfo_to_dict(f"{POSTGRESQL}://{rest}")
    except ModuleNotFoundError:
        raise
    except (ImportError, driver.Error) as error:
        raise UsageError(f"ledger '{url}': {str(error).splitlines()[0]}: {remedy}") from error
    return lambda: driver.connect(**options, row_factory=namedtuple_row)


def _psycopg() -> Any:
    import psycopg  # a tenth of a second, for those alone whose ledger lies there

    return psycopg


@lru_cache(maxsize=256)
def _for_psycopg(sql: str) -> str:
    return _NAMED.sub(r"%(\1)s", sql.replace("%", "%%"))


def _listed(sql: str, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A statement and its parameters with every list among these taken apart."""
    lists = {name: value for name, value in values.items() if isinstance(value, (list, tuple))}
    if not lists:
        return sql, values
    flat = {name: value for name, value in values.items() if name not in lists}
    for name, items in lists.items():
        each = {f"{name}_{at}": item for at, item in enumerate(items)}
        marks = ", ".join(f":{one}" for one in each) or "NULL"
        sql = re.sub(rf"(?<![:\w]):{name}\b", f"({marks})", sql)
        flat |= each
    return sql, flat


def _row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    return _row_type(cursor.description)._make(values)


@lru_cache(maxsize=256)
def _row_type(description: Iterable[tuple[Any, ...]]) -> Any:
    return namedtuple("Row", [column[0] for column in description], rename=True)


def _sqlite_path(url: str) -> Path | None:
    if "://" not in url:
        return Path(url).absolute()
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != SQLITE:
        return None
    if not rest.startswith("/"):
        raise UsageError(f"ledger '{url}': no path: write it as sqlite:////PATH")
    return Path(rest[1:].partition("?")[0]).absolute()


def _make_file(path: Path) -> None:
    # Everybody's jobs stand in it: the service user's alone, or a group's where an administrator says so.
    make_directory(path.parent, 0o777)
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
    if path.stat().st_mode & 0o007:
        path.chmod(path.stat().st_mode & 0o770)


def _check_file(path: Path, create: bool) -> None:
    if create:
        try:
            _make_file(path)
        except OSError as error:
            raise AccessError(
                f"{path}: the ledger cannot be made or opened: {error.strerror}: "
                f"let {path.parent} be a directory of the service user's"
            ) from error
        if not os.access(path, os.R_OK | os.W_OK):
            raise AccessError(f"{path}: only the service user may write the ledger: do this as root or as that user")
        return
    try:
        there = path.exists()
    except PermissionError:
        raise AccessError(
            f"{path}: only the service user may read the ledger: ask for one of your own jobs (perun report JOBID)"
        ) from None
    if not there:
        raise NotFoundError(
            f"{path}: no ledger here: it is on the host where perun collect runs: go there, or name it with --ledger"
        )
    if not os.access(path, os.R_OK):
        raise AccessError(
            f"{path}: only the service user may read the ledger: ask for one of your own jobs (perun report JOBID)"
        )
