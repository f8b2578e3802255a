"""`python -m tests.attack [NAME ...] [--write] [--cluster NAME] [--inputs PERCENT] [--minutes M] [--seed N]`."""

from __future__ import annotations

import argparse
import datetime
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attack import cases, fuzz, table, targets
from tests.attack.table import Result
from tests.slurm import site
from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "attacks.md"
HEAD = """# Attacks

What a second user, with an account and jobs on the same nodes, tried against the jobs of others, against the service
and against root, on a four-node Slurm {slurm} in namespaces of one machine with two cores; and what fuzzers fed to
everything that reads bytes of somebody else's. Made by `make attack`, last on {date}; rows that were
not tried again then are older. `python -m tests.attack NAME` runs one line alone, `--write` puts it here.
What it all rests on is written in [security.md](security.md).

*n* is the number of tries or inputs. Jobs of the first user ran on the same node during each attack: none may fail, and
the agent must be the same process afterwards. *Served at once* are hooks that the agent answered before their deadline.

"""


def fuzzers(percent: float, most_s: float = math.inf, seed: int = 1) -> Iterator[tuple[str, Callable[[], Result]]]:
    """The fuzzers as attacks."""

    def of_python(target: fuzz.Target) -> Result:
        done = fuzz.run(target, max(1, int(target.n * percent / 100)), seed, most_s)
        found = "; ".join(finding.what for finding in done.findings[:3])
        outcome = (
            found or f"{done.refused:,} refused, the rest read; {done.memory_b >> 20} MiB more, {done.seconds:.0f} s"
        )
        return Result(f"fuzz-{target.name}", target.tried, done.inputs, outcome, not done.findings)

    def of_c(name: str, tried: str) -> Result:
        subprocess.run(["make", "-s", "-C", ROOT / "slurm", "sanitized", "BUILD=build/sanitized"], check=True)
        inputs = max(1, int(1_000_000 * percent / 100))
        done = subprocess.run(
            [ROOT / "slurm/build/sanitized" / name, str(inputs)], capture_output=True, text=True, check=False
        )
        said = (done.stdout + done.stderr).strip().splitlines()
        return Result(f"fuzz-c-{name}", tried, inputs, said[-1] if said else "", done.returncode == 0)

    yield "fuzz-c-fuzz", lambda: of_c("fuzz", "packets for the hooks and perun-launch, with the sanitizers")
    yield "fuzz-c-fuzz_mpmd", lambda: of_c("fuzz_mpmd", "files of srun --multi-prog, with the sanitizers")
    for target in targets.TARGETS:
        yield f"fuzz-{target.name}", lambda target=target: of_python(target)  # type: ignore[misc]


def main() -> int:
    """Run the attacks named, or all; exit code 1 if one came through."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write docs/attacks.md; other lines of it stay")
    parser.add_argument("--cluster", default="attack", help="name of the cluster; it is left up if it was")
    parser.add_argument("--inputs", type=float, default=100, metavar="PERCENT", help="part of the fuzzers' inputs")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="at most so long for each fuzzer")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="other inputs than the last time")
    chosen = parser.parse_args()
    known = dict(fuzzers(chosen.inputs, chosen.minutes * 60, chosen.seed))
    names = chosen.names or [*cases.CASES, *known]
    unknown = [name for name in names if name not in cases.CASES and name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join([*cases.CASES, *known])}")
    results: list[Result] = []

    def note(result: Result) -> None:
        results.append(result)
        print(table.line(result), flush=True)

    on_cluster = [name for name in names if name in cases.CASES]
    if on_cluster:
        cluster = Cluster(chosen.cluster)
        was_up = cluster.is_up()
        cluster.up()
        site.install(cluster)
        try:
            with cases.Siege(cluster).laid() as siege:
                for name in on_cluster:
                    note(cases.CASES[name](siege))
        finally:
            if not was_up:
                cluster.down()
    try:
        for name in names:
            if name in known:
                note(known[name]())
    finally:
        targets.clean()
    if chosen.write:
        slurm = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout.split()
        today = datetime.date.today().isoformat()
        page = PAGE.read_text() if PAGE.exists() else ""
        rows = table.markdown(results, page, [*cases.CASES, *known])
        PAGE.write_text(HEAD.format(slurm=slurm[-1] if slurm else "", date=today) + rows)
    return 0 if all(one.held for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
