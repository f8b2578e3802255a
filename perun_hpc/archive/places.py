"""Where things lie in the archive, decided in one place.

```
ARCHIVE/CLUSTER/incoming/JOB.RESTART/NODE.json   boundary records as the agents shipped them
ARCHIVE/CLUSTER/running/JOB.RESTART/NODE.json    what nodes said last of jobs that run; never evidence
ARCHIVE/CLUSTER/incoming/JOB.RESTART/refused     why the ledger did not take their sum, since when
ARCHIVE/CLUSTER/jobs/JOB.RESTART/record.json     the energy record, for the job's owner
ARCHIVE/CLUSTER/jobs/JOB.RESTART/running.json    its energy so far while it runs, for its owner
ARCHIVE/CLUSTER/jobs/JOB.RESTART/boundary/       boundary records that the record rests on
ARCHIVE/CLUSTER/jobs/JOB.RESTART/job.zarr        the trace
ARCHIVE/CLUSTER/jobs/JOB.RESTART/meters.json     what meters of its nodes showed (`archive.job_meters`)
ARCHIVE/CLUSTER/owners/UID/JOB.RESTART@START.json  a record once more, where Slurm keeps no accounts
ARCHIVE/CLUSTER/usage/UID/sums/YYYY-MM.json      the ledger's sums that one user may see (`accounting.own_sums`)
ARCHIVE/CLUSTER/nodes/NODE/YYYY-MM-DD.jsonl      the node ledgers
ARCHIVE/CLUSTER/nodes/NODE/YYYY-MM-DD.aside.jsonl  lines that contradict what the node had sent before
ARCHIVE/CLUSTER/nodes/NODE/learnt.json           what the node has learnt of itself, for itself (`archive.learnt`)
ARCHIVE/CLUSTER/learnt.json                      what most nodes of a machine have learnt, for those that have not
ARCHIVE/CLUSTER/facility/NAME.csv                what a facility meter showed
ARCHIVE/CLUSTER/facility/NAME.YYYY-MM.csv        the same of an earlier month (`archive.meter_readings`)
ARCHIVE/CLUSTER/metered.json                     up to when jobs' meters have been looked at
ARCHIVE/CLUSTER/aside/NAME/                      what does not fit the node or job that it names (`archive.aside`)
ARCHIVE/CLUSTER/sweep.json                       how the last sweep went
ARCHIVE/CLUSTER/audit.json                       how the last audit went
ARCHIVE/CLUSTER/months/YYYY-MM/                  a sealed month (`accounting.manifest`)
```

`jobs/JOB.RESTART@SUBMIT` is a finished run whose bare name may be needed again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

INCOMING = "incoming"
JOBS = "jobs"
NODES = "nodes"
RUNNING_NOW = "running"
"""Directory of what nodes say of jobs that still run, which nobody takes for a job's end; the collector empties it."""
RECORD = "record.json"
RUNNING = "running.json"
BOUNDARIES = "boundary"
DAMAGED = ".damaged"
REFUSED = "refused"
TAKEN = ".taken"
"""How the name of a run's directory in `incoming/` ends while it is moved; before it stands a dot."""
MOST_RUNS = 10
"""Runs of one submission that are asked for by name."""
_RUN = re.compile(r"(\d+)\.(\d+)(?:@(\d+))?\Z")


@dataclass(frozen=True, order=True)
class Run:
    """A directory name of a job run: `JOB.RESTART` or `JOB.RESTART@SUBMIT`."""

    job_id: int
    restart_count: int
    submit_s: int | None = None

    @property
    def name(self) -> str:
        """The directory's name."""
        bare = f"{self.job_id}.{self.restart_count}"
        return bare if self.submit_s is None else f"{bare}@{self.submit_s}"

    @classmethod
    def parse(cls, name: str) -> Run | None:
        """Inverse of `name`; None for other names."""
        match = _RUN.match(name)
        return cls(int(match[1]), int(match[2]), int(match[3]) if match[3] else None) if match else None


