"""Which jobs are meant: those that a user names, or without a name the own one that started last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from perun_hpc.accounting.found import UNKNOWN, Found, Places
from perun_hpc.accounting.lookup import find_each
from perun_hpc.accounting.owned import records_between
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError, NotFoundError, UsageError
from perun_hpc.slurm.command import NoAccountsError
from perun_hpc.slurm.job_ids import expand_ids

LAST = "last"
"""The word for the own job that started last."""
DAY_S = 86_400
WEEK_S = 7 * 86_400
NAMELESS = frozenset(("", "allocation", "bash", "interactive", "python", "python3", "sbatch", "sh", "test", "wrap"))
"""Names that say nothing of the work: Slurm's own, and programs that run anything."""
SPANS_S = (DAY_S, 30 * DAY_S, 366 * DAY_S)
"""How far back own jobs are looked for: a year is much to ask slurmdbd for, and most look for what ran today."""


@dataclass(frozen=True)
class Selection:
    """What was asked for: each object (a job, a whole array, a whole heterogeneous job) with its runs, oldest first.

    `absent` are ids out of a range that nobody knows or that are not the caller's to see.
    """

    objects: tuple[tuple[Found, ...], ...]
    absent: tuple[str, ...] = ()


def select(words: Sequence[str], name: str, places: Places, environ: Mapping[str, str], now_s: float) -> Selection:
    """Return what a user means by ids, ranges, `last`, a job's name or nothing.

    Parameters
    ----------
    words
        Ids and ranges as Slurm writes them, or `last`; empty: the job in which the caller is, else the last one.
    name
        Of `last` the last one of this name; empty: of any.
    places
        Where to look.
    environ
        The caller's environment: Slurm names the job in it.
    now_s
        Epoch time.

    Raises
    ------
    NotFoundError
        For a job named on its own that the caller does not see, and where nothing is found at all.
    DataError
        Where nothing is found but a damaged record; one beside others is left out, and `places.tell` called.
    UsageError
        For what cannot be meant.
    """
    if name and any(word != LAST for word in words):
        raise UsageError("--name is of the own jobs' names: leave the ids out, or the name")
    if not words and not name and (job_id := _current(places, environ)):
        words = [job_id]
    elif not words or LAST in words:
        newest = own_jobs(places, os.getuid(), now_s, name)[0]
        words = [newest if word == LAST else word for word in words or [LAST]]
    ids, ranged = expand_ids(words)
    damaged: dict[str, str] = {}
    each = find_each(ids, replace(places, tell=damaged.setdefault))
    lost = [one for one in ids if not each[one] and one not in damaged]
    for one in lost:
        if one not in ranged:
            raise NotFoundError(f"job {one}: {UNKNOWN}")
    found = {_key(f.record): f for one in ids for f in each[one]}
    if not found:
        if damaged:
            raise DataError(next(iter(damaged.values())))
        raise NotFoundError(f"jobs {', '.join(words)}: {UNKNOWN}")
    for one, why in damaged.items():
        places.tell(one, why)
    return Selection(tuple(whole_objects(found.values())), tuple(lost))


def _current(places: Places, environ: Mapping[str, str]) -> str:
    """The id of the job in which the caller is; empty outside of one, and where another cluster is asked about."""
    here = environ.get("SLURM_CLUSTER_NAME", places.archive.cluster)
    return environ.get("SLURM_JOB_ID", "") if here.lower() == places.archive.cluster.lower() else ""


def own_jobs(
    places: Places, uid: int, now_s: float, name: str = "", least: int = 1, spans_s: Sequence[int] = SPANS_S
) -> list[str]:
    """Return the ids of a user's jobs that have started, the last one first: an array or heterogeneous job is one.

    At least those of the first of these spans before now (a day, a month, a year) in which there are `least`; fewer
    where the last one does not have as many.

    Raises
    ------
    NotFoundError
        Where there is none of the name within a year.
    """
    for span_s in spans_s:
        started = sorted(_started(places, uid, int(now_s) - span_s, int(now_s) + 1, name), reverse=True)
        ids = list(dict.fromkeys(job for _, _, job in started))
        if len(ids) >= least or (ids and span_s == spans_s[-1]):
            return ids
    named = f" named '{name}'" if name else ""
    raise NotFoundError(f"no job of yours{named} started within a year: name one: perun report 4711")


def whole_objects(found: Iterable[Found]) -> list[tuple[Found, ...]]:
    """Put runs together that are one object, in the order of the objects' first runs."""
    objects: dict[int, list[Found]] = {}
    for one in found:
        objects.setdefault(whole_id(one.record), []).append(one)
    return [tuple(runs) for runs in objects.values()]


def whole_id(record: EnergyRecord) -> int:
    """Return the id of what a run is part of: its array's, its heterogeneous job's, else its own."""
    return record.array_job_id or record.het_job_id or record.job_id


def _started(places: Places, uid: int, since_s: int, until_s: int, name: str) -> list[tuple[int, int, str]]:
    """Return start, job id and the whole's id of each own job of the name that started."""
    if places.between is None:
        return []
    # sacct takes a list of names: one with a comma in it is looked for here.
    options = [f"--user={uid}", *([f"--name={name}"] if name and "," not in name else [])]
    try:
        rows = places.between(since_s, until_s, options)
    except NoAccountsError:
        if name:
            raise NotFoundError("jobs have no names here: Slurm keeps no accounts: name the id") from None
        mine = records_between(places.archive, uid, since_s, until_s)
        return [(r.start_ns // 10**9, r.job_id, str(whole_id(r))) for r in mine]
    return [
        (row.start_s, row.job_id, str(row.array[0] or row.het[0] or row.job_id))
        for row in rows
        if row.start_s is not None and row.ran and (not name or row.name == name)
    ]


def _key(record: EnergyRecord) -> tuple[int, int, int]:
    return (record.job_id, record.restart_count, record.start_ns)
