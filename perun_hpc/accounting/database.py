"""The database below the ledger: opened, in SQLite or PostgreSQL, and its errors in the words of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from perun_hpc.accounting.tables import Tables, migrate, reflect
from perun_hpc.errors import AccessError, DataError, NotFoundError, UnavailableError, UsageError
from perun_hpc.files import make_directory, sync_directory

_DURABLE = "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'"
"""Where a server may take back commits: not those after which evidence leaves `incoming/`."""


class Database:
    """An open database with the ledger's tables."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.engine = engine
        self.tables = tables

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads."""
        with _translated(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; writers wait for each other."""
        with (
            _translated(self.engine),
            self.engine.connect().execution_options(perun_write=True) as connection,
            connection.begin(),
        ):
            if self.engine.dialect.name == "postgresql":
                connection.execute(text(_DURABLE))
                connection.execute(text("LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE"))
            yield connection


def connect(url: str, create: bool) -> tuple[Engine, Tables]:
    """Open what `open_ledger` names, which says what each may be; the engine and the tables."""
    path = _sqlite_path(url)
    if path is not None:
        _check_file(path, create)
        url = f"sqlite:///{path}"
    try:
        engine = create_engine(url, connect_args={"isolation_level": None, "timeout": 60} if path is not None else {})
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise UsageError(f"ledger '{url}': {error}: write a path or postgresql+psycopg://user@host/database") from error
    if path is not None:
        _configure_sqlite(engine, create)
    with (
        _translated(engine),
        engine.connect().execution_options(perun_write=create) as connection,
        connection.begin(),
    ):
        if create:
            migrate(connection)
        tables = reflect(connection)
    return engine, tables


def scratch() -> tuple[Engine, Tables]:
    """An empty database in this process' memory, for what a person may see; the engine and the tables."""
    engine = create_engine("sqlite://", connect_args={"isolation_level": None}, poolclass=StaticPool)
    _configure_sqlite(engine, create=False)
    with _translated(engine), engine.connect() as connection, connection.begin():
        migrate(connection)
        return engine, reflect(connection)


def insert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert many rows the fastest way that the database has; all rows have the same keys."""
    if not rows:
        return
    names = ", ".join(rows[0])
    if connection.dialect.name != "postgresql":
        values = ", ".join("?" * len(rows[0]))
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({values})", [tuple(row.values()) for row in rows]
        )
        return
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(tuple(row.values()))


def _sqlite_path(url: str) -> Path | None:
    if "://" not in url:
        return Path(url).absolute()
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError(f"ledger '{url}': {error}") from error
    return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None


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
        return
    try:
        there = path.exists()
    except PermissionError:
        raise AccessError(
            f"{path}: only the service user may read the ledger: ask for one of your own jobs (perun report JOBID)"
        ) from None
    if not there:
        raise NotFoundError(f"{path}: no ledger here: run perun collect first, or name it with --ledger")
    if not os.access(path, os.R_OK):
        raise AccessError(
            f"{path}: only the service user may read the ledger: ask for one of your own jobs (perun report JOBID)"
        )


def _configure_sqlite(engine: Engine, create: bool) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        if create:
            connection.execute("PRAGMA journal_mode = WAL")
        # With NORMAL a loss of power takes back commits after which evidence has left `incoming/`.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA cache_size = -65536")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("perun_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    database = engine.dialect.loaded_dbapi
    # Python's own errors are those of numbers and texts that the drivers cannot even send.
    refusals = (database.DataError, database.IntegrityError, OverflowError, UnicodeError)
    try:
        yield
    except (SQLAlchemyError, database.Error, OverflowError, UnicodeError) as error:
        cause = getattr(error, "orig", None) or error
        where = engine.url.render_as_string(hide_password=True)
        first = str(cause).splitlines()[0]
        if isinstance(cause, refusals):
            raise DataError(f"ledger {where} does not take it: {first}: see the values of the job's record") from error
        raise UnavailableError(f"ledger {where}: {first}: is it up, migrated and writable?") from error
