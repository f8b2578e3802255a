"""An owner's records where Slurm keeps no accounts: there is no other list of a user's jobs.

`ARCHIVE/CLUSTER/owners/UID/JOB.RESTART@START.json` is another name of the record in the job's directory, readable for
the same users. The directory of all jobs cannot be listed, this one can, by its owner.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from perun_hpc.archive.places import RECORD, RUNNING, Archive
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import DataError
from perun_hpc.files import link_new

CLOCK_S = 86_400
"""The archive's clock and the nodes' may differ by this much."""


def file_under_owner(archive: Archive, directory: Path, uid: int) -> Path:
    """Give the record, or what is known of a running job, in a run's directory its name among its owner's.

    Returns the owner's directory; OSError or `DataError` where there is nothing to be filed.
    """
    path = next((directory / name for name in (RECORD, RUNNING) if (directory / name).exists()), directory / RECORD)
    record = from_json(path.read_bytes(), str(path))
    own = archive.owned(uid)
    own.parent.mkdir(mode=0o711, exist_ok=True)
    own.parent.chmod(0o711)
    own.mkdir(mode=0o700, exist_ok=True)
    name = own / _name(record)
    link_new(name, path)
    return own


def records_between(archive: Archive, uid: int, since_s: int, until_s: int) -> list[EnergyRecord]:
    """Return the records of a user's runs that overlap [since, until] (epoch seconds), in order of their start."""
    found = _read(p for p in archive.owned(uid).glob("*.json") if p.stat().st_mtime >= since_s - CLOCK_S)
    return [r for r in found if r.end_ns // 10**9 >= since_s and r.start_ns // 10**9 <= until_s]


def records_of_job(archive: Archive, uid: int, job_id: int) -> list[EnergyRecord]:
    """Return the records of a user's runs of one job, in order of their start."""
    return _read(archive.owned(uid).glob(f"{job_id}.*.json"))


def _read(paths: Iterable[Path]) -> list[EnergyRecord]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError, DataError):
            found.append(from_json(path.read_bytes(), str(path)))
    return sorted(found, key=lambda r: (r.start_ns, r.job_id))


def forget_run(archive: Archive, record: EnergyRecord) -> None:
    """Take a run's name away from whoever has it: it is deleted, or a pseudonym hides whose it was."""
    for path in archive.owned(None).glob(f"*/{_name(record)}"):
        path.unlink(missing_ok=True)


def _name(record: EnergyRecord) -> str:
    return f"{record.job_id}.{record.restart_count}@{record.start_ns // 10**9}.json"
