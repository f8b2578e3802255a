"""The marked estimate beside SPECpower_ssj2008: what servers draw at the wall, idle and at full load.

The results are those that Cloud Carbon Footprint collected from spec.org, some 1000 servers. Ours is what
`backend.estimate` counts where nobody stated anything: 1 W idle and 4 W busy per logical CPU, with 75 % (k=1). The
estimate is of CPUs, the meter of the whole server, with memory, fans and the power supply's losses.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

from bench.reproduce.rows import Compared, Line
from bench.reproduce.source import Repository
from perun_hpc.backend.estimate import ASSUMED, Estimate

DATA = Repository(
    "cloud-carbon-footprint/ccf-coefficients",
    "b0032d928c787cf76cecd7d1d611c5b46f366e29",
    "Apache-2.0",
    "Cloud Carbon Footprint, from spec.org",
)
TITLE = "servers of SPECpower_ssj2008 and the marked estimate"
RESULTS = "data/SPECpower-2026-03-09.csv"
IDLE, FULL, THREADS = "avg. watts @ active idle", "avg. watts @ 100%", "Total Threads"
YEARS = ((2007, 2012), (2013, 2018), (2019, 2026))
NS_PER_S = 1_000_000_000


def lines() -> Iterator[Line]:
    """The table's lines."""
    rows = list(csv.DictReader(io.StringIO(DATA.text(RESULTS))))
    for first, last in YEARS:
        servers = [row for row in rows if first <= int(row["Published"][-4:]) <= last]
        for column, busy in ((IDLE, False), (FULL, True)):
            compared = [
                Compared(float(row[column]), *_estimated(int(float(row[THREADS])), busy))
                for row in servers
                if _number(row[column]) and _number(row[THREADS])
            ]
            what = f"{'full load' if busy else 'idle'}, published {first} to {last}{' [d]' if last < 2019 else ''}"
            yield Line(what, "W", compared, 0)


def _number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


@cache
def _estimated(cpus: int, busy: bool) -> tuple[float, float]:
    """Mean power in W and its bound (k = 2) that the estimate's own reader shows of such a machine over a second."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "proc").mkdir()
        seconds = count()
        _stat(root, cpus, 0)
        reader = Estimate(root, ASSUMED, clock=lambda: next(seconds) * NS_PER_S)
        try:
            (before,) = reader.read()
            _stat(root, cpus, reader.sensors[0].update_ns if busy else 0)
            (after,) = reader.read()
            assert before.ticks is not None
            assert after.ticks is not None
            watts = (after.ticks - before.ticks) / 1e6
            return watts, 2 * reader.sensors[0].gain_error * watts
        finally:
            reader.close()


def _stat(root: Path, cpus: int, tick_ns: int) -> None:
    """Write /proc/stat after a second at full load, where ticks last `tick_ns`; of an idle one where that is 0."""
    user = NS_PER_S // tick_ns if tick_ns else 0
    line = f" {user} 0 0 {0 if user else 100} 0 0 0 0 0 0\n"
    text = "".join(f"cpu{number}{line}" for number in range(cpus))
    (root / "proc/stat").write_text(f"cpu{line}{text}")
