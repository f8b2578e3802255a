"""Finding a job's record as whoever asks: its own directory, the ledger for those who may, then what sacct shows.

What a user may not see looks like what does not exist: the answer is Slurm's, under its PrivateData.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from perun_hpc.accounting.found import UNKNOWN, Found, Places, from_directory
from perun_hpc.accounting.owned import records_of_job
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import AccessError, DataError, NotFoundError, UnavailableError
from perun_hpc.slurm.command import NoAccountsError
from perun_hpc.slurm.job_ids import job_id_arguments
from perun_hpc.slurm.states import RUN_AGAIN

if TYPE_CHECKING:
    from perun_hpc.slurm.sacct import SlurmJob


def find(text: str, places: Places) -> list[Found]:
    """Return the runs of the job that a user names as `4711`, `4711_3` or `4711+1`, oldest first.

    An array's or het job's plain id gives all its members.

    Raises
    ------
    NotFoundError
        When there is none that the caller may see.
    DataError
        When nothing but a damaged record is left of it.
    """
    job, _ = job_id_arguments(text)
    damaged: dict[str, str] = {}
    found = find_each([job], replace(places, tell=damaged.setdefault))[job]
    if not found:
        if damaged:
            raise DataError(next(iter(damaged.values())))
        raise NotFoundError(f"job {text}: {UNKNOWN}")
    for one, why in damaged.items():
        places.tell(one, why)
    return found


def find_each(jobs: Sequence[str], places: Places) -> dict[str, list[Found]]:
    """Return the runs of each of several jobs as of `find`, with Slurm asked at most once; none of one that is unknown.

    Raises
    ------
    UnavailableError
        Where Slurm does not answer and nothing else knows one of them.
    """
    result = {job: from_directory(int(job), places) if job.isdigit() else [] for job in jobs}
    own = {job: runs for job, runs in result.items() if not _are_all(runs, places.due_s)}
    ledger = _from_ledger(own, places)
    result |= {job: runs for job, runs in ledger.items() if _are_all(runs, places.due_s)}
    asked = [job for job in own if not _are_all(ledger[job], places.due_s)]
    if not asked:
        return result
    try:
        slurm = places.sacct(asked) if places.sacct is not None else []
    except NoAccountsError:
        slurm = []
        for job in asked:
            if job.isdigit() and not own[job]:  # a week after its end nothing else says under which name it lies
                mine = records_of_job(places.archive, os.getuid(), int(job))
                own[job] = [Found(record, "your list in the archive") for record in mine]
    except UnavailableError:
        if not all(own[job] or ledger[job] for job in asked):
            raise
        slurm = []
    answers = _by_word(slurm)
    for job in asked:
        known = list({_key(f.record): f for f in [*ledger[job], *own[job]]}.values())
        rows = slurm if len(asked) == 1 else _of_word(job, answers)
        if not rows:
            result[job] = _in_order(known)
            continue
        from perun_hpc.accounting.slurm_rows import of_all_runs

        seen = {row.job_id for row in rows}
        # These are all of the job's runs: what is left over on both sides is the same run, by a node's wrong clock.
        left = [f for f in known if f.record.job_id not in seen]
        result[job] = _in_order(left + of_all_runs(rows, known, places))
    return result


def _by_word(rows: Iterable[SlurmJob]) -> dict[str, list[SlurmJob]]:
    """Return the rows of sacct by what they answer for: a job, its members, the waiting rest of an array (`4711_[`)."""
    found: dict[str, list[SlurmJob]] = {}
    for row in rows:
        head = row.shown_id.replace("+", "_").partition("_")[0]
        rest = (f"{head}_[",) if "_[" in row.shown_id else ()
        for word in {str(row.job_id), row.shown_id, head, *rest}:
            found.setdefault(word, []).append(row)
    return found


def _of_word(job: str, answers: dict[str, list[SlurmJob]]) -> list[SlurmJob]:
    """Return what sacct says of what was asked as `job`: of a task without a row of its own, the rest that waits."""
    return answers.get(job) or answers.get(f"{job.partition('_')[0]}_[", [])


def running_now(job_id: int, places: Places) -> EnergyRecord | None:
    """What the nodes of a job that runs said last, as far as the caller may read it."""
    found = from_directory(job_id, places)
    return found[-1].record if found and found[-1].record.status == "running" else None


def listed_by_slurm(rows: Iterable[SlurmJob], places: Places) -> list[Found]:
    """Return one record per row of sacct: the job's own where the caller may read it, else what the row says."""
    from perun_hpc.accounting.slurm_rows import of_rows

    return _in_order(of_rows(list(rows), places))


def _are_all(found: Sequence[Found], due_s: float) -> bool:
    """Whether these runs are all that Slurm could name: no run may follow, and no other members belong to it.

    Any job may be requeued while slurmctld remembers it, and of a run's first minute nobody but Slurm knows.
    """
    return (
        bool(found)
        and found[-1].record.state not in RUN_AGAIN
        and found[-1].record.end_ns // 10**9 < due_s
        and all(f.record.state and f.record.array_job_id is None and f.record.het_job_id is None for f in found)
    )


def _in_order(found: Iterable[Found]) -> list[Found]:
    def when(f: Found) -> tuple[int, int, int]:
        # A job that never ran stands where it ended, one that waits at the end.
        return (f.record.start_ns or f.record.end_ns or 1 << 63, f.record.job_id, f.record.restart_count)

    return sorted(found, key=when)


def _from_ledger(jobs: Iterable[str], places: Places) -> dict[str, list[Found]]:
    """Return the ledger's records of each of these jobs; none for those who may not read it."""
    found: dict[str, list[Found]] = {job: [] for job in jobs}
    if places.ledger is None or not found:
        return found
    from perun_hpc.accounting.ledger import open_ledger

    try:
        ledger = open_ledger(places.ledger)
    except (NotFoundError, AccessError, UnavailableError):
        return found
    try:
        for job in found:
            records = ledger.members(places.archive.cluster, job, partial(places.tell, job))
            found[job] = [Found(record, "the ledger") for record in records]
    finally:
        ledger.close()
    return found


def _key(record: EnergyRecord) -> tuple[int, int, int]:
    return (record.job_id, record.restart_count, record.start_ns)
