"""From readings to sessions and the node ledger, as the agent does it: every uJ goes to somebody, once.

Counters wrap, are reset and fail to be read; the wall clock is stepped; jobs arrive and leave. The test keeps the true
energy of every domain and what each session was given.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.intervals import Intervals, Stretch, ledger_line
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import JobInput, NodeInput
from perun_hpc.energy.containment import plan
from perun_hpc.energy.counters import ceiling_ticks
from tests.examples import examples

S = 1_000_000_000
RANGE = 262_143_328_850
MAX_UW = 400_000_000
CPUS = 8
NODE = NodeInput(
    package_of={cpu: cpu // 4 for cpu in range(CPUS)}, core_of={cpu: cpu for cpu in range(CPUS)}, memory_b=2**36
)


def counter(domain: str, component: str, parent: str | None) -> Sensor:
    return Sensor(
        id=f"powercap:{domain}:energy",
        host="n1",
        backend="powercap",
        device=domain,
        domain=domain,
        component=component,
        kind=Kind.COUNTER,
        quantity=Quantity.ENERGY,
        unit="uJ",
        wrap_range=RANGE,
        max_uw=MAX_UW,
        update_ns=1_000_000,
        parent=parent,
    )


SENSORS = (
    counter("psys", "node", None),
    *(counter(f"package-{number}", "cpu", "powercap:psys:energy") for number in range(2)),
    *(counter(f"dram-{number}", "dram", "powercap:psys:energy") for number in range(2)),
)


@dataclass
class Truth:
    """One counter: what it shows, what it counted since its last good reading, whether it was reset since."""

    shown: int
    counted: int = 0
    reset: bool = False
    read_ns: int = 0


@dataclass
class World:
    """The node and its jobs."""

    truths: dict[str, Truth]
    sessions: dict[str, Session] = field(default_factory=dict)
    ended: list[Session] = field(default_factory=list)
    mono_ns: int = 5
    real_ns: int = 1_764_000_000 * S

    def readings(self, failing: frozenset[str] = frozenset()) -> dict[str, Reading]:
        return {
            f"powercap:{name}:energy": Reading(None, self.mono_ns, "input/output error")
            if name in failing
            else Reading(truth.shown, self.mono_ns)
            for name, truth in self.truths.items()
        }


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "ns": st.integers(1_000_000, 10 * S),
            "powers_uw": st.lists(  # anything that is on takes a watt
                st.integers(1_000_000, MAX_UW // 2), min_size=len(SENSORS), max_size=len(SENSORS)
            ),
            "failing": st.frozensets(st.sampled_from([sensor.domain for sensor in SENSORS]), max_size=3),
            "reset": st.none() | st.sampled_from([sensor.domain for sensor in SENSORS]),
            "clock_step_s": st.sampled_from([0, 0, 0, -7200, 86_400]),
            "begin": st.none() | st.frozensets(st.integers(0, CPUS - 1), min_size=1),
            "end": st.booleans(),
            "suspended": st.booleans(),
        }
    ),
    min_size=1,
    max_size=20,
)


@examples(150)
@given(
    starts=st.lists(st.integers(0, RANGE - 1), min_size=len(SENSORS), max_size=len(SENSORS)),
    steps=STEPS,
    fitted=st.booleans(),
)
def test_whatever_happens_the_ledger_closes_and_sessions_have_what_it_gives_them(starts, steps, fitted):
    world = World({sensor.domain: Truth(start, read_ns=5) for sensor, start in zip(SENSORS, starts, strict=True)})
    domains = {domain.name: domain for domain in plan(SENSORS).counted}
    intervals = Intervals(tuple(domains.values()), NODE)
    intervals.fitted = fitted
    intervals.begin(world.mono_ns, world.readings())
    given_uj: dict[tuple[str, str], int] = {}
    for number, step in enumerate(steps):
        started_ns = world.mono_ns
        world.mono_ns += step["ns"]
        world.real_ns += step["ns"] + step["clock_step_s"] * S
        for sensor, power_uw in zip(SENSORS, step["powers_uw"], strict=True):
            truth = world.truths[sensor.domain]
            used = power_uw * step["ns"] // S
            truth.counted += used
            truth.shown = (truth.shown + used) % RANGE
            if step["reset"] == sensor.domain:
                truth.shown, truth.reset = 0, True
        readings = world.readings(step["failing"])
        jobs = tuple(
            JobInput(owner=one.key.owner, cpus=frozenset(one.cpus), cpu_ns=step["ns"] // 3,
                     suspended=step["suspended"], memory_b=2**30)
            for one in world.sessions.values()
        )  # fmt: skip
        busy = dict.fromkeys(range(CPUS), step["ns"] // 2)
        closed = intervals.add(Stretch(started_ns, world.mono_ns, busy, jobs), readings)
        day = booking.local_day(world.real_ns)
        booking.book(closed, list(world.sessions.values()), domains, {}, day)
        live = frozenset(one.key.owner for one in world.sessions.values())
        for interval in closed:
            line = ledger_line(interval, live)
            if line["total_uj"] is None:
                assert line["shares"] == {}
                assert interval.why
            else:
                assert sum(line["shares"].values()) == line["total_uj"]
            for owner, energy_uj in line["shares"].items():
                given_uj[owner, line["domain"]] = given_uj.get((owner, line["domain"]), 0) + energy_uj
            if line["domain"] in world.truths:
                agrees(world.truths[line["domain"]], line["total_uj"], world.mono_ns)
        for session in world.sessions.values():
            for name, account in session.domains.items():
                assert account.energy_uj == given_uj.get((session.key.owner, name), 0)
        if step["end"] and world.sessions:
            world.ended.append(world.sessions.pop(next(iter(world.sessions))))
        if step["begin"] is not None:
            key = SessionKey(number + 1, 0)
            edge = Edge(world.real_ns, world.mono_ns, 0, "hook")
            world.sessions[key.owner] = Session(key, {}, {}, "", "boot", edge, cpus=sorted(step["begin"]))
    for session in (*world.ended, *world.sessions.values()):
        for name, account in session.domains.items():
            assert sum(per_domain.get(name, 0) for per_domain in session.shares.values()) == account.energy_uj


def agrees(truth: Truth, total_uj: int | None, mono_ns: int) -> None:
    """An interval's total is exact, or not known; a reset that looks like a wrap stays below the ceiling."""
    sensor = SENSORS[1]
    elapsed_ns = mono_ns - truth.read_ns
    if total_uj is not None and not truth.reset:
        assert total_uj == truth.counted
    elif total_uj is not None:
        assert 0 <= total_uj <= (ceiling_ticks(sensor, elapsed_ns) or 0)
    else:
        assert truth.reset or (ceiling_ticks(sensor, elapsed_ns) or 0) >= RANGE
    truth.counted, truth.reset, truth.read_ns = 0, False, mono_ns


