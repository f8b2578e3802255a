"""Real programs that nobody here wrote, or that know nothing of perun: the same output with and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi
BIN = Path(sys.executable).parent
PERUN = [sys.executable, "-m", "perun_hpc.cli.main", "monitor"]
DEBIAN = "/usr/bin/python3"

PINGPONG = r"""
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	char buffer[1024] = { 0 };
	int rank;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	for (int i = 0; i < 1000; i++) {
		if (rank == 0) {
			MPI_Send(buffer, 1024, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
			MPI_Recv(buffer, 1024, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else {
			MPI_Recv(buffer, 1024, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			MPI_Send(buffer, 1024, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
		}
	}
	if (rank == 0)
		printf("1000 exchanges, %d arguments\n", argc - 1);
	MPI_Finalize();
	return 3;
}
"""

TRAIN = """
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(256, 32)
y = (x.sum(1, keepdim=True) > 0).float()
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.utils.data.TensorDataset(x, y)
loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=2)
for epoch in range(3):
    total = 0.0
    for inputs, wanted in loader:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), wanted)
        loss.backward()
        optimiser.step()
        total += loss.item()
    print(epoch, f"{total:.6f}")
"""


def call(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PMI", "SLURM"))}
    environ["HOME"] = str(directory)
    return subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def runs(directory: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in directory.glob("perun_results/*/*/run.json")]


@pytest.mark.skipif(not (BIN / "mpicc").exists(), reason="no mpicc beside this interpreter (pip install mpich)")
def test_a_compiled_pingpong(tmp_path):
    (tmp_path / "pp.c").write_text(PINGPONG)
    built = call(tmp_path, str(BIN / "mpicc"), "pp.c", "-o", "pp")
    if built.returncode:
        pytest.skip(f"mpicc cannot compile here: {built.stderr.splitlines()[-1:]}")
    mpiexec = [str(BIN / "mpiexec"), "-n", "2"]
    plain = call(tmp_path, *mpiexec, "./pp", "a b", "")
    assert (plain.returncode, plain.stdout) == (3, "1000 exchanges, 2 arguments\n")
    for options in ([], ["-b"]):
        measured = call(tmp_path, *mpiexec, *PERUN, *options, "./pp", "a b", "")
        assert (measured.returncode, measured.stdout) == (3, plain.stdout), measured.stderr
    assert [tree["metadata"]["ranks"] for tree in runs(tmp_path)] == [2, 2]


def has_torch() -> bool:
    return Path("/usr/lib/python3/dist-packages/torch").is_dir()


@pytest.mark.skipif(not has_torch(), reason="Debian's python3-torch is not installed")
@pytest.mark.slow
def test_a_pytorch_training_loop_in_debian_s_python(tmp_path):
    """With worker processes, in an interpreter that has never heard of perun."""
    (tmp_path / "train.py").write_text(TRAIN)
    plain = call(tmp_path, DEBIAN, "train.py")
    measured = call(tmp_path, *PERUN, DEBIAN, "train.py")
    assert plain.returncode == 0, plain.stderr
    assert (measured.returncode, measured.stdout) == (0, plain.stdout)
    assert measured.stderr.startswith(plain.stderr)
    (tree,) = runs(tmp_path)
    assert tree["metadata"]["app"] == "train"


@pytest.mark.skipif(not has_torch(), reason="Debian's python3-torch is not installed")
@pytest.mark.slow
def test_regions_are_importable_where_perun_is_not_installed(tmp_path):
    (tmp_path / "train.py").write_text(
        "from perun_hpc import monitor\n@monitor\ndef all():\n    exec(open('loop.py').read(), {})\nall()\n"
    )
    (tmp_path / "loop.py").write_text(TRAIN)
    measured = call(tmp_path, *PERUN, DEBIAN, "train.py")
    assert measured.returncode == 0, measured.stderr
    (tree,) = runs(tmp_path)
    (host,) = tree["nodes"]["0"]["nodes"].values()
    assert [(region["name"], region["calls"]) for region in host["regions"]] == [("all", 1)]
