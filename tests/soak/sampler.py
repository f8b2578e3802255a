"""A real agent that stores a row every 10 ms: `python -m tests.soak.sampler [SECONDS]`, ten minutes unless given.

Every tick of the grid must be there or recorded as skipped, with how late each row was. Drift is how much later after
its tick the middle row of the last tenth was read than that of the first.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.store.job_store import open_job
from perun_hpc.store.layout import OFFSET
from perun_hpc.store.merge import finalise
from tests.flow.agent_node import FakeNode

PERIOD_NS = 10_000_000
POLICY = "  trace_min_duration: 0 s\nsampling: {period: 10 ms, period_min: 10 ms}\n"


@dataclass(frozen=True)
class Ticks:
    """What one run left: rows by the store and the record, ticks of the grid that have none, and when rows were read.

    `offsets_us` holds how long after its tick each row was read.
    """

    rows: int
    recorded_rows: int
    missing: int
    recorded_skipped: int
    recorded_late: int
    offsets_us: tuple[int, ...]

    @property
    def expected(self) -> int:
        """Ticks from the first row to the last."""
        return self.rows + self.missing

    @property
    def late(self) -> int:
        """Rows that were read more than a tenth of the period after their tick."""
        return sum(offset_us * 1000 >= PERIOD_NS // 10 for offset_us in self.offsets_us)

    @property
    def drift_us(self) -> float:
        """Middle offset of the last tenth minus that of the first."""
        tenth = max(1, len(self.offsets_us) // 10)
        return statistics.median(self.offsets_us[-tenth:]) - statistics.median(self.offsets_us[:tenth])


def sample(base: Path, seconds: float) -> Ticks:
    """Run an agent with one job for some seconds and read the trace back."""
    node = FakeNode(base, POLICY)
    node.start()
    try:
        node.begin(1, exclusive="1")
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            node.serve(package_uj=500_000)
            time.sleep(0.05)
        node.end(1)
        record = node.record(1)
    finally:
        node.stop()
    job_dir = node.archive / "test" / "jobs" / "0" / "1.0"
    finalise(job_dir, ["n1"], time.time_ns())
    offsets_s = open_job(job_dir).variables[OFFSET].values[0]
    present = tuple(round(offset_s * 1e6) for offset_s in offsets_s if offset_s == offset_s)
    trace = record["trace"]
    return Ticks(len(present), trace["rows"], len(offsets_s) - len(present), trace["skipped"], trace["late"], present)


def main(arguments: list[str]) -> int:
    """Run it and print a row of the table; 1 if a tick is neither there nor recorded."""
    seconds = float(arguments[0]) if arguments else 600.0
    with tempfile.TemporaryDirectory(prefix="perun-sampler-") as base:
        seen = sample(Path(base), seconds)
    wrong = seen.rows != seen.recorded_rows or seen.missing > seen.recorded_skipped or seen.late != seen.recorded_late
    share, late = 100 * seen.rows / seen.expected, 100 * seen.late / seen.rows
    print(
        f"| sampler: a row every 10 ms | {seconds:g} s, n = {seen.expected} ticks | {share:.3f} % present, "
        f"{late:.3f} % "
        f"later than 1 ms, drift {seen.drift_us / 1000:.3f} ms | {'WRONG' if wrong else 'the rest recorded'} |"
    )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
