"""Vendors' libraries that are stood in for (tests/stubs): how one is built, and how its backend is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STUBS = Path(__file__).parent / "stubs"
FLAGS = ("-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1")
Log = list[list[str]]


def built(source: Path, target: Path) -> Path:
    """Compile a stand-in into a shared library."""
    subprocess.run(["gcc", *FLAGS, "-o", str(target), str(source)], check=True)
    return target


def read(
    backend: str,
    library: Path,
    config: Path,
    reads: int,
    pause_s: float = 0.02,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    **more: Any,
) -> tuple[subprocess.CompletedProcess[str], Log]:
    """Read a backend in a process of its own; how that ended, and the words of what its library says it served.

    Parameters
    ----------
    library : the directory with the stand-in; `config` is what it shows, by the variable `STUB_` and the backend.
    more : parameters that the backend alone has.
    """
    log = config.with_name("log")
    log.unlink(missing_ok=True)
    served = {"LD_LIBRARY_PATH": str(library), f"STUB_{backend.upper()}": str(config), "STUB_LOG": str(log)}
    words = [backend, str(reads), str(pause_s), str(root), json.dumps(more)]
    done = subprocess.run(
        [sys.executable, str(STUBS / "read_backend.py"), *words],
        env={**environ, **served},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, [line.split() for line in log.read_text().splitlines()] if log.exists() else []
