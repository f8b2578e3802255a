"""IRISCAST's 24 hours at six sites (arXiv 2309.04605). UNRUN: its readings are in no repository that could be found.

Published is each site's energy of the day; ours is `energy.integrate` over its readings of power. The figures of the
paper are not repeated here: who has the readings puts them beside these.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from bench.reproduce.gauge import node_power
from bench.reproduce.rows import Compared, Line
from bench.reproduce.source import data_set
from perun_hpc.data_model.sensor import Reading
from perun_hpc.energy import uncertainty
from perun_hpc.energy.integrate import integrate

TITLE = "IRISCAST's 24 hours"
WHERE = (
    "the readings of the sites of arXiv 2309.04605, each as SITE.csv (columns time in ISO 8601 and watts), and the "
    "paper's energies as published.csv (columns site and kwh),"
)
NS_PER_S = 1_000_000_000
J_PER_KWH = 3.6e6
MOST_GAP_NS = 600 * NS_PER_S
METER = node_power("site", "site", gain_error=0.05, gain_source="assumed 5 % (k=1) for a sensor that the site declares")


def lines() -> Iterator[Line]:
    """The table's lines, one a site."""
    folder = data_set("iriscast", WHERE)
    with (folder / "published.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            readings = _readings(folder / f"{row['site']}.csv")
            t0_ns, t1_ns = readings[0].mono_ns, readings[-1].mono_ns
            found = integrate(METER, readings, t0_ns, t1_ns, MOST_GAP_NS)
            peak_uw = max(METER.base(one.ticks) for one in readings if one.ticks is not None)
            doubts = [
                uncertainty.of_sensor(METER, found.energy_uj),
                {uncertainty.RANDOM: uncertainty.random_uj((), [uncertainty.Gap(0, peak_uw, found.gap_ns)])},
            ]
            bound_j = 2 * uncertainty.combined_uj(uncertainty.added(doubts)) / 1e6
            kwh = Compared(float(row["kwh"]), found.energy_uj / 1e6 / J_PER_KWH, bound_j / J_PER_KWH)
            yield Line(row["site"], "kWh", [kwh])


def _readings(path: Path) -> list[Reading]:
    with path.open(newline="") as file:
        rows = [(datetime.fromisoformat(row["time"]), float(row["watts"])) for row in csv.DictReader(file)]
    return [
        Reading(round(watts * 1000), round(at.replace(tzinfo=at.tzinfo or timezone.utc).timestamp() * NS_PER_S))
        for at, watts in sorted(rows)
    ]
