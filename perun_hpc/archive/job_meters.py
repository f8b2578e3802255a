"""What the meters of a job's nodes showed while it ran, as the collector noted it in the directory of the job's run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from perun_hpc.archive import kept
from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError

if TYPE_CHECKING:
    from perun_hpc.archive.meter_readings import NodeMetered

FILE = "meters.json"
SCHEMA = "perun.job-meters/1"
NS = 1_000_000_000


def beside_job(archive: Archive, record: EnergyRecord) -> list[NodeMetered]:
    """What was noted of a job's meters, for whoever may read it; empty where nothing was."""
    submits = [at for at in (record.submit_s, record.end_ns // NS) if at]
    for run in kept.runs(archive, record.job_id, submits):
        if run.restart_count != record.restart_count:
            continue
        try:
            data = json.loads(kept.read(archive, run, FILE))
            from perun_hpc.archive.meter_readings import NodeMetered  # few jobs have any

            if data["start_ns"] <= record.end_ns and record.start_ns <= data["end_ns"]:
                return [codec.decode(NodeMetered, one) for one in data["nodes"]]
        except (OSError, DataError, *codec.MISFITS):
            continue
    return []
