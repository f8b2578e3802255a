"""Ten thousand random histories, two hundred of them again with real kills: `python -m tests.soak histories`, or with
other numbers and another first seed `python -m tests.soak.histories HISTORIES KILLED [FIRST]`. See `tests.histories`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from tests.histories import FATE, History, KilledHistory, Player

HISTORIES, KILLED = 10_000, 200
BLOCK = 50


def block(work: tuple[bool, range]) -> tuple[int, list[str]]:
    """Play some histories; how many processes died, and what went wrong."""
    killed, seeds = work
    logging.disable(logging.CRITICAL)
    faults: list[str] = []
    before = FATE.deaths
    with tempfile.TemporaryDirectory(prefix="perun-histories-") as directory:
        player = Player(Path(directory), KilledHistory if killed else History)
        for seed in seeds:
            try:
                player.play(seed)
            except AssertionError as error:
                faults.append(str(error))
        player.close()
    return FATE.deaths - before, faults


def main(arguments: list[str]) -> int:
    """Run it and print the rows of the table; 1 if something was lost."""
    numbers = [int(argument) for argument in arguments]
    counts = (numbers + [HISTORIES, KILLED][len(numbers) :])[:2]
    first = numbers[2] if len(numbers) > 2 else 0
    found = False
    for killed, count, how in ((False, counts[0], "a crash before any write or commit"), (True, counts[1], "kill -9")):
        blocks = [(killed, range(at, min(at + BLOCK, first + count))) for at in range(first, first + count, BLOCK)]
        deaths, faults = 0, []
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            for died, wrong in pool.imap_unordered(block, blocks):
                deaths += died
                faults += wrong
                for text in wrong:
                    print(text, file=sys.stderr, flush=True)
        checked = f"no revision with less evidence, sums exact in ledger and directories, {deaths} deaths"
        result = f"{len(faults)} histories with a fault" if faults else "nothing lost or doubled"
        print(f"| histories: {how} | {count} | {checked} | {result} |", flush=True)
        found = found or bool(faults)
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
