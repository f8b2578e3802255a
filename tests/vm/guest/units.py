"""systemd's units in the guest, and what their processes may do."""

from __future__ import annotations

import contextlib
from pathlib import Path

from guest.shell import require, run, tried

CAPABILITIES = {
    # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, SETGID, SETUID, SETPCAP: the unit's CapabilityBoundingSet
    "perun-agent": 0b1_1100_0111,
    "perun-collect": 0,
}


def systemd() -> str:
    """Its version; it must be process 1."""
    require(Path("/proc/1/comm").read_text() == "systemd\n", "process 1 is not systemd")
    return " ".join(run("systemctl", "--version").split()[:2])


def cgroup_mount() -> str:
    """The file system of cgroups."""
    (line,) = [one for one in Path("/proc/mounts").read_text().splitlines() if " /sys/fs/cgroup " in one]
    return line.split()[2]


def processes(unit: str) -> list[int]:
    """A unit's processes."""
    group = run("systemctl", "show", "-P", "ControlGroup", unit).strip()
    require(group == f"/system.slice/{unit}.service", f"{unit} lives in {group or 'no cgroup'}")
    return [int(pid) for pid in (Path("/sys/fs/cgroup") / group[1:] / "cgroup.procs").read_text().split()]


def check(unit: str, user: str, least: int) -> list[str]:
    """That the unit runs, and that none of its processes can do what the unit's sandbox takes away."""
    require(run("systemctl", "is-active", unit).strip() == "active", f"{unit} is not active")
    pids = processes(unit)
    require(len(pids) >= least, f"{unit} has {len(pids)} processes")
    main = run("systemctl", "show", "-P", "MainPID", unit).strip()
    owner = run("ps", "-o", "user=", "-p", main).strip()
    require(owner == user, f"{unit} runs as {owner}")
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a child may end meanwhile
            _confined(unit, pid)
    for path in ("/usr/bin", "/etc", "/opt/perun-hpc", "/home/alice", "/root"):
        code, _, errors = tried("nsenter", "-t", main, "-m", "touch", f"{path}/perun-vm")
        require(code != 0, f"{unit} can write in {path}")
        require("Read-only" in errors or "No such file" in errors or "Permission" in errors, f"{path}: {errors}")
    memory_b = int(run("systemctl", "show", "-P", "MemoryCurrent", unit))
    return [f"{unit}: {len(pids)} processes, {memory_b >> 20} MB"]


def _confined(unit: str, pid: int) -> None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    bounding = int(status["CapBnd"], 16)
    require(bounding & ~CAPABILITIES[unit] == 0, f"{unit}, process {pid}: capabilities {bounding:x}")
    require(status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", f"{unit}, process {pid}: {status['Seccomp']}")
