"""Counters that can be read and measure nothing, in the agent's intervals; and those that may stand still."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perun_hpc.agent.measure.intervals import Intervals, Stretch
from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import NodeInput
from perun_hpc.energy.containment import plan
from perun_hpc.energy.integrate import SyntheticCounter

S = 10**9
NODE = NodeInput(package_of={0: 0, 1: 0, 2: 1, 3: 1}, core_of={cpu: cpu for cpu in range(4)})
PACKAGE = Sensor(
    id="powercap:package-0:energy", host="n", backend="powercap", device="d", domain="package-0", component="cpu",
    kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", resolution=61, update_ns=10**6,
)  # fmt: skip
GAUGE = replace(
    PACKAGE, id="hwmon:node:power", domain="node", component="node", kind=Kind.GAUGE, quantity=Quantity.POWER
)


def whys(sensor: Sensor, ticks: list[int], seconds: float = 1, busy_s: float = 0) -> list[str]:
    """Why each of the intervals between these readings has no energy; empty where it has."""
    intervals = Intervals(plan([sensor]).counted, NODE)
    intervals.begin(0, {sensor.id: Reading(ticks[0], 0)})
    found = []
    for number, value in enumerate(ticks[1:]):
        t0_ns, t1_ns = round(number * seconds * S), round((number + 1) * seconds * S)
        busy_ns = dict.fromkeys(range(4), round(busy_s * S))
        (closed,) = intervals.add(Stretch(t0_ns, t1_ns, busy_ns, ()), {sensor.id: Reading(value, t1_ns)})
        assert (closed.shares.total_uj is None) == bool(closed.why)
        found.append(closed.why)
    return found


STILL = "its counter stands still"


def test_a_counter_that_stands_where_it_was_measures_nothing_until_it_goes_on() -> None:
    assert whys(PACKAGE, [7, 7, 7, 900_000, 900_000]) == [STILL, STILL, "", STILL]
    assert whys(PACKAGE, [7, 7, 7], seconds=0.06) == ["", STILL]
    assert whys(PACKAGE, [7, 7, 3, 3, 3]) == [STILL, "the counter went backwards and never wraps", STILL, STILL]
    assert whys(replace(PACKAGE, provenance=Provenance.SIMULATED), [7, 7, 7]) == ["", ""]
    assert whys(replace(PACKAGE, domain="gpu-a", component="gpu"), [7, 7, 7]) == ["", ""]
    assert whys(replace(PACKAGE, backend="file"), [7, 7, 7], busy_s=1) == ["", ""]


def test_a_counter_made_of_a_gauge_may_stand_still_for_a_while() -> None:
    counter = SyntheticCounter(GAUGE, 30 * S).sensor
    assert whys(counter, [7, 7, 7], seconds=10, busy_s=9) == ["", ""]


@pytest.mark.parametrize(("component", "domain", "why"), [
    ("cpu", "package-0", "its counter shows less than its CPUs take"),
    ("node", "psys", "its counter shows less than its CPUs take"),
    ("dram", "dram-0", ""),
])  # fmt: skip
def test_what_cpus_take_is_held_against_their_time(component: str, domain: str, why: str) -> None:
    sensor = replace(PACKAGE, domain=domain, component=component)
    assert whys(sensor, [7, 20_000], seconds=10, busy_s=9) == [why]
    assert whys(sensor, [7, 20_000], seconds=10) == [""]
    assert whys(sensor, [7, 900_000], seconds=10, busy_s=9) == [""]
    assert whys(sensor, [7, 20_000], seconds=0.2, busy_s=9) == [""]  # more than four CPUs can have worked by then


def test_an_average_over_minutes_counts_from_the_boot_on() -> None:
    """Its first readings are of a time before the boot."""
    (domain,) = plan([replace(PACKAGE, lag_ns=300 * S)]).counted
    intervals = Intervals([domain], NODE)
    intervals.begin(120 * S, {PACKAGE.id: Reading(1_000, -180 * S)})
    (closed,) = intervals.add(Stretch(120 * S, 130 * S, {}, ()), {PACKAGE.id: Reading(9_000, -170 * S)})
    assert (closed.shares.total_uj, closed.t0_ns, closed.t1_ns) == (8_000, 120 * S, 130 * S)
