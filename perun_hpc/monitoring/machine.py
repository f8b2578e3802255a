"""What the machine is on which something was measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from perun_hpc._version import __version__


def facts(root: Path = Path("/")) -> dict[str, Any]:
    """Kernel, processors, memory, Python and perun, as JSON values; None where the machine does not say."""
    system = os.uname()
    return {
        "system": system.sysname,
        "kernel": system.release,
        "machine": system.machine,
        "processor": _first(root / "proc/cpuinfo", "model name"),
        "logical_cpus": os.cpu_count(),
        "memory": _first(root / "proc/meminfo", "MemTotal"),
        "python": sys.version.split()[0],
        "perun": __version__,
    }


def _first(path: Path, key: str) -> str | None:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), None)
    except OSError:
        return None
