"""What the meters of a job's nodes (BMC, PDU) showed while it ran, noted beside its record for its owner.

Never a part of its energy: it stands beside it, with where in the supply it is measured, how old readings are, and
whether the job is long enough for it. It is noted once the readings around the job's end have come.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.accounting.homes import Homes
from perun_hpc.accounting.identity import of_record
from perun_hpc.archive.job_meters import FILE, SCHEMA
from perun_hpc.archive.meter_readings import Meter, NodeMetered, by_node, of_node, read_states
from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError, PerunError
from perun_hpc.files import write_json

if TYPE_CHECKING:
    from perun_hpc.accounting.ledger import Ledger

MARK = "metered.json"
"""In the cluster's directory: up to which end jobs have been looked at."""
FIRST_S = 86_400
"""So far back jobs are looked at when there is no mark yet."""
PATIENCE = 3
"""A job is looked at so many of its meters' periods after its end."""
LONGEST_S = 3600.0
CHUNK = 100
MOST_S = 10.0
"""So long one sweep looks at jobs' meters: records come first."""
NS = 1_000_000_000


def of_job(archive: Archive, record: EnergyRecord, meters: Mapping[str, Meter]) -> list[NodeMetered]:
    """What the meters of a job's nodes say of its time on each; empty where no node has one."""
    directory = archive.facility("x").parent
    times = {one.node: (one.start_ns / NS, one.end_ns / NS) for one in record.nodes}
    return [
        of_node(directory, node, by, some, *times[node])
        for (node, by), some in sorted(by_node(meters, times).items())
        if times[node][1] > times[node][0]
    ]


def note_jobs(
    archive: Archive, ledger: Ledger, publish: Callable[[Path, int, Iterable[int]], None], now_s: float
) -> list[str]:
    """Put beside the records of jobs that ended lately what their nodes' meters showed; returns what went wrong."""
    try:
        states = read_states(archive.facility("x").parent)
    except DataError as error:
        return [str(error)]
    if states is None or not any(meter.node for meter in states.meters.values()):
        return []
    wait_s = max(PATIENCE * one.period_s + (one.lag_s or 0.0) for one in states.meters.values() if one.node)
    until_s = int(now_s - min(wait_s, LONGEST_S))
    since_s = _mark(archive)
    since_s = until_s - FIRST_S if since_s is None else min(since_s, until_s)
    ended = sorted(ledger.ended_runs(archive.cluster, since_s, until_s), key=lambda run: run[2])
    homes, problems, began_s = Homes(archive, now_s), [], time.monotonic()
    for at in range(0, len(ended), CHUNK):
        jobs = {job for job, _, _ in ended[at : at + CHUNK]}
        for record in ledger.records_of(archive.cluster, sorted(jobs)):
            if since_s < record.end_ns // NS <= until_s:  # else another run of that job
                try:
                    _note(archive, homes, record, states.meters, publish)
                except (OSError, PerunError) as error:
                    problems.append(f"meters of job {record.job_id}.{record.restart_count}: {error}")
        left = ended[at + CHUNK :]
        if left and time.monotonic() - began_s > MOST_S:
            until_s = left[0][2] - 1  # the next sweep goes on
            break
    try:
        write_json(archive.base / MARK, {"until_s": until_s})
    except OSError as error:
        problems.append(f"{archive.base / MARK}: {error.strerror}")
    return problems


def _note(
    archive: Archive,
    homes: Homes,
    record: EnergyRecord,
    meters: Mapping[str, Meter],
    publish: Callable[[Path, int, Iterable[int]], None],
) -> None:
    found = of_job(archive, record, meters)
    directories = homes.find(of_record(record)) if found else []
    if directories:
        _write(archive.job(directories[0]), record, found)
        if record.uid is not None:
            publish(archive.job(directories[0]), record.uid, ())


def _mark(archive: Archive) -> int | None:
    try:
        return int(json.loads((archive.base / MARK).read_bytes())["until_s"])
    except (OSError, *codec.MISFITS):
        return None


def _write(directory: Path, record: EnergyRecord, found: Sequence[NodeMetered]) -> None:
    times = {"start_ns": record.start_ns, "end_ns": record.end_ns}
    write_json(directory / FILE, {"schema": SCHEMA, **times, "nodes": [vars(one) for one in found]})
