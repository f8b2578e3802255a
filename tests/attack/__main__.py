"""`python -m tests.attack [NAME ...] [--write] [--cluster NAME] [--minutes M] [--inputs N] [--jobs J] [--seed S]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from devcluster import Cluster, site
from tests.attack import cases, first_comer, progress, service, table, targets
from tests.attack.table import Result

CASES = {**cases.CASES, **service.CASES, **first_comer.CASES}
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "attacks.md"
HEAD = """# Attacks

What a second user, with an account and jobs on the same nodes, tried against the jobs of others, against the service
and against root, on a four-node Slurm {slurm} in namespaces of one machine with two cores; and what fuzzers fed to
everything that reads bytes of somebody else's. Made by `make attack`; *of* is the day and the commit of which a row is.
`python -m tests.attack NAME` runs one line alone, `--write` puts it here.
What it all rests on is written in [security.md](security.md).

*n* is the number of tries or inputs. Jobs of the first user ran on the same node during each attack: none may fail, and
the agent must be the same process afterwards. *Served at once* are hooks that the agent answered before their deadline.

"""
FUZZERS_HEAD = """
## Fuzzers in Python

Each feeds damaged inputs to what reads them, until that state of the code has had a million. A refusal with the
product's own errors is right; a finding is any other exception, or one input that takes 5 s of CPU time, a minute, or
512 MiB of memory. The n-th input of a fuzzer is always the same. `.fuzz/` keeps how far each one has come:
`python -m tests.attack fuzz-NAME ... --minutes M --jobs J` goes on where the last run ended, and several can run at
once. *Code* is a digest of the modules that are fed and of all that they import; *inputs*, *refused*, *memory* (the
most that a block of inputs took), inputs *a second* and *findings* are of that code, *earlier code* counts the inputs
that went to what it was before, whose findings were mended.

"""


def _of_c(name: str, tried: str, inputs: int) -> Result:
    subprocess.run(["make", "-s", "-C", ROOT / "slurm", "sanitized", "BUILD=build/sanitized"], check=True)
    done = subprocess.run(
        [ROOT / "slurm/build/sanitized" / name, str(inputs)], capture_output=True, text=True, check=False
    )
    said = (done.stdout + done.stderr).strip().splitlines()
    return Result(f"fuzz-c-{name}", tried, inputs, said[-1] if said else "", done.returncode == 0)


C_FUZZERS: dict[str, Callable[[], Result]] = {
    f"fuzz-c-{name}": partial(_of_c, name, tried, 1_000_000)
    for name, tried in (
        ("fuzz", "packets for the hooks and perun-launch, with the sanitizers"),
        ("fuzz_mpmd", "files of srun --multi-prog, with the sanitizers"),
    )
}
FUZZERS = {f"fuzz-{target.name}": target for target in targets.TARGETS}


def on_cluster(names: list[str], cluster_name: str) -> list[Result]:
    """What the second user tries, on a cluster that is left up if it was."""
    results = []
    cluster = Cluster(cluster_name)
    was_up = cluster.is_up()
    cluster.up()
    site.install(cluster)
    try:
        with cases.Siege(cluster, timed=True).laid() as siege:
            for name in names:
                results.append(CASES[name](siege))
                print(table.line(results[-1]), flush=True)
    finally:
        if not was_up:
            cluster.down()
    return results


def main() -> int:
    """Run the attacks named, or all; exit code 1 if one came through."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write docs/attacks.md; other lines of it stay")
    parser.add_argument("--cluster", default="attack", help="name of the cluster; it is left up if it was")
    parser.add_argument("--minutes", type=float, default=30, metavar="M", help="for all fuzzers in Python together")
    parser.add_argument("--inputs", type=int, default=10**9, metavar="N", help="at most so many for each of these now")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes that feed them")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="other inputs than those of another seed")
    chosen = parser.parse_args()
    known = [*CASES, *C_FUZZERS, *FUZZERS]
    names = chosen.names or known
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    fed = [FUZZERS[name] for name in names if name in FUZZERS]
    clustered = [name for name in names if name in CASES]
    results = on_cluster(clustered, chosen.cluster) if clustered else []
    for name in names:
        if name in C_FUZZERS:
            results.append(C_FUZZERS[name]())
            print(table.line(results[-1]), flush=True)
    progress.go_on(fed, chosen.seed, chosen.inputs, chosen.minutes * 60, chosen.jobs)
    rows = {
        f"fuzz-{target.name}": progress.row(target, chosen.seed)
        for target in fed
        if progress.begun(target, chosen.seed)
    }
    for name, row in rows.items():
        print(table.row(name, row), flush=True)
    if chosen.write:
        slurm = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout.split()
        head = HEAD.format(slurm=slurm[-1] if slurm else "")
        page = PAGE.read_text() if PAGE.exists() else ""
        attacks = table.merged(table.HEAD, dict(map(table.cells, results)), page, [*CASES, *C_FUZZERS])
        PAGE.write_text(head + attacks + FUZZERS_HEAD + table.merged(progress.HEAD, rows, page, list(FUZZERS)))
    return 0 if all(one.held for one in results) and not any(progress.broken(one, chosen.seed) for one in fed) else 1


if __name__ == "__main__":
    sys.exit(main())
