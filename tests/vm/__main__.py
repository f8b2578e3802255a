"""Run the scenarios on virtual machines."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.vm import disk, images, sensors, table
from tests.vm.machine import Machine, Silent

CHECKOUT = Path(__file__).parents[2]
KEPT = CHECKOUT / "build" / "vm"
PAGE = CHECKOUT / "docs" / "vm.md"
MARK = "<!-- below: make vm -->"

Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One machine's life: a distribution, and the guest's module that holds the steps."""

    suite: str
    module: str
    title: str


SCENARIOS = {
    "live": Scenario("trixie", "live", "jobs of every kind, Debian 13, Slurm 24.11"),
    "upheaval": Scenario("trixie", "upheaval", "what happens to daemons and machines, Debian 13, Slurm 24.11"),
    "newest": Scenario("forky", "newest", "the newest Slurm, Debian forky, Slurm 26.05"),
    "ansible": Scenario("trixie", "role", "the Ansible role, Debian 13, Slurm 24.11"),
}


def main() -> int:
    """Run the named scenarios (default: all); 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {' '.join(SCENARIOS)}")
    parser.add_argument("--images", action="store_true", help="only make the images that are not there")
    parser.add_argument("--write", action="store_true", help="write the results into docs/vm.md")
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help="these steps and what they rest on")
    parser.add_argument("--minutes", type=float, default=15, metavar="N", help="time of a scenario (default 15)")
    words = parser.parse_args()
    if unknown := [name for name in words.names if name not in SCENARIOS]:
        parser.error(f"no scenario {' '.join(unknown)}: there are {' '.join(SCENARIOS)}")
    if not words.images and not disk.packages():
        parser.error("there is no package to install: `make packages` makes it, or PERUN_PACKAGES names a directory")
    KEPT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    parts = table.parts(PAGE.read_text().partition(MARK)[2]) if PAGE.exists() else {}
    failed = False
    for name in words.names or SCENARIOS:
        scenario = SCENARIOS[name]
        image = images.image(scenario.suite, say)
        if words.images:
            continue
        start = time.monotonic()
        rows = run(name, scenario, image, words, say)
        kept = KEPT / f"{name}.json"
        if words.only and kept.exists():  # beside those of the last run that were not tried again
            again = {row["step"]: row for row in rows}
            before = [row for row in json.loads(kept.read_text()) if row["step"] != "the end"]
            rows = [again.pop(row["step"], row) for row in before] + list(again.values())
        kept.write_text(json.dumps(rows, indent=1))
        failed = failed or not all(row["ok"] for row in rows)
        parts[name] = table.markdown(name, scenario.title, rows, (time.monotonic() - start) / 60)
        print(parts[name])
        if words.write:
            text = "\n".join(parts[one] for one in SCENARIOS if one in parts)
            PAGE.write_text(f"{PAGE.read_text().partition(MARK)[0]}{MARK}\n\n{text}")
    return 1 if failed else 0


def run(
    name: str, scenario: Scenario, image: images.Image, words: argparse.Namespace, say: Callable[[str], None]
) -> list[Row]:
    """Run one scenario to its end or until its time is over; the steps that were gone through."""
    root, brought = (images.directory() / f"{name}.{part}.ext4" for part in ("root", "brought"))
    log = KEPT / f"{name}.console"
    log.unlink(missing_ok=True)
    rows: list[Row] = []
    ended = False
    with tempfile.TemporaryDirectory() as scratch, sensors.connected(Path(scratch)) as attached:
        try:
            subprocess.run(["cp", "--sparse=always", str(image.disk), str(root)], check=True)
            disk.bring(scenario.module, words.only, brought)
            say(f"{name}: {scenario.title}")
            deadline = time.monotonic() + words.minutes * 60
            clock: list[str] = []
            while not ended:
                machine = Machine(image, root, brought, log, [*attached, *clock])
                said = _heard(machine, deadline, rows, say)
                ended = "next year" not in said
                clock = ["-rtc", f"base={datetime.now(UTC) + timedelta(days=365):%Y-%m-%dT%H:%M:%S}"]
            if "end" not in said:
                raise Silent("the machine ended before its steps")
        except Silent as error:
            say(f"  {error}")
            rows.append({"step": "the end", "what": "", "ok": False, "error": str(error), "seconds": 0, "said": []})
        finally:
            root.unlink(missing_ok=True)
            brought.unlink(missing_ok=True)
    return rows


def _heard(machine: Machine, deadline: float, rows: list[Row], say: Callable[[str], None]) -> list[str]:
    """Take what one boot of the machine, or several, says of its steps; how it ended."""
    ends = []
    for line in machine.told(deadline):
        if "step" in line:
            rows.append(line)
            outcome = "ok    " if line["ok"] else "FAILED"
            say(f"  {outcome} {line['step']} ({line['seconds']} s) {'; '.join(line['said'])}")
            if not line["ok"]:
                say(f"         {line['error']}")
        elif "again" in line:
            ends.append(line["again"])
        elif "end" in line:
            ends.append("end")
        else:
            say(f"  {line}")
    return ends


if __name__ == "__main__":
    sys.exit(main())