NAMES = [sensor.domain for sensor in SENSORS]


def closed_after(
    failing: list[frozenset[str]], killed: frozenset[int] = frozenset()
) -> tuple[dict[str, int], dict[str, Truth]]:
    """What every domain was given over stretches of a second in which these readings fail, and what was counted.

    After those of `killed` the agent is, and the next one goes on from what it saved.
    """
    truths = {name: Truth(0, read_ns=5) for name in NAMES}
    world = World(truths)
    intervals = Intervals(plan(SENSORS).counted, NODE)
    intervals.begin(world.mono_ns, world.readings())
    job = JobInput(owner="job:1.0", cpus=frozenset({0, 1}), cpu_ns=S)
    given_uj: dict[str, int] = {}
    for number, names in enumerate(failing):
        world.mono_ns += S
        for place, truth in enumerate(truths.values()):
            truth.shown += 100_000_000 if place == 0 else 1_000_000 * (place + number % 7)
        readings = world.readings(names)
        for interval in intervals.add(Stretch(world.mono_ns - S, world.mono_ns, {0: S, 5: S}, (job,)), readings):
            shares = interval.shares
            assert sum(shares.by_owner().values()) == shares.total_uj
            given_uj[shares.domain] = given_uj.get(shares.domain, 0) + (shares.total_uj or 0)
        if number in killed:
            saved, inside = intervals.to_go_on_from(readings), json.loads(json.dumps(intervals.inside))
            intervals = Intervals(plan(SENSORS).counted, NODE)
            intervals.begin(
                world.mono_ns, {name: Reading(one.ticks, one.mono_ns) for name, one in saved.items()}, inside
            )
    return given_uj, truths


