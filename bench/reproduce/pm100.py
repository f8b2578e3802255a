"""Power of Marconi100's jobs (PM100, Antici et al., SC-W 2023, doi 10.5281/zenodo.8129257). UNRUN: the data are large.

PM100 holds the sum of both power supplies of a job's nodes, every 20 s, for jobs that had their nodes alone; M100
ExaData (doi 10.5281/zenodo.7588814) holds the readings of each supply that it was made from. Published is a job's mean
power times its run time; ours is `energy.integrate` over the readings between the job's own start and end, with edges
that are as old as readings are apart. Both rest on the same sensors, whose gain plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.reproduce.gauge import node_power
from bench.reproduce.rows import Compared, Line
from bench.reproduce.source import data_set
from perun_hpc.data_model.sensor import Reading
from perun_hpc.energy import uncertainty
from perun_hpc.energy.integrate import integrate

TITLE = "jobs of Marconi100 (PM100)"
WHERE = (
    "job_table.parquet of https://doi.org/10.5281/zenodo.8129257, and a month's a_0.parquet of the metrics "
    "ps0_input_power and ps1_input_power of https://doi.org/10.5281/zenodo.7588814 as ps0.parquet and ps1.parquet,"
)
NS_PER_S = 1_000_000_000
PERIOD_NS = 20 * NS_PER_S
SUPPLY = node_power("ipmi", "supply", milliwatts=False, update_ns=PERIOD_NS)


def lines() -> Iterator[Line]:
    """The table's line: all jobs that lie within the month whose readings are there."""
    folder = data_set("pm100", WHERE)
    supplies = [_supply(folder / name) for name in ("ps0.parquet", "ps1.parquet")]
    compared = [one for job in _jobs(folder / "job_table.parquet") if (one := _compared(job, supplies)) is not None]
    if compared:
        yield Line("energy of a job, both supplies of its nodes", "kJ", compared)


Job = tuple[int, int, Sequence[str], Sequence[float]]
"""When it began and ended, its nodes, and the published powers in W."""


def _jobs(path: Path) -> Iterator[Job]:
    for row in _rows(path, ["start_time", "end_time", "nodes", "power_consumption"]):
        nodes = row["nodes"]
        names = nodes.strip("[]").replace("'", "").replace(",", " ").split() if isinstance(nodes, str) else list(nodes)
        yield _ns(row["start_time"]), _ns(row["end_time"]), names, list(row["power_consumption"])


def _supply(path: Path) -> dict[str, list[Reading]]:
    """Node -> its readings in the order of time."""
    found: dict[str, list[Reading]] = {}
    for row in _rows(path, ["timestamp", "node", "value"]):
        found.setdefault(str(row["node"]), []).append(Reading(round(float(row["value"])), _ns(row["timestamp"])))
    for readings in found.values():
        readings.sort(key=lambda one: one.mono_ns)
    return found


def _compared(job: Job, supplies: Sequence[dict[str, list[Reading]]]) -> Compared | None:
    t0_ns, t1_ns, nodes, powers = job
    energy_uj, edges = 0, []
    for supply in supplies:
        for node in nodes:
            readings = supply.get(node, [])
            found = integrate(SUPPLY, readings, t0_ns, t1_ns, 3 * PERIOD_NS)
            if found.gap_ns:
                return None
            energy_uj += found.energy_uj
            peak_uw = max(SUPPLY.base(one.ticks) for one in readings if one.ticks is not None)
            edges += [uncertainty.Edge(peak_uw, PERIOD_NS)] * 2
    if not powers or not edges:
        return None
    published_j = math.fsum(powers) / len(powers) * (t1_ns - t0_ns) / NS_PER_S
    return Compared(published_j / 1e3, energy_uj / 1e9, 2 * uncertainty.random_uj(edges) / 1e9)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet  # an extra: perun-hpc[parquet]

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


def _ns(moment: datetime) -> int:
    """A time stamp of Arrow's, which is a datetime."""
    return round(moment.timestamp() * NS_PER_S)
