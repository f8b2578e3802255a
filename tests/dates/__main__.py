"""`python -m tests.dates [NAME ...] [--missing] [--tests PATH ...]`: the tests at other dates, under libfaketime."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tests import junit
from tests.dates import table
from tests.dates.moments import Moment, moments

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dates.md"
MARK = "<!-- below: make dates -->"
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
WHOLE = ("tests/unit", "tests/contract")
FLOW = ("tests/flow",)


def built(directory: Path) -> Path:
    """Compile what libfaketime lacks; readable for whatever user a test starts a program as."""
    directory.chmod(0o755)
    shift = directory / "shift.so"
    source = Path(__file__).with_name("shift.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", shift, source], check=True)
    return shift


def environment(moment: Moment, shift: Path) -> dict[str, str]:
    """What moves the clock of a process and of all that it starts: by the same seconds for each."""
    ahead_s = round(moment.begin.timestamp() - datetime.now(UTC).timestamp())
    return {
        **os.environ,
        "TZ": moment.zone,
        "LD_PRELOAD": f"{shift} {LIBRARY}",
        "FAKETIME": f"{ahead_s:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def tried(moment: Moment, tests: Sequence[str], processes: int, directory: Path, shift: Path) -> junit.Result:
    """Run the tests at a moment, and those that failed once more, alone; what they print is shown."""

    def run(chosen: Sequence[str], *options: str) -> junit.Result:
        report = directory / f"{moment.name}.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.dates.plugin"]
        command += [f"--junitxml={report}", *options, *chosen]
        subprocess.run(command, cwd=ROOT, env=environment(moment, shift), check=False)
        return junit.read(report)

    first = run(tests, "-n", str(processes))
    return junit.run_alone(first, run(first.failed)) if first.failed else first


def write(row: str, order: Sequence[str]) -> None:
    """Put one moment's row into the page; those of other moments stay."""
    before, _, page = PAGE.read_text().partition(MARK)
    held = {**table.rows(page), **table.rows(row)}
    lines = [held[name] for name in order if name in held]
    PAGE.write_text("\n".join([f"{before}{MARK}", table.HEAD, *lines]) + "\n")


def main() -> int:
    """Try the moments that are named, or all; exit code 1 if a test failed at one."""
    parser = argparse.ArgumentParser(prog="python -m tests.dates", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="moments; default: all, each written once it is done")
    parser.add_argument("--missing", action="store_true", help="only those that docs/dates.md does not have yet")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="only these tests; docs/dates.md stays as it is")
    parser.add_argument("--processes", type=int, default=6, metavar="N", help="among which the tests are shared out")
    chosen = parser.parse_args()
    known = {moment.name: moment for moment in moments(datetime.now(UTC))}
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    if not LIBRARY.exists():
        parser.error(f"{LIBRARY} is not here: install the package libfaketime")
    held = table.rows(PAGE.read_text().partition(MARK)[2])
    names = [name for name in chosen.names or known if not (chosen.missing and name in held)]
    failed = False
    with tempfile.TemporaryDirectory(prefix="perun-dates-") as scratch:
        shift = built(Path(scratch))
        for name in names:
            moment = known[name]
            local = Moment(name, moment.what, moment.begin.astimezone(ZoneInfo(moment.zone)), moment.zone, moment.flow)
            folders = [*WHOLE, *(FLOW if moment.flow else ())]
            print(f"== {name}: {moment.what}, {local.begin:%Y-%m-%d %H:%M} {moment.zone}", flush=True)
            result = tried(local, chosen.tests or folders, chosen.processes, Path(scratch), shift)
            failed = failed or bool(result.failed)
            if not chosen.tests:
                write(table.row(local, result, [folder.removeprefix("tests/") for folder in folders]), list(known))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
