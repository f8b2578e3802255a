"""Four ranks of a host and its GPUs, through a shared library with NVML's ABI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vendor_stubs import STUBS, built

pytest.importorskip("mpi4py")
MPIEXEC = Path(sys.executable).parent / "mpiexec"
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this interpreter (pip install mpich)"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]
POWER_MW = 250_000


def gpu(number: int) -> str:
    return f"gpu GPU-{number:08d}-0000-0000-0000-000000000000 {number} {POWER_MW} 0 0\n"


@pytest.mark.parametrize("shown", ["its own, as number 0", "all four"])
def test_fault_07_four_ranks_that_each_call_their_gpu_0_are_four_gpus(tmp_path, shown):
    built(STUBS / "nvml.c", tmp_path / "libnvidia-ml.so.1")
    for rank in range(4):
        lines = [gpu(rank)] if "own" in shown else [gpu(number) for number in range(4)]
        (tmp_path / f"gpus.{rank}").write_text("".join(lines))
    (tmp_path / "app.py").write_text("import time\ntime.sleep(1.5)\n")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PMI", "SLURM", "STUB"))}
    environ.update(HOME=str(tmp_path), LD_LIBRARY_PATH=str(tmp_path))
    perun = f"{sys.executable} -m perun_hpc.cli.main monitor --sampling-period 0.1 {sys.executable} app.py"
    done = subprocess.run(
        [str(MPIEXEC), "-n", "4", "sh", "-c", f"STUB_NVML=gpus.$PMI_RANK exec {perun}"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("perun_results/*/*/run.json")
    (host,) = json.loads(path.read_text())["nodes"]["0"]["nodes"].values()
    counters = [name for name in host["nodes"]["gpu"]["nodes"] if name.endswith(":energy")]
    assert counters == [f"nvml:gpu-GPU-{number:08d}-0000-0000-0000-000000000000:energy" for number in range(4)]
    watts = [host["nodes"]["gpu"]["nodes"][name]["metrics"]["power"]["value"] for name in counters]
    # A rank's sampling process starts and ends within the host's run: its energy is of that time.
    assert all(0.5 * POWER_MW / 1000 < value < 1.2 * POWER_MW / 1000 for value in watts), watts
    assert host["metrics"]["gpu_energy"]["value"] == pytest.approx(
        sum(host["nodes"]["gpu"]["nodes"][name]["metrics"]["energy"]["value"] for name in counters)
    )
    assert len(list(path.parent.glob("0/*/summary.json"))) == (4 if "own" in shown else 1)
    exported = subprocess.run(
        [sys.executable, "-m", "perun_hpc.cli.main", "export", "-o", "all.csv", "csv"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    rows = (tmp_path / "all.csv").read_text()
    assert all(name in rows for name in counters)
