"""No rank waits for one that perun does not have: programs times faults, each as without perun.

The ranks are started by an MPI launcher through the real `perun-launch`, with the environment that Slurm and the plugin
give to a rank of one node, and an agent's socket that behaves as the fault has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perun_hpc.wire.message import decode, encode
from tests.mpi_programs import ALLREDUCE_C, ALLREDUCE_PY

pytest.importorskip("mpi4py")
BIN = Path(sys.executable).parent
MPIEXEC = BIN / "mpiexec"
MPIRUN = shutil.which("mpirun.openmpi")
OPENMPI = next(iter(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40")), None)
CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this interpreter (pip install mpich)"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]
GUARD_S = 60
PYTHON = sys.executable
PERUN = [PYTHON, "-m", "perun_hpc.cli.main", "monitor"]

REGIONS = """
import os, sys
from perun_hpc import monitor
from mpi4py import MPI
@monitor("work")
def work():
    return MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank)
print(f"sum {work()}\\n", end="", flush=True)
"""


class Agent:
    """Listens in an agent's place; `answer` says what each message gets, None for nothing at all."""

    def __init__(self, path: Path, answer: Callable[[str, str], bytes | None]) -> None:
        self.messages: list[tuple[str, str]] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                message = decode(peer.recv(40000))
                rank = message.get("rank") or ""
                self.messages.append((message.verb, rank))
                reply = self._answer(message.verb, rank)
                if reply is None:
                    self._held.append(peer)
                    continue
                peer.send(reply)
                peer.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._held:
            peer.close()


OK = encode("ok", {"period_ms": "1000", "resolution_ms": "10000"})
FULL = encode("error", {"reason": "malformed", "text": "no more ranks are kept"})
FAULTS: dict[str, Callable[[str, str], bytes | None] | None] = {
    "none": lambda verb, rank: OK,
    "agent dead": None,
    "agent stopped": lambda verb, rank: None,
    "agent too slow for one rank": lambda verb, rank: None if rank == "1" else OK,
    "rank slots taken but for one": lambda verb, rank: OK if rank == "0" else FULL,
    "stopped once the ranks run": lambda verb, rank: OK if verb == "rank-start" else None,
    "kill switch": lambda verb, rank: OK,
}


