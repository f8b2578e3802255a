"""Rows that `perun-sample` makes: each value as Python reads it, and sums as of rows that came one by one."""

from __future__ import annotations

import os
import select
import signal
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.backend.procstat import ProcStat
from perun_hpc.backend.rows import PROGRAM, Block, Grid, Rows, files_of
from perun_hpc.backend.sysfile import NumberFiles
from perun_hpc.data_model.sensor import GAP, Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.schedule import Schedule
from perun_hpc.monitoring.fast_rows import FastRows
from perun_hpc.monitoring.tally import Column, Tallies, rise_of
from perun_hpc.store.node_store import NodeStore
from tests.examples import examples

MS_NS = 1_000_000
S_NS = 1_000_000_000
CONTENTS = (
    "0", "17\n", "-5\n", " 8 \n", "\t9\n", "", "\n", "no number\n", "1_000\n", "+3\n", "3.0\n", "5 6\n", "٣\n", "-\n",
    "007\n",
    str(2**31 - 1), str(2**32 - 1), str(2**62), str(2**63 - 1), str(2**63), str(2**64 - 1), str(2**64),
    "9" * 21, "9" * 63,
    str((2**16 - 1) * 10**6), str((2**32 - 1) * 1000), "-" + "0" * 3 + "9",
)  # fmt: skip


def sensor(name: str, quantity: Quantity, kind: Kind, component: str = "cpu", scale: int = 1, **more: object) -> Sensor:
    return Sensor(
        id=f"test:{name}:{quantity}", host="n1", backend="test", device="", domain=name, component=component, kind=kind,
        quantity=quantity, unit="tick", scale_num=scale, max_uw=10**12, **more,
    )  # type: ignore[arg-type]  # fmt: skip


KINDS = (
    sensor("package-0", Quantity.ENERGY, Kind.COUNTER),
    sensor("package-0", Quantity.POWER, Kind.GAUGE),
    sensor("node", Quantity.POWER, Kind.GAUGE, "node"),
    sensor("gpu-0", Quantity.POWER, Kind.GAUGE, "gpu", 1000),
    sensor("cpu", Quantity.TIME, Kind.COUNTER),
    sensor("cpu", Quantity.TEMPERATURE, Kind.GAUGE),
)


def now_grid(period_ns: int = 5 * MS_NS) -> Grid:
    now = Schedule.starting(period_ns, time.monotonic_ns(), time.time_ns())
    return Grid(period_ns, now.offset_ns, now.next_index)


def blocks_of(rows: Rows, count: int = 1) -> list[Block]:
    found: list[Block] = []
    deadline_s = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline_s:
        select.select([rows], [], [], 1)
        found += rows.blocks()
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "n").write_text("5\n")
    return tmp_path / "n"


@pytest.mark.parametrize("kind", KINDS, ids=lambda one: f"{one.component}-{one.quantity}")
def test_each_content_is_read_as_python_reads_it(tmp_path: Path, kind: Sensor) -> None:
    pairs = []
    for number, content in enumerate(CONTENTS):
        (tmp_path / str(number)).write_text(content)
        pairs.append((kind, tmp_path / str(number)))
    reader = NumberFiles(tuple(pairs))
    expected = reader.read()
    rows = Rows([(kind, fd) for fd in reader.descriptors], now_grid(), 1)
    (block,) = blocks_of(rows)[:1]
    rows.stop()
    reader.close()
    whys = {gap.column: gap.why for gap in block.gaps}
    for column, (content, reading) in enumerate(zip(CONTENTS, expected, strict=True)):
        ticks = block.columns[column][0]
        if reading.ticks is None or reading.ticks >= 1 << 63:  # a trace holds 63 bits
            assert (content, ticks) == (content, GAP)
            assert reading.ticks is not None or whys[column] == reading.error or "63" in whys[column]
        else:
            assert (content, ticks, whys.get(column)) == (content, reading.ticks, None)


STATS = (
    "cpu  9 9 9 9\ncpu0 1 2 4 100 200 8 16 32 64 128\ncpu1 1000 0 0 7 7 0 0 0 0 0\nintr 5\n",
    "cpu0 1 2 4 100 200\ncpu17 1 1 1 1 1 1 1 1\n",
    "cpu0 1 2 4\n", "cpu0 1 x 4 5 6 7\n", "", "intr 7\n", "cpu0 1 0 0 0 0 0 0 0",
    "".join(f"cpu{number} 1 2 3 4 5 6 7 8 9 10\n" for number in range(4000)) + "intr 7\n",
)  # fmt: skip
MEMORIES = (
    "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\n", "MemTotal: 8000 kB\n", "",
    Path("/proc/meminfo").read_text(),
)  # fmt: skip


