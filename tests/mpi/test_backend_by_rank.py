"""`perun sensors --by-rank` under mpiexec: one rank per host owns the sensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
MPIEXEC = Path(sys.executable).parent / "mpiexec"
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this interpreter (pip install mpich)"),
]


def test_exactly_one_rank_of_a_host_owns_its_sensors(tmp_path):
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PERUN", "PMI", "SLURM"))}
    command = [sys.executable, "-m", "perun_hpc.cli.main", "sensors", "--by-rank", "--include-backends", "psutil"]
    done = subprocess.run(
        [str(MPIEXEC), "-n", "4", *command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "3"]
    owners = [line for line in lines if "psutil:memory:data" in line]
    assert len(owners) == 1
    assert sum("another rank of this host owns them" in line for line in lines) == 3
