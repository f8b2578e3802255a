"""The questions of every day, as SQL on the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from perun_hpc.accounting.daily import MEASURES
from perun_hpc.accounting.database import SQLITE
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model.record import EnergyRecord

GROUPS = {
    "account": "account",
    "user": "user_name",
    "partition": "partition_name",
    "qos": "qos",
    "cluster": "cluster",
    "day": "day",
    "month": "month",
    "year": "year",
}
"""What usage can be grouped by, and the column (a month or year is the head of a day)."""
LONG_S = 691_200
"""Runs of more than eight days have an index of their own (`job_long`)."""
_SPLIT = 1_000_000
"""Microjoules of a joule: a large site's years in uJ exceed 64 bits."""


@dataclass(frozen=True)
class Filter:
    """Which jobs; empty means all. A job counts where it overlaps [since, until] (epoch seconds).

    Accounts, QOS, users and the cluster match in any case, since Slurm's database has them in lower case; partitions
    and nodes do not.
    """

    cluster: str = ""
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    since_s: int | None = None
    until_s: int | None = None


class Usage(NamedTuple):
    """One group's sums; energies in uJ, `group` in the order asked for."""

    group: tuple[str, ...]
    values: dict[str, int]


def jobs(
    ledger: Ledger, wanted: Filter, limit: int, damaged: Callable[[str], object] | None = None
) -> list[EnergyRecord]:
    """Return the newest `limit` records that match, oldest first, without shares; `damaged` as for `load`."""
    rows = _rows(ledger, wanted, "end_s", "ORDER BY end_s DESC, id DESC", limit)
    newest = sorted(rows, key=lambda row: (row.end_s, row.id))[-limit:]
    return ledger.load({row.id: row.end_s for row in newest} if limit > 0 else {}, False, damaged)


def largest(
    ledger: Ledger, wanted: Filter, what: str, limit: int, damaged: Callable[[str], object] | None = None
) -> list[EnergyRecord]:
    """Return the records with the most `energy` or `gpu_idle` time, the largest first, without shares; as `jobs`."""
    column = {"energy": "energy_uj", "gpu_idle": "gpu_idle_s"}[what]
    rows = _rows(ledger, wanted, column, f"AND {column} > 0 ORDER BY {column} DESC, id", limit)
    most = sorted(rows, key=lambda row: (-row[2], row.id))[:limit]
    return ledger.load({row.id: row.end_s for row in most}, False, damaged)


def usage(ledger: Ledger, by: Sequence[str], wanted: Filter, since_day: str, until_day: str) -> list[Usage]:
    """Return the sums of every group over whole local days [since_day, until_day], largest energy first."""
    heads = {
        "month": "SUBSTR(day, 1, 7)",
        "year": "SUBSTR(day, 1, 4)",
        "account": "LOWER(account)",
        "qos": "LOWER(qos)",
    }
    groups = [heads.get(name, GROUPS[name]) for name in by]
    conditions, values = _named(wanted)
    values |= {"since": since_day, "until": until_day}
    with ledger.read() as connection:
        # A ledger that no collector of this version has opened yet lacks the newest columns.
        there = connection.columns("usage_day")
        columns = [name if name in there else "0" for name in MEASURES]
        rest = "FROM usage_day WHERE day >= :since AND day <= :until"
        rest += "".join(f" AND {one}" for one in conditions) + (f" GROUP BY {', '.join(groups)}" if groups else "")

        def asked(sums: Sequence[str]) -> list[tuple[Any, ...]]:
            named = ", ".join(f"{one} AS column_{at}" for at, one in enumerate([*groups, *sums]))
            return connection.tuples(f"SELECT {named} {rest}", values)

        try:
            rows = asked([f"SUM({name})" for name in columns])
        except sqlite3.OperationalError as error:
            if "integer overflow" not in str(error):
                raise
            rows = _exact(asked, columns, len(groups))
    groups_n, found = len(by), []
    for row in rows:
        numbers: Sequence[int] = row[groups_n:]
        if ledger.dialect != SQLITE or not groups:  # PostgreSQL's sums are decimals; those of no rows are none
            numbers = [int(value or 0) for value in numbers]
        found.append(Usage(tuple(map(str, row[:groups_n])), dict(zip(MEASURES, numbers, strict=True))))
    return sorted(found, key=lambda u: (-u.values["energy_uj"], u.group))


