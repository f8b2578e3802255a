"""The power goes at every single step of a recorded story: `python -m tests.soak power`. See `tests.power`."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

from tests.power import Lost, after, record
from tests.power_story import ENERGIES, SYNCS, prepare, recover


def main(arguments: list[str]) -> int:
    """Run it and print a row of the table; 1 if something was lost."""
    logging.disable(logging.CRITICAL)
    faults, states, steps = [], 0, 0
    for sync in sorted(SYNCS):
        with tempfile.TemporaryDirectory(prefix="perun-power-") as directory:
            base = Path(directory)
            prepare(base / "root")
            command = [sys.executable, "-m", "tests.power_story", str(base / "root"), sync]
            recording = record(command, base / "root", base / "log")
            steps += len(recording.steps)
            for count in range(len(recording.steps) + 1):
                for lost in Lost:
                    states += 1
                    after(recording, count, lost, count, base / "state")
                    found = recover(base / "state")
                    rmtree(base / "state")
                    if found != ENERGIES:
                        faults.append(f"sync of {sync}: after step {count}, lost {lost.value}: {found}")
    for text in faults:
        print(text, file=sys.stderr)
    result = f"{len(faults)} states with a loss" if faults else "nothing lost or doubled"
    print(
        f"| power: agents ship, the collector collects and renames | {steps} steps, {states} states "
        f"| what was not synced is there, gone, half there; then all goes on: the sums | {result} |",
        flush=True,
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
