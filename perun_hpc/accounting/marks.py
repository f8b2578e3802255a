"""How far the collector has come with what it does bit by bit, remembered in the ledger by cluster."""

from __future__ import annotations

from typing import Any

from perun_hpc.accounting.database import Connection, Database


class Marks:
    """Times (epoch seconds), or rows, up to which something was done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compared_until_s(self, cluster: str) -> int | None:
        """Return up to when sacct's jobs were compared with the records."""
        return self._get("compared_until_s", "progress", cluster)

    def set_compared(self, cluster: str, until_s: int) -> None:
        """Remember up to when sacct's jobs were compared with the records."""
        self._set("compared_until_s", "progress", cluster, until_s)

    def compared_slice_s(self, cluster: str) -> int | None:
        """Return how much time one comparison with sacct may span; None until it had to be less than usual."""
        return self._get("slice_s", "comparing", cluster)

    def set_compared_slice(self, cluster: str, seconds: int) -> None:
        """Remember how much time one comparison with sacct may span."""
        self._set("slice_s", "comparing", cluster, seconds)

    def renamed_until_s(self, cluster: str) -> int:
        """Return up to which end the finished runs' directories have given their bare names away."""
        return self._get("renamed_until_s", "renaming", cluster) or 0

    def set_renamed(self, cluster: str, until_s: int) -> None:
        """Remember up to which end the finished runs' directories have given their bare names away."""
        self._set("renamed_until_s", "renaming", cluster, until_s)

    def packed_until(self) -> int:
        """Return up to which row older records have been packed."""
        return self._get("packed_until", "packing", "") or 0

    def set_packed(self, connection: Connection, job: int) -> None:
        """Remember, in the transaction that packed them, up to which row older records have been packed."""
        connection.execute(*self._setting("packed_until", "packing", "", job))

    def _get(self, column: str, table: str, cluster: str) -> int | None:
        with self._database.read() as connection:
            value = connection.value(f"SELECT {column} FROM {table} WHERE cluster = :c", {"c": cluster})
        return None if value is None else int(value)

    def _set(self, column: str, table: str, cluster: str, until_s: int) -> None:
        with self._database.write() as connection:
            connection.execute(*self._setting(column, table, cluster, until_s))

    def _setting(self, column: str, table: str, cluster: str, value: int) -> tuple[str, dict[str, Any]]:
        """The statement that sets a mark, and its parameters."""
        return (
            f"INSERT INTO {table} (cluster, {column}) VALUES (:c, :u) "
            f"ON CONFLICT (cluster) DO UPDATE SET {column} = excluded.{column}"
        ), {"c": cluster, "u": value}