class Node:
    """An installation of perun-launch for directories of a test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = " ".join(f'-DPERUN_{name}_DIR=\\"{root}/{name.lower()}\\"' for name in ("RUN", "ETC"))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        binary = root / "build" / "perun-launch"
        make = ["make", "-s", "-C", str(CHECKOUT / "slurm"), f"BUILD={root}/build", f"PATHS={paths}", str(binary)]
        subprocess.run(make, check=True, env=environ)
        (root / "run").mkdir()
        (root / "etc").mkdir()
        self.launch = root / "prefix" / "libexec" / "perun" / "perun-launch"
        self.launch.parent.mkdir(parents=True)
        shutil.copy(binary, self.launch)
        packages = root / "prefix" / "lib" / "python3.11" / "site-packages"
        packages.mkdir(parents=True)
        (packages / "perun_hpc").symlink_to(CHECKOUT / "perun_hpc")
        slurm = "SLURM_JOB_ID=47 SLURM_STEP_ID=0 SLURM_PROCID=$R SLURM_LOCALID=$R SLURM_NNODES=1 SLURM_NODEID=0"
        (root / "task").write_text(
            "#!/bin/sh\nR=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}} N=${PMI_SIZE:-${OMPI_COMM_WORLD_SIZE:-1}}\n"
            f'[ "$1" = plain ] && shift && exec "$@"\n'
            f"export {slurm} SLURM_NTASKS=$N SLURM_GTIDS=$(seq -s, 0 $((N-1))) PERUN_JOB=47.0 PERUN_STEP=0\n"
            f'exec {self.launch} "$@"\n'
        )
        (root / "task").chmod(0o755)
        for name, text in (("allreduce", ALLREDUCE_PY), ("regions", REGIONS)):
            (root / f"{name}.py").write_text(text)

    def compiled(self) -> str:
        (self.root / "plain.c").write_text(ALLREDUCE_C)
        built = subprocess.run([BIN / "mpicc", "plain.c", "-o", "plain"], cwd=self.root, capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"mpicc cannot compile here: {built.stderr.splitlines()[-1:]}")
        return "./plain"

    def run(self, words: list[str], openmpi: bool = False) -> tuple[int, list[str], str]:
        """Exit code, the lines of stdout (ranks print in any order) and stderr; fails after the guard."""
        unset = ("PERUN", "PMI", "SLURM", "OMPI", "PMIX", "PYTHONPATH")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
        environ["HOME"] = str(self.root)
        if "PYTHONPATH" in os.environ:
            environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        launcher = [str(MPIEXEC)]
        if openmpi:
            environ.update(MPI4PY_MPIABI="openmpi", MPI4PY_LIBMPI=str(OPENMPI))
            launcher = [str(MPIRUN), "--oversubscribe", "--allow-run-as-root"]
        process = subprocess.Popen(
            [*launcher, *words],
            cwd=self.root, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=GUARD_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 15)  # the launcher ends its ranks
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            process.kill()
            pytest.fail(f"a rank waits for another one: {' '.join(words)}")
        return process.returncode, sorted(out.replace("sum", "\nsum").split()), err


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("n"))


@pytest.fixture
def fault(node: Node, request: pytest.FixtureRequest) -> Iterator[Agent | None]:
    answer = FAULTS[request.param]
    path = node.root / "run" / "agent.sock"
    agent = None if answer is None else Agent(path, answer)
    if request.param == "kill switch":
        (node.root / "etc" / "disable").touch()
    yield agent
    (node.root / "etc" / "disable").unlink(missing_ok=True)
    if agent is not None:
        agent.close()
        path.unlink()


def ours() -> set[str]:
    """What ranks of this user left of their meetings."""
    return {path.name for path in Path("/dev/shm").glob(f"perun-meet-{os.geteuid()}-*")}


def words(kind: str, node: Node, task: list[str]) -> list[str]:
    python, isolated = [*task, PYTHON, "allreduce.py"], [*task, PYTHON, "-I", "allreduce.py"]
    rest = {
        "allreduce": ["-n", "4", *python],
        "regions": ["-n", "4", *task, PYTHON, "regions.py"],
        "one rank isolated": ["-n", "1", *isolated, ":", "-n", "2", *python],
        "the last rank isolated": ["-n", "2", *python, ":", "-n", "1", *isolated],
    }
    if kind in rest:
        return rest[kind]
    binary = node.compiled()
    if kind == "plain C":
        return ["-n", "4", *task, binary]
    return ["-n", "2", *python, ":", "-n", "2", *task, binary]


CELLS = [
    ("allreduce", "none"),
    ("allreduce", "agent dead"),
    ("allreduce", "agent stopped"),
    ("allreduce", "agent too slow for one rank"),
    ("allreduce", "rank slots taken but for one"),
    ("allreduce", "kill switch"),
    ("regions", "agent dead"),
    ("regions", "stopped once the ranks run"),
    ("one rank isolated", "none"),
    ("the last rank isolated", "none"),
    ("Python and C", "none"),
    ("plain C", "rank slots taken but for one"),
]


@pytest.mark.parametrize(("kind", "fault"), CELLS, indirect=["fault"])
def test_ranks_end_as_without_perun(node: Node, kind: str, fault: Agent | None) -> None:
    plain = node.run(words(kind, node, [str(node.root / "task"), "plain"]))
    assert plain[0] == 0, plain[2]
    left = ours()
    code, out, err = node.run(words(kind, node, [str(node.root / "task")]))
    assert (code, out) == plain[:2], err
    assert ours() <= left


@pytest.mark.skipif(MPIRUN is None or OPENMPI is None, reason="no Open MPI 4 (Debian: openmpi-bin)")
@pytest.mark.parametrize(
    ("kind", "fault"),
    [("allreduce", "none"), ("allreduce", "rank slots taken but for one"), ("the last rank isolated", "none")],
    indirect=["fault"],
)
def test_ranks_end_as_without_perun_under_open_mpi(node: Node, kind: str, fault: Agent | None) -> None:
    plain = node.run(words(kind, node, [str(node.root / "task"), "plain"]), openmpi=True)
    assert plain[0] == 0, plain[2]
    code, out, err = node.run(words(kind, node, [str(node.root / "task")]), openmpi=True)
    assert (code, out) == plain[:2], err


@pytest.mark.parametrize("first", ["monitored", "not monitored"])
def test_ranks_of_perun_monitor_do_not_wait_for_others(node: Node, first: str) -> None:
    """Also where the rank that would own the sensors is none of perun's."""
    with_perun, without = ["-n", "1", *PERUN, PYTHON, "allreduce.py"], ["-n", "1", PYTHON, "allreduce.py"]
    parts = [with_perun, without] if first == "monitored" else [without, with_perun]
    code, out, err = node.run([*parts[0], ":", *parts[1]])
    assert (code, out) == (0, ["1", "1", "sum", "sum"]), err


def test_a_window_asks_an_agent_that_does_not_answer_once(node: Node) -> None:
    agent = Agent(node.root / "run" / "agent.sock", FAULTS["stopped once the ranks run"] or (lambda verb, rank: OK))
    (node.root / "windows.py").write_text(
        "import time\nfrom perun_hpc import window\nwith window('first'): pass\n"
        "begin = time.monotonic()\n"
        "for _ in range(3):\n    with window('w') as w: pass\n"
        "print(w.energy_j, time.monotonic() - begin < 1)\n"
    )
    try:
        done = node.run(["-n", "1", str(node.root / "task"), PYTHON, "windows.py"])
    finally:
        agent.close()
        (node.root / "run" / "agent.sock").unlink()
    assert done[:2] == (0, ["None", "True"]), done[2]
    assert [verb for verb, _ in agent.messages].count("window") <= 1


