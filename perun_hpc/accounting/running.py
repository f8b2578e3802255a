"""Energy so far of jobs that still run: what their nodes said last, for their owners and those who may follow them.

Never evidence and never in the ledger: it is gone once the job's record is there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from perun_hpc.accounting.collect import Closing, Tools
from perun_hpc.accounting.homes import Homes
from perun_hpc.accounting.identity import of_boundaries
from perun_hpc.accounting.keeping import MAX_RUN_B, read_placed
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import RECORD, RUNNING, Archive, Run
from perun_hpc.data_model.boundary import MAX_READ_B, Boundary, lean
from perun_hpc.data_model.record import EnergyRecord, to_json
from perun_hpc.errors import DataError, PerunError
from perun_hpc.files import write_new
from perun_hpc.store.layout import PLAN

log = logging.getLogger(__name__)

FORGET_S = 7 * 86_400
"""A run of which nothing was heard for so long, and that never got a record, leaves no figures behind."""
_FAR_NS = 1 << 62


def publish_running(archive: Archive, tools: Tools) -> int:
    """Bring what owners may read of their running jobs up to date; returns how many jobs have newer figures."""
    changed = 0
    homes = Homes(archive, tools.clock())
    found = list(archive.running())
    follow = tools.follow(run.job_id for run, _ in found) if tools.follow is not None else {}
    for run, directory in found:
        try:
            changed += _publish(archive, homes, run, directory, tools, follow.get(run.job_id, ()))
        except (PerunError, OSError) as error:
            log.warning("running job %s: %s", run.name, error)
    return changed


def last_words(archive: Archive) -> dict[str, float]:
    """Node -> when (epoch) it last said something of a job that runs, of its jobs the one of which it spoke last."""
    heard: dict[str, float] = {}
    for _, directory in archive.running():
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                node, mark, _ = entry.name.partition(".json")
                if mark and not entry.name.startswith("."):
                    heard[node] = max(heard.get(node, 0.0), entry.stat().st_mtime)
    return heard


def _publish(archive: Archive, homes: Homes, run: Run, directory: Path, tools: Tools, followers: Iterable[int]) -> bool:
    heard_ns = directory.stat().st_mtime_ns
    forgotten = heard_ns < time.time_ns() - FORGET_S * 10**9
    if not forgotten and _is_told(archive.job(run), heard_ns):
        return False
    boundaries = list(_read(directory.glob("*.json")))
    who = of_boundaries(boundaries) if boundaries else None
    ended = homes.find(who) if who is not None else []
    if ended or forgotten:
        for home in ended or [run]:
            (archive.job(home) / RUNNING).unlink(missing_ok=True)
        if ended and homes.holds(run) is None:
            # A late node's word made a directory where its run's once was.
            (archive.job(run) / RUNNING).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                archive.job(run).rmdir()
        shutil.rmtree(directory)
        return False
    if who is None:
        return False
    home = run if homes.holds(run) is None else homes.give(who)
    with contextlib.suppress(FileExistsError):
        archive.make_job(home)
    job = archive.job(home)
    path = job / RUNNING
    record = so_far(boundaries)
    if tools.footprint is not None:
        record = replace(record, footprint=tools.footprint(record))
    if tools.finalise is not None and (job / PLAN).exists():
        try:
            tools.finalise(job, Closing(boundaries[0].expected, _FAR_NS, (), {}))
        except (PerunError, OSError, ValueError) as error:
            log.warning("trace of running job %s: %s", run.name, error)
    write_new(path, (to_json(record, indent=1) + "\n").encode(), durable=False)
    if tools.publish is not None and record.uid is not None:
        tools.publish(job, record.uid, followers)
    os.utime(path, ns=(heard_ns, heard_ns))
    return True


def _is_told(job: Path, heard_ns: int) -> bool:
    """Whether a run's owner can read already what was heard last, and the run has no record yet."""
    path = job / RUNNING
    return path.exists() and path.stat().st_mtime_ns == heard_ns and not (job / RECORD).exists()


def so_far(boundaries: list[Boundary]) -> EnergyRecord:
    """The record of a run that goes on, as far as its nodes have reported; marked as that."""
    parts = [replace(b, state="partial" if b.why else "closed") for b in boundaries]
    record = sum_boundaries(parts)
    until_s = min(b.end_ns for b in parts) / 1e9
    who = f"{len(parts)} of {record.num_nodes} nodes have" if record.num_nodes > 1 else "its node has"
    words = f"the job still runs: energy so far, until {datetime.fromtimestamp(until_s):%H:%M:%S}, as {who} reported"
    known = [text for text in record.missing if text.partition(":")[0] not in record.missing_nodes]
    return replace(record, status="running", missing=(words, *known), missing_nodes=())


def _read(paths: Iterable[Path]) -> Iterable[Boundary]:
    """What can be read; a damaged file is replaced by its node soon."""
    read_b = 0
    for path in sorted(paths):
        try:
            read_b += min(path.stat().st_size, MAX_READ_B)
            yield lean(read_placed(path), read_b <= MAX_RUN_B)
        except (FileNotFoundError, DataError) as error:
            log.warning("%s", error)
