"""`python -m tests.mutants [PATH ...] [--tests PATH ...] [--minutes N] [--seed N]`: changes that no unit test notices.

Each mutant is the tree with one change; the tests that run the changed line are run on it. Which mutants are tried is
the seed's choice, until the time is over. A survivor that docs/mutants.md explains is expected; any other one is
printed, as a row for that page, and the command fails.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.mutants import trial
from tests.mutants.page import Row, explained
from tests.mutants.source import Mutant, mutants

ROOT = Path(__file__).parents[2]
TARGETS = (
    "perun_hpc/energy",
    "perun_hpc/accounting/summing.py",
    "perun_hpc/slurm/sacct.py",
    "perun_hpc/agent/measure/meter.py",
)
TESTS = ("tests/unit",)


def modules(targets: Sequence[str]) -> list[str]:
    """The modules below the targets."""
    found: list[Path] = []
    for target in targets:
        place = ROOT / target
        found += [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [str(path.relative_to(ROOT)) for path in found]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("target", nargs="*", default=TARGETS, help="modules or folders; the default: what computes")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="which tests are to notice; the default: unit tests")
    parser.add_argument("--minutes", type=float, default=60, help="time for mutants, after the first run of all tests")
    parser.add_argument("--seed", type=int, default=1, help="which mutants are tried, and in which order")
    options = parser.parse_args(arguments)
    (ROOT / "build").mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the copy goes, too
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=ROOT / "build") as tree:
        return search(Path(tree), options)


def search(tree: Path, options: argparse.Namespace) -> int:
    """In a copy of the tree: try the mutants and tell; the exit code."""
    trial.copy(ROOT, tree)
    paths = modules(options.target)
    began_s = time.monotonic()
    lines, left_out = trial.covering(tree, options.tests, paths)
    limit_s = time.monotonic() - began_s + trial.PATIENCE_S
    chosen = [mutant for path in paths for mutant in mutants(tree, path)]
    random.Random(options.seed).shuffle(chosen)
    trial.preload()
    survives = partial(trial.survives, tree, left_out, limit_s)
    return tell(*tried(tree, chosen, lines, survives, options.minutes * 60), len(chosen))


def tried(
    tree: Path,
    chosen: Sequence[Mutant],
    lines: trial.Lines,
    survives: Callable[[Sequence[str]], bool],
    budget_s: float,
) -> tuple[Counter[str], list[Row]]:
    """How many were tried a module, and who survived; one whose line no test runs survives without a trial."""
    end_s = time.monotonic() + budget_s
    count: Counter[str] = Counter()
    survivors: list[Row] = []
    for mutant in chosen:
        if time.monotonic() >= end_s:
            break
        place = tree / mutant.path
        original = place.read_text()
        tests = lines.get((mutant.path, mutant.line)) or whole(lines, mutant.path)
        place.write_text(mutant.code(original))
        try:
            lives = not tests or survives(tests)
        finally:
            place.write_text(original)
        count[mutant.path] += 1
        if lives:
            survivors.append(Row(mutant.path, *mutant.lines(original)))
            print(f"{mutant.path}:{mutant.line}: survives {len(tests)} tests: {survivors[-1].after}", flush=True)
    return count, survivors


def whole(lines: trial.Lines, path: str) -> list[str]:
    """The tests of a line that is run at the import only: the files of all that use its module."""
    tests = (test for (other, _), found in lines.items() if other == path for test in found)
    return list(dict.fromkeys(test.partition("::")[0] for test in tests))


def tell(count: Counter[str], survivors: Sequence[Row], total: int) -> int:
    """Print the sums and what is not explained; the exit code."""
    lived = Counter(row.path for row in survivors)
    for path in sorted(count):
        print(f"| `{path}` | {count[path]} | {count[path] - lived[path]} | {lived[path]} |")
    print(f"{count.total()} of {total} mutants, {count.total() - len(survivors)} noticed, {len(survivors)} not")
    known = explained()
    new = [row for row in dict.fromkeys(survivors) if row not in known]
    for row in new:
        print(row.text("?"))
    return 1 if new else 0


sys.exit(main(sys.argv[1:]))
