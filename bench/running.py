"""What benches start: a machine of simulated counters, the node's agent with a job on it, and peers that measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import peers
from perun_hpc.errors import UnavailableError
from perun_hpc.wire.client import request

POLICY = """
monitor: {{jobs: all}}
agent: {{nice: 0}}
sampling: {{period: {period_ms} ms, period_min: 10 ms}}
sensors: {{backends: [powercap]}}
store: {{archive: {archive}, trace_min_duration: 0 s}}
"""
CODECARBON = """
import sys, time
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(
    country_iso_code="DEU", measure_power_secs=float(sys.argv[1]), save_to_file=False, log_level="error",
    allow_multiple_runs=True,
)
tracker.start()
time.sleep(2)
begin_s = time.process_time()
print("ready", flush=True)
sys.stdin.read()
print(time.process_time() - begin_s, flush=True)
tracker.stop()
"""
JOB = {
    "job_id": "1",
    "restart_count": "0",
    "uid": "0",
    "gid": "0",
    "user": "root",
    "cluster": "bench",
    "exclusive": "1",
}


@dataclass(frozen=True)
class Agent:
    """An agent that measures job 1."""

    home: Path
    socket: str
    pid: int

    def status(self) -> dict[str, str]:
        """What it says of itself."""
        return dict(request("status", {}, path=self.socket, timeout_s=5).fields)

    def flag(self) -> None:
        """Let the job have a flagged step, of which this process is the rank; it is in none of the job's cgroups."""
        cgroups, aside = self.home / "root/sys/fs/cgroup", self.home / "cgroup"
        cgroups.rename(aside)  # who is in none is taken for a rank where Slurm has none
        rank = {"step_id": "0", "rank": "0", "local_rank": "0", "ntasks": "1", "nnodes": "1", "command": "bench"}
        job = {name: JOB[name] for name in ("job_id", "restart_count")}
        answer = request("rank-start", {**job, **rank, "options": ""}, path=self.socket, timeout_s=5)
        aside.rename(cgroups)
        if "period_ms" not in answer.fields:
            raise RuntimeError(f"the agent took no rank: {dict(answer.fields)}")

    def end_job(self) -> dict[str, Any]:
        """End the job; its boundary record."""
        request("job-end", {**JOB, "exit_code": "0"}, path=self.socket, timeout_s=5)
        return _record(self.home / "archive" / "bench" / "incoming" / "1.0" / "bench.json")


@contextmanager
def agent(count: int, period_ms: int, python: Path | str = sys.executable) -> Iterator[Agent]:
    """An agent with `count` energy counters that measures a job of its own node, a row each `period_ms`.

    `python` starts it; its `perun_hpc` may be that of another build (`against.interpreter`).
    """
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        home = Path(text)
        machine(home / "root", count)
        policy = home / "policy.yaml"
        policy.write_text(POLICY.format(archive=home / "archive", period_ms=period_ms))
        (home / "archive").mkdir()
        with counting(home / "root"), running(home, policy, python) as (socket, pid):
            request("job-start", {**JOB, "node": "bench"}, path=socket, timeout_s=5)
            time.sleep(1.5)
            yield Agent(home, socket, pid)


