"""The ledger's tables as SQLAlchemy sees them, and the numbered migrations that make them.

`migrations/NNNN_name.sql` are the truth and are read as they stand: plain SQL that SQLite and PostgreSQL both accept.
The tables are reflected from the migrated database, so no column is written down twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from sqlalchemy import Connection, MetaData, Table, text

from perun_hpc.errors import DataError


@dataclass(frozen=True)
class Tables:
    """The reflected tables."""

    job: Table
    record: Table
    job_share: Table
    usage_day: Table
    amendment: Table
    slurmdbd_queue: Table
    lease: Table
    progress: Table


def migrations() -> list[tuple[int, str, str]]:
    """Return (number, name, SQL) of every migration, in order."""
    found = []
    for entry in resources.files("perun_hpc.accounting").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            found.append((int(entry.name.split("_")[0]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(connection: Connection) -> int:
    """Bring the database to the newest schema inside the caller's transaction; returns the number of new migrations."""
    connection.execute(text("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"))
    done = {row[0] for row in connection.execute(text("SELECT number FROM migration"))}
    known = migrations()
    if done - {number for number, _, _ in known}:
        raise DataError(
            f"the ledger's schema is {max(done)}, newer than this perun knows ({known[-1][0]}): upgrade perun"
        )
    new = [m for m in known if m[0] not in done]
    for number, name, sql in new:
        for statement in _statements(sql):
            connection.execute(text(statement))
        connection.execute(text("INSERT INTO migration VALUES (:number, :name)"), {"number": number, "name": name})
    return len(new)


def reflect(connection: Connection) -> Tables:
    """Read the tables' columns from a migrated database."""
    meta = MetaData()
    names = tuple(Tables.__dataclass_fields__)
    meta.reflect(connection, only=names)
    return Tables(**{name: meta.tables[name] for name in names})


def _statements(sql: str) -> list[str]:
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [s.strip() for s in "\n".join(lines).split(";") if s.strip()]