@pytest.mark.parametrize("stat", STATS, ids=range(len(STATS)))
@pytest.mark.parametrize("memory", MEMORIES, ids=range(len(MEMORIES)))
def test_cpu_time_and_memory_are_read_as_python_reads_them(tmp_path: Path, stat: str, memory: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(stat)
    (tmp_path / "proc/meminfo").write_text(memory)
    reader = ProcStat(tmp_path)
    expected = reader.read()
    files = files_of([reader])
    rows = Rows([(one, files[one.id]) for one in reader.sensors], now_grid(), 3)
    (block,) = blocks_of(rows)[:1]
    rows.stop()
    reader.close()
    whys = {gap.column: gap.why for gap in block.gaps}
    found = [(None if ticks[0] == GAP else ticks[0], whys.get(place)) for place, ticks in enumerate(block.columns)]
    assert found == [(one.ticks, one.error) for one in expected]
    assert all(len(set(ticks)) == 1 for ticks in block.columns) and len(block.gaps) == len(whys)  # one look, repeated


def test_cpu_time_is_read_again_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc/stat"
    stat.write_text("cpu0 1 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text(MEMORIES[0])
    reader = ProcStat(tmp_path)
    files = files_of([reader])
    rows = Rows([(one, files[one.id]) for one in reader.sensors], now_grid(), 1)
    blocks_of(rows)
    stat.write_text("cpu0 2 0 0 0 0 0 0 0\n")
    begun_s, last = time.monotonic(), 1
    while last == 1 and time.monotonic() < begun_s + 20:
        last = blocks_of(rows)[-1].columns[0][0]
    rows.stop()
    reader.close()
    assert last == 2


def test_rows_are_on_the_grid_and_hold_what_they_were_given(file: Path) -> None:
    reader = NumberFiles(((KINDS[0], file),))
    grid = now_grid()
    before_ns = time.monotonic_ns()
    rows = Rows([(KINDS[3], -1), (KINDS[0], reader.descriptors[0]), (KINDS[5], -1)], grid, 4)
    first = blocks_of(rows)
    rows.give([7, None])
    second = blocks_of(rows, 2)
    last = rows.stop()
    after_ns = time.monotonic_ns()
    reader.close()
    everything = [*first, *second, *last]
    ticks = [tick for block in everything for tick in block.ticks]
    times = [ns for block in everything for ns in block.mono_ns]
    assert ticks == sorted(set(ticks)) and ticks[0] >= grid.next_index
    assert times == sorted(times) and before_ns <= times[0] and times[-1] <= after_ns
    skipped = sum(block.skipped for block in everything)
    assert ticks[-1] - grid.next_index == len(ticks) - 1 + skipped
    assert {*first[0].columns[0], *first[0].columns[2]} == {GAP}
    assert (last[-1].columns[0][-1] if last[-1].ticks else 7, set(second[-1].columns[1])) == (7, {5})


def test_how_columns_rise_is_what_their_values_say(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("rising", "standing", "torn")]
    for place, file in enumerate(files):
        file.write_text(f"{place:015d}\n")
    sensors = [sensor(file.name, Quantity.TIME, Kind.COUNTER) for file in files]
    reader = NumberFiles(tuple(zip(sensors, files, strict=True)))
    columns = list(zip(sensors, reader.descriptors, strict=True))
    steps, summed = {sensors[0].id: 7, sensors[2].id: 10}, frozenset((sensors[0].id, sensors[1].id))
    rows = Rows(columns, now_grid(2 * MS_NS), 50, steps=steps, summed=summed)
    rising, torn = (os.open(files[place], os.O_WRONLY) for place in (0, 2))
    found: list[Block] = []
    step, value = 1, 0
    while len(found) < 4:
        value, step = value + step, step % 7 + 1
        os.pwrite(rising, b"%015d\n" % value, 0)
        os.pwrite(torn, b"?" if step == 3 else b"%015d\n" % -value, 0)
        time.sleep(0.001)
        found += rows.blocks()
    found += [*rows.now(), *rows.stop()]
    reader.close()
    for fd in (rising, torn):
        os.close(fd)
    for block in found:
        assert {place: list(values) for place, values in block.divided.items()} == {
            place: [one if one == GAP else one // step for one in block.columns[place]]
            for place, step in ((0, 7), (2, 10))
        }
        pairs = list(zip(block.columns[0], block.columns[1], block.sums, strict=True))
        assert all(total == one + other for one, other, total in pairs if one != GAP)
        elapsed_ns = [after - before for before, after in zip([0, *block.mono_ns], block.mono_ns, strict=False)]
        for ticks, rise in zip(block.columns, block.rises, strict=True):
            known = len(ticks) > 1 and GAP not in ticks
            expected = rise_of(0, ticks, elapsed_ns) if known else None
            assert (rise and rise._replace(fastest=0)) == (expected and expected._replace(fastest=0))
            rates = [
                (ticks[one.fastest] - ticks[one.fastest - 1]) / elapsed_ns[one.fastest]
                for one in (rise, expected)
                if one
            ]
            assert not rates or rates[0] == pytest.approx(rates[1], rel=1e-12)
    assert any(block.rises[0] and block.rises[0].most > 0 for block in found)


def test_what_is_there_comes_at_once_when_asked_for(file: Path) -> None:
    reader = NumberFiles(((KINDS[0], file),))
    rows = Rows([(KINDS[0], reader.descriptors[0])], now_grid(), 4096)
    time.sleep(0.1)
    found = rows.now()
    assert sum(len(block.ticks) for block in found) > 0
    rows.close()
    reader.close()


def test_it_ends_with_its_parent_and_tells_when_it_has_ended(file: Path) -> None:
    reader = NumberFiles(((KINDS[0], file),))
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        rows = Rows([(KINDS[0], reader.descriptors[0])], now_grid(), 4096)
        os.write(write, str(rows._child.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    orphan = os.pidfd_open(int(os.read(read, 20)))
    assert select.select([orphan], [], [], 20)[0]
    rows = Rows([(KINDS[0], reader.descriptors[0])], now_grid(), 4096)
    os.kill(rows._child.pid, signal.SIGKILL)
    with pytest.raises(EOFError):
        while True:
            blocks_of(rows)
    assert rows.stop() == []
    for fd in (read, write, orphan):
        os.close(fd)
    reader.close()


def test_readings_between_rows_break_no_sum(tmp_path: Path) -> None:
    """Windows of regions ask for readings of their own while rows are on their way."""
    sensors = tuple(sensor(f"package-{number}", Quantity.ENERGY, Kind.COUNTER) for number in range(3))
    files = [tmp_path / str(number) for number in range(3)]
    for file in files:
        file.write_text("1000\n")
    reader = NumberFiles(tuple(zip(sensors, files, strict=True)))
    tallies = Tallies(sensors, S_NS)
    tallies.add(reader.read())
    begun = Schedule.starting(MS_NS, time.monotonic_ns(), time.time_ns())
    fast = FastRows([reader], sensors, tallies, begun, at_once=False)
    for turn in range(60):
        for file in files:
            with file.open("r+") as written:
                written.write(f"{1000 + turn}\n")
        time.sleep(0.003)
        fast.settle()
        values = tallies.add(reader.read())
        fast.go_on_from((time.monotonic_ns(), values))
        fast.turn()
    fast.stop()
    stored = [tick for ticks, *_ in fast.rows() for tick in ticks]
    assert stored == sorted(set(stored)) and stored
    assert fast.schedule.next_index > stored[-1]
    tallies.add(reader.read())
    reader.close()
    assert [(one["base"], one["whys"], one["gap_ns"]) for one in tallies.results()] == [(59, {}, 0)] * 3


def test_the_program_is_there() -> None:
    assert os.access(PROGRAM, os.X_OK), "make build"


COLUMNS = (
    sensor("package-0", Quantity.ENERGY, Kind.COUNTER, wrap_range=1 << 20, update_ns=MS_NS),
    sensor("package-1", Quantity.ENERGY, Kind.COUNTER, update_ns=MS_NS, provenance=Provenance.SIMULATED),
    sensor("dram", Quantity.POWER, Kind.GAUGE, "dram"),
    sensor("node", Quantity.ENERGY, Kind.COUNTER, "node"),
)
VALUES = st.one_of(st.none(), st.integers(0, 1 << 20), st.just(500))


@examples(300)
@given(
    rows=st.lists(st.tuples(st.integers(1, 400), *[VALUES] * len(COLUMNS)), min_size=1, max_size=40),
    rising=st.booleans(),
    cuts=st.sets(st.integers(1, 39)),
)
def test_sums_of_blocks_are_those_of_rows(rows: list, rising: bool, cuts: set[int]) -> None:
    """But for what a meter counted beside others, which is reckoned once a block."""
    if rising:
        for place in range(len(COLUMNS)):
            column = iter(sorted(row[place + 1] or 0 for row in rows))
            rows = [(*row[: place + 1], next(column), *row[place + 2 :]) for row in rows]
    singly, at_once = Tallies(COLUMNS, S_NS), Tallies(COLUMNS, S_NS)
    now_ns, table = 0, []
    for elapsed_ms, *values in rows:
        now_ns += elapsed_ms * MS_NS
        table.append([Reading(one, now_ns, None if one is not None else "gone") for one in values])
    shown = [singly.add(row) for row in table]
    made: list[list[int | None]] = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(table)), len(table)]
    for first, last in zip(edges, edges[1:], strict=False):
        columns = {
            place: Column(
                [row[place].ticks or 0 for row in table[first:last]],
                {at: "gone" for at, row in enumerate(table[first:last]) if row[place].ticks is None},
            )
            for place in range(len(COLUMNS))
        }
        result = at_once.add_rows(columns, [row[0].mono_ns for row in table[first:last]])
        made += zip(*(result[place] for place in sorted(result)), strict=True)
    assert [list(row[len(COLUMNS) :]) for row in shown] == [list(row) for row in made]
    for expected, found in zip(singly.results(), at_once.results(), strict=True):
        expected.pop("rest", None), found.pop("rest", None)
        assert found == expected


@examples(100)
@given(
    rows=st.lists(st.tuples(st.integers(1, 5), st.one_of(st.just(GAP), st.integers(0, 2**40))), max_size=60),
    cuts=st.sets(st.integers(1, 59), max_size=4),
    rising=st.booleans(),
    again=st.integers(0, 3),
    step=st.sampled_from([1, 10]),
)
def test_many_rows_are_stored_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list, cuts: set[int], rising: bool, again: int, step: int
) -> None:
    """`again`: so many rows of the block before come once more."""
    if rising:
        values = sorted(max(0, value) for _, value in rows)
        rows = [(step, value) for (step, _), value in zip(rows, values, strict=True)]
    one = sensor("package-0", Quantity.ENERGY, Kind.COUNTER)
    stores = [
        NodeStore.open(
            tmp_path_factory.mktemp("s"), cluster="c", job_id="7", restart_count=0, node="n1", sensors=[one],
            period_ns=10 * MS_NS, start_ns=0, energy_step_uj=step,
        )
        for _ in range(2)
    ]  # fmt: skip
    length = stores[0]._length
    tick, table = length - 30, []
    for ahead, value in rows:
        tick += ahead
        table.append((tick, ahead, value))
    edges = [0, *sorted(cut for cut in cuts if cut < len(table)), len(table)]
    for first, last in zip(edges, edges[1:], strict=False):
        block = table[max(0, first - again) : last]
        for tick, late_us, value in block:
            stores[0].append(tick, [None if value == GAP else value], late_us)
        ticks, late, values = zip(*block, strict=True) if block else ((), (), ())
        divided = [array("q", [value // step for value in values])] if step > 1 else []
        assert stores[1].steps == ({one.id: step} if step > 1 else {})
        stores[1].extend(array("q", ticks), array("i", late), [array("q", values)], [rising], divided)
    recovered = []
    for store in stores:
        store._write_journal()
        (other,) = NodeStore.recover(store._description.session)
        chunks = {number: (chunk.offsets, chunk.parts, chunk.rows) for number, chunk in other._chunks.items()}
        recovered.append((other._tally.rows, other._tally.first, other._tally.last, other._tally.torn, chunks))
        other.close()
    assert recovered[0] == recovered[1]
    found = []
    for store in stores:
        store.flush()
        chunks = {number: (chunk.offsets, chunk.parts, chunk.rows) for number, chunk in store._chunks.items()}
        found.append((store._tally.__dict__, chunks))
        store.close()
    assert found[0] == found[1]
