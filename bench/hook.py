"""What the hooks add to `srun -N4 hostname` on a real cluster, beside hooks that are a trivial shell script.

The four nodes of the cluster share this machine's cores; a pause after each run keeps what the agents do after a job,
which elsewhere happens on cores of their own, out of the next run.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from functools import partial

from bench.result import Result, Skipped, added, interleaved
from devcluster import Cluster, site

ROUNDS = 9
RUNS = 5
PAUSE_S = 0.6
SHELL_HOOK = "/etc/perun/trivial.sh"
ARMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "shell": (f"Prolog={SHELL_HOOK}", f"Epilog={SHELL_HOOK}"),
    "perun": site.SLURM_CONF,
}
TIMER = """
import subprocess, sys, time
for _ in range(int(sys.argv[1]) + 1):
    begin = time.perf_counter()
    subprocess.run(["srun", "-N4", "hostname"], check=True, stdout=subprocess.DEVNULL)
    print(time.perf_counter() - begin)
    time.sleep(float(sys.argv[2]))
"""


def run() -> Iterator[Result]:
    """Yield `hook.added_s`: the median over rounds of (with the hooks) - (without any)."""
    if os.geteuid() != 0:
        raise Skipped("the cluster needs root")
    cluster = Cluster("bench")
    cluster.up()
    try:
        site.install(cluster)
        script = cluster.etc_perun / "trivial.sh"
        script.write_text("#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
        taken = interleaved({name: partial(_median_s, cluster, lines) for name, lines in ARMS.items()}, ROUNDS)
    finally:
        cluster.down()
    ours, theirs = added(taken, "perun", "none"), added(taken, "shell", "none")
    yield Result("hook.added_s", ours, "s", "a trivial shell prolog", theirs, n=ROUNDS * RUNS)


def _median_s(cluster: Cluster, slurm_conf: tuple[str, ...]) -> float:
    """Median wall time of one `srun -N4 hostname` with these lines in slurm.conf, after one that does not count."""
    cluster.configure(slurm_conf)
    cluster.reconfigure()
    cluster.wait_idle()
    done = cluster.run(["python3", "-c", TIMER, str(RUNS), str(PAUSE_S)], check=True, timeout=300)
    return statistics.median(float(line) for line in done.stdout.split()[1:])
