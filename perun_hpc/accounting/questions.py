"""The questions of every day, as SQL on the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, select

from perun_hpc.accounting.daily import MEASURES
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
_LARGE = tuple(name for name in MEASURES if name.endswith("_uj"))
_SPLIT = 1_000_000
"""Energies are summed as whole joules and rest: a site's year in uJ exceeds 64 bits."""


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


@dataclass(frozen=True)
class Usage:
    """One group's sums; energies in uJ, `group` in the order asked for."""

    group: tuple[str, ...]
    values: dict[str, int]


def jobs(
    ledger: Ledger, wanted: Filter, limit: int, damaged: Callable[[str], object] | None = None
) -> list[EnergyRecord]:
    """Return the newest `limit` records that match, oldest first, without shares; `damaged` as for `load`."""
    job = ledger.tables.job.c
    query = select(job.id).where(and_(literal(True), *_conditions(ledger, wanted)))
    query = query.order_by(job.end_s.desc(), job.id.desc()).limit(limit)
    with ledger.read() as connection:
        ids = [row.id for row in connection.execute(query)]
    return ledger.load(ids[::-1], False, damaged)


def largest(
    ledger: Ledger, wanted: Filter, what: str, limit: int, damaged: Callable[[str], object] | None = None
) -> list[EnergyRecord]:
    """Return the records with the most `energy` or `gpu_idle` time, the largest first, without shares; as `jobs`."""
    job = ledger.tables.job.c
    column = {"energy": job.energy_uj, "gpu_idle": job.gpu_idle_s}[what]
    query = select(job.id).where(column > 0, *_conditions(ledger, wanted)).order_by(column.desc(), job.id).limit(limit)
    with ledger.read() as connection:
        ids = [row.id for row in connection.execute(query)]
    return ledger.load(ids, False, damaged)


def usage(ledger: Ledger, by: Sequence[str], wanted: Filter, since_day: str, until_day: str) -> list[Usage]:
    """Return the sums of every group over whole local days [since_day, until_day], largest energy first."""
    day = ledger.tables.usage_day.c
    heads = {"month": func.substr(day.day, 1, 7), "year": func.substr(day.day, 1, 4)}
    heads |= {name: func.lower(day[name]) for name in ("account", "qos")}
    groups: list[ColumnElement[Any]] = [heads[name] if name in heads else day[GROUPS[name]] for name in by]
    sums: list[ColumnElement[Any]] = []
    # A ledger that no collector of this version has opened yet lacks the newest columns.
    columns = {name: day[name] if name in day else literal(0) for name in MEASURES}
    for name in MEASURES:
        sums.append(func.sum(_whole(columns[name]) if name in _LARGE else columns[name]))
    sums += [func.sum(columns[name] % _SPLIT) for name in _LARGE]
    conditions: list[ColumnElement[bool]] = [day.day >= since_day, day.day <= until_day, *_named(day, wanted)]
    query = select(*groups, *sums).where(*conditions).group_by(*groups)
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    found = []
    for row in rows:
        numbers = [int(n or 0) for n in row[len(by) :]]
        sums_of = dict(zip(MEASURES, numbers, strict=False))
        for name, rest in zip(_LARGE, numbers[len(MEASURES) :], strict=True):
            sums_of[name] = sums_of[name] * _SPLIT + rest
        found.append(Usage(tuple(str(v) for v in row[: len(by)]), sums_of))
    return sorted(found, key=lambda u: (-u.values["energy_uj"], u.group))


def _whole(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the integer quotient that belongs to `%`, which truncates towards zero in both databases."""
    return column.op("/")(_SPLIT)


def _named(columns: Any, wanted: Filter) -> list[ColumnElement[bool]]:
    """What the names that a filter holds ask of a table with these columns."""
    conditions: list[ColumnElement[bool]] = []
    for values, column in (
        (wanted.users, columns.user_name),
        (wanted.accounts, columns.account),
        (wanted.qos, columns.qos),
        ((wanted.cluster,) if wanted.cluster else (), columns.cluster),
    ):
        if values:
            conditions.append(func.lower(column).in_([lower_case(value) for value in values]))
    if wanted.partitions:
        conditions.append(columns.partition_name.in_(wanted.partitions))
    return conditions


def _conditions(ledger: Ledger, wanted: Filter) -> list[ColumnElement[bool]]:
    job, share = ledger.tables.job.c, ledger.tables.job_share.c
    conditions = _named(job, wanted)
    if wanted.states:
        conditions.append(job.state.in_(wanted.states))
    if wanted.nodes:
        conditions.append(job.id.in_(select(share.job).where(share.node.in_(wanted.nodes))))
    if wanted.since_s is not None:
        conditions.append(job.end_s >= wanted.since_s)
    if wanted.until_s is not None:
        conditions.append(job.start_s <= wanted.until_s)
    return conditions
