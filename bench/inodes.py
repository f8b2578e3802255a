"""What jobs leave in the archive, inodes and bytes, in their directories and packed: the table of `docs/store.md`.

A thousand job ids of three kinds of jobs by two hundred users are collected, those with a trace get one of the shape
of their kind, and all are counted as the file system has them; then the traces go and the rest is packed. `python -m
bench.inodes` prints the table.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.node_load import record_of
from bench.result import Result
from bench.site_jobs import Job
from bench.store_jobs import fill, names
from perun_hpc.accounting import packing
from perun_hpc.accounting.collect import Closing, Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.upkeep import drop_trace
from perun_hpc.archive.places import PER_BUCKET, Archive, Run
from perun_hpc.cli.collect import close_trace
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.data_model.units import Quantity
from tests.accounting_data import put_incoming
from tests.soak.store_data import START, sensors

ALL = sensors()
OF_CPUS = tuple(
    one
    for one in ALL
    if one.component == "cpu" and one.quantity in (Quantity.ENERGY, Quantity.TEMPERATURE, Quantity.FREQUENCY)
)
USERS = 200
JOBS_A_DAY = 100_000
YEAR = 365


@dataclass(frozen=True)
class Kind:
    """A kind of jobs: which part of all they are (per mille), their nodes and seconds, and what their traces have."""

    title: str
    per_mille: int
    nodes: int
    seconds: int
    sensors: Sequence[Sensor] = ()


KINDS = (
    Kind("under 60 s, one node, no trace", 600, 1, 30),
    Kind("one node, 30 min, 3 arrays of 8 sensors", 390, 1, 1800, OF_CPUS),
    Kind("16 nodes, 4 h, 8 arrays of 40 sensors", 10, 16, 14_400, ALL),
)


@dataclass(frozen=True)
class Size:
    """What lies below a directory: inodes, and bytes as the disk has them."""

    inodes: float = 0.0
    disk_b: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(self.inodes + other.inodes, self.disk_b + other.disk_b)

    def __truediv__(self, count: float) -> Size:
        return Size(self.inodes / count, self.disk_b / count)

    def __mul__(self, count: float) -> Size:
        return Size(self.inodes * count, self.disk_b * count)


@dataclass(frozen=True)
class Found:
    """A job of each kind: with all that it left, without its trace, and packed, on average of all kinds."""

    whole: Sequence[Size]
    records: Sequence[Size]
    packed: Size
    pack_s: float


def run() -> Iterator[Result]:
    """Yield a mean job's inodes and bytes, packed beside in its directory, and what packing costs."""
    found = measured()
    loose, packed = mean(found.records), found.packed
    yield Result("inodes.packed_a_job", packed.inodes, "", "in directories", loose.inodes)
    yield Result("inodes.packed_kb_a_job", packed.disk_b / 1e3, "kB", "in directories", loose.disk_b / 1e3)
    yield Result("inodes.with_trace_a_job", mean(found.whole).inodes, "")
    yield Result("inodes.pack_cpu_ms_a_job", found.pack_s * 1e3, "ms")


def measured(shorter: int = 1) -> Found:
    """Count; traces have so many times fewer rows, which changes bytes, not inodes."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        archive, ledger = Archive(root / "archive", "c"), open_ledger(str(root / "ledger.db"), create=True)
        kinds = [kind for kind in KINDS for _ in range(kind.per_mille)]
        for job_id, kind in enumerate(kinds):
            job = Job(job_id, 1, kind.nodes, START, START + kind.seconds)
            for node in range(1, kind.nodes + 1):
                put_incoming(archive.root, record_of(job, node, job.end_s, True))
        tools = Tools(lambda: START + 20_000.0, finalise=close_trace)
        Collector(archive, ledger, tools, 900).sweep()
        first = {kind: kinds.index(kind) for kind in KINDS}
        records = [size(archive.job(Run(first[kind], 0))) for kind in KINDS]
        whole = list(records)
        for at, kind in enumerate(KINDS):
            if kind.sensors:
                directory = archive.job(Run(first[kind], 0))
                fill(root / str(at), directory, kind.nodes, kind.seconds // shorter, kind.sensors)
                close_trace(directory, Closing(names(kind.nodes), (START + 20_000) * 10**9, (), {}))
                whole[at] = size(directory)
                drop_trace(directory)
        for path in archive.jobs.rglob("record.json"):
            os.utime(path, (START, START))
        begin_s, now_s = time.process_time(), START + 40 * 86_400.0
        with packing.PackLease(ledger, "c") as lease:
            count = packing.pack(archive, archive.in_bucket(0), now_s, now_s, packing.Access(), lease)
        pack_s = (time.process_time() - begin_s) / count
        ledger.close()
        if count != PER_BUCKET:
            raise RuntimeError(f"{count} of {PER_BUCKET} jobs were packed")
        return Found(whole, records, size(archive.bucket(0)) / count, pack_s)


def size(directory: Path) -> Size:
    """What lies below a directory, and itself."""
    stats = [path.lstat() for path in (directory, *directory.rglob("*"))]
    return Size(len(stats), sum(one.st_blocks for one in stats) * 512)


def mean(of: Sequence[Size]) -> Size:
    """A mean job's, of all kinds."""
    parts = (one * (kind.per_mille / 1000) for kind, one in zip(KINDS, of, strict=True))
    return sum(parts, Size())


def table(found: Found) -> Iterator[str]:
    """The lines of the table: a job of each kind, a day and a year of all of them."""
    yield "| | jobs a day | inodes a job | of these the trace | kB a job | inodes a day | GB a day |"
    yield "|---|---|---|---|---|---|---|"
    for kind, whole, record in zip(KINDS, found.whole, found.records, strict=True):
        yield _row(kind.title, JOBS_A_DAY * kind.per_mille // 1000, whole, whole.inodes - record.inodes)
    whole, record = mean(found.whole), mean(found.records)
    yield _row("**all**", JOBS_A_DAY, whole, whole.inodes - record.inodes)
    yield _row("all, traces deleted", JOBS_A_DAY, record, 0)
    yield _row("all, traces deleted, packed", JOBS_A_DAY, found.packed, 0)


def _row(title: str, jobs: int, one: Size, trace: float) -> str:
    inodes = f"{one.inodes:.2f}" if one.inodes < 10 and one.inodes % 1 else f"{one.inodes:,.0f}"
    day = one * jobs
    cells = (title, f"{jobs:,}", inodes, f"{trace:,.0f}", f"{one.disk_b / 1e3:,.1f}", f"{day.inodes:,.0f}")
    return f"| {' | '.join(cells)} | {day.disk_b / 1e9:.2f} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table(measured()))
