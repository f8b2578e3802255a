"""The cgroups of a cluster: one parent per host in every hierarchy of the machine.

Version 1 (and hybrid) hierarchies are what the cluster is tested with. On a machine with version 2 only, every host
gets one directory of the unified hierarchy with all controllers delegated; that way is untested.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import write_text

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hierarchies:
    """The machine's cgroup mounts.

    ``mounts`` maps a name below /sys/fs/cgroup to the mount point; ``links`` are symbolic links beside them
    (``cpuacct -> cpu,cpuacct`` on machines that mount controllers together).
    """

    version: int
    mounts: dict[str, Path]
    links: dict[str, str]


def discover(root: Path = CGROUP, mounts_file: Path = Path("/proc/self/mounts")) -> Hierarchies:
    """Find the cgroup hierarchies that are mounted on this machine."""
    mounts: dict[str, Path] = {}
    version = 1
    for line in mounts_file.read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind not in ("cgroup", "cgroup2"):
            continue
        path = Path(point)
        if path == root:
            return Hierarchies(2, {"unified": path}, {})
        if path.parent == root:
            mounts[path.name] = path
    if "cpuacct" not in mounts and not (root / "cpuacct").exists():
        raise RuntimeError(f"no cpuacct hierarchy below {root}: mount cgroup version 1 or 2 there")
    links = {entry.name: str(entry.readlink()) for entry in root.iterdir() if entry.is_symlink()}
    return Hierarchies(version, mounts, links)


class CgroupTree:
    """The directories of one cluster, ``<hierarchy>/<cluster>/<host>``."""

    def __init__(self, cluster: str, hierarchies: Hierarchies | None = None) -> None:
        self.cluster = cluster
        self.hierarchies = discover() if hierarchies is None else hierarchies

    def create(self, host: str) -> None:
        """Create the parents of one host in every hierarchy."""
        for point in self.hierarchies.mounts.values():
            for directory in (point / self.cluster, point / self.cluster / host):
                fresh = not directory.exists()
                directory.mkdir(exist_ok=True)
                if self.hierarchies.version == 2:
                    controllers = (directory.parent / "cgroup.controllers").read_text().split()
                    write_text(directory.parent / "cgroup.subtree_control", " ".join("+" + c for c in controllers))
                elif fresh:
                    self._inherit_cpuset(directory)

    def create_slurm(self, host: str) -> None:
        """Make the directories that slurmd would make: it reaches them through links, see host.py."""
        if self.hierarchies.version == 2:
            return
        for name, parent in self.directories(host).items():
            if name == "unified":
                continue
            directory = parent / f"slurm_{host}"  # Debian builds Slurm with --enable-multiple-slurmd
            directory.mkdir(exist_ok=True)
            self._inherit_cpuset(directory)

    @staticmethod
    def _inherit_cpuset(directory: Path) -> None:
        """A cpuset of version 1 takes no process before it has CPUs and memory nodes."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (directory / name).exists():
                write_text(directory / name, (directory.parent / name).read_text())

    def directories(self, host: str) -> dict[str, Path]:
        """Map hierarchy names to the host's parent directories."""
        return {name: point / self.cluster / host for name, point in self.hierarchies.mounts.items()}

    def join_files(self, host: str) -> list[Path]:
        """The files into which a process writes its pid to become part of the host."""
        return [directory / "cgroup.procs" for directory in self.directories(host).values()]

    def cpuacct(self, host: str) -> Path:
        """The directory whose CPU time is the host's."""
        if self.hierarchies.version == 2:
            return self.directories(host)["unified"]
        point = CGROUP / "cpuacct"
        return point.resolve() / self.cluster / host

    def processes(self, host: str | None = None) -> set[int]:
        """All pids in the cluster's (or one host's) cgroups; they are ours by construction."""
        found: set[int] = set()
        for point in self.hierarchies.mounts.values():
            top = point / self.cluster if host is None else point / self.cluster / host
            for directory, _, _ in os.walk(top):
                with contextlib.suppress(OSError, ValueError):
                    found.update(int(pid) for pid in (Path(directory) / "cgroup.procs").read_text().split())
        found.discard(0)
        found.discard(os.getpid())
        return found

    def kill(self, host: str | None = None, timeout_s: float = 10.0) -> None:
        """Kill what still runs in the cgroups; frozen processes are thawed first."""
        deadline = time.monotonic() + timeout_s
        while (pids := self.processes(host)) and time.monotonic() < deadline:
            self._thaw(host)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _thaw(self, host: str | None) -> None:
        freezer = self.hierarchies.mounts.get("freezer")
        if freezer is None:
            return
        top = freezer / self.cluster if host is None else freezer / self.cluster / host
        for directory, _, _ in os.walk(top):
            with contextlib.suppress(OSError):
                (Path(directory) / "freezer.state").write_text("THAWED")

    def remove(self, host: str | None = None, keep_parent: bool = False, timeout_s: float = 5.0) -> None:
        """Remove the directories of one host or of the whole cluster; waits for dying processes."""
        for point in self.hierarchies.mounts.values():
            top = point / self.cluster if host is None else point / self.cluster / host
            deadline = time.monotonic() + timeout_s
            while top.exists():
                left: OSError | None = None
                for directory, _, _ in os.walk(top, topdown=False):
                    if keep_parent and Path(directory) == top:
                        continue
                    try:
                        Path(directory).rmdir()
                    except FileNotFoundError:
                        pass
                    except OSError as error:
                        left = error
                if left is None:
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"cannot remove the cgroup {left.filename}: {left}") from left
                time.sleep(0.02)