@contextmanager
def perun(words: tuple[str, ...], period_s: float, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """`perun monitor` of perun 1.0.0 around an application that sleeps; what is inside takes no more than `seconds`."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        script, started = Path(text) / "idle.py", Path(text) / "started"
        script.write_text(f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep({seconds} + 4)\n")
        command = [str(peers.python("perun").with_name("perun")), "monitor", "--sampling-period", str(period_s)]
        process = subprocess.Popen(
            [*command, *words, "--data-out", text, str(script)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=text,
        )
        while not started.exists():
            if process.poll() is not None:
                raise RuntimeError(f"perun 1.0.0 ended with {process.returncode}")
            time.sleep(0.1)
        time.sleep(1)
        yield process
        process.wait(120)


@contextmanager
def codecarbon(period_s: float) -> Iterator[subprocess.Popen[str]]:
    """CodeCarbon in a process of its own; its CPU seconds are what the process prints, once its input ends."""
    process = subprocess.Popen(
        [str(peers.python("codecarbon")), "-c", CODECARBON, str(period_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("CodeCarbon did not start")
        yield process
    finally:
        process.kill()
        process.wait()


def _record(path: Path) -> dict[str, Any]:
    """The boundary record, once the agent has shipped it."""
    deadline_s = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"the agent shipped no {path.name}")
        time.sleep(0.1)
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@contextmanager
def running(home: Path, policy: Path, python: Path | str) -> Iterator[tuple[str, int]]:
    """An agent of the machine in `home / "root"` that answers: its socket and pid."""
    socket = str(home / "run" / "agent.sock")
    options = {"--run-dir": home / "run", "--spool": home / "spool", "--root": home / "root", "--policy": policy}
    words = [str(word) for pair in options.items() for word in pair]
    agent = subprocess.Popen([str(python), "-I", "-m", "perun_hpc.agent", *words, "--foreground"])
    try:
        for _ in range(200):
            try:
                request("status", {}, path=socket)
                break
            except UnavailableError:
                time.sleep(0.05)
        yield socket, agent.pid
    finally:
        agent.terminate()
        agent.wait(30)


def machine(root: Path, count: int) -> None:
    """A root directory with `count` RAPL packages and the cgroup of a job with a step; all else is this machine's."""
    powercap = root / "sys" / "class" / "powercap"
    for number in range(count):
        zone = powercap / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"package-{number}\n")
        (zone / "energy_uj").write_text(f"{1_000_003 * (number + 1)}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
    for name in ("proc", "sys/devices"):
        (root / name).symlink_to(f"/{name}")
    cgroup = root / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_1"
    for name, text in (
        ("../cpu.stat", "usage_usec 5\n"),
        ("cpu.stat", "usage_usec 5\n"),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("cpuset.cpus.effective", "0-1\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("cgroup.procs", ""),
        ("step_0/cpu.stat", "usage_usec 5\n"),
        ("step_0/user/cgroup.events", "populated 1\nfrozen 0\n"),
    ):
        file = Path(os.path.normpath(cgroup / name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@contextmanager
def counting(root: Path) -> Iterator[None]:
    """The machine's counters count, each its own power: of counters that stand still an agent would think the worse."""
    zones = sorted((root / "sys/class/powercap").glob("*:*"), key=lambda zone: int(zone.name.partition(":")[2]))
    files = [
        os.open(zone / "energy_uj", os.O_WRONLY) for zone in zones
    ]  # in the order of the values that they begin at
    ends = threading.Event()

    def count() -> None:
        moments = 0
        while not ends.wait(0.5):
            moments += 1
            for number, file in enumerate(files):
                os.pwrite(file, b"%015d\n" % (1_000_003 * (number + 1) + moments * (500_000 + 1009 * number)), 0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        for file in files:
            os.close(file)


def memory_b(pid: int, program: str = "") -> tuple[int, int]:
    """Memory of a process and of its children that execute `program` (proc_pid_smaps(5)).

    All that they have in their pages, and what they have for themselves with their part of what they share.
    """
    pids = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == program:
            pids.append(int(child))
    sums = {"Rss:": 0, "Pss:": 0}
    for one in pids:
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, value = line.split()[:2]
            if name in sums:
                sums[name] += int(value) * 1024
    return sums["Rss:"], sums["Pss:"]


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its live descendants, exact to the nanosecond (utime and stime count in 10 ms)."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    own_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    children = " ".join((task / "children").read_text() for task in tasks).split()
    spent_s = own_ns / 1e9
    for child in children:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile: `ended_cpu_s` has it
            spent_s += tree_cpu_s(int(child))
    return spent_s


def ended_cpu_s(pid: int) -> float:
    """CPU time of a process' children that have ended, as it was counted when they did."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
