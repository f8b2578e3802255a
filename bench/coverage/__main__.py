"""`python -m bench.coverage [--trials N] [--family F] [--sharing METHOD] [--seed S] [KIND ...]`: the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from zlib import crc32

import numpy as np

from bench.coverage import devices, kinds, marks, node, odd, pairs
from bench.coverage.physics import FAMILIES
from bench.coverage.verdict import Sample, judge, table
from perun_hpc.energy.attribute import FITTED

TRIALS = {**kinds.TRIALS, **devices.TRIALS, **marks.TRIALS, **odd.TRIALS, **pairs.TRIALS}
SEEDS = {"tuning": 20261130, "withheld": 31415926}
CHUNK = 20


def main(argv: Sequence[str]) -> int:
    """Print the verdict of each kind of case."""
    parser = argparse.ArgumentParser(prog="python -m bench.coverage", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(TRIALS))
    parser.add_argument("--trials", type=int, default=150, help="trials of each kind")
    parser.add_argument("--family", choices=[*FAMILIES, "both"], default="withheld")
    parser.add_argument("--seed", type=int, help="other trials than those of the published table")
    parser.add_argument("--sharing", choices=["cores", FITTED], default="cores", help="as the policy's package_sharing")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(argv)
    for family in FAMILIES if args.family == "both" else [args.family]:
        seed, fitted = args.seed or SEEDS[family], args.sharing == FITTED
        samples = run(args.kinds or list(TRIALS), family, args.trials, seed, args.processes, fitted)
        by_kind: dict[str, list[Sample]] = {}
        for one in samples:
            by_kind.setdefault(one.kind, []).append(one)
        print(f"family {family}:\n")
        print(table(judge(kind, found) for kind, found in by_kind.items()), flush=True)
    return 0


def run(
    names: Sequence[str], family: str, trials: int, seed: int, processes: int, fitted: bool = False
) -> Iterator[Sample]:
    """All samples of some kinds, in the same order however many processes there are."""
    tasks = [(name, first, min(CHUNK, trials - first)) for name in names for first in range(0, trials, CHUNK)]
    if processes <= 1:
        for task in tasks:
            yield from _chunk(task, family, seed, fitted)
        return
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(_chunk, tasks, repeat(family), repeat(seed), repeat(fitted)):
            yield from found


def _chunk(task: tuple[str, int, int], family: str, seed: int, fitted: bool) -> list[Sample]:
    name, first, count = task
    node.FITTED.set(fitted)
    found: list[Sample] = []
    for number in range(first, first + count):
        # By the kind's name: a kind that is added changes no other's trials.
        rng = np.random.default_rng([seed, crc32(name.encode()), number])
        found += TRIALS[name](rng, FAMILIES[family])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