@given(failing=st.lists(st.frozensets(st.sampled_from(NAMES)), max_size=20))
def test_a_meters_rest_is_what_its_parts_leave_whoever_fails_meanwhile(failing):
    given_uj, truths = closed_after([*failing, frozenset()])
    assert {name: given_uj[name] for name in NAMES[1:]} == {name: truths[name].shown for name in NAMES[1:]}
    assert sum(given_uj.values()) == truths["psys"].shown


@given(failing=st.lists(st.frozensets(st.sampled_from(NAMES)), max_size=20), killed=st.frozensets(st.integers(0, 19)))
def test_a_kill_while_intervals_are_open_costs_neither_parts_nor_a_meters_rest(failing, killed):
    given_uj, truths = closed_after([*failing, frozenset()], killed)
    assert {name: given_uj[name] for name in NAMES[1:]} == {name: truths[name].shown for name in NAMES[1:]}
    assert sum(given_uj.values()) == truths["psys"].shown


def test_each_meters_rest_keeps_its_name_while_another_one_fails():
    sensors = (*SENSORS, counter("psys-2", "node", None))
    intervals = Intervals(plan(sensors).counted, NODE)
    names = [domain.name for domain in plan(sensors).counted]
    first, second = [name for name in names if name.startswith("psys")]
    intervals.begin(0, {sensor.id: Reading(0, 0) for sensor in sensors})
    given_uj: dict[str, int] = {}
    for number in range(1, 4):
        readings = {
            sensor.id: Reading(None, number * S, "busy")
            if number == 2 and sensor.domain == first
            else Reading(number * (7_000_000 if sensor.domain == second else 3_000_000), number * S)
            for sensor in sensors
        }
        for interval in intervals.add(Stretch((number - 1) * S, number * S, {}, ()), readings):
            given_uj[interval.shares.domain] = given_uj.get(interval.shares.domain, 0) + (interval.shares.total_uj or 0)
    contained = {domain.name: len(domain.leaves) for domain in plan(sensors).counted}
    assert given_uj["other"] == 3 * 3_000_000 * (1 - contained[first])
    assert given_uj[f"other-{second}"] == 3 * (7_000_000 - 3_000_000 * contained[second])


def test_a_part_that_is_never_read_again_does_not_cost_its_meters_energy():
    given_uj, truths = closed_after([frozenset(), *[frozenset({"package-1"})] * 200])
    assert given_uj["package-0"] == truths["package-0"].shown
    assert sum(given_uj.values()) == truths["psys"].shown


def test_the_highest_power_is_a_mean_over_a_second_or_more():
    """4 W over 2 s, 9 W over half a second, 6 W over 1 s: half a second does not count, and it may idle."""
    world = World({sensor.domain: Truth(0, read_ns=5) for sensor in SENSORS})
    edge = Edge(world.real_ns, world.mono_ns, 0, "hook")
    session = Session(SessionKey(1, 0), {}, {}, "", "boot", edge, cpus=list(range(CPUS)))
    domains = {domain.name: domain for domain in plan(SENSORS).counted}
    intervals = Intervals(tuple(domains.values()), NODE)
    intervals.begin(world.mono_ns, world.readings())
    job = JobInput(owner=session.key.owner, cpus=frozenset(range(CPUS)), exclusive=True, cpu_ns=S)
    for seconds, power_w, highest_mw in ((2, 4, 4000), (0.5, 9, 4000), (1, 6, 6000), (3, 0, 6000)):
        before_ns = world.mono_ns
        world.mono_ns += round(seconds * S)
        for sensor in SENSORS:
            truth = world.truths[sensor.domain]
            part = 1 if sensor.component == "node" else 1 / len(SENSORS)
            truth.shown += round(seconds * power_w * 1_000_000 * part)
        busy = dict.fromkeys(range(CPUS), world.mono_ns - before_ns)
        closed = intervals.add(Stretch(before_ns, world.mono_ns, busy, (job,)), world.readings())
        booking.book(closed, [session], domains, {}, "2026-11-22")
        assert session.peak_mw == highest_mw
    assert Session.from_json(json.loads(json.dumps(session.to_json()))).peak_mw == 6000  # as its file holds it
