"""An earlier build of this project beside this one: `python -m bench --against COMMIT`, else that of `AGAINST`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.result import Skipped

COMMIT = "PERUN_BENCH_AGAINST"
"""The environment variable that names the earlier build's commit."""
DEFAULT = "8fd061b"
ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit of the earlier build."""
    return os.environ.get(COMMIT, DEFAULT)


@contextmanager
def checked_out(place: Path) -> Iterator[Path]:
    """The earlier build's files below `place`, gone at the end; Skipped where this checkout does not have them."""
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(place), commit()], capture_output=True, text=True)
    if made.returncode:
        raise Skipped(f"{commit()} cannot be checked out: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def interpreter(build: Path, place: Path) -> Path:
    """A Python below `place` that has a build's `perun_hpc`, also where it starts others, and this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "build.pth").write_text(f"{build}\n{sysconfig.get_path('purelib')}\n")
    return place / "bin" / "python"
