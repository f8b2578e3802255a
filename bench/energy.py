"""What the energy plugin adds to a job's start and end on a real cluster, beside `acct_gather_energy/none`.

Two nodes have slurm.conf of their own: on one slurmd and its steps load the plugin, on the other none; a job runs on
the one and then on the other, in turn, and halfway the nodes change places. A job's time is from srun's start until its
node is idle again. The file that the plugin reads is full meanwhile: a thousand jobs of others stand before the one
that runs, packed by the agent's own function; the agents themselves, which measure on both nodes, write none.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.result import Median, Result, Skipped
from devcluster import Cluster, site
from tests.figures.ground import plugin_lines

PAIRS = int(os.environ.get("PERUN_BENCH_PAIRS", "300"))
FILE = "/run/perun/slurm.figures"
OTHERS = 1016
"""Jobs of others in the file; with the records of the one that runs it is full."""
NODES = ("n1", "n2")
RESAMPLES = 4000
WRITER = """
import os, sys, time
from perun_hpc.agent.figure import MOST, OF_JOB, Figure, packed
first, others, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fd = os.open(path, os.O_WRONLY)
sequence = 0
while True:
    now, sequence = time.monotonic_ns(), sequence + 1
    figure = Figure(10**9, now, 10**8, now + 3 * 10**9)
    with open("/shared/next-job") as file:
        mine = int(file.read())
    jobs = [(first + one, OF_JOB, figure) for one in range(others)]
    jobs += [(mine + one, step, figure) for one in range(4) for step in (0, OF_JOB)]
    os.pwrite(fd, packed(figure, jobs, sequence), 0)
    time.sleep(0.2)
"""
"""Runs on both nodes: whatever id the next jobs have, theirs are the last records."""
TIMER = """
import subprocess, sys, time
pairs, first, second = int(sys.argv[1]), *sys.argv[2:4]
def idle(node):
    words = ["sinfo", "-h", "-n", node, "-o", "%t"]
    while subprocess.run(words, capture_output=True, text=True).stdout.strip() != "idle":
        pass
def once(node):
    begin = time.perf_counter()
    subprocess.run(["srun", "--exclusive", "-w", node, "true"], check=True, stdout=subprocess.DEVNULL)
    ran = time.perf_counter() - begin
    idle(node)
    return ran, time.perf_counter() - begin
def named():
    words = ["squeue", "-h", "-a", "-t", "all", "-o", "%A"]
    ids = [int(one) for one in subprocess.run(words, capture_output=True, text=True).stdout.split()]
    with open("/shared/next-job", "r+") as file:
        file.write(f"{max(ids, default=0) + 1:>12}")
once(first), once(second)
for pair in range(pairs):
    named()
    time.sleep(0.3)
    order = (first, second) if pair % 2 else (second, first)
    took = {node: once(node) for node in order}
    print(*took[first], *took[second], flush=True)
"""


def run() -> Iterator[Result]:
    """Yield the two medians and, of their ratio, the value and its 95 % interval (pairs drawn anew)."""
    if os.geteuid() != 0:
        raise Skipped("the cluster needs root")
    cluster = Cluster("bench", nodes=len(NODES))
    cluster.up()
    try:
        site.install(cluster)
        ours, none = _pairs(cluster)
    finally:
        cluster.down()
    low, high = interval(ours, none)
    ratio = statistics.median(ours) / statistics.median(none)
    peer = "acct_gather_energy/none"
    yield Result("energy.job_s", Median.of(ours), "s", peer, Median.of(none), n=len(ours))
    yield Result("energy.job_ratio", ratio, "", n=len(ours))
    yield Result("energy.job_ratio_low", low, "", n=len(ours))
    yield Result("energy.job_ratio_high", high, "", n=len(ours))


def interval(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of the ratio of medians, by drawing the pairs anew."""
    pairs = list(zip(ours, theirs, strict=True))
    draw = random.Random(seed)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(one for one, _ in drawn) / statistics.median(two for _, two in drawn))
    ratios.sort()
    return ratios[round(0.025 * RESAMPLES)], ratios[round(0.975 * RESAMPLES) - 1]


def _pairs(cluster: Cluster) -> tuple[list[float], list[float]]:
    """Seconds of each job with the plugin and of its neighbour without."""
    lines = (*site.SLURM_CONF, *plugin_lines(cluster))
    cluster.configure(lines)
    cluster.restart("slurmctld")
    without = [line for line in lines if "AcctGather" not in line]
    (cluster.etc_slurm / "none.conf").write_text("".join(f"{line}\n" for line in without))
    next_job = cluster.shared / "next-job"
    next_job.write_text(f"{1:>12}")
    next_job.chmod(0o666)
    ours: list[float] = []
    none: list[float] = []
    for with_it, without_it in (NODES, NODES[::-1]):
        _own_conf(cluster, with_it, without_it)
        cluster.run(["srun", "-N2", "true"], check=True)  # the agents have made the file
        cluster.wait_idle()
        since_s = int(time.time())
        with _full(cluster):
            words = ["python3", "-c", TIMER, str(PAIRS // 2), with_it, without_it]
            done = cluster.run(words, check=True, timeout=3600)
        _shown(cluster, with_it, since_s)
        rows = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
        ours += [row[1] for row in rows]
        none += [row[3] for row in rows]
    return ours, none


def _own_conf(cluster: Cluster, with_it: str, without_it: str) -> None:
    """Let one node's slurmd name the plugin and the other's none."""
    for node, bound in ((with_it, False), (without_it, True)):
        cluster.run(["umount", "/etc/slurm/admin.conf"], user="root", node=node)
        if bound:
            words = ["mount", "--bind", "/etc/slurm/none.conf", "/etc/slurm/admin.conf"]
            cluster.run(words, user="root", node=node, check=True)
        cluster.restart("slurmd", node)
    cluster.wait_idle()


@contextlib.contextmanager
def _full(cluster: Cluster) -> Iterator[None]:
    """Keep the file of both nodes full."""
    words = [f"{site.PREFIX}/bin/python", "-I", "-c", WRITER, "1000000", str(OTHERS), FILE]
    writers = [cluster.popen(words, user="root", node=node, stdin=subprocess.DEVNULL) for node in NODES]
    try:
        yield
        if any(writer.poll() is not None for writer in writers):
            raise RuntimeError("the file was not kept full")
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


def _shown(cluster: Cluster, node: str, since_s: int) -> None:
    """Make sure that the plugin had figures to show."""
    words = ["sacct", "-X", "-n", "-P", "-a", "-N", node, "-S", f"uts{since_s}", "-o", "JobIDRaw,ConsumedEnergyRaw"]
    rows = cluster.run(words, user="root", check=True).stdout.split()
    known = [row for row in rows if row.partition("|")[2] not in ("", "0")]
    if len(known) < len(rows) // 2:
        raise RuntimeError(f"of {len(rows)} jobs on {node} only {len(known)} have a figure")
