"""The numbered migrations that make the ledger's tables.

`migrations/NNNN_name.sql` are the truth and are read as they stand: plain SQL that SQLite and PostgreSQL both accept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.errors import DataError

if TYPE_CHECKING:
    from perun_hpc.accounting.database import Connection


def migrations() -> list[tuple[int, str, str]]:
    """Return (number, name, SQL) of every migration, in order."""
    found = []
    for entry in (Path(__file__).parent / "migrations").iterdir():
        if entry.name.endswith(".sql"):
            found.append((int(entry.name.split("_")[0]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(connection: Connection) -> int:
    """Bring the database to the newest schema inside the caller's transaction; returns the number of new migrations.

    What PostgreSQL has besides, its partitions, is made then, too (`partitions`).
    """
    connection.execute("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    done = {row.number for row in connection.execute("SELECT number FROM migration")}
    known = migrations()
    if done - {number for number, _, _ in known}:
        raise DataError(
            f"the ledger's schema is {max(done)}, newer than this perun knows ({known[-1][0]}): upgrade perun"
        )
    new = [m for m in known if m[0] not in done]
    for number, name, sql in new:
        for statement in _statements(sql):
            connection.execute(statement)
        connection.execute("INSERT INTO migration VALUES (:number, :name)", {"number": number, "name": name})
    return len(new)


def _statements(sql: str) -> list[str]:
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [s.strip() for s in "\n".join(lines).split(";") if s.strip()]
