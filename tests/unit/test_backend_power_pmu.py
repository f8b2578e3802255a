"""One read of a perf group for powercap's files: real groups of the kernel's own events, files of the test's."""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perun_hpc.backend import power_pmu, powercap
from perun_hpc.backend.power_pmu import CHECK, CHECK_NS, FIRST_READINGS, Group, Pmu, PowerFiles
from perun_hpc.backend.rows import Grid, Rows, files_of
from perun_hpc.backend.sysfile import NumberFiles
from perun_hpc.energy.schedule import Schedule
from tests.power_pmu import SCALE, go_on, pmu, put, zones

ALL = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}
EVENTS = {"pkg": "event=0x0", "cores": "event=0x0", "ram": "event=0x0"}
MS_NS = 1_000_000


def _opens() -> bool:
    try:
        os.close(power_pmu._open_event(1, 0, 0, -1))
    except OSError:
        return False
    return True


needs_perf = pytest.mark.skipif(not _opens(), reason="perf_event_open is not permitted here")


class Tenths:
    """A clock that is a tenth of a second further each time, and more where the test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 100_000_000
        return self.now_ns

    def pass_s(self, seconds: int) -> None:
        self.now_ns += seconds * 1_000_000_000


def timer_of(files_ns: int) -> Callable[[], int]:
    """A clock by which a group's read takes 10 us, and one of all its files so much."""
    now_ns, steps = [0], itertools.cycle((10_000_000, 10_000, files_ns, 10_000))

    def clock() -> int:
        now_ns[0] += next(steps)
        return now_ns[0]

    return clock


@dataclass
class Machine:
    """A reader over a group, and the counters' files, which follow it as far as the test says."""

    found: Pmu
    reader: NumberFiles
    files: dict[str, Path]
    clock: Tenths = field(default_factory=Tenths)

    @property
    def group(self) -> Group:
        return self.found.groups[0]

    def counts(self, gain: float = 1.0, only: str = "", offset: int = 1_000_000) -> dict[str, int]:
        """Let the group count and write the files, one of them with a gain of its own; what they say."""
        counted = dict(zip(self.group.ids, go_on(self.group), strict=True))
        said = {}
        for name, file in self.files.items():
            own = next((uj for one, uj in counted.items() if one.split(":")[1].startswith(name.split("-")[0])), 7)
            said[name] = offset + int(own * (gain if name == only else 1))
            put(file, said[name])
        return said

    def first_readings(self, gain: float = 1.0, only: str = "") -> None:
        for _ in range(FIRST_READINGS):
            self.counts(gain, only)
            self.reader.read()

    def ids(self) -> set[str]:
        return set(self.reader.members) if isinstance(self.reader, PowerFiles) else set()


def machine(root: Path, files_ns: int = 1_000_000, range_uj: int = 262_143_328_850, **more: str) -> Machine:
    files = zones(root, ALL, range_uj)
    pmu(root, **{"events": EVENTS, **more})  # type: ignore[arg-type]
    (plain,) = powercap.discover(root).readers
    assert isinstance(plain, NumberFiles)
    found = Pmu.open(root, plain.sensors)
    sensors, clock = plain.sensors, Tenths()
    reader = (
        PowerFiles.over(plain, found.groups, found.shown, clock, timer_of(files_ns))
        if found.groups
        else found.over(plain, wanted=True)
    )
    assert reader.sensors == sensors
    return Machine(found, reader, files, clock)


@pytest.fixture
def closing() -> Iterator[list[Machine]]:
    made: list[Machine] = []
    yield made
    for one in made:
        one.reader.close()
        one.found.close()


