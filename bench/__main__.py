"""`python -m bench [NAME ...] [--json] [--against COMMIT]`: a table, or one JSON object per line.

A figure is the median of `n` measurements, with the least and the most of them in brackets.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from bench import against
from bench.result import Result, Skipped

BENCHES = (
    "hook",
    "pairs",
    "energy",
    "launch",
    "sampler",
    "fast",
    "noise",
    "calls",
    "store",
    "merge",
    "read",
    "inodes",
    "upkeep",
    "region",
    "ledger",
    "drain",
    "shards",
    "outage",
    "comments",
    "wide",
    "growth",
    "months",
    "nodes",
    "commands",
)


def main(argv: Sequence[str]) -> int:
    """Run the named benches (default: all); 1 if one failed, 0 otherwise, a skipped one being no failure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--against", metavar="COMMIT", help="the earlier build beside which this one is measured")
    args = parser.parse_args(argv)
    if args.against:
        os.environ[against.COMMIT] = args.against
    unknown = [name for name in args.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {unknown[0]}: there are {', '.join(BENCHES)}")
    if not args.json:
        print(f"{'figure':<34}{'ours':>28}  {'unit':<9}{'n':>5}  {'peer':<28}{'theirs':>28}  {'better':>10}")
    failed = False
    for name in args.names or BENCHES:
        try:
            for result in _results(name):
                print(result.to_json() if args.json else _row(result), flush=True)
        except Skipped as reason:
            print(f"bench {name}: skipped: {reason}", file=sys.stderr)
        except Exception:
            failed = True
            print(f"bench {name}: failed", file=sys.stderr)
            traceback.print_exc()
    return int(failed)


def _results(name: str) -> Iterator[Result]:
    results: Iterator[Result] = importlib.import_module(f"bench.{name}").run()
    return results


def _row(result: Result) -> str:
    ours, theirs = _figure(result.value, result.spread), _figure(result.peer_value, result.peer_spread)
    better = "" if result.ratio is None else f"{result.ratio:.3g} x"
    return f"{result.name:<34}{ours:>28}  {result.unit:<9}{result.n:>5}  {result.peer:<28}{theirs:>28}  {better:>10}"


def _figure(value: float | None, spread: tuple[float, float] | None) -> str:
    """A figure with the least and the most that were measured, where they are known."""
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ({spread[0]:.3g} to {spread[1]:.3g})" if spread else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
