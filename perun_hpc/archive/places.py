"""Where things lie in the archive, decided in one place.

```
ARCHIVE/CLUSTER/incoming/JOB.RESTART/NODE.json   boundary records as the agents shipped them
ARCHIVE/CLUSTER/running/JOB.RESTART/NODE.json    what nodes said last of jobs that run; never evidence
ARCHIVE/CLUSTER/incoming/JOB.RESTART/refused     why the ledger did not take their sum, since when
ARCHIVE/CLUSTER/jobs/N/                          runs of the job ids from N * 1000 on, a thousand of these
ARCHIVE/CLUSTER/jobs/N/JOB.RESTART/record.json   the energy record, for the job's owner
ARCHIVE/CLUSTER/jobs/N/JOB.RESTART/running.json  its energy so far while it runs, for its owner
ARCHIVE/CLUSTER/jobs/N/JOB.RESTART/boundary/     boundary records that the record rests on
ARCHIVE/CLUSTER/jobs/N/JOB.RESTART/job.zarr      the trace
ARCHIVE/CLUSTER/jobs/N/JOB.RESTART/meters.json   what meters of its nodes showed (`archive.job_meters`)
ARCHIVE/CLUSTER/jobs/N/evidence.zip              boundary records of old runs (`archive.packs`)
ARCHIVE/CLUSTER/jobs/N/UID.zip                   what that owner may read of old runs
ARCHIVE/CLUSTER/jobs/N/hidden.zip                records of old runs whose owner a pseudonym hides, or nobody knows
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

`jobs/N/JOB.RESTART@SUBMIT` is a finished run whose bare name may be needed again. Before jobs were parted by
thousands their directories lay in `jobs/` itself: what is there stays there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from perun_hpc.files import give_to_owner, make_directory

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
SUFFIX = ".zip"
"""How the names of packs end."""
TAKEN = ".taken"
"""How the name of a run's directory in `incoming/` ends while it is moved; before it stands a dot."""
PER_BUCKET = 1000
"""Job ids whose runs lie in one directory of `jobs/`."""
AT_ONCE = 20_000
"""Directories in `jobs/` itself that are gone through together."""
MOST_RUNS = 10
"""Runs of one submission that are asked for by name."""
PASSABLE = 0o711
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

    @cached_property
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

    @cached_property
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

    def bucket(self, number: int) -> Path:
        """The directory of the runs of a thousand job ids."""
        return self.jobs / str(number)

    def job(self, run: Run) -> Path:
        """The run's directory: where it is, else where it would be made."""
        jobs, name = os.fspath(self.jobs), run.name
        place = f"{jobs}/{bucket_of(run)}/{name}"
        flat = f"{jobs}/{name}"
        return Path(flat if not os.path.lexists(place) and os.path.lexists(flat) else place)

    def stray(self, run: Run) -> Path | None:
        """A second directory of a run's name, which an older perun on a node made beside the one of `job`."""
        flat = self.jobs / run.name
        return flat if flat.is_dir() and self.job(run) != flat else None

    def make_job(self, run: Run) -> Path:
        """Make the directory of a run, and the way to it, which users can pass and not list.

        Raises
        ------
        FileExistsError
            Where it is there, the way to it open.
        OSError
            Where it cannot be made.
        """
        place = self.job(run)
        if place.parent != self.jobs:
            self.open_bucket(place.parent)
        place.mkdir(mode=0o750)
        return place

    def open_bucket(self, place: Path) -> None:
        """Make a directory of runs' directories, passable for users whatever the umask says, durably."""
        with contextlib.suppress(OSError):
            if place.stat().st_mode & PASSABLE == PASSABLE:
                return
        make_directory(place.parent, PASSABLE)
        if not place.exists():
            make_directory(place, PASSABLE)
            give_to_owner(place)
        with contextlib.suppress(PermissionError):  # somebody else's, who decides
            place.chmod(PASSABLE)

    def boundaries(self, run: Run) -> Path:
        """Where the run's collected boundary records lie."""
        return self.job(run) / BOUNDARIES

    def present(self, runs: Iterable[Run]) -> list[Run]:
        """Those of `runs` that have a directory here which the caller may enter."""
        jobs = os.fspath(self.jobs)  # an array has 10^5 members, of which each is asked for by some dozens of names
        return [
            run
            for run in runs
            if os.access(f"{jobs}/{bucket_of(run)}/{run.name}", os.X_OK) or os.access(f"{jobs}/{run.name}", os.X_OK)
        ]

    def closed(self, job_id: int, submits: Iterable[int] = ()) -> bool:
        """Whether there is a directory of a job's run that the caller may not enter; `submits` as `possible` has it."""
        places = map(self.job, possible(job_id, submits))
        return any(os.access(place, os.F_OK) and not os.access(place, os.X_OK) for place in places)

    def portions(self) -> Iterator[list[Run]]:
        """Every run that has a directory, in portions: those of a thousand job ids, before these some that lie flat.

        Each in the order of its runs; of all of them together there may be a hundred million.
        """
        yield from self.flat()
        for number in self.buckets():
            yield self.in_bucket(number)

    def all_runs(self) -> Iterator[Run]:
        """Every run that has a directory, as in `portions`."""
        return chain.from_iterable(self.portions())

    def buckets(self) -> list[int]:
        """The numbers of the directories of a thousand job ids each that are there, in order."""
        return sorted(int(name) for name in _names(self.jobs) if name.isdecimal())

    def in_bucket(self, number: int) -> list[Run]:
        """The runs that have a directory among those of a thousand job ids, in their order."""
        return sorted((run for run in map(Run.parse, _names(self.bucket(number))) if run is not None), key=order)

    def flat(self) -> Iterator[list[Run]]:
        """The runs whose directories lie in `jobs/` itself, some thousands at a time."""
        found: list[Run] = []
        missing = (FileNotFoundError, NotADirectoryError, PermissionError)
        with contextlib.suppress(*missing), os.scandir(self.jobs) as entries:
            for entry in entries:
                if (run := Run.parse(entry.name)) is not None:
                    found.append(run)
                    if len(found) == AT_ONCE:
                        yield sorted(found, key=order)
                        found = []
        if found:
            yield sorted(found, key=order)

    def node_ledgers(self) -> list[Path]:
        """Every node ledger file."""
        return sorted((self.base / NODES).glob("*/????-??-??.jsonl"))

    def odd_lines(self) -> list[Path]:
        """Every file of node ledgers' lines that did not fit."""
        return sorted((self.base / NODES).glob("*/*.aside.jsonl"))


def bucket_of(run: Run) -> int:
    """The number of the thousand job ids that a run is among."""
    return run.job_id // PER_BUCKET


def packs_in(bucket: Path, uid: int) -> list[Path]:
    """The packs of a thousand job ids, in order; who may not list their directory sees the own one where it is."""
    try:
        with os.scandir(bucket) as entries:
            names = [entry.name for entry in entries]
    except PermissionError:
        own = bucket / f"{uid}{SUFFIX}"
        return [own] if own.exists() else []
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [bucket / name for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(".")]


def possible(job_id: int, submits: Iterable[int] = ()) -> list[Run]:
    """The runs under whose names something of a job may lie, the oldest submission first.

    `submits` are the times (epoch seconds) under which finished runs may lie: of their submission, or their end where
    that is all that was known.
    """
    return [Run(job_id, number, at) for at in (*sorted(set(submits)), None) for number in range(MOST_RUNS)]


def order(run: Run) -> tuple[int, int, int]:
    """What runs are sorted by."""
    return run.job_id, run.restart_count, run.submit_s or 0


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
