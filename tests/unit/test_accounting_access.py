"""What a job's owner may read in the archive, and nobody else."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.archive.access import readable_by, tree_readable_by

OWNER, OTHER, GROUP = 2001, 2002, 3003


@pytest.fixture
def job() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        root = Path(name) / "4711.0"
        (root / "job.zarr").mkdir(parents=True)
        (root / "boundary").mkdir()
        for path in (root / "record.json", root / "job.zarr" / "c.0.0", root / "boundary" / "n1.json"):
            path.write_text("x")
        yield root


def may_read(path: Path, uid: int, gid: int = 65534) -> bool:
    ids = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return subprocess.run(["setpriv", *ids, "head", "-c1", str(path)], capture_output=True).returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_the_owner_reads_and_nobody_else(job: Path) -> None:
    try:
        tree_readable_by(job, "boundary", [OWNER], [GROUP])
    except Exception as error:
        pytest.skip(f"no access control lists here: {error}")
    for name in ("record.json", "job.zarr/c.0.0"):
        assert may_read(job / name, OWNER)
        assert may_read(job / name, OTHER, GROUP)
        assert not may_read(job / name, OTHER)
    assert not may_read(job / "boundary" / "n1.json", OTHER)
    tree_readable_by(job, "boundary", [OWNER], [GROUP])
    readable_by(job / "record.json", [OTHER])
    assert not may_read(job / "record.json", OWNER)


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_who_may_only_pass_reads_what_is_theirs_there_and_sees_nothing_else(job: Path) -> None:
    try:
        tree_readable_by(job, "boundary", [OWNER])
    except Exception as error:
        pytest.skip(f"no access control lists here: {error}")
    (job / "running.json").write_text("x")
    readable_by(job / "running.json", [OWNER, OTHER])
    assert not may_read(job / "running.json", OTHER)
    readable_by(job, [OWNER], passing=[OTHER])
    assert may_read(job / "running.json", OTHER) and may_read(job / "running.json", OWNER)
    assert not may_read(job / "record.json", OTHER)
    ls = ["setpriv", f"--reuid={OTHER}", "--regid=65534", "--clear-groups", "ls", str(job)]
    assert subprocess.run(ls, capture_output=True).returncode != 0
