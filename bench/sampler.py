"""What sampling costs: CPU seconds per 1000 samples of the node's agent, beside perun 1.0.0 and CodeCarbon; its memory.

Peers are counted by the samples they were asked for, which flatters them: they take a few percent less. With 400
sensors the peer is perun with 33, more than which it does not have on a machine like this.

The floor is a bare Python loop that sleeps 10 ms, reads 33 such files and does nothing with them: the peer of the
agent's own share. At one row a second with 100 sensors what counts is the share of a core.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import peers
from bench.result import Result, medians
from perun_hpc.errors import UnavailableError
from perun_hpc.wire.client import request

ROUNDS = 3
COUNTS = (3, 33, 400)
OURS_S, OURS_PERIOD_MS = 10, 10
SLOW_COUNT, SLOW_S, SLOW_PERIOD_MS = 100, 30, 1000
PEER_S, PEER_PERIOD_S = 15, 0.1
THREE_OF_PERUN = "RAM_USAGE NET_READ_BYTES_lo NET_WRITE_BYTES_lo"
POLICY = """
monitor: {{jobs: all}}
agent: {{nice: 0}}
sampling: {{period: {period_ms} ms, period_min: 10 ms}}
sensors: {{backends: [powercap]}}
store: {{archive: {archive}, trace_min_duration: 0 s}}
"""
FLOOR = """
import os, select, sys, time
files = [os.open(path, os.O_RDONLY) for path in sys.argv[2:]]
read, pread = os.pipe()[0], os.pread
begin_s, until_s, rows = time.process_time(), time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < until_s:
    select.select((read,), (), (), 0.01)
    [int(pread(file, 64, 0)) for file in files]
    rows += 1
print((time.process_time() - begin_s) / rows * 1000)
"""
CODECARBON = """
import sys, time
from codecarbon import OfflineEmissionsTracker
period_s, duration_s = map(float, sys.argv[1:])
tracker = OfflineEmissionsTracker(
    country_iso_code="DEU", measure_power_secs=period_s, save_to_file=False, log_level="error", allow_multiple_runs=True
)
tracker.start()
time.sleep(2)
begin_s = time.process_time()
time.sleep(duration_s)
print(time.process_time() - begin_s)
tracker.stop()
"""


def run() -> Iterator[Result]:
    """Yield `sampler.cpu_s_per_1000.{3,33,400}`, the floor, `agent.core_percent.100_at_1hz` and `agent.rss_mb`."""
    rss_mb: list[float] = []
    arms: dict[str, Callable[[], float]] = {f"ours {count}": partial(_agent, count, rss_mb) for count in COUNTS}
    arms["perun 3"] = partial(_perun, ("--exclude-sensors", "", "--include-sensors", THREE_OF_PERUN))
    arms["perun 33"] = partial(_perun, ("--exclude-sensors", ""))
    arms["codecarbon"] = _codecarbon
    arms["floor"] = _floor
    arms["slow"] = _core_percent
    taken = medians(arms, ROUNDS)
    for count, peer, name in (
        (3, "perun 1.0.0", "perun 3"),
        (3, "CodeCarbon", "codecarbon"),
        (33, "perun 1.0.0", "perun 33"),
        (400, "perun 1.0.0, 33 sensors", "perun 33"),
        (33, "bare Python reading 33 files", "floor"),
    ):
        yield Result(f"sampler.cpu_s_per_1000.{count}", taken[f"ours {count}"], "s", peer, taken[name], n=ROUNDS)
    yield Result(f"agent.core_percent.{SLOW_COUNT}_at_1hz", taken["slow"], "%", n=ROUNDS)
    yield Result("agent.rss_mb", statistics.median(rss_mb), "MB", n=len(rss_mb))


def _agent(count: int, rss_mb: list[float]) -> float:
    """CPU seconds per 1000 samples of an agent that samples one job with `count` energy counters."""
    used = _used(count, OURS_PERIOD_MS, OURS_S)
    if count == 33:
        rss_mb.append(used.rss_mb)
    return used.cpu_s / (used.elapsed_s * used.rows_per_s) * 1000


def _core_percent() -> float:
    """Share of a core that an agent takes at one row a second."""
    used = _used(SLOW_COUNT, SLOW_PERIOD_MS, SLOW_S)
    return 100 * used.cpu_s / used.elapsed_s


def _floor() -> float:
    """CPU seconds per 1000 rows of the least that Python can do."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        _machine(Path(text), 33)
        files = sorted(str(path) for path in Path(text).rglob("energy_uj"))
        command = [sys.executable, "-I", "-c", FLOOR, str(OURS_S), *files]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@dataclass(frozen=True)
