"""What does not fit the node or job that it names, by what others say of these: kept whole, and counted nowhere.

`ARCHIVE/CLUSTER/aside/NAME/` holds what came, and `why`. NAME is what an administrator decides about, all of a node
from one address or a job's record of one node: with a file `allowed` in it the collector takes what lies there, and
what comes of that name later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.archive.places import Archive, Run
from perun_hpc.files import make_directory, write_new

ALLOWED, WHY = "allowed", "why"


@dataclass(frozen=True)
class Aside:
    """One directory of what was set aside."""

    path: Path

    @property
    def allowed(self) -> bool:
        """Whether an administrator lets it in."""
        return (self.path / ALLOWED).exists()

    @property
    def holds(self) -> bool:
        """Whether something lies there."""
        return any(one.name not in (ALLOWED, WHY) for one in _inside(self.path))

    @property
    def why(self) -> str:
        """Why it was set aside, and what lets it in."""
        try:
            return (self.path / WHY).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    @property
    def since_s(self) -> float:
        """When the first of it came (epoch)."""
        with contextlib.suppress(OSError):
            return (self.path / WHY).stat().st_mtime
        return 0.0

    def begin(self, why: str) -> Path:
        """Make the directory and say why; returns where to put what came."""
        make_directory(self.path.parent)
        make_directory(self.path)
        if self.why != why:
            write_new(self.path / WHY, f"{why}\n".encode(errors="replace"))
        return self.path


def of_sender(archive: Archive, node: str, origin: str) -> Aside:
    """Where hand-overs of a node go that another host vouches for; `origin` is that host's address."""
    return Aside(archive.aside / f"{node}-from-{origin}")


def of_record(archive: Archive, run: Run, node: str) -> Aside:
    """Where a node's boundary records of a job go to which Slurm did not give that node."""
    return Aside(archive.aside / f"{run.job_id}.{run.restart_count}-{node}")


def entries(archive: Archive) -> Iterator[Aside]:
    """Everything that was set aside, by name."""
    for path in sorted(_inside(archive.aside)):
        yield Aside(path)


def _inside(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(path.iterdir())
    return []