@needs_perf
def test_a_group_that_agrees_and_costs_less_stands_in_for_the_files(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    for _ in range(FIRST_READINGS - 1):
        one.counts()
        one.reader.read()
    assert one.ids() == set()
    said = one.counts()
    assert [reading.ticks for reading in one.reader.read()] == [*said.values()]
    assert one.ids() == {f"powercap:{name}-0:energy" for name in ("package", "core", "dram")}
    for read in (one.reader.ticks, lambda: [reading.ticks for reading in one.reader.read()]):
        before = one.counts()
        for file in one.files.values():  # the files are not read: what stands in them does not count
            put(file, 5)
        assert read() == [*before.values()]
    assert "1 groups for 3 counters" in one.reader.state


@needs_perf
def test_each_64th_reading_is_the_files_own_and_one_that_went_astray_is_given_up(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    for _ in range(CHECK - FIRST_READINGS):
        said = one.counts()
        assert one.reader.ticks() == [*said.values()]
    one.counts(gain=1.01, only="dram")
    one.reader.read()
    assert one.ids() == {"powercap:package-0:energy", "powercap:core-0:energy"}
    assert "dram-0: the group's value is" in one.reader.state
    said = one.counts(gain=1.01, only="dram")
    assert one.reader.ticks() == [*said.values()]


@needs_perf
@pytest.mark.parametrize(("gain", "agrees"), [(1.0027, False), (0.9995, False), (1.00005, True)])
def test_a_counter_that_disagrees_stays_powercaps(tmp_path, closing, gain, agrees):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings(gain, "dram")
    assert ("powercap:dram-0:energy" in one.ids()) == agrees
    assert "powercap:package-0:energy" in one.ids()
    said = one.counts(gain, "dram")
    assert one.reader.ticks() == pytest.approx([*said.values()], abs=0 if not agrees else 10_000)


@needs_perf
def test_a_counter_of_large_steps_that_drifts_slowly_is_found_out(tmp_path, closing):
    one = machine(tmp_path, range_uj=1_000_000 * (2**32 - 1))  # a tenth of five joules is half a step
    closing.append(one)
    while one.reader.state.startswith("compared"):
        one.counts(gain=0.9, only="dram")
        one.reader.read()
    assert one.ids() == {"powercap:package-0:energy", "powercap:core-0:energy"}


@needs_perf
def test_a_group_that_costs_more_is_not_taken(tmp_path, closing):
    one = machine(tmp_path, files_ns=9_000)
    closing.append(one)
    one.first_readings()
    assert one.ids() == set()
    assert not one.group.counting
    assert "not cheaper: a read of the group takes 10.0 us, its files 9.0 us" in one.reader.state
    said = one.counts()
    assert one.reader.ticks() == [*said.values()]


@needs_perf
def test_a_domain_without_an_event_and_one_that_stands_still_stay_powercaps(tmp_path, closing):
    events = {"pkg": "event=0x0", "cores": "event=0x9", "psys": "event=0x5,umask=0x1"}  # 9 never counts
    one = machine(tmp_path, events=events)  # type: ignore[arg-type]
    closing.append(one)
    while one.reader.state.startswith("compared"):
        one.counts()
        one.reader.read()
    assert one.ids() == {"powercap:package-0:energy"}
    assert "core-0: it hardly counts" in one.reader.state
    said = one.counts()
    assert one.reader.ticks() == [*said.values()]
    put(one.files["dram"], 77)
    ticks = {sensor.domain: got for sensor, got in zip(one.reader.sensors, one.reader.ticks(), strict=True)}
    assert ticks["dram-0"] == 77


@needs_perf
def test_a_counter_goes_on_over_its_wrap_and_never_a_little_back(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    wrap = one.reader.sensors[0].wrap_range
    assert wrap is not None and isinstance(one.reader, PowerFiles)
    (part,) = one.reader._parts
    for track in part.tracks:
        assert (track.base, track.doubt) == (1_000_000, 0)
        assert track.value(wrap - 1_000_010) == wrap - 10
        assert track.value(wrap - 1_000_000 + 5) == 5
    name = one.reader.sensors[0].id
    one.found.shown.clear()
    for value, shown in ((wrap - 10, wrap - 10), (5, 5), (wrap - 3, 5), (8, 8)):
        assert one.reader._not_less(name, 0, value, one.clock.now_ns) == shown


@needs_perf
def test_a_group_that_is_gone_leaves_the_files(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    said = one.counts()
    one.found.close()
    spare = os.open("/dev/null", os.O_RDONLY)  # reads nothing, as a group whose CPUs are offline
    one.group.fds = (spare, spare, spare)
    assert one.reader.ticks() == [*said.values()]
    assert one.ids() == set()
    assert "CPU 0: the group counts no more" in one.reader.state


@needs_perf
def test_nothing_counts_before_the_policy_wants_it_nor_after(tmp_path, closing):
    zones(tmp_path, ALL)
    pmu(tmp_path, EVENTS)
    (plain,) = powercap.discover(tmp_path).readers
    assert isinstance(plain, NumberFiles)
    found = Pmu.open(tmp_path, plain.sensors)
    closing.append(Machine(found, plain, {}))
    time.sleep(0.01)
    assert found.groups[0].read() == [0, 0, 0]
    reader = found.over(plain, wanted=True)
    closing.append(Machine(found, reader, {}))
    time.sleep(0.01)
    assert min(found.groups[0].read()) > 0
    found.stop()
    before = found.groups[0].read()
    time.sleep(0.01)
    assert found.groups[0].read() == before


def test_a_group_that_misses_something_at_once_is_found_out_however_long_it_agreed():
    track = power_pmu._Track(0, 0, wrap=1 << 40, step=61)
    for joules in (0, 1000, 2000, 3000):
        assert track.hold(joules * 10**6, joules * 10**6, joules * 10**6) == 0
    missed_uj = 250_000
    assert track.hold(4000 * 10**6 + missed_uj, 4000 * 10**6, 4000 * 10**6) == missed_uj - 2 * 61 - 100_000


def test_no_such_pmu_is_said(tmp_path):
    zones(tmp_path, ALL)
    (plain,) = powercap.discover(tmp_path).readers
    assert isinstance(plain, NumberFiles)
    found = Pmu.open(tmp_path, plain.sensors)
    assert found.groups == () and "no power PMU" in found.why[0]
    assert found.over(plain, wanted=True) is plain
    plain.close()


@needs_perf
@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"cpumask": "4711"}, "no group of power events on CPU 4711: "),
        ({"kind": "4000000"}, "no group of power events on CPU 0: no such file or directory"),
        ({"kind": "-1"}, "no power PMU: "),
        ({"kind": "4294967296"}, "no power PMU: "),
        (
            {"events": {"pkg": "event=010"}},
            "no event of the power PMU was of a sensor of powercap's when the agent began",
        ),
        (
            {"events": {"pkg": "event=0x0,umask=2"}},
            "no event of the power PMU was of a sensor of powercap's when the agent began",
        ),
        ({"scale": "1e400"}, "no event of the power PMU was of a sensor of powercap's when the agent began"),
        ({"cpumask": "none"}, "no event of the power PMU was of a sensor of powercap's when the agent began"),
    ],
)
def test_what_cannot_be_opened_is_said_and_the_files_are_read(tmp_path, closing, more, why):
    if more.get("cpumask") == "4711":
        package = tmp_path / "sys/devices/system/cpu/cpu4711/topology/physical_package_id"
        package.parent.mkdir(parents=True)
    one = machine(tmp_path, **more)
    closing.append(one)
    if more.get("cpumask") == "4711":
        package.write_text("0\n")
        one.found = Pmu.open(tmp_path, one.reader.sensors)
    assert one.found.groups == ()
    assert one.found.why[0].startswith(why)
    said = [int(file.read_text()) for file in one.files.values()]
    assert one.reader.ticks() == said


