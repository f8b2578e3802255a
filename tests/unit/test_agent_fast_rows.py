"""Rows of a fast trace that `perun-sample` makes for the agent: on the grid, and as the agent would make them."""

from __future__ import annotations

import json
import os
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.steps import Step
from perun_hpc.agent.measure import curve
from perun_hpc.agent.measure.intervals import NOTHING_KNOWN, Intervals, Known, packages
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.fast_rows import MOST_B, SETTLE_S, can_read
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.traces.open_traces import ROWS, Traces
from perun_hpc.backend.rows import PROGRAM
from perun_hpc.backend.rows import left as rows_left
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import GAP, Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import NodeInput
from perun_hpc.energy.containment import plan
from perun_hpc.energy.counters import counted_each, difference
from perun_hpc.monitoring.tally import rise_of
from perun_hpc.process.clock import MACHINE
from perun_hpc.store import journal
from tests.examples import examples

MS_NS = 1_000_000
S_NS = 1_000_000_000
WRAP = 10_000_000


def counter(name: str = "package-0", wrap: int | None = WRAP, **more: object) -> Sensor:
    return Sensor(
        id=f"powercap:{name}:energy", host="n1", backend="powercap", device="", domain=name, component="cpu",
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", wrap_range=wrap, max_uw=400_000_000, **more,
    )  # type: ignore[arg-type]  # fmt: skip


STEPS = st.lists(st.sampled_from([0, 5, 1000, 2_000_000, 4_500_000, -3, -900, None, -WRAP]), min_size=1, max_size=30)


@given(STEPS, st.sampled_from([None, WRAP]), st.sampled_from([1, 3]))
@examples(200)
def test_what_many_readings_counted_is_what_each_counted_after_the_last_that_is_known(
    steps: list[int | None], wrap: int | None, scale: int
) -> None:
    sensor = counter(wrap=wrap, scale_num=scale, scale_den=2)
    before, at, ticks = Reading(5_000_000, 0), 5_000_000, []
    for step in steps:
        at = at if step is None else max(0, at + step)
        ticks.append(GAP if step is None else at)
    times = [10 * MS_NS * (row + 1) for row in range(len(ticks))]
    found, last = counted_each(sensor, before, ticks, times)
    expected = []
    for one, ns in zip(ticks, times, strict=True):
        after = Reading(None if one == GAP else one, ns)
        change = difference(sensor, before, after).ticks
        if one != GAP and before.ticks is not None and 0 < before.ticks - one < WRAP // 2:
            change = None  # it was read before the one that is known
        expected.append(0 if change is None else sensor.base(change))
        before = before if change is None else after
    assert (found, last) == (expected, before)


@pytest.mark.parametrize("risen", [False, True])
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("falls", [0, 5_000, -6_000_000])
def test_rows_give_a_curve_what_readings_one_by_one_would(risen: bool, scale: int, falls: int) -> None:
    sensors = [counter(), counter("package-1"), counter("dram-0", scale_num=scale)]
    domains = plan(sensors).counted
    one_by_one, at_once = (Intervals(domains, NodeInput(package_of={0: 0}, core_of={0: 0})) for _ in range(2))
    assert packages(domains) == {0, 1}
    begun = {sensor.id: Reading(1000, 0) for sensor in sensors}
    times = [10 * MS_NS * (row + 1) for row in range(20)]
    columns = {sensor.id: [1000 + 7000 * (row + number) for row in range(20)] for number, sensor in enumerate(sensors)}
    columns[sensors[1].id][3] = GAP
    columns[sensors[0].id][12:] = [ticks - falls for ticks in columns[sensors[0].id][12:]]
    for intervals in (one_by_one, at_once):
        intervals.begin(0, begun)
    expected = [
        one_by_one.since({
            name: Reading(None if ticks[row] == GAP else ticks[row], ns) for name, ticks in columns.items()
        })
        for row, ns in enumerate(times)
    ]  # fmt: skip
    halves = []
    for part in (slice(0, 8), slice(8, None)):
        some = {name: ticks[part] for name, ticks in columns.items()}
        rises = {name: rise_of(0, ticks, [10 * MS_NS] * len(ticks)) for name, ticks in some.items() if GAP not in ticks}
        summed = frozenset(one.id for one in sensors if one.scale_num == 1)
        sums = [sum(row) for row in zip(*(some[name] for name in summed), strict=True)]
        halves.append(at_once.since_rows(times[part], some, Known(rises, summed, sums) if risen else NOTHING_KNOWN))
    assert halves[0] + halves[1] == expected
    if not falls:
        assert sum(expected) == sum(
            one.base(ticks[-1] - 1000) for one, ticks in zip(sensors, columns.values(), strict=True)
        )


