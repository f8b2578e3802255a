"""Who holds a lease: a process, by a name that no other of any host has, nor a later one of its number."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Return what identifies this process among those of all hosts: host, pid, start."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def has_died(holder: str) -> bool:
    """Whether the holder of a lease was a process of this host that is gone."""
    host, _, rest = holder.partition(":")
    pid, _, started = rest.partition(":")
    return host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """Return boot id and start time of a process of this host, empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{boot[:8]}-{stat.rpartition(')')[2].split()[19]}"
