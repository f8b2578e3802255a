"""Under mpiexec: the split, ranks that fail, the gathering of results; MPICH's wheel, one and four ranks."""

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
MPIEXEC = Path(sys.executable).parent / "mpiexec"
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this interpreter (pip install mpich)"),
]
PERUN = [sys.executable, "-m", "perun_hpc.cli.main", "monitor"]


@pytest.fixture
def mpirun(tmp_path):
    """Run a script (its text, or a command) with n ranks in a directory of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PMI", "SLURM"))}
    environ["HOME"] = str(tmp_path)

    def start(ranks: int, text: str, *options: str, perun: bool = True, module: bool = False, timeout: float = 90):
        (tmp_path / "app.py").write_text(text)
        program = ["-m", "mpi4py", "app.py"] if module else ["app.py"]
        command = [*PERUN, *options, sys.executable, *program] if perun else [sys.executable, *program]
        return subprocess.run(
            [str(MPIEXEC), "-n", str(ranks), *command],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return start


def host_of(tmp_path: Path, which: int = -1) -> dict:
    runs = sorted(tmp_path.glob("perun_results/*/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    tree = json.loads(runs[which].read_text())
    (host,) = tree["nodes"]["0"]["nodes"].values()
    return host


WORK = """
from mpi4py import MPI
from perun_hpc import monitor
@monitor("work")
def work():
    return MPI.COMM_WORLD.allreduce(1)
total = work()
if MPI.COMM_WORLD.rank == 0: print("sum", total, flush=True)
"""


@pytest.mark.parametrize("ranks", [1, 4])
def test_every_rank_s_regions_and_place_arrive(mpirun, tmp_path, ranks):
    done = mpirun(ranks, WORK)
    assert (done.returncode, done.stdout) == (0, f"sum {ranks}\n"), done.stderr
    host = host_of(tmp_path)
    assert [(r["rank"], r["name"], r["calls"]) for r in host["regions"]] == [(i, "work", 1) for i in range(ranks)]
    places = [entry["mpi"] for entry in host["metadata"]["ranks"]]
    assert sorted(place["rank"] for place in places) == list(range(ranks))
    assert [place["leader"] for place in places].count(True) == 1
    assert {(place["size"], place["host_size"], place["hosts"], place["why"]) for place in places} == {
        (ranks, ranks, 1, None)
    }
    assert host["metadata"]["state"] == "complete"
    assert not list(Path("/tmp").glob(f"perun-{os.getuid()}-*-0/ranks.new"))


@pytest.mark.parametrize(
    ("how", "level"),
    [
        ("", 3),
        ("mpi4py.rc.thread_level = 'funneled'", 1),
        ("mpi4py.rc.initialize = False", 0),
        ("mpi4py.rc.initialize = False; LATE = 'MPI.Init_thread(MPI.THREAD_SERIALIZED)'", 2),
    ],
)
def test_the_application_s_own_initialisation_and_thread_level_are_respected(mpirun, tmp_path, how, level):
    text = (
        f"LATE = 'MPI.Init() if not MPI.Is_initialized() else None'\nimport mpi4py\n{how}\nfrom mpi4py import MPI\n"
        "exec(LATE)\nprint(MPI.Query_thread(), flush=True)\nMPI.Finalize()\n"
    )
    plain, measured = mpirun(2, text, perun=False), mpirun(2, text)
    assert sorted(measured.stdout) == sorted(plain.stdout)  # the launcher may mix lines up
    places = [entry["mpi"] for entry in host_of(tmp_path)["metadata"]["ranks"]]
    assert {(place["thread_level"], place["hosts"]) for place in places} == {(level, 1)}


def test_nothing_of_ours_is_left_in_mpi(mpirun):
    """Context ids of communicators made later are those of a run without perun; no message waits on the world."""
    text = (
        "from mpi4py import MPI\nw = MPI.COMM_WORLD\n"
        "handles = [w.Dup().handle for _ in range(3)]\n"
        "print(handles, w.Iprobe(), w.Get_errhandler() == MPI.ERRORS_RETURN, w.Get_name(), flush=True)\n"
    )
    plain, measured = mpirun(2, text, perun=False), mpirun(2, text)
    assert sorted(measured.stdout) == sorted(plain.stdout)  # the launcher may mix lines up


def test_an_early_finalize_loses_nothing(mpirun, tmp_path):
    done = mpirun(2, WORK + "\nMPI.Finalize()\n")
    assert done.returncode == 0
    assert len(host_of(tmp_path)["regions"]) == 2


def test_a_program_that_never_uses_mpi_is_told_apart_by_the_launcher(mpirun, tmp_path):
    done = mpirun(3, "from perun_hpc import monitor\nwith monitor('x'): pass\n")
    assert done.returncode == 0, done.stderr
    host = host_of(tmp_path)
    assert [region["rank"] for region in host["regions"]] == [0, 1, 2]
    assert [entry["mpi"] for entry in host["metadata"]["ranks"]] == [None] * 3
    assert len(list(tmp_path.glob("perun_results/*/*/run.json"))) == 1


def _final_states(tmp_path: Path) -> list[str]:
    """How the hosts' sampling ended; nothing of one that is still at work."""
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("perun_results/*/*/0/*/summary.json")]
    return [state for state in states if state != "running"]


RAISES = WORK + "\nimport time; time.sleep(0.3)\nif MPI.COMM_WORLD.rank == 1: {end}\nMPI.COMM_WORLD.Barrier()\n"