class _Used:
    """What an agent used in a time: counted by the rows that are there, since a busy machine makes it skip some."""

    cpu_s: float
    elapsed_s: float
    rows_per_s: float
    rss_mb: float


def _used(count: int, period_ms: int, seconds: float) -> _Used:
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        home = Path(text)
        _machine(home / "root", count)
        policy = home / "policy.yaml"
        policy.write_text(POLICY.format(archive=home / "archive", period_ms=period_ms))
        (home / "archive").mkdir()
        with _running(home, policy) as socket:
            job = {
                "job_id": "1",
                "restart_count": "0",
                "uid": "0",
                "gid": "0",
                "user": "root",
                "cluster": "bench",
                "exclusive": "1",
            }
            request("job-start", {**job, "node": "bench"}, path=socket, timeout_s=5)
            time.sleep(1.5)
            begin, since_s = request("status", {}, path=socket, timeout_s=5).fields, time.monotonic()
            time.sleep(seconds)
            end, elapsed_s = request("status", {}, path=socket, timeout_s=5).fields, time.monotonic() - since_s
            request("job-end", {**job, "exit_code": "0"}, path=socket, timeout_s=5)
            record = _record(home / "archive" / "bench" / "incoming" / "1.0" / "bench.json")
        per_s = record["trace"]["rows"] / (record["end"]["mono_ns"] - record["start"]["mono_ns"]) * 1e9
        cpu_s = (int(end["cpu_ns"]) - int(begin["cpu_ns"])) / 1e9
        return _Used(cpu_s, elapsed_s, per_s, int(end["rss_b"]) / 1e6)


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
def _running(home: Path, policy: Path) -> Iterator[str]:
    socket = str(home / "run" / "agent.sock")
    options = {"--run-dir": home / "run", "--spool": home / "spool", "--root": home / "root", "--policy": policy}
    words = [str(word) for pair in options.items() for word in pair]
    agent = subprocess.Popen([sys.executable, "-I", "-m", "perun_hpc.agent", *words, "--foreground"])
    try:
        for _ in range(200):
            try:
                request("status", {}, path=socket)
                break
            except UnavailableError:
                time.sleep(0.05)
        yield socket
    finally:
        agent.terminate()
        agent.wait(30)


def _machine(root: Path, count: int) -> None:
    """A root directory with `count` RAPL packages and a job's cgroup; all else is this machine's."""
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
    cgroup.mkdir(parents=True)
    for name, text in (
        ("cpu.stat", "usage_usec 5\n"),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("cpuset.cpus.effective", "0-1\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("cgroup.procs", ""),
    ):
        (cgroup / name).write_text(text)


def _perun(words: tuple[str, ...]) -> float:
    """CPU seconds per 1000 samples of all its processes while the application sleeps."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        script, started = Path(text) / "idle.py", Path(text) / "started"
        script.write_text(f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep({PEER_S} + 4)\n")
        command = [str(peers.python("perun").with_name("perun")), "monitor", "--sampling-period", str(PEER_PERIOD_S)]
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
        begin_s, since_s = _tree_cpu_s(process.pid), time.monotonic()
        time.sleep(PEER_S)
        spent_s, elapsed_s = _tree_cpu_s(process.pid) - begin_s, time.monotonic() - since_s
        process.wait(120)
        return spent_s / (elapsed_s / PEER_PERIOD_S) * 1000


def _tree_cpu_s(pid: int) -> float:
    """CPU time of a process and its live descendants, exact to the nanosecond (utime and stime count in 10 ms)."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    own_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    children = " ".join((task / "children").read_text() for task in tasks).split()
    return own_ns / 1e9 + sum(_tree_cpu_s(int(child)) for child in children)


def _codecarbon() -> float:
    command = [str(peers.python("codecarbon")), "-c", CODECARBON, str(PEER_PERIOD_S), str(PEER_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    return float(done.stdout.split()[-1]) / (PEER_S / PEER_PERIOD_S) * 1000
