"""Processes by pid and start time, so that a recycled pid is never mistaken for ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class ProcessRef(NamedTuple):
    """One process: its pid and its start time in clock ticks since boot (proc(5), field 22)."""

    pid: int
    start_ticks: int


def start_ticks(pid: int) -> int | None:
    """Start time of a process, None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def named(name: str, pids: Iterable[int]) -> dict[int, int]:
    """Those of the processes that were started as a program and are no zombies, with their parents.

    By the first of their words, not their ``comm``: Slurm's daemons start anew at a reconfigure (24.05 on), and have
    their file's name then, which in Debian is slurmctld-wlm.
    """
    found: dict[int, int] = {}
    for pid in pids:
        try:
            _, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            program = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = tail.split()[:2]
        if Path(program).name == name and state not in "ZX":
            found[pid] = int(parent)
    return found


def reference(pid: int) -> ProcessRef:
    """Take a reference to a running process."""
    ticks = start_ticks(pid)
    if ticks is None:
        raise ProcessLookupError(f"no process {pid}")
    return ProcessRef(pid, ticks)


def alive(process: ProcessRef) -> bool:
    """Whether that very process still runs."""
    return start_ticks(process.pid) == process.start_ticks


def kill(process: ProcessRef, number: int = signal.SIGKILL, timeout_s: float = 10.0) -> bool:
    """Signal a process and wait for its end; False if it still runs after ``timeout_s``."""
    if not alive(process):
        return True
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return True
    return wait_gone(process, timeout_s)


def wait_gone(process: ProcessRef, timeout_s: float) -> bool:
    """Wait for the end of a process."""
    deadline = time.monotonic() + timeout_s
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a kernel file with one write(2), without O_TRUNC or O_CREAT."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