@pytest.mark.skipif(os.geteuid() != 0, reason="to give up root it takes root")
def test_who_may_not_open_events_reads_the_files(tmp_path):
    zones(tmp_path, ALL)
    pmu(tmp_path, EVENTS)
    (plain,) = powercap.discover(tmp_path).readers
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from perun_hpc.process import confine

            confine.gain_nothing()
            confine.deny(["perf_event_open"])
            found = Pmu.open(tmp_path, plain.sensors)
            code = 0 if not found.groups and found.why[0].endswith("operation not permitted") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    plain.close()


@pytest.mark.parametrize(
    ("words", "uj"),
    [
        ("2.3283064365386962890625e-10", (15625, 1 << 26)),  # as the kernel writes it: 2^-32 J
        ("1e-6", (1, 1)),
        ("0.5", (500_000, 1)),
        ("3", (3_000_000, 1)),
        ("0", None),
        ("-1e-6", None),
        ("1e40", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_scale_is_an_exact_fraction(words, uj):
    assert power_pmu._scale(words) == uj


@needs_perf
def test_dies_of_a_package_and_packages_have_groups_of_their_own(tmp_path):
    files = zones(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:2": "psys"})
    pmu(tmp_path, {"pkg": "event=0x0", "psys": "event=0x0"}, cpumask="0,1")
    put(files["package-1"], 4_000_000)
    (plain,) = powercap.discover(tmp_path).readers
    found = Pmu.open(tmp_path, plain.sensors)
    if len(os.sched_getaffinity(0)) > 1:
        assert [(one.cpu, one.ids) for one in found.groups] == [
            (0, ("powercap:package-0:energy", "powercap:psys:energy")), (1, ("powercap:package-1:energy",)),
        ]  # fmt: skip
    found.close()
    plain.close()


@needs_perf
@pytest.mark.parametrize("scale", [SCALE, "2.3283064365386962890625e-10"])
def test_perun_samples_rows_are_those_of_the_reader(tmp_path, closing, scale):
    one = machine(tmp_path, scale=scale)
    closing.append(one)
    one.first_readings()
    before = [reading.ticks for reading in one.reader.read()]
    rows = rows_of(one)
    try:
        first = _next(rows)
        assert [column[0] for column in first.columns] == before
        go_on(one.group)  # the files do not move: only each 64th row is theirs
        after = [reading.ticks for reading in one.reader.read()]
        moved = [_next(rows) for _ in range(3)]
        assert [column[-1] for column in moved[0].columns] == after != before
        assert all(a <= b for column in moved[0].columns for a, b in zip(column, column[1:], strict=False))
        said = one.counts(offset=1_000_003)  # each 64th row is the files' own, and the next ones go on from there
        for _ in range(14):
            last = _next(rows)
        assert [column[-1] for column in last.columns] == [*said.values()]
        assert not last.gaps
    finally:
        rows.close()


def _next(rows: Rows):
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        select.select([rows], [], [], 1)
        if found := rows.blocks():
            return found[-1]
    raise AssertionError("no block came")


@needs_perf
@pytest.mark.parametrize("range_uj", [None, (1 << 64) - 2])
def test_zones_that_are_found_again_without_a_usable_range_are_read(tmp_path, closing, range_uj):
    one = machine(tmp_path)
    closing.append(one)
    for zone in ALL:
        file = tmp_path / "sys/class/powercap" / zone / "max_energy_range_uj"
        file.unlink() if range_uj is None else file.write_text(f"{range_uj}\n")
    (plain,) = powercap.discover(tmp_path).readers
    assert isinstance(plain, NumberFiles)
    one.reader.close()
    one.reader = PowerFiles.over(plain, one.found.groups, one.found.shown, one.clock, timer_of(1_000_000))
    one.first_readings()
    said = one.counts()
    assert one.reader.ticks() == [*said.values()]
    assert one.ids() == set() and not one.group.counting


@needs_perf
def test_a_group_that_stands_still_is_not_believed(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    one.counts()
    one.reader.read()
    put(one.files["package-0"], 9_000_000_000)  # its CPUs went offline: the event is there and counts no more
    assert one.reader.ticks()[0] == 9_000_000_000
    assert "powercap:package-0:energy" not in one.ids()
    assert "package-0: the group's value is" in one.reader.state


@needs_perf
def test_a_group_is_held_against_its_files_each_minute_too(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    said = one.counts()
    assert one.reader.ticks() == [*said.values()]
    one.clock.pass_s(CHECK_NS // 10**9)
    one.counts(gain=1.01, only="dram")
    one.reader.read()
    assert "powercap:dram-0:energy" not in one.ids()


def lead(one: Machine, uj: int) -> list[int]:
    """What the reader says by a group that is further than its files by so much, as units that are rounded make it."""
    assert isinstance(one.reader, PowerFiles)
    for track in one.reader._parts[0].tracks:
        track.base += uj
    one.counts()
    return [reading.ticks or 0 for reading in one.reader.read()]


@needs_perf
@pytest.mark.parametrize("leaves", ["the policy", "the driver", "the group"])
def test_nothing_goes_back_where_files_are_read_again(tmp_path, closing, leaves):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    shown = lead(one, 500_000)
    if leaves == "the policy":
        one.found.stop()
        one.reader = PowerFiles.over(one.reader, (), one.found.shown, one.clock)
    elif leaves == "the driver":
        (plain,) = powercap.discover(tmp_path).readers
        assert isinstance(plain, NumberFiles)
        one.reader.close()
        one.reader = PowerFiles.over(plain, one.found.groups, one.found.shown, one.clock)
    else:
        spare = os.open("/dev/null", os.O_RDONLY)
        one.found.close()
        one.group.fds = (spare,) * 3
    assert one.reader.ticks() == shown
    assert [reading.ticks for reading in one.reader.read()] == shown
    for file in one.files.values():
        put(file, shown[0] + 7)
    assert one.reader.ticks() == [shown[0] + 7] * 3


@needs_perf
@pytest.mark.parametrize("later", ["passed", "a minute"])
def test_files_that_are_read_again_are_held_back_once_and_for_a_minute_at_most(tmp_path, closing, later):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    shown = lead(one, 500_000)
    one.found.stop()
    one.reader = PowerFiles.over(one.reader, (), one.found.shown, one.clock, timer_of(1))
    assert one.reader.ticks() == shown
    if later == "passed":
        for file in one.files.values():
            put(file, shown[0] + 7)
        one.reader.read()
    else:
        one.clock.pass_s(61)
    for file in one.files.values():  # once more around, and a little below what the group had shown
        put(file, shown[0] - 1000)
    assert one.reader.ticks() == [shown[0] - 1000] * 3


@needs_perf
def test_a_groups_value_is_never_below_the_files_of_a_moment_ago(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    one.clock.pass_s(61)
    said = one.counts()
    assert one.reader.ticks() == [*said.values()]  # the files' own
    assert isinstance(one.reader, PowerFiles)
    for track in one.reader._parts[0].tracks:
        track.base -= 1  # as rounding has it, where nothing was counted since; the group moves by less than that
    for part in one.reader._parts:
        part.counted = [0] * 3
    assert one.reader.ticks() == [*said.values()]


def rows_of(one: Machine, rows: int = 10) -> Rows:
    """What `perun-sample` makes each 5 ms of the counters of a reader that has groups."""
    assert isinstance(one.reader, PowerFiles) and len(one.reader.members) == 3
    now = Schedule.starting(5 * MS_NS, time.monotonic_ns(), time.time_ns())
    files = files_of([one.reader])
    columns = [(sensor, files[sensor.id]) for sensor in one.reader.sensors]
    return Rows(columns, Grid(5 * MS_NS, now.offset_ns, now.next_index), rows, members=one.reader.members)


@needs_perf
def test_rows_are_of_the_files_where_the_group_stands_still(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    rows = rows_of(one)
    try:
        one.counts()
        _next(rows)
        for step_uj in range(1_000_000_000, 5_000_000_000, 1_000_000_000):  # before the next 64th row, at least thrice
            for file in one.files.values():
                put(file, step_uj)
            _next(rows)
            assert [column[-1] for column in _next(rows).columns] == [step_uj] * 3
    finally:
        rows.close()


@needs_perf
def test_rows_do_not_begin_below_what_the_reader_showed(tmp_path, closing):
    one = machine(tmp_path)
    closing.append(one)
    one.first_readings()
    shown = lead(one, 500_000)
    rows = rows_of(one)
    try:
        assert [column[0] for column in _next(rows).columns] == shown
    finally:
        rows.close()


@needs_perf
def test_a_group_for_fewer_counters_than_before_is_weighed_again(tmp_path, closing):
    one = machine(tmp_path, files_ns=15_000)  # its read takes 10 us: as long as those of two files
    closing.append(one)
    one.first_readings()
    assert len(one.ids()) == 3
    one.clock.pass_s(61)
    one.counts(gain=1.01, only="dram")
    one.reader.read()
    assert one.ids() == set()
    assert "not cheaper: a read of the group takes 10.0 us, its files 10.0 us" in one.reader.state


@needs_perf
def test_a_file_beyond_its_range_stays_powercaps(tmp_path, closing):
    one = machine(tmp_path, range_uj=2_000_000)
    closing.append(one)
    assert isinstance(one.reader, PowerFiles)
    put(one.files["package-0"], 3_000_000)
    assert one.reader.ticks()[0] == 3_000_000
    assert "package-0: its file holds no number of its range" in one.reader.state


@needs_perf
@pytest.mark.parametrize("seed", range(4))
def test_whatever_reads_a_counter_no_value_goes_back_and_the_sum_is_the_files(tmp_path, closing, seed):
    chance = random.Random(seed)
    gain, range_uj = 1 + chance.uniform(-8e-5, 8e-5), chance.choice((30_000_000, 65_532_610_987))
    one = machine(tmp_path, range_uj=range_uj)
    closing.append(one)
    wrap = one.reader.sensors[0].wrap_range
    assert wrap is not None
    begun = wrap - 5_000_000
    true_uj, sums_uj, before = [0] * 3, [0] * 3, [begun] * 3
    by_groups = 0
    for _ in range(250):
        if chance.random() < 0.9:
            go_on(one.group, chance.choice((0, 0.0002, 0.001)))
        true_uj = [int(uj * gain) for uj in one.group.read()]
        for file, uj in zip(one.files.values(), true_uj, strict=True):
            put(file, (begun + uj) % wrap)
        one.clock.pass_s(chance.choice((0, 0, 0, 0, 0, 20)))
        assert isinstance(one.reader, PowerFiles)
        if chance.random() < (0.02 if one.reader.is_wanted else 0.2):  # the policy says so, or zones were found again
            groups = chance.choice(((), one.found.groups))
            one.reader = PowerFiles.over(one.reader, groups, one.found.shown, one.clock, timer_of(1_000_000))
        got = one.reader.ticks() if chance.random() < 0.5 else [reading.ticks for reading in one.reader.read()]
        steps = [(now - last) % wrap for now, last in zip(got, before, strict=True)]
        assert max(steps) < wrap - 1_000_000, "one went back"
        sums_uj = [uj + step for uj, step in zip(sums_uj, steps, strict=True)]
        assert sums_uj == pytest.approx(true_uj, rel=1e-4, abs=100)
        before, by_groups = got, by_groups + bool(one.ids())
    assert by_groups > 50
