"""The jobs of a site of any size, each a function of its number, and a `sacct` that answers for them.

Most have one node and last minutes; one in thirty-five has a few nodes, one in five hundred many, as the accounts of
sites that take half a million jobs a day look. Nodes are shared.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

A_DAY_S = 86_400
JOBS_A_NODE_A_DAY = 50
"""500,000 a day on 10,000 nodes."""
LONGEST_S = 7200
SHAPES: Sequence[tuple[float, tuple[int, int], tuple[int, int]]] = (
    (0.8, (1, 1), (20, 600)),
    (0.97, (1, 1), (600, 3600)),
    (0.998, (2, 8), (600, 3600)),
    (1.0, (16, 256), (1200, LONGEST_S)),
)
"""Up to which part of all jobs, how many nodes, how many seconds: the last two at least and at most."""
PRIME = 104_729


@dataclass(frozen=True)
class Job:
    """A job: its nodes are `first` and those after it."""

    number: int
    first: int
    nodes: int
    start_s: float
    end_s: float

    @property
    def nodelist(self) -> str:
        """Slurm's list of its nodes."""
        return name(self.first) if self.nodes == 1 else f"n[{self.first:05d}-{self.first + self.nodes - 1:05d}]"

    @property
    def uid(self) -> int:
        """One of two hundred users."""
        return 2000 + self.number % 200


def name(node: int) -> str:
    """A node's name."""
    return f"n{node:05d}"


@dataclass(frozen=True)
class Site:
    """Jobs that end one after the other from `begin_s` (epoch) on.

    `speed`: everything takes so many times less time, and so many times more jobs end.
    """

    nodes: int
    begin_s: float
    speed: float = 1.0

    @property
    def per_s(self) -> float:
        """Jobs that end in a second."""
        return self.nodes * JOBS_A_NODE_A_DAY / A_DAY_S * self.speed

    def job(self, number: int) -> Job:
        """The job of a number, from 1 on."""
        dice = random.Random(number)
        which = dice.random()
        _, width, length = next(shape for shape in SHAPES if which < shape[0])
        nodes = min(dice.randint(*width), max(1, self.nodes // 4))
        seconds = dice.randint(*length) / self.speed
        end_s = self.begin_s + number / self.per_s
        first = number * PRIME % (self.nodes - nodes + 1) + 1
        return Job(number, first, nodes, end_s - seconds, end_s)

    def until(self, end_s: float) -> Iterator[Job]:
        """The jobs that begin before a time."""
        last = (end_s + LONGEST_S / self.speed - self.begin_s) * self.per_s
        jobs = (self.job(number) for number in range(1, int(last) + 2))
        return (job for job in jobs if job.start_s < end_s)


def phase_s(node: str, period_s: float) -> float:
    """When a node reports running jobs within a period, as its agent decides it."""
    return zlib.crc32(node.encode()) % 1000 / 1000 * period_s


def install(directory: Path, site: Site) -> None:
    """Put a `sacct` that knows the site's jobs into a directory, which is to stand first in PATH."""
    directory.mkdir(parents=True)
    (directory / "site.json").write_text(json.dumps(asdict(site)))
    program = directory / "sacct"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        f"from bench.site_jobs import sacct\nsacct({str(directory / 'site.json')!r})\n"
    )
    program.chmod(0o755)


def sacct(known: str) -> None:
    """Answer the command line."""
    from tests.fake_slurm import ROW

    site = Site(**json.loads(Path(known).read_text()))
    words = sys.argv[1:]
    options = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    if "--helpformat" in options:
        print("\n".join([*ROW, "Submit", "Start", "End"]))
        return
    if "-j" in words:
        jobs = [site.job(int(number)) for number in words[words.index("-j") + 1].split(",")]
    else:
        since_s, until_s = (int(words[words.index(flag) + 1].removeprefix("uts")) for flag in ("-S", "-E"))
        jobs = [job for job in site.until(until_s) if job.end_s >= since_s]
    fields = options["--format"].split(",")
    for job in jobs:
        row = _row(job, ROW)
        sys.stdout.write(options["--delimiter"].join([*(str(row.get(field, "")) for field in fields), "\n"]))


def _row(job: Job, row: Mapping[str, Any]) -> dict[str, Any]:
    user = f"u{job.uid}"
    times = {"Submit": int(job.start_s) - 60, "Start": int(job.start_s), "End": int(job.end_s)}
    nodes = {"NodeList": job.nodelist, "NNodes": job.nodes}
    return {**row, **times, **nodes, "JobIDRaw": job.number, "JobID": job.number, "User": user, "UID": job.uid,
            "Account": f"a{job.uid % 20}"}  # fmt: skip
