"""Programs times faults on one of two nodes: each step ends with `--perun` as it does without.

    python -m tests.faults matrix [FAULT ...] [--write]

A job of alice's holds both nodes, a job of bob's runs beside. Of each cell the step runs without the flag first, under
the same fault; what it prints and returns is what the flagged one must print and return, within a minute.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from devcluster import ClusterError, site
from tests.faults.ground import Ground, hanging
from tests.mpi_programs import ALLREDUCE_C, ALLREDUCE_PY

GUARD_S = 60.0
AIM_S = 2.0
BESIDE_S = 15.0
HERE = "/shared/matrix"
NODES = ("n1", "n2")
BROKEN = "n2"
PYTHON = f"{site.SCIENCE}/bin/python"
PERUN = f"{site.PREFIX}/bin/perun"
PLUGIN = f"{site.PREFIX}/lib/perun/perun_spank.so"

REGIONS_PY = """
import time
from perun_hpc import monitor, window
@monitor
def work():
    time.sleep(0.05)
for _ in range(3):
    with window("w"), monitor("block"):
        work()
print("three windows")
"""
TORCHRUN_PY = """
# One of these a node, as torchrun: it starts two workers, which know of each other by their environment alone.
import os, socket, struct, subprocess, sys
if "RANK" not in os.environ:
    first = 2 * int(os.environ["SLURM_NODEID"])
    workers = [
        subprocess.Popen([sys.executable, __file__], env={**os.environ, "RANK": str(first + i), "LOCAL_RANK": str(i),
            "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1", "TORCHELASTIC_RUN_ID": "x"})
        for i in range(2)
    ]
    sys.exit(max(worker.wait() for worker in workers))
rank, port = int(os.environ["RANK"]), 20000 + int(os.environ["SLURM_STEP_ID"]) % 10000
if rank == 0:
    with socket.create_server(("", port)) as server:
        peers = [server.accept()[0] for _ in range(3)]
    total = sum(struct.unpack("i", peer.recv(4))[0] for peer in peers)
    for peer in peers:
        peer.sendall(struct.pack("i", total))
else:
    while True:
        try:
            peer = socket.create_connection((os.environ["MASTER_ADDR"], port))
            break
        except ConnectionRefusedError:
            pass
    peer.sendall(struct.pack("i", rank))
    total = struct.unpack("i", peer.recv(4))[0]
print(f"sum {total}\\n", end="", flush=True)
"""
SLOTS_PY = """
# Registers ranks of its own job until the agent takes no more of them, and stays.
import os, socket, sys, time
def rank(number):
    words = {"job_id": os.environ["SLURM_JOB_ID"], "restart_count": "0", "step_id": os.environ["SLURM_STEP_ID"],
             "rank": str(number), "local_rank": "0", "ntasks": "1", "nnodes": "1", "command": "x", "options": ""}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect("/run/perun/agent.sock")
        sock.send("".join(f"{word}\\0" for word in ("perun1", "rank-start", *sum(words.items(), ()))).encode())
        return sock.recv(32768).decode().split("\\0")
taken = tries = 0
while tries < 100:
    reply = rank(taken)
    if reply[1] == "ok":
        taken, tries = taken + 1, 0
    elif "slow down" in str(reply):
        time.sleep(0.01)
    else:
        tries += 1
print(taken, flush=True)
sys.stdin.read()
"""
TICK = "while :; do date +%s > /shared/matrix/beside.$SLURMD_NODENAME; sleep 0.5; done"
CONFS = {"isolated.conf": "0-2 {before}{python} sum.py\n3 {before}{python} -I sum.py\n",
         "mixed.conf": "0,2 {before}{python} sum.py\n1,3 {before}./sum\n"}  # fmt: skip
PMIX = "/usr/lib/x86_64-linux-gnu/pmix2/lib"
OPENMPI = next(iter(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40")), None)


@dataclass(frozen=True)
class Program:
    """What a step runs: srun's options and the command, variables of its own."""

    words: tuple[str, ...]
    shape: tuple[str, ...] = ("-w", ",".join(NODES), "-N2", "-n4", "--mpi=pmi2")
    env: dict[str, str] = field(default_factory=dict)