DECORATED = """
import time
from mpi4py import MPI
from perun_hpc import perun
@perun(app_name="deco", data_out="{out}", include_backends="estimate", rounds={rounds})
def main():
    time.sleep({sleep})
{call}
print(f"sum {{MPI.COMM_WORLD.allreduce(1)}}\\n", end="", flush=True)
"""


def tree(directory: Path) -> dict:
    (path,) = directory.glob("deco/*/run.json")
    return json.loads(path.read_text())


def test_a_decorated_function_s_round_ends_with_its_ranks(node: Node, tmp_path: Path) -> None:
    (node.root / "rounds.py").write_text(DECORATED.format(out=tmp_path, rounds=3, sleep=0.2, call="main()"))
    code, out, err = node.run(["-n", "2", PYTHON, "rounds.py"])
    assert (code, out) == (0, ["2", "2", "sum", "sum"]), err
    rounds = list(tree(tmp_path)["nodes"].values())
    assert len(rounds) == 3
    for one in rounds:
        assert one["metadata"]["state"] == "complete"
        assert 0.2 <= one["metrics"]["runtime"]["value"] < 8  # 10 s were waited for ranks that hand nothing in here


def test_a_function_that_one_rank_alone_calls_is_measured_there(node: Node, tmp_path: Path) -> None:
    """Without an agreement nothing is gathered, and it is said once."""
    call = "if MPI.COMM_WORLD.rank == 1: main(); main()"
    (node.root / "alone.py").write_text(DECORATED.format(out=tmp_path, rounds=1, sleep=0, call=call))
    code, out, err = node.run(["-n", "2", PYTHON, "alone.py"])
    assert (code, out) == (0, ["2", "2", "sum", "sum"]), err
    assert err.count("not all ranks of this launch came") == 1


def test_mpi_is_initialised_for_a_decorated_function_only_where_all_ranks_call_it(node: Node, tmp_path: Path) -> None:
    text = DECORATED.replace("from mpi4py import MPI\n", "import os\n")
    text = text.replace("print", "from mpi4py import MPI\nprint")
    for name, call in (("all", "main()"), ("one", "if os.environ['PMI_RANK'] == '0': main()")):
        (node.root / f"{name}.py").write_text(text.format(out=tmp_path / name, rounds=1, sleep=0, call=call))
        code, out, err = node.run(["-n", "2", PYTHON, f"{name}.py"])
        assert (code, out) == (0, ["2", "2", "sum", "sum"]), err
        (host,) = tree(tmp_path / name)["nodes"]["0"]["nodes"].values()
        assert [rank["rank"] for rank in host["metadata"]["ranks"]] == ([0, 1] if name == "all" else [0])


def test_ranks_that_torchrun_started_show_their_host(node: Node, tmp_path: Path) -> None:
    """One decorated rank of each node: nobody tells one of another."""
    text = DECORATED.replace("from mpi4py import MPI\n", "").partition("print")[0]
    (tmp_path / "train.py").write_text(text.format(out=tmp_path, rounds=1, sleep=0.1, call="main()"))
    for first_rank in (0, 4):
        torchrun = {"RANK": str(first_rank), "WORLD_SIZE": "8", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PERUN", "PMI", "SLURM"))}
        begin = time.monotonic()
        done = subprocess.run(
            [PYTHON, "train.py"], cwd=tmp_path, env={**environ, **torchrun, "TORCHELASTIC_RUN_ID": "x"},
            capture_output=True, text=True, timeout=GUARD_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "runtime" in done.stderr
        assert time.monotonic() - begin < 8
    assert len(list(tmp_path.glob("deco/*/run.json"))) == 2


def test_a_rank_that_fails_is_said_to_have_failed(node: Node) -> None:
    (node.root / "failing.py").write_text("import os, sys\nsys.exit(3 if os.environ['PMI_RANK'] == '1' else 0)\n")
    code, _, err = node.run(["-n", "2", *PERUN, PYTHON, "failing.py"])
    assert code == 3
    assert "FAILED: the application ended with exit code 3 (rank 1)." in err


def test_a_rank_whose_function_raises_is_said_to_have_failed(node: Node, tmp_path: Path) -> None:
    text = DECORATED.replace("    time.sleep({sleep})", "    if MPI.COMM_WORLD.rank == 1: raise KeyError('mine')")
    call = "try: main()\nexcept KeyError: pass"
    (node.root / "raising.py").write_text(text.format(out=tmp_path, rounds=1, call=call))
    code, out, err = node.run(["-n", "2", PYTHON, "raising.py"])
    assert (code, out) == (0, ["2", "2", "sum", "sum"]), err
    assert "FAILED: the application raised (rank 1)." in err
