"""Finding a job's record as whoever asks: its own directory, the ledger for those who may, then what sacct shows.

What a user may not see is not told apart from what does not exist: the answer is Slurm's, under its PrivateData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.accounting import comment
from perun_hpc.accounting.archive import RECORD, Archive
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.sacct import FINAL_STATES, SlurmJob, job_id_arguments
from perun_hpc.accounting.schema import EnergyRecord, from_json
from perun_hpc.accounting.summing import missing_record
from perun_hpc.errors import AccessError, DataError, NotFoundError, UnavailableError


@dataclass(frozen=True)
class Found:
    """A record and where it came from, in words."""

    record: EnergyRecord
    source: str


@dataclass(frozen=True)
class Places:
    """Where to look: the cluster's archive, the ledger's URL, and sacct (`query_jobs` with its cluster bound)."""

    archive: Archive
    ledger: str | None
    sacct: Callable[[Iterable[str]], list[SlurmJob]] | None


def find(text: str, places: Places) -> list[Found]:
    """Return the runs of the job that a user names as `4711`, `4711_3` or `4711+1`, oldest first.

    An array's or het job's plain id gives all its members.

    Raises
    ------
    NotFoundError
        When there is none that the caller may see.
    """
    job, _ = job_id_arguments(text)
    own = _from_directory(int(job), places.archive) if job.isdigit() else []
    if own and all(f.record.state and f.record.array_job_id is None and f.record.het_job_id is None for f in own):
        return own
    ledger = _from_ledger(job, places)
    try:
        slurm = places.sacct([job]) if places.sacct is not None else []
    except UnavailableError:
        if not own and not ledger:
            raise
        slurm = []
    known = {_key(f.record): f for f in [*ledger, *own]}
    for row in slurm:
        if _match(row, known) is None:
            known[(row.job_id, row.run, 0)] = _of_row(row, places.archive)
    if not known:
        raise NotFoundError(f"job {text}: unknown to Slurm's accounting and to perun, or not yours to see")
    return sorted(known.values(), key=lambda f: (f.record.start_ns or 1 << 63, f.record.job_id, f.record.restart_count))


def listed_by_slurm(rows: Iterable[SlurmJob], archive: Archive) -> list[Found]:
    """Return one record per row of sacct: the job's own where the caller may read it, else what the row tells."""
    return [_of_row(row, archive) for row in rows]


def _of_row(row: SlurmJob, archive: Archive) -> Found:
    same = [f for f in _from_directory(row.job_id, archive) if _overlaps(f.record, row)]
    return same[-1] if same else _from_slurm(row, archive.cluster)


def _from_directory(job_id: int, archive: Archive) -> list[Found]:
    found = []
    for run in archive.runs(job_id):
        path: Path = archive.job(run) / RECORD
        try:
            found.append(Found(from_json(path.read_bytes(), str(path)), "the job's directory"))
        except OSError:
            continue
    return found


def _from_ledger(job: str, places: Places) -> list[Found]:
    if places.ledger is None:
        return []
    try:
        ledger = open_ledger(places.ledger)
    except (NotFoundError, AccessError, UnavailableError):
        return []
    try:
        return [Found(record, "the ledger") for record in ledger.members(places.archive.cluster, job)]
    finally:
        ledger.close()


def _from_slurm(row: SlurmJob, cluster: str) -> Found:
    """Return what Slurm's accounting alone tells: perun's line in AdminComment, or that there is none."""
    if comment.is_ours(row.admin_comment):
        try:
            return Found(comment.decode(row.admin_comment, row, cluster), "Slurm's accounting (AdminComment)")
        except DataError as error:
            return Found(missing_record(row, cluster, str(error)), "Slurm's accounting")
    if row.state in FINAL_STATES:
        return Found(missing_record(row, cluster, "no energy record of this job yet"), "Slurm's accounting")
    waiting = "the job has not started" if row.start_s is None else "the job still runs: energies come at its end"
    return Found(
        replace(missing_record(row, cluster, waiting), status="running", state=row.state), "Slurm's accounting"
    )


def _key(record: EnergyRecord) -> tuple[int, int, int]:
    return (record.job_id, record.restart_count, record.start_ns)


def _match(row: SlurmJob, known: dict[tuple[int, int, int], Found]) -> tuple[int, int, int] | None:
    for key, found in known.items():
        if key[0] == row.job_id and _overlaps(found.record, row):
            return key
    return None


def _overlaps(record: EnergyRecord, row: SlurmJob) -> bool:
    if row.start_s is None:
        return False
    start_s, end_s = record.start_ns / 1e9, record.end_ns / 1e9
    return start_s <= (row.end_s or end_s) + 30 and row.start_s - 30 <= end_s
