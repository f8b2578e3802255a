"""What rows 10 ms apart cost `perun monitor` and the agent, of a flagged step: CPU seconds per 1000 rows.

They are those of the sampling process and `perun-sample`, and of the agent with its children, whatever else it does.
The floor is a loop in C that sleeps 10 ms, reads the same files, makes them numbers and forgets them; with 33 sensors
perun 1.0.0 is beside it, by the samples that it was asked for. Starting and ending are not in the figures.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.result import Result, Skipped, medians
from bench.running import agent, counting, machine, tree_cpu_s
from bench.sampler import perun

ROUNDS = 5
COUNTS = (33, 400)
SETTLE_S, MEASURED_S, PERIOD_MS = 3, 10, 10
AGENT_SETTLE_S = 12
"""The agent looks after a job each second until that is ten seconds old, which is a part of its start."""
FLOOR = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(int count, char **words)
{
	struct timespec due, used;
	long rows = atol(words[1]);
	long long sum = 0;
	int files[1000];
	for (int i = 2; i < count; i++)
		files[i] = open(words[i], O_RDONLY);
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (long row = 0; row < rows; row++) {
		if ((due.tv_nsec += 10000000) >= 1000000000) {
			due.tv_nsec -= 1000000000;
			due.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		for (int i = 2; i < count; i++) {
			char text[65] = { 0 };
			if (pread(files[i], text, 64, 0) > 0)
				sum += strtoll(text, NULL, 10);
		}
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	printf("%.9f %lld\n", used.tv_sec + used.tv_nsec / 1e9, sum);
	return 0;
}
"""
SAMPLING = """
import os, queue, sys, threading
from perun_hpc.monitoring.orders import Orders, Signals
from perun_hpc.monitoring.sampling_process import sample
home, period_ns = sys.argv[1], int(sys.argv[2])
signals = Signals(*(threading.Event() for _ in range(4)), queue.Queue())
orders = Orders(home + "/run", "bench", "host", period_ns, ("powercap",), (), (), (), (), home + "/socket/ranks",
                os.getppid(), root=home + "/root")
sample(orders, signals)
"""


def run() -> Iterator[Result]:
    """Yield `fast.{cpu,agent_cpu}_s_per_1000.{33,400}` beside the floor in C, and for 33 beside perun 1.0.0."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        floor = _compiled(Path(text))
        arms: dict[str, Callable[[], float]] = {}
        for count in COUNTS:
            arms[f"ours {count}"] = partial(_ours, count)
            arms[f"agent {count}"] = partial(_agent, count)
            arms[f"C {count}"] = partial(_floor, floor, count)
        arms["perun 33"] = partial(perun, ("--exclude-sensors", ""))
        taken = medians(arms, ROUNDS)
    for count in COUNTS:
        for name, arm in (("cpu", "ours"), ("agent_cpu", "agent")):
            found, floor_s = taken[f"{arm} {count}"], taken[f"C {count}"]
            yield Result(f"fast.{name}_s_per_1000.{count}", found, "s", f"bare C, {count} files", floor_s, n=ROUNDS)
    yield Result("fast.cpu_s_per_1000.33", taken["ours 33"], "s", "perun 1.0.0", taken["perun 33"], n=ROUNDS)


def _compiled(directory: Path) -> Path:
    program = directory / "floor"
    command = ["cc", "-O2", "-o", str(program), "-x", "c", "-"]
    try:
        subprocess.run(command, input=FLOOR, text=True, check=True)
    except FileNotFoundError:
        raise Skipped("no C compiler") from None
    return program


def _floor(program: Path, count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        machine(Path(text), count)
        files = sorted(str(path) for path in Path(text).rglob("energy_uj"))
        rows = MEASURED_S * 1000 // PERIOD_MS
        with counting(Path(text)):
            done = subprocess.run([program, str(rows), *files], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[0]) / rows * 1000


def _agent(count: int) -> float:
    with agent(count, PERIOD_MS) as node:
        node.flag()
        time.sleep(AGENT_SETTLE_S)
        return _per_1000(node.pid)


def _per_1000(pid: int) -> float:
    """CPU seconds of a process and its children per 1000 rows."""
    begin_s, since_s = tree_cpu_s(pid), time.monotonic()
    time.sleep(MEASURED_S)
    spent_s, elapsed_s = tree_cpu_s(pid) - begin_s, time.monotonic() - since_s
    return spent_s / (elapsed_s * 1000 / PERIOD_MS) * 1000


def _ours(count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        home = Path(text)
        machine(home / "root", count)
        # Counters that stand still are judged one by one: so do none that are simulated.
        (home / "root/sys/class/powercap/perun_simulated").touch()
        for name in ("run", "socket"):
            (home / name).mkdir()
        process = subprocess.Popen([sys.executable, "-c", SAMPLING, text, str(PERIOD_MS * 1_000_000)])
        try:
            time.sleep(SETTLE_S)
            with counting(home / "root"):
                return _per_1000(process.pid)
        finally:
            process.kill()
            process.wait()