@pytest.mark.parametrize(
    "end", ["raise ValueError('mine')", "MPI.COMM_WORLD.Abort(3)", "import os; os.kill(os.getpid(), 9)"]
)
def test_fault_16_one_failing_rank_ends_the_others_as_without_perun(mpirun, tmp_path, end):
    text = RAISES.format(end=end)
    plain = mpirun(4, text, perun=False, module=True)
    begin = time.monotonic()
    measured = mpirun(4, text, module=True)
    assert time.monotonic() - begin < 60
    assert plain.returncode != 0
    assert measured.returncode != 0
    if "ValueError" in end:
        assert "ValueError: mine" in measured.stderr
    # The launcher may kill the monitors as well: what was measured is still on disk, from the sampling process.
    deadline = time.monotonic() + 60
    while not (states := _final_states(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states
    assert list(tmp_path.glob("perun_results/*/*/0/*/ranks/*.rank"))


def test_fault_17_without_a_working_mpi4py_ranks_are_still_told_apart(mpirun, tmp_path):
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libmpi.so.12: cannot open shared object file')\n")
    text = "from perun_hpc import monitor\nwith monitor('x'): pass\n"
    done = mpirun(2, text)
    shutil.rmtree(broken)
    assert done.returncode == 0, done.stderr
    assert [region["rank"] for region in host_of(tmp_path)["regions"]] == [0, 1]


def test_fault_17_a_broken_mpi4py_is_named(mpirun, tmp_path):
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libmpi.so.12: cannot open shared object file')\n")
    done = mpirun(2, "from perun_hpc.comm import Comm\nprint(Comm.detect().why, flush=True)\n", perun=False)
    assert "the launcher started 2 ranks, but mpi4py does not work: libmpi.so.12" in done.stdout


GATHER = """
import sys
from mpi4py import MPI
from perun_hpc.comm import Comm
comm = Comm.detect()
step = 100000 if comm.Get_size() < 10 else 1000
parts = comm.gather(b"x" * (step * comm.Get_rank() + 1), 60.0)
expected = [step * i + 1 for i in range(comm.Get_size())]
if comm.Get_rank() == 0: print([len(part) for part in parts] == expected, flush=True)
comm.close()
"""


@pytest.mark.parametrize("ranks", [1, 2, 4, *(pytest.param(many, marks=pytest.mark.slow) for many in (7, 64))])
def test_gathering_is_whole(mpirun, ranks):
    done = mpirun(ranks, GATHER, perun=False, timeout=300)
    assert done.stdout == "True\n", done.stderr


def test_a_rank_that_never_comes_costs_time_and_its_place_only(mpirun):
    text = (
        "import time\nfrom mpi4py import MPI\nfrom perun_hpc.comm import Comm\ncomm = Comm.detect()\n"
        "if comm.Get_rank() == 2: time.sleep(8)\n"
        "else:\n"
        "    parts = comm.gather(b'x', timeout_s=4)\n"
        "    if comm.Get_rank() == 0: print(parts, flush=True)\n"
    )
    assert mpirun(4, text, perun=False).stdout == "[b'x', b'x', None, b'x']\n"


DECORATED = """
import sys
from mpi4py import MPI
from perun_hpc import perun, monitor
from perun_hpc.monitoring.monitor import PerunMonitor
@monitor("inner")
def inner(): return MPI.COMM_WORLD.rank
@perun(app_name="deco", data_out="perun_results", include_backends="estimate")
def main():
    return inner()
print("rank", main(), flush=True)
"""


def test_a_decorated_function_is_gathered_over_mpi(mpirun, tmp_path):
    done = mpirun(4, DECORATED, perun=False)
    # The launcher may mix the ranks' pieces up, so that two words lie in one line.
    assert sorted("".join(done.stdout.split())) == sorted("0123" + "rank" * 4), done.stderr
    assert [region["rank"] for region in host_of(tmp_path)["regions"]] == [0, 1, 2, 3]


def test_a_rank_that_does_not_hand_in_its_data_is_mpi_error(mpirun):
    text = (
        "import time\nfrom mpi4py import MPI\nfrom perun_hpc.comm import Comm\nfrom perun_hpc.config.user import load\n"
        "from perun_hpc.monitoring.application import Application\n"
        "from perun_hpc.monitoring.monitor import Assigned, PerunMonitor\n"
        "comm = Comm.detect()\n"
        "config = load(overrides={'queue_timeout': 5, 'app_name': 'a', 'data_out': 'perun_results'})\n"
        "owned = {'e': Assigned('estimate')} if comm.place.leader else {}\n"
        "monitor = PerunMonitor(Application(time.time, config), comm, {}, owned, config)\n"
        "if comm.Get_rank() == 1: time.sleep(15)\n"
        "else:\n"
        "    status, node, _ = monitor.run_application('r')\n"
        "    if node: print(status.name, node.metadata['state'], flush=True)\n"
    )
    assert mpirun(3, text, perun=False).stdout == "MPI_ERROR partial\n"


@pytest.mark.slow
def test_programs_that_nobody_here_wrote_print_the_same(mpirun, tmp_path):
    """mpi4py's own demo and benchmark modules."""
    environ = {**os.environ, "HOME": str(tmp_path)}
    for arguments in (["helloworld"], ["ringtest", "-q"], ["pingpong", "--no-header", "--no-stats", "-n", "1024"]):
        program = [sys.executable, "-m", "mpi4py.bench", *arguments]
        results = [
            subprocess.run(
                [str(MPIEXEC), "-n", "2", *command],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=90,
            )
            for command in (program, [*PERUN, *program])
        ]
        plain, measured = ([sorted(_words(done.stdout)), done.returncode] for done in results)
        assert measured == plain, arguments


def _words(text: str) -> list[str]:
    """The lines without the figures that differ from run to run."""
    return ["".join(char for char in line if not char.isdigit() and char not in ".e+- ") for line in text.splitlines()]
