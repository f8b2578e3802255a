"""What a pair of hooks, a job's start and its end, costs a node on which many jobs run, beside an earlier build.

CPU time of the agent and of all its children, from the start's message until the record is in the archive; what the
agent uses meanwhile without any message, measured before and after, is taken off. The node has two packages, their
memory and 256 CPUs; each job has one CPU, a batch step and Slurm's extern step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.against import ROOT, checked_out, commit, interpreter
from bench.result import Result, medians
from bench.running import ended_cpu_s, running, tree_cpu_s
from perun_hpc.wire.client import request

ROUNDS = 3
LIVE = (1, 64, 256)
"""Jobs that run all the time."""
PAIRS = 12
IDLE_S = 4.0
CPUS = 256
POLICY = """
monitor: {{jobs: all}}
agent: {{nice: 0}}
sensors: {{backends: [powercap]}}
store: {{archive: {archive}}}
"""
JOB = {"restart_count": "0", "uid": "1000", "gid": "1000", "user": "alice", "account": "physics", "partition": "batch",
       "cluster": "bench", "node": "n1", "nodelist": "n1", "num_nodes": "1", "cpus_on_node": "1"}  # fmt: skip
SCOPE = "sys/fs/cgroup/system.slice/slurmstepd.scope"


def run() -> Iterator[Result]:
    """Yield `pairs.cpu_ms.{1,64,256}` beside an earlier build."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as name, checked_out(Path(name) / "against") as other:
        builds = {one: interpreter(build, Path(name) / one) for one, build in (("ours", ROOT), (commit(), other))}
        for live in LIVE:
            taken = medians({one: partial(_pair_ms, python, live) for one, python in builds.items()}, ROUNDS)
            ours, theirs = taken.values()
            yield Result(f"pairs.cpu_ms.{live}", ours, "ms", commit(), theirs, n=ROUNDS * PAIRS)


def _pair_ms(python: Path, live: int) -> float:
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text, _agent(python, Path(text)) as agent:
        for job in range(1, live + 1):
            agent.begin(job)
        agent.pair(live + 1)
        time.sleep(IDLE_S)
        before = agent.rate()
        begin_s, spent_s = time.monotonic(), agent.cpu_s()
        for job in range(live + 2, live + 2 + PAIRS):
            agent.pair(job)
        took_s, spent_s = time.monotonic() - begin_s, agent.cpu_s() - spent_s
        return (spent_s - took_s * (before + agent.rate()) / 2) / PAIRS * 1000


class _Agent:
    """The agent of a simulated node, and what the hooks say to it."""

    def __init__(self, home: Path, socket: str, pid: int) -> None:
        self._home, self._socket, self._pid = home, socket, pid
        self._jobs: list[int] = []

    def cpu_s(self) -> float:
        """CPU time of the agent and its children, those that have ended included."""
        return tree_cpu_s(self._pid) + ended_cpu_s(self._pid)

    def rate(self) -> float:
        """CPU seconds a second without any message."""
        begin_s, spent_s = time.monotonic(), self.cpu_s()
        time.sleep(IDLE_S)
        return (self.cpu_s() - spent_s) / (time.monotonic() - begin_s)

    def begin(self, job: int) -> None:
        """A Prolog; its cgroup is there."""
        _cgroup(self._home / "root", job)
        self._jobs.append(job)
        self._say("job-start", job)

    def pair(self, job: int) -> None:
        """A job starts and ends, and its record is in the archive."""
        self.begin(job)
        time.sleep(0.3)
        self._say("job-end", job)
        self._jobs.remove(job)
        record = self._home / "archive" / "bench" / "incoming" / f"{job}.0" / "n1.json"
        deadline_s = time.monotonic() + 60
        while not record.exists():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the agent shipped no record of job {job}")
            time.sleep(0.02)
        shutil.rmtree(self._home / "root" / SCOPE / f"job_{job}")

    def _say(self, verb: str, job: int) -> None:
        _work(self._home / "root", self._jobs)
        fields = {**JOB, "job_id": str(job), "hook_mono_ns": str(time.monotonic_ns())}
        request(verb, fields, timeout_s=30, path=self._socket)


@contextmanager
def _agent(python: Path, home: Path) -> Iterator[_Agent]:
    _machine(home / "root")
    policy = home / "policy.yaml"
    (home / "archive").mkdir()
    policy.write_text(POLICY.format(archive=home / "archive"))
    with running(home, policy, python) as (socket, pid):
        time.sleep(2)
        yield _Agent(home, socket, pid)


def _machine(root: Path) -> None:
    """A node of two packages with their memory, and 256 CPUs."""
    for package in range(2):
        for zone, name in ((f"intel-rapl:{package}", f"package-{package}"), (f"intel-rapl:{package}:0", "dram")):
            directory = root / "sys/class/powercap" / zone
            _write(directory / "name", f"{name}\n")
            _write(directory / "max_energy_range_uj", "262143328850\n")
    for cpu in range(CPUS):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        _write(topology / "physical_package_id", f"{cpu // (CPUS // 2)}\n")
        _write(topology / "core_id", f"{cpu}\n")
    _write(root / "proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
    _write(root / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    _write(root / "proc/meminfo", "MemTotal: 1056000000 kB\nMemAvailable: 956000000 kB\n")
    _work(root, ())


def _work(root: Path, jobs: Iterable[int]) -> None:
    """Every job has used its CPU all the time; the packages drew 100 and 101 W, their memory 10 and 11."""
    now_us = time.monotonic_ns() // 1000
    for package in range(2):
        for zone, watts in ((f"intel-rapl:{package}", 100 + package), (f"intel-rapl:{package}:0", 10 + package)):
            _write(root / f"sys/class/powercap/{zone}/energy_uj", f"{now_us * watts % 262_143_328_850:015d}\n")
    lines = [f"cpu{cpu} {now_us // 10_000:012d} 0 0 5000 0 0 0 0 0 0" for cpu in range(CPUS)]
    _write(root / "proc/stat", "\n".join(["cpu  0 0 0 0 0 0 0 0 0 0", *lines, "intr 0\n"]))
    _write(root / SCOPE / "cpu.stat", f"usage_usec {now_us * CPUS:018d}\nuser_usec 40\nsystem_usec 10\n")
    for job in jobs:
        top = root / SCOPE / f"job_{job}"
        for directory in (top, top / "step_batch"):
            _write(directory / "cpu.stat", f"usage_usec {now_us:015d}\nuser_usec 40\nsystem_usec 10\n")


def _cgroup(root: Path, job: int) -> None:
    top = root / SCOPE / f"job_{job}"
    for directory in (top, top / "step_batch", top / "step_extern"):
        _write(directory / "cpu.stat", "usage_usec 000000000000050\nuser_usec 40\nsystem_usec 10\n")
        _write(directory / "cpuset.cpus", f"{job % CPUS}\n")
        _write(directory / "cpuset.cpus.effective", f"{job % CPUS}\n")
        _write(directory / "memory.current", "4096000\n")
        _write(directory / "memory.peak", "8192000\n")
        _write(directory / "memory.max", "4294967296\n")
        _write(directory / "io.stat", "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n")
        _write(directory / "user/cgroup.events", "populated 1\nfrozen 0\n")
        _write(directory / "cgroup.procs", "")


def _write(path: Path, text: str) -> None:
    """Write a file in place, as the kernel's change: whoever reads meanwhile sees it whole."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, text.encode(), 0)
    finally:
        os.close(fd)