PROGRAMS = {
    "mpi4py": Program((PYTHON, "sum.py")),
    "Python + C": Program(("--multi-prog", "mixed.conf")),
    "one rank -I": Program(("--multi-prog", "isolated.conf")),
    "Open MPI": Program(
        (PYTHON, "sum.py"),
        ("-w", ",".join(NODES), "-N2", "-n4", "--mpi=pmix"),
        {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": str(OPENMPI)},
    ),
    "torchrun": Program((PYTHON, "torchrun.py"), ("-w", ",".join(NODES), "-N2", "-n2", "--mpi=none")),
    "plain C": Program(("./sum",)),
    "regions": Program(
        (PYTHON, "regions.py"), ("-w", BROKEN, "-N1", "-n1", "--mpi=none"), {"PYTHONPATH": f"{HERE}/own"}
    ),
}
"""Four ranks on two nodes, but for the last, which has perun_hpc in an environment of the user's own."""


IN_NAMESPACES = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
"""MPICH's UCX does not connect ranks of different user namespaces, with perun or without."""


@dataclass(frozen=True)
class Way:
    """How all steps run under a fault: variables, and words before each program."""

    env: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()


@dataclass
class Cell:
    """What became of one step, run without the flag and with it; times in seconds, None where it did not end."""

    fault: str
    program: str
    plain_code: int = 0
    plain_s: float | None = None
    code: int = 0
    perun_s: float | None = None
    same: bool = False
    said: list[str] = field(default_factory=list)
    error: str = ""
    bad_nodes: list[str] = field(default_factory=list)
    beside: str = ""

    @property
    def as_without(self) -> bool:
        """Whether nobody could tell."""
        return self.same and not self.bad_nodes and not self.beside


class Field:
    """A cluster on which alice holds two nodes, bob runs beside, and the programs lie ready."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.cluster = ground, ground.cluster
        self.job = self.beside = ""

    def on(self, script: str) -> str:
        """Run a shell script as root on the node with the fault."""
        return self.ground.on(BROKEN, script)

    def agent_pid(self) -> str:
        """Pid, in its node, of the agent beside the fault; empty if none answers."""
        done = self.cluster.run([PERUN, "agent", "status"], user="root", node=BROKEN)
        return done.stdout.split("pid ")[1].split(",")[0] if done.returncode == 0 else ""

    def agent_up(self) -> None:
        """Have the next job start the agent if there is none, as on any node."""
        deadline = time.monotonic() + 60
        while not self.agent_pid():
            if time.monotonic() > deadline:
                raise ClusterError(f"no agent comes back on {BROKEN}")
            self.cluster.run(["srun", "-w", BROKEN, "-n1", "true"], user="bob")

    def step(self, program: Program, way: Way, *flags: str) -> tuple[subprocess.CompletedProcess[str] | None, float]:
        """Run one step; None and the guard's time if it did not end."""
        for name, text in CONFS.items():
            text = text.format(before="".join(f"{word} " for word in way.before), python=PYTHON)
            (self.cluster.shared / "matrix" / name).write_text(text)
        before = () if program.words[0] == "--multi-prog" else way.before
        line = ["srun", f"--jobid={self.job}", "--overlap", *program.shape, *flags, *before, *program.words]
        begin = time.monotonic()
        try:
            done = self.cluster.run(line, cwd=HERE, env={**program.env, **way.env}, timeout=GUARD_S)
        except subprocess.TimeoutExpired:
            steps = self.cluster.run(["squeue", "-h", "-s", "-j", self.job, "-o", "%i"]).stdout.split()
            self.cluster.run(["scancel", *(step for step in steps if step.partition(".")[2].isdigit())])
            return None, GUARD_S
        return done, time.monotonic() - begin

    def cell(self, fault: str, program: str, way: Way) -> Cell:
        """One step without the flag and with it."""
        cell = Cell(fault, program)
        plain, seconds = self.step(PROGRAMS[program], way)
        if plain is not None:
            cell.plain_code, cell.plain_s = plain.returncode, seconds
        done, seconds = self.step(PROGRAMS[program], way, "--perun")
        if done is not None:
            cell.code, cell.perun_s = done.returncode, seconds
            cell.said = sorted({line for line in done.stderr.splitlines() if re.match(r"(\d+: )?perun: ", line)})
            cell.error = done.stderr[-500:] if done.returncode else ""
        cell.same = (done is None) == (plain is None)
        if done is not None and plain is not None:
            cell.same = (done.returncode, _lines(done.stdout)) == (plain.returncode, _lines(plain.stdout))
            cell.error = cell.error if cell.same else f"{done.stdout[-200:]} {cell.error or done.stderr[-500:]}"
        states = self.cluster.states()
        cell.bad_nodes = [f"{node} {states[node]}" for node in NODES if re.search("drain|drng|down|fail", states[node])]
        cell.beside = self._beside()
        return cell

    def _beside(self) -> str:
        """What is wrong with bob's job; empty if it runs and ticks on both nodes."""
        state = self.cluster.run(["squeue", "-h", "-j", self.beside, "-o", "%T"], user="root").stdout.strip()
        if state != "RUNNING":
            return f"is {state or 'gone'}"
        ages = {node: time.time() - _mtime(self.cluster.shared / "matrix" / f"beside.{node}") for node in NODES}
        return "; ".join(f"silent for {age:.0f} s on {node}" for node, age in ages.items() if age > BESIDE_S)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _lines(text: str) -> list[str]:
    """Ranks print in any order."""
    return sorted(text.split("\n"))


@contextlib.contextmanager
def prepared(ground: Ground) -> Iterator[Field]:
    """The programs, what the nodes need on their own disks, the two jobs."""
    cluster = ground.cluster
    where = cluster.shared / "matrix"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    where.chmod(0o1777)
    texts = {"sum.py": ALLREDUCE_PY, "sum.c": ALLREDUCE_C, "regions.py": REGIONS_PY, "torchrun.py": TORCHRUN_PY}
    for name, text in {**texts, "slots.py": SLOTS_PY}.items():
        (where / name).write_text(text)
    shutil.copytree(site.CHECKOUT / "perun_hpc", where / "own" / "perun_hpc", ignore=shutil.ignore_patterns("*.pyc"))
    cluster.run([f"{site.SCIENCE}/bin/mpicc", f"{HERE}/sum.c", "-o", f"{HERE}/sum"], user="root", check=True)
    for host in (None, *NODES):  # Slurm's mpi/pmix asks for this name, which only libpmix-dev has
        ground.on(host, f"ln -sf libpmix.so.2 {PMIX}/libpmix.so")
    field = Field(ground)
    with contextlib.ExitStack() as stack:
        stack.callback(ground.later.close)
        ground.hooks_on_nodes()
        shape = ["-N2", "-n2", "-w", ",".join(NODES)]
        tick = ["sbatch", "--parsable", "-o", "/dev/null", *shape, f"--wrap=srun sh -c '{TICK}'"]
        field.beside = cluster.run(tick, user="bob", check=True).stdout.strip()
        stack.callback(cluster.wait_job, field.beside)
        stack.callback(cluster.run, ["scancel", field.beside], user="root")
        hold = ["salloc", "--no-shell", "-N2", "-n4", "--ntasks-per-node=2", "-w", ",".join(NODES)]
        found = re.search(r"Granted job allocation (\d+)", cluster.run(hold, check=True).stderr)
        assert found
        field.job = found[1]
        stack.callback(cluster.wait_job, field.job)
        stack.callback(cluster.run, ["scancel", field.job], user="root")
        field.agent_up()
        deadline = time.monotonic() + 60
        while field._beside():
            if time.monotonic() > deadline:
                raise ClusterError(f"the job beside {field._beside()}")
            time.sleep(0.2)
        yield field


Breaker = Callable[[Field], AbstractContextManager[Way]]


@contextlib.contextmanager
def _none(field: Field) -> Iterator[Way]:
    yield Way()


@contextlib.contextmanager
def _agent_dead(field: Field) -> Iterator[Way]:
    field.ground.stop_agents([BROKEN])
    while field.agent_pid():
        time.sleep(0.1)
    yield Way()


@contextlib.contextmanager
def _agent_stopped(field: Field) -> Iterator[Way]:
    pid = field.agent_pid()
    field.on(f"kill -STOP {pid}")
    try:
        yield Way()
    finally:
        field.on(f"kill -CONT {pid}")


def _on_node(breaking: str, healing: str, way: Way = Way()) -> Breaker:
    """Something that a shell script does on the node, and another one takes back."""

    @contextlib.contextmanager
    def broken(field: Field) -> Iterator[Way]:
        field.on(breaking)
        try:
            yield way
        finally:
            field.on(healing)

    return broken


@contextlib.contextmanager
def _slots_taken(field: Field) -> Iterator[Way]:
    line = ["srun", "-Q", "-w", BROKEN, "-n1", PYTHON, f"{HERE}/slots.py"]
    with field.cluster.popen(line, "bob", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        if int(holder.stdout.readline() or 0) < 100:
            raise ClusterError("the other user gets hardly any rank")
        yield Way()
        holder.stdin.close()


@contextlib.contextmanager
def _prefix_hung(field: Field) -> Iterator[Way]:
    with hanging(field.cluster, BROKEN, site.PREFIX):
        yield Way()


@contextlib.contextmanager
def _elsewhere(field: Field) -> Iterator[Way]:
    yield Way(env={"TMPDIR": "/no/such/directory"})


@contextlib.contextmanager
def _pid_namespaces(field: Field) -> Iterator[Way]:
    yield Way(IN_NAMESPACES, ("/usr/bin/unshare", "--user", "--map-current-user", "--pid", "--fork"))


def _containers(lines: Callable[[Sequence[str], str], list[str]]) -> Breaker:
    """The container plugin of tests/slurm/test_containers.py, which hides the prefix and the agent from the task."""

    @contextlib.contextmanager
    def broken(field: Field) -> Iterator[Way]:
        built = site.CHECKOUT / "build" / "container"
        make = ["make", "-s", "-C", str(site.CHECKOUT / "slurm"), f"BUILD={built}", f"{built}/test_container.so"]
        subprocess.run(make, check=True)
        shutil.copyfile(built / "test_container.so", field.cluster.shared / "test_container.so")
        own = field.ground.plugstack("/usr/local")
        field.cluster.configure(plugstack=lines(own, "optional /shared/test_container.so"))
        try:
            yield Way({**IN_NAMESPACES, "TEST_HIDDEN": f"{site.PREFIX}:/run/perun:/usr/local/libexec/perun"})
        finally:
            field.cluster.configure(plugstack=own)

    return broken


KILL_SWITCH = "mount -t tmpfs none /etc/perun && touch /etc/perun/disable", "umount /etc/perun"
NO_PLUGIN = "mount -t tmpfs none /usr/local/lib/perun", "umount /usr/local/lib/perun"
NO_PREFIX = f"mount -t tmpfs none {site.PREFIX}", f"umount -l {site.PREFIX}"
TMP_READ_ONLY = "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp", "umount -l /tmp"
HIDDEN_PROCESSES = "mount -o remount,hidepid=2 /proc", "mount -o remount,hidepid=0 /proc"

FAULTS: dict[str, Breaker] = {
    "none": _none,
    "agent dead": _agent_dead,
    "agent stopped": _agent_stopped,
    "kill switch": _on_node(*KILL_SWITCH),
    "plugin missing": _on_node(*NO_PLUGIN),
    "rank slots taken": _slots_taken,
    "prefix missing": _on_node(*NO_PREFIX),
    "prefix hung": _prefix_hung,
    "TMPDIR missing": _elsewhere,
    "/tmp read-only": _on_node(*TMP_READ_ONLY),
    "PID namespaces": _pid_namespaces,
    "hidepid=2": _on_node(*HIDDEN_PROCESSES),
    "container after perun": _containers(lambda own, other: [*own, other]),
    "container before perun": _containers(lambda own, other: [other, *own]),
}
"""On one of the two nodes, but for the directories and namespaces, which are the ranks', and the order of plugins."""


@contextlib.contextmanager
def under(field: Field, fault: str) -> Iterator[Way]:
    """Break, and have an agent again afterwards."""
    with FAULTS[fault](field) as way:
        yield way
    field.agent_up()
