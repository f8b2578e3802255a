"""What rows of sacct say of jobs' runs, beside the records that are known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perun_hpc.accounting import array_line, comment
from perun_hpc.accounting.found import Found, Places, from_directory
from perun_hpc.accounting.summing import add_slurm, missing_record
from perun_hpc.archive import kept
from perun_hpc.archive.access import NO_LISTS, has_lists
from perun_hpc.archive.places import RECORD, Archive
from perun_hpc.errors import DataError
from perun_hpc.slurm.sacct import CLOCK_S, SLACK_S, SlurmJob, pair_runs

UNKNOWN_NAME, UNTOLD_QOS = "allocation", "Unknown"
"""What sacct shows of a job of which slurmdbd does not have everything yet."""


def of_all_runs(rows: Sequence[SlurmJob], known: Sequence[Found], places: Places) -> list[Found]:
    """Return all runs of the jobs in `rows`, which are all that these have, whatever a node's clock said.

    They are known or readable records; for the other rows what Slurm says.
    """
    return _with_rows(rows, known, places, CLOCK_S)


def of_rows(rows: Sequence[SlurmJob], places: Places) -> list[Found]:
    """Return one record per row: the run's own where the caller may read it, else what the row says."""
    return _with_rows(rows, [], places, SLACK_S)


def _with_rows(rows: Sequence[SlurmJob], known: Sequence[Found], places: Places, slack_s: int) -> list[Found]:
    by_id: dict[int, list[SlurmJob]] = {}
    for row in rows:
        by_id.setdefault(row.job_id, []).append(row)
    known_by_id: dict[int, list[Found]] = {}
    for one in known:
        known_by_id.setdefault(one.record.job_id, []).append(one)
    everything = []
    for job_id, runs in by_id.items():
        submits = [at for row in runs for at in (row.submit_s, row.end_s) if at]
        found = known_by_id.get(job_id) or from_directory(job_id, places, submits)
        spans = [(f.record.start_ns // 10**9, f.record.end_ns // 10**9) for f in found]
        pairs = pair_runs(runs, spans, slack_s, [f.record.sluid for f in found])
        for index, at in pairs.items():
            found[at] = _told_by_both(found[at], runs[index])
        everything += [found[at] for at in pairs.values()] if not known else found
        everything += [_from_slurm(row, places) for index, row in enumerate(runs) if index not in pairs]
    return everything


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


def _from_slurm(row: SlurmJob, places: Places) -> Found:
    """Return what Slurm's accounting alone says: perun's line in AdminComment, or that there is none."""
    cluster = places.archive.cluster
    if row.admin_comment.startswith(array_line.PREFIX):
        return Found(missing_record(row, cluster, _of_its_array(row)), "Slurm's accounting (AdminComment)")
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


def _of_its_array(row: SlurmJob) -> str:
    """What Slurm's accounting says where the site keeps one line an array there."""
    try:
        known, runs, whole, energy_uj, u_uj = array_line.read(row.admin_comment)
    except DataError as error:
        return str(error)
    least = "" if whole else "at least "
    used = (
        "nothing that is known"
        if energy_uj is None
        else f"{least}{energy_uj / 1e6:.0f} J ({2 * u_uj / 1e6:.0f} J, k=2)"
    )
    return f"of this task alone nothing is kept here: its array used {used}, of {known} of its {runs} tasks"


def _why_none(row: SlurmJob, archive: Archive) -> str:
    """Why the caller sees no record of a job that has ended."""
    submits = [at for at in (row.submit_s, row.end_s) if at]
    if any(kept.readable(archive, run, RECORD) for run in kept.runs(archive, row.job_id, submits)):
        return "its energy record is damaged: restore it or run perun collect --repair"
    if not archive.closed(row.job_id, submits) and not kept.closed(archive, row.job_id, row.uid):
        return "no energy record of this job"
    if has_lists(archive.base) is False:
        return f"its energy record lies in the archive and cannot be opened to you: {NO_LISTS}; ask the administrators"
    return "its energy record lies in the archive, and is not yours to read"
