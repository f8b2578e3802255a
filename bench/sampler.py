"""What sampling costs: CPU seconds per 1000 samples of the node's agent, beside perun 1.0.0 and CodeCarbon; its memory.

Peers are counted by the samples they were asked for, which flatters them: they take a few percent less. With 400
sensors the peer is perun with 33, more than which it does not have on a machine like this.

The floor is a bare Python loop that sleeps 10 ms, reads 33 such files and does nothing with them: the peer of the
agent's own share. At one row a second with 100 sensors what counts is the share of a core, and memory: all that the
agent, and `perun-sample` for it, has in its pages, and its part of those that it shares with others (`Pss`). An earlier
build of it is beside it, and the floor again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bench import running
from bench.against import ROOT, checked_out, commit, interpreter
from bench.result import Result, medians

ROUNDS = 3
COUNTS = (3, 33, 400)
OURS_S, OURS_PERIOD_MS = 10, 10
SLOW_COUNT, SLOW_S, SLOW_PERIOD_MS = 100, 60, 1000
PEER_S, PEER_PERIOD_S = 15, 0.1
SETTLE_S = 3
"""An agent imports what it needs late, and compiles its policy, in its first seconds."""
SLOW_SETTLE_S = 15
"""It looks after a job each second until that is ten seconds old."""
THREE_OF_PERUN = "RAM_USAGE NET_READ_BYTES_lo NET_WRITE_BYTES_lo"
FLOOR = """
import os, select, sys, time
files = [os.open(path, os.O_RDONLY) for path in sys.argv[3:]]
read, pread = os.pipe()[0], os.pread
begin_s, until_s, rows = time.process_time(), time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < until_s:
    select.select((read,), (), (), float(sys.argv[2]))
    [int(pread(file, 64, 0)) for file in files]
    rows += 1
print((time.process_time() - begin_s) / rows * 1000)
"""


def run() -> Iterator[Result]:
    """Yield `sampler.cpu_s_per_1000.{3,33,400}`, the floor, `agent.{core_percent,rss_mb,pss_mb}.100_at_1hz`."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text, checked_out(Path(text) / "against") as other:
        builds = {"ours": ROOT, commit(): other}
        pythons = {name: interpreter(build, Path(text) / name) for name, build in builds.items()}
        yield from slow(pythons)
    arms: dict[str, Callable[[], float]] = {f"ours {count}": partial(_agent, count) for count in COUNTS}
    arms["perun 3"] = partial(perun, ("--exclude-sensors", "", "--include-sensors", THREE_OF_PERUN))
    arms["perun 33"] = partial(perun, ("--exclude-sensors", ""))
    arms["codecarbon"] = _codecarbon
    arms["floor"] = partial(_floor, 33, OURS_S, OURS_PERIOD_MS)
    taken = medians(arms, ROUNDS)
    for count, peer, name in (
        (3, "perun 1.0.0", "perun 3"),
        (3, "CodeCarbon", "codecarbon"),
        (33, "perun 1.0.0", "perun 33"),
        (400, "perun 1.0.0, 33 sensors", "perun 33"),
        (33, "bare Python reading 33 files", "floor"),
    ):
        yield Result(f"sampler.cpu_s_per_1000.{count}", taken[f"ours {count}"], "s", peer, taken[name], n=ROUNDS)


def slow(pythons: Mapping[str, Path]) -> Iterator[Result]:
    """What an agent at one row a second takes, of each build beside the others."""
    taken: dict[str, list[_Used]] = {name: [] for name in pythons}

    def measured(name: str, python: Path) -> float:
        taken[name].append(_used(SLOW_COUNT, SLOW_PERIOD_MS, SLOW_S, python))
        return 100 * taken[name][-1].cpu_s / taken[name][-1].elapsed_s

    arms: dict[str, Callable[[], float]] = {name: partial(measured, name, python) for name, python in pythons.items()}
    arms["floor"] = partial(_floor, SLOW_COUNT, SLOW_S // 2, SLOW_PERIOD_MS)
    percent = medians(arms, ROUNDS)
    (ours, others) = taken
    name = f"agent.core_percent.{SLOW_COUNT}_at_1hz"
    yield Result(name, percent[ours], "%", others, percent[others], n=ROUNDS)
    floor = percent["floor"] / 1000 / (SLOW_PERIOD_MS / 1000) * 100
    yield Result(name, percent[ours], "%", f"bare Python reading {SLOW_COUNT} files", floor, n=ROUNDS)
    for figure in ("rss_mb", "pss_mb"):
        mine, theirs = (median(getattr(one, figure) for one in taken[build]) for build in (ours, others))
        yield Result(f"agent.{figure}.{SLOW_COUNT}_at_1hz", mine, "MB", others, theirs, n=ROUNDS)


def _agent(count: int) -> float:
    """CPU seconds per 1000 samples of an agent that samples one job with `count` energy counters."""
    used = _used(count, OURS_PERIOD_MS, OURS_S)
    return used.cpu_s / (used.elapsed_s * used.rows_per_s) * 1000


def _floor(count: int, seconds: float, period_ms: int) -> float:
    """CPU seconds per 1000 rows of the least that Python can do."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        running.machine(Path(text), count)
        files = sorted(str(path) for path in Path(text).rglob("energy_uj"))
        command = [sys.executable, "-I", "-c", FLOOR, str(seconds), str(period_ms / 1000), *files]
        with running.counting(Path(text)):
            return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@dataclass(frozen=True)
class _Used:
    """What an agent used in a time: counted by the rows that are there, since a busy machine makes it skip some."""

    cpu_s: float
    elapsed_s: float
    rows_per_s: float
    rss_mb: float
    pss_mb: float


def _used(count: int, period_ms: int, seconds: float, python: Path | str = sys.executable) -> _Used:
    with running.agent(count, period_ms, python) as agent:
        time.sleep(SETTLE_S if period_ms < SLOW_PERIOD_MS else SLOW_SETTLE_S)
        begin, since_s = agent.status(), time.monotonic()
        time.sleep(seconds)
        end, elapsed_s = agent.status(), time.monotonic() - since_s
        rss_b, pss_b = running.memory_b(agent.pid, "perun-sample")
        record = agent.end_job()
    per_s = record["trace"]["rows"] / (record["end"]["mono_ns"] - record["start"]["mono_ns"]) * 1e9
    cpu_s = (int(end["cpu_ns"]) - int(begin["cpu_ns"])) / 1e9
    return _Used(cpu_s, elapsed_s, per_s, rss_b / 1e6, pss_b / 1e6)


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
