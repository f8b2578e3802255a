"""Where runs are kept: DATA_OUT/APP/RUN_ID/ROUND/HOST/.

Every run gets a directory of its own, and nothing is ever rewritten. The ranks of one launch, on all hosts that share
the file system, use one run id; other launches, other tasks of an array, and runs that start in the same second get
another one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perun_hpc import files
from perun_hpc.comm import Place, run_key
from perun_hpc.errors import AccessError
from perun_hpc.monitoring.application import readable

RUN = "run.json"
LAUNCHES = ".launches"
_ODD = re.compile(r"[^A-Za-z0-9._:+=@-]+")


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run and the id it got."""

    path: Path
    run_id: str

    def host(self, round_number: int, host: str) -> Path:
        """The part of one host in one round; created."""
        path = self.path / str(round_number) / host
        path.mkdir(parents=True, exist_ok=True)
        return path


def of_ranks(host: Path) -> list[Path]:
    """Beside the directory of a host those of its ranks that own sensors which only they are shown."""
    return sorted(host.parent.glob(f"{host.name}.*"))


def safe(name: str) -> str:
    """A name as one path component."""
    return _ODD.sub("_", name).strip(".") or "_"


def claim(
    data_out: Path, app: str, wanted: str | None, place: Place, environ: Mapping[str, str] = os.environ
) -> RunDirectory:
    """The run's directory, made by whichever rank comes first.

    Parameters
    ----------
    wanted : run id; None for the start time, `SLURM` for the job id. One that exists already gets a number behind it.
    place : of this rank; more than one rank agree through a file named after their launch.

    Raises
    ------
    AccessError
        If the directory cannot be written.
    """
    base = data_out / safe(app)
    try:
        base.mkdir(parents=True, exist_ok=True)
        if place.size == 1:
            return _new(base, _wanted(wanted, environ))
        agreed = base / LAUNCHES / safe(run_key(environ))
        agreed.parent.mkdir(exist_ok=True)
        if not agreed.exists():
            mine = _new(base, _wanted(wanted, environ))
            if not files.write_first(agreed, os.fsencode(mine.run_id)):
                mine.path.rmdir()
        run_id = os.fsdecode(agreed.read_bytes())
        return RunDirectory(base / safe(run_id), run_id)
    except OSError as error:
        raise AccessError(f"cannot write results to {base}: {error.strerror}; choose another --data-out") from error


def _wanted(wanted: str | None, environ: Mapping[str, str]) -> str:
    if wanted == "SLURM":
        wanted = environ.get("SLURM_JOB_ID")
    if wanted:
        return readable(wanted)
    return time.strftime("%Y-%m-%dT%H:%M:%S") + f".{time.time_ns() // 1_000_000 % 1000:03d}"


def _new(base: Path, run_id: str) -> RunDirectory:
    number = 0
    while True:
        name = f"{run_id}-{number}" if number else run_id
        path = base / safe(name)
        try:
            path.mkdir()
            return RunDirectory(path, name)
        except FileExistsError:
            number += 1
