"""Rows on their way from the readers into a trace: the quick way says what the careful way says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.sources.node import Node
from perun_hpc.backend.procstat import KEPT_NS, ProcStat
from perun_hpc.backend.sysfile import NumberFiles
from perun_hpc.data_model.sensor import GAP, Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.integrate import SyntheticCounter
from perun_hpc.energy.schedule import Schedule
from perun_hpc.process.clock import MACHINE
from perun_hpc.store import job_store
from perun_hpc.store.columns import Column
from perun_hpc.store.layout import FORMS
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.examples import examples

SECOND_NS = 1_000_000_000


def sensor(kind: Kind, scale: tuple[int, int], wrap_range: int | None) -> Sensor:
    return Sensor(
        id="test:package-0:energy",
        host="n1",
        backend="test",
        device="",
        domain="package-0",
        component="cpu",
        kind=kind,
        quantity=Quantity.ENERGY if kind is Kind.COUNTER else Quantity.POWER,
        unit="tick",
        scale_num=scale[0],
        scale_den=scale[1],
        wrap_range=wrap_range,
        max_uw=2**50,
    )


@examples(300)
@given(
    kind=st.sampled_from(Kind),
    scale=st.sampled_from([(1, 1), (1000, 1), (1_000_000, 1 << 16)]),
    wrap_range=st.sampled_from([None, 10_000]),
    batches=st.lists(
        st.one_of(
            st.lists(st.one_of(st.just(GAP), st.integers(0, 9_999), st.integers(-(2**62), 2**62)), min_size=1),
            st.lists(st.integers(0, 9_999), min_size=4).map(sorted),
        ),
        max_size=6,
    ),
)
def test_many_rows_at_once_are_stored_as_one_by_one(kind, scale, wrap_range, batches):
    one = sensor(kind, scale, wrap_range)
    form = FORMS[one.quantity, one.kind]
    at_once, singly = Column(one, form), Column(one, form)
    now_ns = 0
    for batch in batches:
        times_ns = [now_ns + SECOND_NS * place for place in range(len(batch))]
        now_ns += SECOND_NS * len(batch)
        expected = [
            singly.value(ticks, ns) if ticks != GAP else singly._fill for ticks, ns in zip(batch, times_ns, strict=True)
        ]
        assert list(at_once.values(tuple(batch), times_ns)) == expected
    assert (at_once.last, at_once.added) == (singly.last, singly.added)


def test_ticks_are_the_readings_without_times(tmp_path):
    values = ["5\n", "17\n", "no number\n"]
    pairs = []
    for number, value in enumerate(values):
        (tmp_path / str(number)).write_text(value)
        pairs.append((sensor(Kind.COUNTER, (1, 1), None), tmp_path / str(number)))
    good, bad = NumberFiles(tuple(pairs[:2])), NumberFiles(tuple(pairs))
    assert good.ticks() == [reading.ticks for reading in good.read()] == [5, 17]
    assert bad.ticks() == [reading.ticks for reading in bad.read()] == [5, 17, None]


def calls_to_read() -> int:
    return int(Path("/proc/self/io").read_text().partition("syscr:")[2].split()[0])  # proc_pid_io(5)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("odd", [False, True])
def test_a_reading_reads_each_file_once(tmp_path, kind, odd):
    if not Path("/proc/self/io").exists():
        pytest.skip("the kernel does not count what processes read")
    places = [tmp_path / str(number) for number in range(20)]
    for place in places:
        place.write_text("7\n")
    places[3].write_text("no number\n" if odd else "8\n")
    reader = NumberFiles(tuple((sensor(kind, (1, 1), None), place) for place in places))
    own = -calls_to_read() + calls_to_read()
    calls = -calls_to_read()
    readings = reader.read()
    calls += calls_to_read()
    assert [reading.ticks for reading in readings] == [7, 7, 7, None if odd else 8, *[7] * 16] == reader.ticks()
    assert calls == own + len(places)


def test_cpu_time_and_memory_are_read_at_most_ten_times_a_second(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n")
    now_ns = [5]
    reader = ProcStat(tmp_path, lambda: now_ns[0])
    first = list(reader.ticks())
    (tmp_path / "proc/stat").write_text("cpu0 9 0 0 0 0 0 0 0 0 0\n")
    now_ns[0] += KEPT_NS
    assert reader.ticks() == first == [1, 4096]
    now_ns[0] += 1
    assert reader.ticks() == [9, 4096]
    assert all(one.update_ns >= KEPT_NS for one in reader.sensors)


def machine(root: Path) -> Node:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram")):
        directory = root / "sys/class/powercap" / zone
        directory.mkdir(parents=True)
        (directory / "name").write_text(name)
        (directory / "energy_uj").write_text("5000")
        (directory / "max_energy_range_uj").write_text("262143328850")
    (root / "proc").mkdir()
    (root / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0 0 0\n")
    (root / "proc/meminfo").write_text("MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n")
    return Node.open(root, ("powercap", "hwmon", "procstat"), MACHINE)


def test_a_sample_is_what_a_reading_of_the_node_says(tmp_path):
    node = machine(tmp_path)
    assert node.ids == tuple(one.id for one in node.sensors)
    assert node.sample() == node.read().ticks(node.ids) == [5000, 5000, 1, 4096]


def test_a_sample_of_a_node_whose_gauges_are_integrated_holds_their_counters(tmp_path):
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("power_meter")
    (chip / "power1_average").write_text("300000000")
    node = machine(tmp_path)
    counters = [one.id for one in node.gauges.sensors]
    assert counters == ["hwmon:node:energy"]
    assert dict(zip(node.ids, node.sample(), strict=True)).keys() == {one.id for one in node.sensors}
    assert node.sample()[-1] is not None


@pytest.mark.parametrize("period_ns", [10_000_000, 100_000_000, SECOND_NS, 60 * SECOND_NS, 3600 * SECOND_NS])
def test_storage_periods_from_ten_milliseconds_to_an_hour(tmp_path, period_ns):
    start_ns = 1_764_000_000 * SECOND_NS + 17
    store = NodeStore.open(
        tmp_path / "session",
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=[sensor(Kind.COUNTER, (1, 1), None)],
        period_ns=period_ns,
        start_ns=start_ns,
    )
    schedule = Schedule.starting(period_ns, 0, start_ns)
    for number in range(5):
        tick, schedule = schedule.take(schedule.due_mono_ns + 1_000)
        assert tick is not None
        store.append(tick.index, [1000 * number], tick.late_ns // 1000)
    store.seal()
    ship(tmp_path / "session", tmp_path / "job", ["n1"])
    job_store.finalise(tmp_path / "job", ["n1"], start_ns + 9 * period_ns)
    data = job_store.open_job(tmp_path / "job")
    energy = data.energy.sel(node="n1", energy_channel="package-0").values
    assert [round(value * 1e6) for value in energy[energy == energy]] == [0, 1000, 2000, 3000, 4000]
    times_ns = data.time.values.astype("datetime64[ns]").astype("int64")
    assert set(times_ns[1:] - times_ns[:-1]) == {period_ns}
    assert all(time_ns % period_ns == 0 for time_ns in times_ns)


def test_a_counter_that_was_reset_goes_on_in_a_trace_without_the_energy_that_nobody_knows():
    wraps = sensor(Kind.COUNTER, (1, 1), 10_000)
    column = Column(replace(wraps, max_uw=1_000), FORMS[wraps.quantity, wraps.kind])
    assert [column.value(ticks, row * SECOND_NS) for row, ticks in enumerate((5_000, 5_100, 3_000, 3_100))] == [
        5_000, 5_100, 5_100, 5_200,
    ]  # fmt: skip


def test_a_powers_counter_is_in_a_trace_after_a_long_gap_too():
    counter = SyntheticCounter(sensor(Kind.GAUGE, (1, 1), None), 30 * SECOND_NS)
    column = Column(counter.sensor, FORMS[counter.sensor.quantity, counter.sensor.kind])
    stored = []
    for seconds in (0, 1, 100, 101):
        counter, reading = counter.advance(Reading(1_000_000, seconds * SECOND_NS))
        assert reading.ticks is not None
        stored.append(column.value(reading.ticks, reading.mono_ns) - stored[0] if stored else reading.ticks)
    assert stored[1:] == [1_000_000, 1_000_000, 2_000_000]
