"""Finding a job's record as whoever asks: its own directory, the ledger for those who may, then what sacct shows.

What a user may not see looks like what does not exist: the answer is Slurm's, under its PrivateData.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from perun_hpc.accounting import comment
from perun_hpc.accounting.found import UNKNOWN, Found, Places
from perun_hpc.accounting.owned import records_of_job
from perun_hpc.accounting.summing import add_slurm, missing_record
from perun_hpc.archive.access import NO_LISTS, has_lists
from perun_hpc.archive.places import RECORD, RUNNING, Archive
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import AccessError, DataError, NotFoundError, UnavailableError
from perun_hpc.slurm.command import NoAccountsError
from perun_hpc.slurm.sacct import CLOCK_S, SLACK_S, SlurmJob, job_id_arguments, pair_runs
from perun_hpc.slurm.states import RUN_AGAIN

UNKNOWN_NAME, UNTOLD_QOS = "allocation", "Unknown"
"""What sacct shows of a job of which slurmdbd does not have everything yet."""


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
    result = {job: _from_directory(int(job), places) if job.isdigit() else [] for job in jobs}
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
        seen = {row.job_id for row in rows}
        # These are all of the job's runs: what is left over on both sides is the same run, by a node's wrong clock.
        left = [f for f in known if f.record.job_id not in seen]
        result[job] = _in_order(left + _with_rows(rows, known, places, CLOCK_S))
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
    found = _from_directory(job_id, places)
    return found[-1].record if found and found[-1].record.status == "running" else None


def listed_by_slurm(rows: Iterable[SlurmJob], places: Places) -> list[Found]:
    """Return one record per row of sacct: the job's own where the caller may read it, else what the row says."""
    return _in_order(_with_rows(list(rows), [], places, SLACK_S))


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


def _with_rows(rows: Sequence[SlurmJob], known: Sequence[Found], places: Places, slack_s: int) -> list[Found]:
    """Return all runs of the jobs in `rows`: known or readable records, and for the other rows what Slurm says."""
    by_id: dict[int, list[SlurmJob]] = {}
    for row in rows:
        by_id.setdefault(row.job_id, []).append(row)
    known_by_id: dict[int, list[Found]] = {}
    for one in known:
        known_by_id.setdefault(one.record.job_id, []).append(one)
    everything = []
    for job_id, runs in by_id.items():
        submits = [at for row in runs for at in (row.submit_s, row.end_s) if at]
        found = known_by_id.get(job_id) or _from_directory(job_id, places, submits)
        spans = [(f.record.start_ns // 10**9, f.record.end_ns // 10**9) for f in found]
        pairs = pair_runs(runs, spans, slack_s, [f.record.sluid for f in found])
        for index, at in pairs.items():
            found[at] = _told_by_both(found[at], runs[index])
        everything += [found[at] for at in pairs.values()] if not known else found
        everything += [_from_slurm(row, places) for index, row in enumerate(runs) if index not in pairs]
    return everything


def _in_order(found: Iterable[Found]) -> list[Found]:
    def when(f: Found) -> tuple[int, int, int]:
        # A job that never ran stands where it ended, one that waits at the end.
        return (f.record.start_ns or f.record.end_ns or 1 << 63, f.record.job_id, f.record.restart_count)

    return sorted(found, key=when)


def _from_directory(job_id: int, places: Places, submits: Iterable[int] = ()) -> list[Found]:
    found = []
    for run in places.archive.runs(job_id, submits):
        for name, source in ((RECORD, "the job's directory"), (RUNNING, "what its nodes said last")):
            path: Path = places.archive.job(run) / name
            try:
                found.append(Found(from_json(path.read_bytes(), str(path)), source))
                break
            except OSError:
                continue
            except DataError as error:
                if name == RECORD:  # what is said while a job runs is said anew soon
                    places.tell(str(job_id), str(error))
                    break
    return found


def _told_by_both(found: Found, row: SlurmJob) -> Found:
    """A run that goes on has its names from Slurm alone; one that has ended meanwhile waits for its record."""
    if found.record.status != "running":
        return found
    record = replace(add_slurm(found.record, row), coverage=found.record.coverage)
    if row.ended:
        so_far, *others = record.missing or ("",)
        words = f"it has ended: its record comes soon; {so_far.partition(': ')[2]}".removesuffix("; ")
        record = replace(record, status="awaited", missing=(words, *others))
    return replace(found, record=record)


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


def _from_slurm(row: SlurmJob, places: Places) -> Found:
    """Return what Slurm's accounting alone says: perun's line in AdminComment, or that there is none."""
    cluster = places.archive.cluster
    if comment.is_ours(row.admin_comment):
        try:
            return Found(comment.decode(row.admin_comment, row, cluster), "Slurm's accounting (AdminComment)")
        except DataError as error:
            return Found(missing_record(row, cluster, str(error)), "Slurm's accounting")
    if row.ended and not row.ran:
        why = "the job never ran" + (": it ended in the second in which it was given nodes" if row.nodelist else "")
        return Found(replace(missing_record(row, cluster, why), start_ns=0, missing_nodes=()), "Slurm's accounting")
    if row.ended:
        made = missing_record(row, cluster, _why_none(row, places.archive))
        if (row.end_s or 0) >= places.due_s:
            waits = f"its energy record is on the way: the collector sweeps every {places.sweep_s:.0f} s"
            made = replace(made, status="awaited", missing=(waits,), missing_nodes=())
        return Found(made, "Slurm's accounting")
    waiting = f"the job still runs: no figure of it is here yet; perun watch {row.shown_id} asks its nodes"
    if row.state == "PENDING":
        waiting = (
            "the job has not started"
            if row.start_s is None
            else "the job starts: Slurm's accounting does not have all of it yet"
        )
        row = replace(row, name="" if row.name == UNKNOWN_NAME else row.name)
    status = "pending" if row.state == "PENDING" else "running"
    made = replace(missing_record(row, cluster, waiting), status=status, missing_nodes=())
    return Found(replace(made, qos="" if row.qos == UNTOLD_QOS else row.qos), "Slurm's accounting")


def _why_none(row: SlurmJob, archive: Archive) -> str:
    """Why the caller sees no record of a job that has ended."""
    submits = [at for at in (row.submit_s, row.end_s) if at]
    if any(os.access(archive.job(run) / RECORD, os.R_OK) for run in archive.runs(row.job_id, submits)):
        return "its energy record is damaged: restore it or run perun collect --repair"
    if not archive.closed(row.job_id, submits):
        return "no energy record of this job"
    if has_lists(archive.base) is False:
        return f"its energy record lies in the archive and cannot be opened to you: {NO_LISTS}; ask the administrators"
    return "its energy record lies in the archive, and is not yours to read"


def _key(record: EnergyRecord) -> tuple[int, int, int]:
    return (record.job_id, record.restart_count, record.start_ns)
