"""The C parts in a wheel are of the compiler that makes it, whatever was made in the checkout before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("inject/mark.abi3.so", "inject/perun-pack.so", "backend/perun-sample")


def made(checkout: Path, compiler: str) -> list[str]:
    """The parts that are beside the package's files once these are laid out for a wheel."""
    env = {**os.environ, "CC": compiler}
    command = [sys.executable, "setup.py", "-q", "build_py"]
    subprocess.run(command, cwd=checkout, env=env, check=True, capture_output=True)
    return [part for part in PARTS if (checkout / "build/lib/perun_hpc" / part).exists()]


def test_a_wheel_has_no_parts_of_a_former_compiler(tmp_path: Path) -> None:
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path)
    for name in ("perun_hpc", "slurm"):
        leave = shutil.ignore_patterns("build", "__pycache__", *(Path(part).name for part in PARTS))
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=leave)
    assert made(tmp_path, "cc") == list(PARTS)
    assert made(tmp_path, "/nonexistent/cc") == []
    assert made(tmp_path, "cc") == list(PARTS)
