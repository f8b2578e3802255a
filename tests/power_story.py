"""What happens while the power may go: agents ship, a collector collects and renames, old runs are packed, nodes late.

`python -m tests.power_story ROOT SYNC` does it below ROOT, as `prepare` left it, to be recorded; SYNC is how the
collector makes files durable: the `whole` file system at once, or `each`. `recover` goes on after a loss.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from perun_hpc.accounting import packing
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.keeping import read_kept
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.agent.outbox.regions import of_session
from perun_hpc.agent.outbox.shipping import ship
from perun_hpc.archive.delivery import ArchiveDelivery, encode
from perun_hpc.archive.durable import sync_each, sync_whole
from perun_hpc.archive.kept import each_run, read
from perun_hpc.archive.places import RECORD, Archive
from perun_hpc.data_model.record import from_json
from tests.accounting_data import START_S, boundary

DAY_S = 86_400
DEADLINE_S = 900
DIGEST = 16
BOTH = "n1,n2"
LATER_S = START_S + 20 * DAY_S
RECORDS = (
    ("first", boundary(1, "n1", BOTH)),
    ("first", boundary(2)),
    ("first", boundary(3, "n1", BOTH)),
    ("first", boundary(4, uid=2002)),
    ("second", boundary(3, "n2", BOTH)),
    ("late", boundary(1, "n2", BOTH)),
    ("late", boundary(2, start_s=LATER_S)),
)
"""Nodes' records, and when each is shipped: job 1's n2 after the renaming, job 2's id comes again."""
ENERGIES = {1: [16_000_000_000], 2: [8_000_000_000, 8_000_000_000], 3: [16_000_000_000], 4: [8_000_000_000]}


SYNCS = {"whole": sync_whole, "each": sync_each}


def prepare(root: Path) -> None:
    """The sealed sessions of all nodes in their spools, an empty archive and an empty ledger."""
    (root / "archive").mkdir(parents=True)
    for number, (_, record) in enumerate(RECORDS):
        session = root / "spools" / str(number) / f"{record['job_id']}.0"
        session.mkdir(parents=True)
        (session / "boundary.json").write_bytes(encode(record))
    open_ledger(str(root / "ledger.db"), create=True).close()


def tell(root: Path, sync: str) -> None:
    """All of it, from the beginning."""
    ledger = open_ledger(str(root / "ledger.db"), create=True)
    for when, now_s in (("first", START_S + 1200), ("second", START_S + 9 * DAY_S), ("late", LATER_S + 200)):
        for number, (at, _) in enumerate(RECORDS):
            if at == when:
                _ship(root, number)
        _sweep(root, ledger, now_s, sync)
        if when != "first":
            _pack(root, ledger, now_s)
    ledger.close()


def recover(root: Path) -> dict[int, list[int | None]]:
    """Go on after a loss of power; job id -> energies of its runs, the oldest first."""
    for number in range(len(RECORDS)):
        _ship(root, number)
    (root / "archive" / "c").mkdir(exist_ok=True)
    ledger = open_ledger(str(root / "ledger.db"), create=True)
    try:
        for hours in (0, 3, 6):
            _sweep(root, ledger, LATER_S + 1200 + hours * 3600, "whole")
            _pack(root, ledger, LATER_S + 1200 + hours * 3600)
        found = {job: [r.energy_uj for r in ledger.members("c", str(job))] for job in ENERGIES}
        return found if _in_files(root) == found else {}
    finally:
        ledger.close()


def _in_files(root: Path) -> dict[int, list[int | None]]:
    """What the records say that the archive keeps, as `recover` returns it; a file that is damaged is an error.

    A directory may have been made in vain: so old a run gets another one when it is collected again. Of each record the
    evidence is there.
    """
    archive, records = Archive(root / "archive", "c"), []
    for run in each_run(archive):
        with contextlib.suppress(FileNotFoundError):
            records.append(from_json(read(archive, run, RECORD), run.name))
            held = {b.digest[:DIGEST] for b in read_kept(archive, run)}
            summed = {node.digest[:DIGEST] for node in records[-1].nodes}
            assert held == summed, (run, held, summed)
    records.sort(key=lambda record: record.start_ns)
    return {job: [r.energy_uj for r in records if r.job_id == job] for job in ENERGIES}


def _ship(root: Path, number: int) -> None:
    spool = root / "spools" / str(number)
    for session in sorted(spool.iterdir()) if spool.is_dir() else ():
        if (session / "boundary.json").exists():
            ship(session, ArchiveDelivery(root / "archive"), of_session)


def _pack(root: Path, ledger: Ledger, now_s: float) -> None:
    archive = Archive(root / "archive", "c")
    for path in archive.jobs.rglob(RECORD):
        os.utime(path, (0, 0))  # by the story's clock they may be old
    with packing.PackLease(ledger, "c") as lease:
        for number in archive.buckets():
            packing.finish(archive, number, now_s)
        for part in archive.portions():
            packing.pack(archive, part, now_s - 8 * DAY_S, now_s, packing.Access(), lease)


def _sweep(root: Path, ledger: Ledger, now_s: float, sync: str) -> None:
    tools = Tools(lambda: float(now_s), sync=SYNCS[sync])
    collector = Collector(Archive(root / "archive", "c"), ledger, tools, DEADLINE_S)
    collector.holder = "here:1"
    collector.sweep()


if __name__ == "__main__":
    tell(Path(sys.argv[1]), sys.argv[2])
