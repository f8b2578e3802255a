"""Whether a job had others of its name before it; only then it is held against them (`job_sides`)."""

from __future__ import annotations

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.selection import NAMELESS, WEEK_S, own_jobs
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import PerunError


def beside_earlier(record: EnergyRecord, places: Places, sign: str) -> str:
    """A job beside its user's last ones of this name and size, in a sentence; empty where there is nothing to say.

    `sign` stands before a bound.
    """
    if record.uid is None or record.name in NAMELESS or record.array_job_id or record.het_job_id:
        return ""
    if not record.energy_uj:
        return ""
    try:
        ids = own_jobs(places, record.uid, record.start_ns / 1e9, record.name, spans_s=(WEEK_S,))
    except PerunError:  # the report stands without it
        return ""
    others = [job for job in ids if job != record.display_id]
    if not others:
        return ""
    from perun_hpc.report.job_sides import beside_these

    return beside_these(record, others, places, sign)
