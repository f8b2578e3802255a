"""Run the cluster's tests in the root file systems of several releases."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from tests import junit
from tests.matrix import roots, short, skips, table
from tests.matrix.roots import RELEASES, Release, RootError
from tests.stamp import stamp

KEPT = roots.CHECKOUT / "build" / "matrix"
PAGE = roots.CHECKOUT / "docs" / "matrix.md"
MARK = "<!-- below: make matrix -->\n"
TARGETS = (
    *(f"tests/slurm/test_{name}.py" for name in ("hooks", "flag", "line", "store", "policy", "accounting", "monitor")),
    *(f"tests/slurm/test_{name}.py" for name in ("mpi", "newer_slurm")),
    "tests/mpi",
    "tests/wire",
)


def say(text: str) -> None:
    """Print a line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def ready(release: Release) -> None:
    """Make the root, copy the checkout, build what is missing there.

    Raises
    ------
    RootError
        Where one of them fails.
    """
    roots.make(release, say)
    roots.fill(release)
    say(f"{release.name}: make build")
    roots.install(release)
    roots.build(release)


def tried(release: Release, tests: Sequence[str]) -> junit.Result:
    """Run tests, and those that failed once more, alone."""

    def run(chosen: Sequence[str]) -> junit.Result:
        report = f"build/matrix-{os.getpid()}.xml"
        outside = roots.project(release) / report
        words = [".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.matrix.plugin"]
        roots.run(release, [*words, f"--junitxml={report}", *chosen], {"PERUN_MATRIX": release.name})
        if not outside.exists():
            raise RootError(f"pytest left no report in {roots.directory(release)}: what it said stands above")
        result = junit.read(outside)
        outside.unlink()
        return result

    first = run(tests)
    return junit.run_alone(first, run(first.failed)) if first.failed else first


def unlisted(release: Release, result: junit.Result) -> list[str]:
    """Reasons of skips that the list of skips does not have."""
    return [why for why in result.skipped if not skips.allowed(release.name, why)]


def matrix(chosen: Sequence[Release], tests: Sequence[str], write: bool) -> int:
    """Run tests on releases; 1 if one failed, or was skipped for a reason that is not listed."""
    bad = False
    for release in chosen:
        ready(release)
        versions = roots.versions(release)
        for test in tests:
            say(f"{release.name}: {test}")
            result = tried(release, [test])
            reasons = unlisted(release, result)
            say(f"{release.name}: {test}: {table.cell(result)}")
            bad = bad or bool(result.failed or reasons)
            for why in reasons:
                say(f"{release.name}: skipped, and tests/matrix/skips.py does not say why: {why}")
            if write:
                KEPT.mkdir(parents=True, exist_ok=True)
                kept = KEPT / f"{release.name}.json"
                rows = json.loads(kept.read_text())["rows"] if kept.exists() else {}
                rows[test] = {**asdict(result), "of": stamp()}
                kept.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1))
    if write:
        write_page()
    return int(bad)


def write_page() -> None:
    """Put the newest results of all releases into the page; what was not tried here stays as it stands there."""
    head, _, page = PAGE.read_text().partition(MARK)
    columns = [column for release in RELEASES if (column := newest(release, page)) is not None]
    PAGE.write_text(head + MARK + table.markdown(columns, TARGETS))


def newest(release: Release, page: str) -> table.Column | None:
    """What is known of a release, if anything: by the file of its runs, else by an earlier page."""
    path, before = KEPT / f"{release.name}.json", table.former(release, page)
    return table.column(release, json.loads(path.read_text()), before) if path.exists() else before


def main() -> int:
    """Do what the words say."""
    names = [release.name for release in RELEASES]
    top = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    top.add_argument("names", nargs="*", metavar="RELEASE", help=f"which (default: all): {' '.join(names)}")
    top.add_argument("--tests", nargs="+", metavar="PATH", default=TARGETS, help="only these of the matrix's tests")
    top.add_argument(
        "--short", action="store_true", help="four jobs on the newest Slurm; docs/matrix.md stays as it is"
    )
    top.add_argument("--enter", metavar="COMMAND", help="run a shell command in the roots instead")
    chosen = top.parse_args()
    if unknown := [name for name in chosen.names if name not in names]:
        top.error(f"unknown: {', '.join(unknown)}; known are {', '.join(names)}")
    releases = [release for release in RELEASES if not chosen.names or release.name in chosen.names]
    try:
        if chosen.enter:
            for release in releases:
                ready(release)
            return max(roots.run(release, ["sh", "-c", chosen.enter]).returncode for release in releases)
        if chosen.short:
            return short.short(RELEASES[-1], PAGE.read_text(), tried, say)
        return matrix(releases, chosen.tests, write=set(chosen.tests) <= set(TARGETS))
    except RootError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
