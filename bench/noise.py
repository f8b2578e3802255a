"""What applications feel of a sampler: fixed work on every core, over and over, timed (fixed work quanta).

A quantum is what a core does in about 200 us when nothing disturbs it. Each arm runs the same quanta on all cores at
once; what an arm adds is the difference of its quantile, or mean, to that of a machine without a sampler in the same
round. Beside the node's agent, with 33 counters and a job of its own: CodeCarbon as often, and perun 1.0.0, whose
fastest here is ten samples a second (asked for a hundred it takes about one).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import running
from bench.result import Median, Result, Skipped, interleaved

ROUNDS = 5
SECONDS = 10
QUANTUM_US = 200
COUNTERS = 33
PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long work, quanta;
static volatile double sink;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void quantum(void)
{
	double sum = 1;

	for (long i = 0; i < work; i++)
		sum = sum * 0.999999 + 0.5;
	sink = sum;
}

static void *core(void *place)
{
	uint32_t *took = malloc(quanta * sizeof(*took));
	cpu_set_t own;
	int64_t before, after;

	CPU_ZERO(&own);
	CPU_SET((int)(intptr_t)place, &own);
	sched_setaffinity(0, sizeof(own), &own);
	before = now_ns();
	for (long i = 0; i < quanta; i++) {
		quantum();
		after = now_ns();
		took[i] = after - before < UINT32_MAX ? after - before : UINT32_MAX;
		before = after;
	}
	return took;
}

int main(int count, char **words)
{
	int cores = atoi(words[1]);
	pthread_t threads[1024];
	void *took;

	work = atol(words[2]);
	quanta = atol(words[3]);
	if (count != 4 || cores > 1024)
		return 64;
	for (int i = 0; i < cores; i++)
		pthread_create(&threads[i], NULL, core, (void *)(intptr_t)i);
	for (int i = 0; i < cores; i++) {
		pthread_join(threads[i], &took);
		fwrite(took, sizeof(uint32_t), quanta, stdout);
	}
	return 0;
}
"""
PACES = {"1hz": 1.0, "100hz": 0.01}
QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))


@dataclass(frozen=True)
class Felt:
    """How long quanta took, us: the mean, and quantiles."""

    mean: float
    quantiles: dict[str, float]


def run() -> Iterator[Result]:
    """Yield `noise.{mean,p50,p99,p99.9}_us.{1hz,100hz}`: what each quantum takes longer, beside both peers."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as text:
        program = _compiled(Path(text))
        work = _calibrated(program)
        arms: dict[str, Callable[[], AbstractContextManager[object]]] = {"nothing": nullcontext}
        for pace, period_s in PACES.items():
            perun_s = max(period_s, 0.1)
            arms[f"ours {pace}"] = partial(running.agent, COUNTERS, round(period_s * 1000))
            arms[f"perun 1.0.0 {pace}"] = partial(running.perun, ("--exclude-sensors", ""), perun_s, SECONDS * 1.5)
            arms[f"CodeCarbon {pace}"] = partial(running.codecarbon, period_s)

        def felt(beside: Callable[[], AbstractContextManager[object]]) -> Felt:
            with beside():
                return _felt(_quanta(program, work, SECONDS * 1_000_000 // QUANTUM_US))

        taken = interleaved({name: partial(felt, arm) for name, arm in arms.items()}, ROUNDS)
    for pace, period_s in PACES.items():
        for figure in ("mean", *(name for name, _ in QUANTILES)):
            ours = _added(taken, f"ours {pace}", figure)
            for peer in ("perun 1.0.0", "CodeCarbon"):
                theirs = _added(taken, f"{peer} {pace}", figure)
                slower = ", at 10 Hz" if peer == "perun 1.0.0" and period_s < 0.1 else ""
                yield Result(f"noise.{figure}_us.{pace}", ours, "us", peer + slower, theirs, n=ROUNDS)


def _compiled(directory: Path) -> Path:
    program = directory / "quanta"
    command = ["cc", "-O1", "-pthread", "-o", str(program), "-x", "c", "-"]
    try:
        subprocess.run(command, input=PROGRAM, text=True, check=True)
    except FileNotFoundError:
        raise Skipped("no C compiler") from None
    return program


def _calibrated(program: Path) -> int:
    """How many turns of the loop a quantum is."""
    turns = 100_000
    ns = min(_quanta(program, turns, 1000))
    return max(1, turns * QUANTUM_US * 1000 // ns)


def _quanta(program: Path, work: int, quanta: int) -> Sequence[int]:
    """How long each quantum of each core took, ns."""
    words = [str(program), str(os.cpu_count() or 1), str(work), str(quanta)]
    return array("I", subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def _felt(ns: Sequence[int]) -> Felt:
    ordered = sorted(ns)
    last = len(ordered) - 1
    found = {name: ordered[round(part * last)] / 1000 for name, part in QUANTILES}
    return Felt(sum(ordered) / len(ordered) / 1000, found)


def _added(taken: dict[str, list[Felt]], arm: str, figure: str) -> float:
    def of(one: Felt) -> float:
        return one.mean if figure == "mean" else one.quantiles[figure]

    return Median.of(of(more) - of(less) for more, less in zip(taken[arm], taken["nothing"], strict=True))