class Machine:
    """A node of two packages that count, and its agent's parts as the loop calls them; job 1 has it for itself."""

    def __init__(self, root: Path) -> None:
        self.root, self.ticks = root, 0
        for number in range(2):
            zone = root / "sys/class/powercap" / f"intel-rapl:{number}"
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"package-{number}\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
        self.files = [root / "sys/class/powercap" / f"intel-rapl:{number}" / "energy_uj" for number in range(2)]
        self.count()
        (root / "proc").mkdir()
        (root / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0\n")
        (root / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
        self.paths = AgentPaths(root / "run", root / "spool", root)
        self.paths.node.mkdir(parents=True)
        self.node = Node.open(root, ("powercap", "procstat"), MACHINE)
        self.register = Register("n1", 1)
        policy = PolicyKeeper(root / "policy.yaml", MACHINE, "n1", (root / "policy.json",))
        self.visibility = Visibility(self.paths, self.register)
        self.meter = Meter(
            self.node, partial(machine.topology, root), self.register, policy, NodeLedger(self.paths), self.visibility,
            MACHINE,
        )  # fmt: skip
        self.traces = Traces(self.paths, self.node, self.register, self.visibility, MACHINE)
        self.settings = policy.settings({}, "n1", "").to_json()
        self.settings["store"] |= {"trace": "all", "trace_min_duration_ns": 0}
        self.settings["sampling"] |= {"period_ns": 10 * MS_NS, "period_min_ns": 10 * MS_NS}
        self.job = self.start(1)

    def start(self, number: int) -> Session:
        """A job begins: a reading first, as the agent does."""
        last = self.meter.end_interval()
        key = SessionKey(number, 0)
        edge = Edge(last.real_ns, last.mono_ns, 0, "hook")
        session = Session(key, {"exclusive": "1"}, dict(self.settings), "", "boot", edge, place=key.name)
        self.register.live[key] = session
        self.paths.session(session.place).mkdir(parents=True)
        return session

    def end(self) -> Edge:
        """The job ends."""
        last = self.meter.end_interval(settle=True)
        self.job.end = Edge(last.real_ns, last.mono_ns, 0, "hook")
        del self.register.live[self.job.key]
        return self.job.end

    def count(self) -> None:
        self.ticks += 1
        for number, file in enumerate(self.files):
            with file.open("r+" if file.exists() else "w") as out:
                out.write(f"{self.ticks * (20_000 + number):015d}\n")

    def turn(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """What the loop does, for a while; the counters count meanwhile."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not until():
            self.count()
            self.traces.sample(MACHINE.mono_ns(), MACHINE.real_ns(), None, self.meter)
            time.sleep(0.002)

    @property
    def pid(self) -> int:
        """Of who makes the rows."""
        assert self.node.fast is not None
        return self.node.fast._rows.pid

    def rows(self) -> tuple[list[int], list[tuple[int, ...]]]:
        """Grid ticks of all rows so far, and their values; the trace lets go of its store, as at an agent's end."""
        sensors = len(self.node.sensors)
        self.traces.pause()
        paths = sorted((self.paths.session(self.job.place)).rglob("*.journal"))
        rows = [row for path in paths for row in journal.read(path, sensors)[1]]
        return [row[0] for row in rows], [row[2:] for row in rows]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    host = Machine(tmp_path)
    host.traces.begin(host.job, MACHINE.mono_ns())
    yield host
    host.traces.pause()
    host.node.close()


def test_a_fast_trace_has_a_row_for_each_moment_of_its_grid_from_the_program(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    begun_ns = time.time_ns()
    host.turn(1.5)
    assert host.node.fast is not None
    over_ns = time.time_ns()
    ticks, values = host.rows()
    assert host.node.fast is None
    wanted = set(range(begun_ns // (10 * MS_NS) + 2, over_ns // (10 * MS_NS) - 1))
    assert ticks == sorted(set(ticks)) and len(wanted - set(ticks)) <= len(wanted) // 2  # others are at work here, too
    place = host.node.ids.index("powercap:package-0:energy")
    counted = [row[place] for row in values]
    assert counted == sorted(counted) and counted[-1] > counted[0]
    memory = host.node.ids.index("procstat:memory:data")
    assert {row[memory] for row in values[10:]} == {4000 * 1024}  # values that others read may come a moment later


def test_rows_are_on_the_grid_of_the_wall_clock_however_long_a_trace_took_to_begin(tmp_path: Path) -> None:
    host = Machine(tmp_path)
    host.traces.begin(host.job, MACHINE.mono_ns() - S_NS)  # of before the imports
    schedule = host.traces._open[host.job.place][1].schedule
    assert abs(schedule.offset_ns - (MACHINE.real_ns() - MACHINE.mono_ns())) < S_NS // 5
    host.traces.pause()
    host.node.close()


def test_the_programs_death_costs_the_rows_that_it_had_and_the_agent_goes_on(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    host.turn(1.2)
    os.kill(host.pid, signal.SIGKILL)
    killed_tick = time.time_ns() // (10 * MS_NS)
    host.turn(5, lambda: host.node.fast is None)
    host.turn(0.5)
    assert host.node.fast is None  # not at once again
    assert host.node.spent_ns() > host.node.fast_ns > 0
    ticks, values = host.rows()
    assert ticks == sorted(set(ticks))
    assert [tick for tick in ticks if tick < killed_tick - 110] and [tick for tick in ticks if tick > killed_tick + 20]
    assert GAP not in values[-1]


def test_a_program_that_hangs_delays_readings_once_and_is_done_without(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    host.turn(0.5)
    pid = host.pid
    os.kill(pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    for _ in range(100):
        host.meter.end_interval()
    assert time.monotonic() - begun_s < 100 * SETTLE_S
    host.turn(30, lambda: host.node.fast is None)
    assert host.node.fast is None and not Path(f"/proc/{pid}").exists()
    stopped_tick = time.time_ns() // (10 * MS_NS)
    host.turn(0.3)
    ticks, _ = host.rows()
    assert ticks == sorted(set(ticks)) and ticks[-1] >= stopped_tick


def test_where_another_job_begins_there_are_no_rows_so_fine_of_the_time_since(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    host.turn(0.7)
    other = host.start(2)
    host.turn(0.3)
    assert host.node.fast is None
    ticks, _ = host.rows()
    real_ns = other.start.real_ns
    later = [tick for tick in ticks if tick * 10 * MS_NS > real_ns]
    before = [tick for tick in ticks if tick * 10 * MS_NS < real_ns]
    assert before and before[-1] * 10 * MS_NS > real_ns - S_NS // 5
    assert len(later) <= 1  # a moment that the job's coarser rows have


def test_a_job_that_ended_has_its_last_rows_and_none_of_later(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    host.turn(0.6)
    end = host.end()
    host.turn(0.2)
    ticks, _ = host.rows()
    assert ticks[-1] * 10 * MS_NS <= end.real_ns + 2 * MS_NS
    assert ticks[-1] * 10 * MS_NS >= end.real_ns - S_NS // 5
    host.traces.resume(host.job, host.meter.end_interval())
    host.traces.seal(host.job)
    assert host.job.trace["stored"] and host.job.trace["rows"] == len(ticks)


def test_a_flagged_step_has_a_point_of_its_curve_for_each_row(host: Machine) -> None:
    host.job.steps["0"] = Step(0, 1, 1, "a.out", "")
    host.turn(5, lambda: host.node.fast is not None)
    host.turn(1.3)
    host.meter.end_interval()
    found = curve.Curve.read(host.paths.curve(host.job.place))
    times, values = list(found._times), list(found._values)
    assert times == sorted(set(times)) and values == sorted(values)
    near = [later - before for before, later in zip(times, times[1:], strict=False)]
    assert len(times) > 60 and sorted(near)[len(near) // 2] < 20 * MS_NS
    assert values[-1] == host.job.energy_uj > 0
    ticks, _ = host.rows()
    assert len(times) <= len(ticks) + 10


def test_new_sensors_begin_it_anew(host: Machine) -> None:
    host.turn(5, lambda: host.node.fast is not None)
    first = host.pid
    host.meter.account_anew()
    host.turn(5, lambda: host.node.fast is not None and host.pid != first)
    assert host.node.fast is not None and host.pid != first
    assert not Path(f"/proc/{first}").exists()


def test_a_node_whose_energy_is_not_read_from_files_alone_keeps_its_rows_with_the_agent(host: Machine) -> None:
    assert can_read(host.node, ["powercap:package-0:energy"])
    assert not can_read(host.node, ["powercap:package-0:energy", "nvml:gpu-0:energy"])
    assert not can_read(host.node, [])


def test_without_the_program_the_agent_makes_the_rows(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perun_hpc.backend.rows.PROGRAM", Path("/nowhere/perun-sample"))
    host.turn(0.5)
    assert host.node.fast is None
    ticks, _ = host.rows()
    assert len(ticks) > 5


SLOW_MS = 200
HEAD_B = 32
"""The length of a block's head, behind which the first row's tick stands."""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Machine]:
    """With rows that are not close."""
    host = Machine(tmp_path)
    host.settings["sampling"] |= {"period_ns": SLOW_MS * MS_NS}
    host.job.settings = dict(host.settings)
    host.traces.begin(host.job, MACHINE.mono_ns())
    host.turn(5, lambda: host.node.fast is not None)
    yield host
    host.traces.pause()
    host.node.close()


def moments(ticks: list[int]) -> list[int]:
    """The moments between the first and the last."""
    return list(range(ticks[0], ticks[-1] + 1))


def test_a_job_that_ends_while_the_program_starts_has_the_row_that_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly = tmp_path / "slowly"
    slowly.write_text(f"#!/bin/sh\nsleep 0.2\nexec {PROGRAM}\n")
    slowly.chmod(0o755)
    monkeypatch.setattr("perun_hpc.backend.rows.PROGRAM", slowly)
    host = Machine(tmp_path)
    host.settings["sampling"] |= {"period_ns": SLOW_MS * MS_NS}
    host.job.settings = dict(host.settings)
    host.traces.begin(host.job, MACHINE.mono_ns())
    host.turn(5, lambda: host.node.fast is not None)
    end = host.end()
    host.turn(0.1)
    ticks, _ = host.rows()
    assert len(ticks) == 1 and ticks[0] * SLOW_MS * MS_NS <= end.real_ns
    host.node.close()


def test_rows_that_are_not_close_are_taken_at_an_intervals_end(slow: Machine) -> None:
    slow.turn(1.3)
    store = slow.traces._open[slow.job.place][1]._store
    assert store.last_tick < time.time_ns() // (SLOW_MS * MS_NS) - 4  # nobody had to wake up for them
    snapshot = slow.meter.end_interval()
    slow.traces.sample(snapshot.mono_ns, snapshot.real_ns, snapshot, slow.meter)
    assert store.last_tick >= snapshot.real_ns // (SLOW_MS * MS_NS) - 1
    slow.turn(0.5)
    ended_ns = time.time_ns()
    ticks, values = slow.rows()
    assert ticks == moments(ticks) and ticks[-1] >= ended_ns // (SLOW_MS * MS_NS) - 1
    place = slow.node.ids.index("powercap:package-0:energy")
    counted = [row[place] for row in values]
    assert counted == sorted(counted) and counted[-1] > counted[0]
    assert not list(slow.paths.session(slow.job.place).glob(ROWS))


def test_rows_that_nobody_took_before_a_kill_are_the_next_agents(slow: Machine) -> None:
    slow.turn(1.3)
    pid, session = slow.pid, slow.job
    os.kill(pid, signal.SIGKILL)  # as it dies with its agent
    killed_ns = time.time_ns()
    time.sleep(0.1)
    file = slow.paths.session(session.place) / ROWS
    file.write_bytes(file.read_bytes()[:-20])  # in the middle of a row
    slow.node.fast = None
    slow.traces = Traces(slow.paths, slow.node, slow.register, slow.visibility, MACHINE)
    slow.traces.resume(session, slow.meter.end_interval())
    assert not file.exists()
    ticks, values = slow.rows()
    assert ticks == moments(ticks) and ticks[-1] >= killed_ns // (SLOW_MS * MS_NS) - 2
    assert len(ticks) >= 4 and all(GAP not in row for row in values[1:])


def test_a_long_file_of_rows_is_read_in_little_memory(slow: Machine) -> None:
    slow.turn(3, lambda: len(slow.node.fast._rows.blocks()) > 0 if slow.node.fast is not None else False)
    file = slow.paths.session(slow.job.place) / ROWS
    head, _, rows = file.read_bytes().partition(b"\n")
    row = rows[: HEAD_B + len(json.loads(head)["sensors"]) * (8 + 24) + 8 + 8 + 4]  # docs/architecture.md
    ticks = range(1000, 1000 + MOST_B // len(row))
    blocks = (row[:HEAD_B] + tick.to_bytes(8, "little") + row[HEAD_B + 8 :] for tick in ticks)
    file.write_bytes(head + b"\n" + b"".join(blocks))
    tracemalloc.start()
    try:
        found = rows_left(file, 1002)
        assert found is not None and found.block is not None and list(found.block.ticks) == list(ticks[3:])
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_B
    finally:
        tracemalloc.stop()


def test_the_file_of_rows_is_begun_anew_where_it_is_long(slow: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, file = slow.pid, slow.paths.session(slow.job.place) / ROWS
    monkeypatch.setattr("perun_hpc.agent.sources.fast_rows.MOST_B", 400)
    for _ in range(12):
        slow.turn(SLOW_MS / 1000)
        snapshot = slow.meter.end_interval()
        slow.traces.sample(snapshot.mono_ns, snapshot.real_ns, snapshot, slow.meter)
    assert slow.node.fast is None or slow.pid != first
    assert not file.exists() or file.stat().st_size < 2000
    ticks, _ = slow.rows()
    assert ticks == moments(ticks) and len(ticks) >= 11


def test_the_death_of_who_makes_rows_that_are_not_close_costs_hardly_one(slow: Machine) -> None:
    slow.turn(0.7)
    os.kill(slow.pid, signal.SIGKILL)
    slow.turn(5, lambda: slow.node.fast is None)
    slow.turn(0.7)
    ticks, _ = slow.rows()
    assert ticks == sorted(set(ticks)) and len(moments(ticks)) - len(ticks) <= 1