@dataclass(frozen=True)
class Archive:
    """One cluster's part of the archive."""

    root: Path
    cluster: str

    @property
    def base(self) -> Path:
        """The cluster's directory."""
        return self.root / self.cluster

    @property
    def aside(self) -> Path:
        """The directory of what was set aside."""
        return self.base / "aside"

    def owned(self, uid: int | None) -> Path:
        """The directory of one owner's names of records (`accounting.owned`); of all of these for None."""
        return self.base / "owners" / ("" if uid is None else str(uid))

    def usage(self, uid: int | None) -> Path:
        """The directory of the sums that one user may see; of all of these for None."""
        return self.base / "usage" / ("" if uid is None else str(uid))

    @property
    def jobs(self) -> Path:
        """The directory of all runs' directories."""
        return self.base / JOBS

    @property
    def sweep(self) -> Path:
        """How the last sweep went."""
        return self.base / "sweep.json"

    @property
    def audit(self) -> Path:
        """How the last audit went."""
        return self.base / "audit.json"

    def facility(self, meter: str) -> Path:
        """What a facility meter showed."""
        return self.base / "facility" / f"{meter}.csv"

    def incoming(self) -> Iterator[tuple[Run, Path]]:
        """Every run with something in its incoming directory, oldest job id first."""
        found = []
        for name in _names(self.base / INCOMING):
            run = Run.parse(name)
            if run is not None:
                found.append((run, self.arrived(run)))
        return iter(sorted(found))

    def taken(self) -> list[tuple[Run, Path]]:
        """Directories on their way out of `incoming/`, which whoever moved them left there."""
        names = [name for name in _names(self.base / INCOMING) if name.endswith(TAKEN)]
        runs = {name: Run.parse(name[1 : -len(TAKEN)]) for name in names}
        return [(run, self.base / INCOMING / name) for name, run in runs.items() if run is not None]

    def arrived(self, run: Run) -> Path:
        """Where nodes put their boundary records of a run."""
        return self.base / INCOMING / run.name

    def running(self) -> Iterator[tuple[Run, Path]]:
        """Every run of which nodes said something while it ran."""
        for name in sorted(_names(self.base / RUNNING_NOW)):
            run = Run.parse(name)
            if run is not None:
                yield run, self.base / RUNNING_NOW / name

    def job(self, run: Run) -> Path:
        """The run's directory."""
        return self.jobs / run.name

    def boundaries(self, run: Run) -> Path:
        """Where the run's collected boundary records lie."""
        return self.job(run) / BOUNDARIES

    def runs(self, job_id: int, submits: Iterable[int] = ()) -> list[Run]:
        """The runs of a job that have a directory here which the caller may enter, the oldest submission first.

        Asked for by name, since the directory above holds every job and users may not list it: `submits` are the
        times (epoch seconds) under which finished runs may lie: of their submission, or their end where that is all
        that was known.
        """
        return self.present(_possible(job_id, submits))

    def present(self, runs: Iterable[Run]) -> list[Run]:
        """Those of `runs` that have a directory here which the caller may enter."""
        jobs = os.fspath(self.jobs)  # an array has 10^5 members, of which each is asked for by some dozens of names
        return [run for run in runs if os.access(f"{jobs}/{run.name}", os.X_OK)]

    def closed(self, job_id: int, submits: Iterable[int] = ()) -> bool:
        """Whether there is a directory of a job's run that the caller may not enter; `submits` as `runs` takes them."""
        places = map(self.job, _possible(job_id, submits))
        return any(os.access(place, os.F_OK) and not os.access(place, os.X_OK) for place in places)

    def all_runs(self) -> list[Run]:
        """Every run that has a directory."""
        return sorted(self.each_run(), key=lambda r: (r.job_id, r.restart_count, r.submit_s or 0))

    def each_run(self) -> Iterator[Run]:
        """Every run that has a directory, in no order, one at a time: there may be a hundred million."""
        missing = (FileNotFoundError, NotADirectoryError, PermissionError)
        with contextlib.suppress(*missing), os.scandir(self.jobs) as entries:
            for entry in entries:
                if (run := Run.parse(entry.name)) is not None:
                    yield run

    def node_ledgers(self) -> list[Path]:
        """Every node ledger file."""
        return sorted((self.base / NODES).glob("*/????-??-??.jsonl"))

    def odd_lines(self) -> list[Path]:
        """Every file of node ledgers' lines that did not fit."""
        return sorted((self.base / NODES).glob("*/*.aside.jsonl"))


def _possible(job_id: int, submits: Iterable[int]) -> list[Run]:
    """The runs under whose names something of a job may lie, the oldest submission first."""
    return [Run(job_id, number, at) for at in (*sorted(set(submits)), None) for number in range(MOST_RUNS)]


def clusters(root: Path) -> list[str]:
    """The clusters that have a part in the archive."""
    return sorted(name for name in _names(root) if not name.startswith(".") and _is_directory(root / name))


def only_cluster(root: Path) -> str:
    """The name of the one cluster in the archive, for whoever may list it where no Slurm is; else nothing."""
    present = clusters(root)
    return present[0] if len(present) == 1 else ""


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def _names(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir()]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