def _exact(
    asked: Callable[[Sequence[str]], list[tuple[Any, ...]]], columns: Sequence[str], groups_n: int
) -> list[tuple[Any, ...]]:
    """Sums beyond 64 bits, in which SQLite sums: of whole joules and of what is left, put together here."""
    rows = asked([f"SUM({name} / {_SPLIT})" for name in columns] + [f"SUM({name} % {_SPLIT})" for name in columns])
    middle = groups_n + len(columns)
    return [
        (*row[:groups_n], *(a * _SPLIT + b for a, b in zip(row[groups_n:middle], row[middle:], strict=True)))
        for row in rows
    ]


def _named(wanted: Filter) -> tuple[list[str], dict[str, Any]]:
    """What the names that a filter holds ask of a table with these columns, and the parameters."""
    conditions: list[str] = []
    values: dict[str, Any] = {}
    for column, names in (
        ("user_name", wanted.users),
        ("account", wanted.accounts),
        ("qos", wanted.qos),
        ("cluster", (wanted.cluster,) if wanted.cluster else ()),
    ):
        if names:
            conditions.append(f"LOWER({column}) IN :{column}")
            values[column] = [lower_case(name) for name in names]
    if wanted.partitions:
        conditions.append("partition_name IN :partitions")
        values["partitions"] = wanted.partitions
    return conditions, values


def _rows(ledger: Ledger, wanted: Filter, column: str, rest: str, limit: int) -> list[Any]:
    """Id, end and a column of jobs that match: of those of usual length, and of the few longer ones that ended later.

    `rest` ends the question for each of the two, which gives `limit` at most.
    """
    conditions, values = _conditions(wanted)
    parts = [f"FROM job WHERE {conditions}"]
    if wanted.until_s is not None:
        values["latest"] = wanted.until_s + LONG_S
        # The few come first, whatever else is asked for: SQLite would go through all that a user ran since. PostgreSQL
        # is kept to that by OFFSET 0, and plans each later month once.
        few = f"(SELECT id AS long_id FROM job WHERE end_s > :latest AND end_s - start_s > {LONG_S}) AS few"
        parts = [
            f"{parts[0]} AND end_s <= :latest",
            f"FROM {few} CROSS JOIN job WHERE id = long_id AND {conditions}",
        ]
        if ledger.dialect != SQLITE:
            few = f"(SELECT * FROM job WHERE end_s > :latest AND end_s - start_s > {LONG_S} OFFSET 0) AS job"
            parts[1] = f"FROM {few} WHERE {conditions}"
    rows: list[Any] = []
    with ledger.read() as connection:
        for part in parts:
            query = f"SELECT id, end_s, {column} AS sorted_by {part} {rest} LIMIT :limit"
            rows += connection.execute(query, {**values, "limit": limit})
    return rows


def _conditions(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """What a filter asks of the table `job`, and the parameters."""
    conditions, values = _named(wanted)
    if wanted.states:
        conditions.append("state IN :states")
    if wanted.nodes:
        conditions.append("EXISTS (SELECT 1 FROM job_share WHERE job_share.job = job.id AND node IN :nodes)")
    if wanted.since_s is not None:
        conditions.append("end_s >= :since")
    if wanted.until_s is not None:
        conditions.append("start_s <= :until")
    values |= {"states": wanted.states, "nodes": wanted.nodes, "since": wanted.since_s, "until": wanted.until_s}
    return " AND ".join(conditions) or "1 = 1", values
