"""Under Open MPI's own launcher, with its library: what `test_launcher_mpi.py` shows for MPICH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")
MPIRUN = shutil.which("mpirun.openmpi")
LIBRARY = next(iter(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40")), None)
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(MPIRUN is None or LIBRARY is None, reason="no Open MPI 4 (Debian: openmpi-bin)"),
]
PERUN = [sys.executable, "-m", "perun_hpc.cli.main", "monitor"]
WORK = """
import time
from mpi4py import MPI
try:
    from perun_hpc import monitor
except ImportError:
    monitor = lambda name: lambda f: f
@monitor("work")
def work():
    return MPI.COMM_WORLD.allreduce(1)
total = work()
if MPI.COMM_WORLD.rank == 0: print("sum", total, MPI.Get_library_version().split(" v")[0], flush=True)
"""


@pytest.fixture
def mpirun(tmp_path):
    """Run a script with four ranks in a directory of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PMI", "SLURM", "OMPI"))}
    # The wheel of mpi4py holds one binary for each MPI's ABI.
    environ.update(HOME=str(tmp_path), MPI4PY_MPIABI="openmpi", MPI4PY_LIBMPI=str(LIBRARY))

    def start(text: str, *options: str, perun: bool = True) -> subprocess.CompletedProcess[str]:
        (tmp_path / "app.py").write_text(text)
        command = [*(PERUN if perun else ()), sys.executable, *options, "app.py"]
        return subprocess.run(
            [str(MPIRUN), "--oversubscribe", "--allow-run-as-root", "-n", "4", *command],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return start


def test_four_ranks_are_one_run_with_every_rank_s_regions_and_place(mpirun, tmp_path):
    plain, done = mpirun(WORK, perun=False), mpirun(WORK)
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (0, "sum 4 Open MPI\n"), done.stderr
    (path,) = tmp_path.glob("perun_results/*/*/run.json")
    tree = json.loads(path.read_text())
    assert (tree["metadata"]["source"], tree["metadata"]["ranks"]) == ("openmpi", 4)
    (host,) = tree["nodes"]["0"]["nodes"].values()
    assert host["metadata"]["state"] == "complete"
    assert [(region["rank"], region["calls"]) for region in host["regions"]] == [(rank, 1) for rank in range(4)]
    places = [entry["mpi"] for entry in host["metadata"]["ranks"]]
    assert [(place["rank"], place["size"], place["host_size"], place["hosts"], place["why"]) for place in places] == [
        (rank, 4, 4, 1, None) for rank in range(4)
    ]
    assert [place["leader"] for place in places] == [True, False, False, False]


@pytest.mark.parametrize("end", ["raise ValueError('mine')", "import os; os.kill(os.getpid(), 9)"])
def test_fault_16_one_failing_rank_ends_the_others_as_without_perun(mpirun, tmp_path, end):
    text = WORK + f"time.sleep(0.3)\nif MPI.COMM_WORLD.rank == 1: {end}\nMPI.COMM_WORLD.Barrier()\n"
    plain = mpirun(text, "-m", "mpi4py", perun=False)
    begin = time.monotonic()
    done = mpirun(text, "-m", "mpi4py")
    assert time.monotonic() - begin < 60
    assert plain.returncode != 0
    assert done.returncode != 0
    assert ("ValueError: mine" in done.stderr) is ("ValueError" in end)
    deadline = time.monotonic() + 60
    while not (found := list(tmp_path.glob("perun_results/*/*/0/*/summary.json"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found  # the launcher may kill the monitors too; the sampling process saves what was measured
