"""What a package's own power tells of its jobs, in the agent's intervals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perun_hpc.agent.measure.intervals import Closed, Intervals, Stretch
from perun_hpc.data_model.sensor import Reading
from perun_hpc.energy.attribute import JobInput
from perun_hpc.energy.containment import plan
from tests.unit.test_agent_silence import NODE, PACKAGE

S = 10**9
STATIC_W = 10
WATTS = {"job:1.0": 3.0, "job:2.0": 9.0}
CPU = {"job:1.0": 0, "job:2.0": 1}
SENSOR = replace(PACKAGE, max_uw=400_000_000)


class Node:
    """One package whose intervals of 10 s are closed one after the other; jobs draw `WATTS` a core."""

    def __init__(self, fitted: bool = True) -> None:
        self.intervals = Intervals(plan([SENSOR]).counted, NODE)
        self.intervals.fitted = fitted
        self.intervals.static_uw, self.intervals.static_error = {"package-0": STATIC_W * 10**6}, {"package-0": 0.08}
        self.at_s, self.ticks = 0, 0
        self.intervals.begin(0, {SENSOR.id: Reading(0, 0)})

    def go_on(self, *live: str) -> Closed:
        t0_ns, self.at_s = self.at_s * S, self.at_s + 10
        self.ticks += round((STATIC_W + sum(WATTS[one] for one in live)) * 10 * 1e6)
        jobs = tuple(JobInput(owner=one, cpus=frozenset({CPU[one]}), cpu_ns=10 * S) for one in live)
        busy = {CPU[one]: 10 * S for one in live}
        readings = {SENSOR.id: Reading(self.ticks, self.at_s * S)}
        (closed,) = self.intervals.add(Stretch(t0_ns, self.at_s * S, busy, jobs), readings)
        assert sum(closed.shares.by_owner().values()) == closed.shares.total_uj
        return closed


def part_of_heavy(closed: Closed) -> float:
    moving = {share.owner: share.dynamic_uj for share in closed.shares.shares}
    return moving["job:2.0"] / sum(moving.values())


def comes_and_goes(node: Node) -> Closed:
    for live in (("job:1.0",), ("job:1.0", "job:2.0"), ("job:2.0",)):
        node.go_on(*live)
    return node.go_on("job:1.0", "job:2.0")


def test_a_job_that_draws_more_gets_more() -> None:
    plain, fitted = comes_and_goes(Node(fitted=False)), comes_and_goes(Node())
    assert (plain.shares.method, fitted.shares.method) == ("cores", "cores+fit")
    assert part_of_heavy(plain) == pytest.approx(0.5, abs=0.001)
    assert part_of_heavy(fitted) == pytest.approx(0.75, abs=0.06)
    doubt = fitted.shares.doubts_uj["job:2.0"] / sum(share.dynamic_uj for share in fitted.shares.shares)
    assert abs(part_of_heavy(fitted) - 0.75) < 2 * doubt < 0.17


def test_a_filter_that_fails_costs_nobody_energy_and_begins_anew() -> None:
    node = Node()
    comes_and_goes(node)
    node.intervals.static_error = {"package-0": float("nan")}
    failed = node.go_on("job:1.0", "job:2.0")
    assert (failed.shares.method, part_of_heavy(failed)) == ("cores", pytest.approx(0.5, abs=0.001))
    node.intervals.static_error = {"package-0": 0.08}
    anew = node.go_on("job:1.0", "job:2.0")
    assert anew.shares.method == "cores+fit"
    assert part_of_heavy(anew) == pytest.approx(0.5, abs=0.001)


def test_under_another_policy_nothing_is_kept() -> None:
    node = Node()
    comes_and_goes(node)
    node.intervals.fitted = False
    assert node.go_on("job:1.0", "job:2.0").shares.method == "cores"
    node.intervals.fitted = True
    assert part_of_heavy(node.go_on("job:1.0", "job:2.0")) == pytest.approx(0.5, abs=0.001)


def test_another_sensor_of_the_package_is_learnt_anew() -> None:
    node = Node()
    comes_and_goes(node)
    other = replace(SENSOR, id="hwmon:package-0:energy", backend="hwmon")
    node.intervals.change(plan([other]).counted)
    node.intervals.add(Stretch(40 * S, 41 * S, {}, ()), {other.id: Reading(0, 41 * S)})
    jobs = tuple(JobInput(owner=one, cpus=frozenset({CPU[one]}), cpu_ns=10 * S) for one in WATTS)
    busy = dict.fromkeys(CPU.values(), 10 * S)
    (closed,) = node.intervals.add(Stretch(41 * S, 51 * S, busy, jobs), {other.id: Reading(220_000_000, 51 * S)})
    assert part_of_heavy(closed) == pytest.approx(0.5, abs=0.001)
