"""What sampling costs: CPU seconds per 1000 samples of the node's agent, beside perun 1.0.0 and CodeCarbon; its memory.

Peers are counted by the samples they were asked for, which flatters them: they take a few percent less. With 400
sensors the peer is perun with 33, more than which it does not have on a machine like this.

The floor is a bare Python loop that sleeps 10 ms, reads 33 such files and does nothing with them: the peer of the
agent's own share. At one row a second with 100 sensors what counts is the share of a core.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import running
from bench.result import Result, medians

ROUNDS = 3
COUNTS = (3, 33, 400)
OURS_S, OURS_PERIOD_MS = 10, 10
SLOW_COUNT, SLOW_S, SLOW_PERIOD_MS = 100, 30, 1000
PEER_S, PEER_PERIOD_S = 15, 0.1
THREE_OF_PERUN = "RAM_USAGE NET_READ_BYTES_lo NET_WRITE_BYTES_lo"
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


def run() -> Iterator[Result]:
    """Yield `sampler.cpu_s_per_1000.{3,33,400}`, the floor, `agent.core_percent.100_at_1hz` and `agent.rss_mb`."""
    rss_mb: list[float] = []
    arms: dict[str, Callable[[], float]] = {f"ours {count}": partial(_agent, count, rss_mb) for count in COUNTS}
    arms["perun 3"] = partial(perun, ("--exclude-sensors", "", "--include-sensors", THREE_OF_PERUN))
    arms["perun 33"] = partial(perun, ("--exclude-sensors", ""))
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
        running.machine(Path(text), 33)
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
    with running.agent(count, period_ms) as agent:
        begin, since_s = agent.status(), time.monotonic()
        time.sleep(seconds)
        end, elapsed_s = agent.status(), time.monotonic() - since_s
        record = agent.end_job()
    per_s = record["trace"]["rows"] / (record["end"]["mono_ns"] - record["start"]["mono_ns"]) * 1e9
    cpu_s = (int(end["cpu_ns"]) - int(begin["cpu_ns"])) / 1e9
    return _Used(cpu_s, elapsed_s, per_s, int(end["rss_b"]) / 1e6)


def perun(words: tuple[str, ...]) -> float:
    """CPU seconds per 1000 samples of all processes of perun 1.0.0 while the application sleeps."""
    with running.perun(words, PEER_PERIOD_S, PEER_S) as process:
        begin_s, since_s = running.tree_cpu_s(process.pid), time.monotonic()
        time.sleep(PEER_S)
        spent_s, elapsed_s = running.tree_cpu_s(process.pid) - begin_s, time.monotonic() - since_s
    return spent_s / (elapsed_s / PEER_PERIOD_S) * 1000


def _codecarbon() -> float:
    with running.codecarbon(PEER_PERIOD_S) as process:
        time.sleep(PEER_S)
        spent_s, _ = process.communicate()
    return float(spent_s) / (PEER_S / PEER_PERIOD_S) * 1000
