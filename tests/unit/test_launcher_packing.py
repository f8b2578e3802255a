"""Packed calls: what they were stays true, rows are used again, nothing is lost beside threads, growth or a kill."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import struct
import sys
import threading
from array import array
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model.rank_data import parse
from perun_hpc.energy import regions as rule
from perun_hpc.inject import packing, rank, regions
from tests.examples import examples

MS = 1_000_000
ROWS = 120
LATE = 1 << 62


@dataclass
class Rows:
    """Rows in shared memory as a recorder has them, and the calls that were put there."""

    count: int = ROWS
    calls: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = mmap.mmap(-1, 24 * self.count)
        self.free = list(range(0, 3 * self.count, 3))

    def add(self, region: int, start_ns: int, end_ns: int) -> None:
        struct.pack_into("=3q", self.memory, 8 * self.free.pop(0), region, start_ns, end_ns)
        self.calls.append((region, start_ns, end_ns))

    @property
    def table(self) -> array[int]:
        return array("q", bytes(self.memory))

    def marked(self) -> dict[int, rule.Marked[rule.Spans]]:
        return rule.by_region(self.table, 8, 0, LATE)


Call = st.tuples(
    st.integers(0, 2),
    st.integers(0, 90_000) | st.integers(0, 9 * MS),
    st.integers(0, 2 * MS),
    st.sampled_from((1, 1, 1, 1, -1, 0)),
)


@examples(100)
@given(st.lists(Call, max_size=40), st.integers(1, 5))
def test_packed_rows_say_what_the_calls_were(pattern: list[tuple[int, int, int, int]], turns: int) -> None:
    """Of several regions, one after the other or nested, short and long, over or still open."""
    rows, packer, start_ns = Rows(), packing.Packer(), 10
    around = itertools.cycle(pattern or [(0, 0, 0, 1)])
    for _ in range(turns):
        while rows.free:
            region, length, gap, how = next(around)
            start_ns += gap
            rows.add(region, start_ns, how * (start_ns + length))
        rows.free = list(packer.pack(rows.memory, 0, ROWS))
        told = rule.by_region(array("q", [number for call in rows.calls for number in call]), 8, 0, LATE)
        found, table = rows.marked(), rows.table
        assert list(found) == list(told)
        for region, one in told.items():
            other = found[region]
            assert (other.calls, other.raised, other.still_open) == (one.calls, one.raised, one.still_open)
            assert other.total_ns == one.total_ns
            if region not in table[::3]:  # else one may lie beside what was packed that it was inside of
                assert other.spans.time_ns == one.spans.time_ns
        assert all(table[slot : slot + 3] == array("q", [-1, 1, 0]) for slot in rows.free)
        assert len(set(rows.free)) == len(rows.free)


def test_calls_of_one_region_become_a_cell_each_ten_milliseconds() -> None:
    rows, packer = Rows(400), packing.Packer()
    for number in range(400):
        rows.add(5, 1000 + number * 100_000, 1000 + number * 100_000 + 25_000)  # 40 ms in all
    rows.free = list(packer.pack(rows.memory, 0, 400))
    assert len(rows.free) == 400 - 4 * 4
    one = rows.marked()[5]
    assert (one.calls, one.total_ns, one.spans.time_ns) == (400, 400 * 25_000, 400 * 25_000)
    assert len(one.spans) == 4
    assert 9 * MS > one.coarse_ns > 7 * MS


def test_cells_grow_longer_where_they_fill_the_rows_and_keep_their_sums() -> None:
    rows, packer = Rows(), packing.Packer()
    for turn in range(30):
        while rows.free:
            rows.add(0, 1 + len(rows.calls) * 100_000, 1 + len(rows.calls) * 100_000 + 50_000)
        rows.free = list(packer.pack(rows.memory, 0, ROWS))
        assert len(rows.free) > ROWS // 2, turn
    one = rows.marked()[0]
    assert one.calls == len(rows.calls)
    assert one.total_ns == one.spans.time_ns == one.calls * 50_000
    assert one.coarse_ns > 10 * MS


@pytest.mark.parametrize("region", [-2 - packing.REGIONS, -(10**15), 1 - (1 << 62)])
def test_rows_that_name_no_region_of_ours_are_left_alone(region: int) -> None:
    """What the program itself wrote there by mistake."""
    rows, packer = Rows(), packing.Packer()
    rows.add(region, 5, 6)
    for _ in range(3):
        while rows.free:
            rows.add(0, 1 + len(rows.calls) * MS, 1 + len(rows.calls) * MS + 50_000)
        rows.free = list(packer.pack(rows.memory, 0, ROWS))
    assert rows.table[:3] == array("q", [region, 5, 6])
    assert rows.marked()[0].calls == len(rows.calls) - 1


def test_cells_of_a_long_run_are_no_longer_than_their_number_asks_for() -> None:
    """Rows that became free lie anywhere: cells that follow each other in time do not in memory."""
    rows, packer, now = Rows(2000), packing.Packer(), 1
    chance = random.Random(1)
    for turn in range(60):
        while rows.free:
            rows.add(0, now, now + chance.randrange(50_000, 150_000))
            now += chance.randrange(200_000, 300_000)
        rows.free = list(packer.pack(rows.memory, 0, 2000))
        if turn % 3 == 0:
            chance.shuffle(rows.free)
    one = rows.marked()[0]
    assert one.calls == len(rows.calls)
    assert one.coarse_ns < now // 16  # 31 cells at most are left, and twice as many are half as long


def test_long_calls_and_those_still_open_stay_as_they_are() -> None:
    rows = Rows()
    for number in range(ROWS):
        rows.add(0, 1000 + number * 5 * MS, 0 if number % 2 else 1000 + number * 5 * MS + 2 * MS)
    before = bytes(rows.memory)
    assert not packing.Packer().pack(rows.memory, 0, ROWS)
    assert bytes(rows.memory) == before


@pytest.fixture(params=("C", "Python"))
def way(request, monkeypatch):
    """Calls are marked by C, and where that part cannot be had."""
    if request.param == "Python":
        monkeypatch.setattr(regions, "_mark", None)


@pytest.fixture
def recorder(way):
    """A recorder of a thousand rows at once."""
    regions.recorder.open(calls_b=24 * 20_000, at_once=1000)
    yield regions.recorder
    regions.recorder.close()


def counted() -> Counter[str]:
    data = parse(regions.snapshot({}))
    assert not data.header["dropped"]
    found = rule.by_region(data.calls, len(data.names), 0, LATE)
    return Counter({data.names[region]: one.calls for region, one in found.items()})


def test_many_threads_lose_no_call(recorder) -> None:
    @regions.monitor("short")
    def short() -> None:
        pass

    @regions.monitor("outer")
    def outer() -> None:
        for _ in range(50):
            short()

    def work() -> None:
        for _ in range(200):
            outer()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted() == {"short": 8 * 200 * 50, "outer": 8 * 200}
    assert recorder.count()[0] < 20_000


def test_a_signal_that_comes_while_calls_are_packed_holds_nothing_up(recorder) -> None:
    @regions.monitor("handled")
    def handled(*_: object) -> None:
        seen.append(1)

    seen: list[int] = []
    former = signal.signal(signal.SIGPROF, handled)
    signal.setitimer(signal.ITIMER_PROF, 0.0002, 0.0002)
    try:
        for _ in range(200_000):
            with regions.monitor("block"):
                pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)
    data = parse(regions.snapshot({}))
    found = rule.by_region(data.calls, len(data.names), 0, LATE)
    assert found[data.names.index("block")].calls == 200_000
    assert seen
    assert found[data.names.index("handled")].calls + data.header["dropped"] == len(seen)


def test_an_exception_of_a_signals_handler_reaches_the_program_and_costs_no_rows(way) -> None:
    """Timeouts by SIGALRM: some come while calls are packed, and what these made free is used all the same."""

    class Late(Exception):
        pass

    def handler(*_: object) -> None:
        raised.append(1)
        raise Late

    @regions.monitor("tried")
    def tried() -> None:
        pass

    raised: list[int] = []
    caught = 0
    regions.recorder.open(at_once=200_000)
    former = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(80):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.009)
                for _ in range(1_000_000):
                    tried()
            except Late:
                caught += 1
        used, dropped = regions.recorder.count()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        regions.recorder.close()
    assert caught == len(raised) == 80
    assert (used, dropped) == (200_000, 0)


def test_a_call_that_a_forked_child_returns_from_stays_its_parents(recorder) -> None:
    """Else the parent's row were over, packed, and another call's when the parent returns."""

    @regions.monitor("part")
    def part() -> None:
        pass

    @regions.monitor("forks")
    def forks() -> int:
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            data = parse(regions.snapshot({}))
            seen.append(rule.by_region(data.calls, len(data.names), 0, LATE)[data.names.index("forks")].still_open)
            for _ in range(5000):
                part()
        return child

    seen: list[int] = []
    if not forks():
        os._exit(0)
    assert seen == [1]
    assert counted() == {"forks": 1, "part": 5000}


def test_calls_of_so_many_regions_that_cells_find_no_space_have_longer_cells() -> None:
    count, regions_count = 100_000, 4000
    memory = mmap.mmap(-1, 24 * count)
    starts = range(1000, 1000 + count * 10_000, 10_000)
    calls = array("q", (n for at, start in enumerate(starts) for n in (at % regions_count, start, start + 9000)))
    memory[:] = calls.tobytes()
    free = packing.Packer().pack(memory, 0, count)
    assert len(free) > count // 2
    found = rule.by_region(array("q", bytes(memory)), regions_count, 0, LATE)
    assert {one.calls for one in found.values()} == {count // regions_count}
    assert sum(one.total_ns for one in found.values()) == count * 9000


def test_calls_that_are_open_while_others_are_packed_end_where_they_end(recorder) -> None:
    with regions.monitor("whole"):
        for _ in range(5000):
            with regions.monitor("part"):
                pass
    assert counted() == {"whole": 1, "part": 5000}
    data = parse(regions.snapshot({}))
    whole = rule.by_region(data.calls, len(data.names), 0, LATE)[data.names.index("whole")]
    part = rule.by_region(data.calls, len(data.names), 0, LATE)[data.names.index("part")]
    assert whole.still_open == 0
    assert whole.total_ns > part.total_ns


def test_a_killed_process_leaves_what_was_packed(recorder) -> None:
    for _ in range(7000):
        with regions.monitor("block"):
            pass
    here = rank.Rank({"PERUN_RANK": "3"})
    here.recorder = recorder
    here.announce()
    content = os.pread(recorder.fd, os.fstat(recorder.fd).st_size, 0)
    data = parse(content)
    assert not data.whole
    found = rule.by_region(data.calls, len(data.names), 0, LATE)[data.names.index("block")]
    assert found.calls == 7000


def test_without_the_library_the_space_grows(monkeypatch, recorder) -> None:
    monkeypatch.setattr(packing, "LIBRARY", "is-not-there.so")
    for _ in range(19_000):
        with regions.monitor("plain"):
            pass
    assert counted() == {"plain": 19_000}
    assert recorder.count() == (19_000, 0)


def test_where_threads_run_at_once_nothing_is_packed(monkeypatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    regions.recorder.open(calls_b=24 * 3000, at_once=1000)
    try:
        for _ in range(2900):
            with regions.monitor("at once"):
                pass
        assert regions.recorder.count() == (2900, 0)
        for _ in range(200):
            with regions.monitor("at once"):
                pass
        assert regions.recorder.count() == (3000, 100)
        data = parse(regions.snapshot({}))
    finally:
        regions.recorder.close()
    assert rule.by_region(data.calls, len(data.names), 0, LATE)[data.names.index("at once")].calls == 3000


def test_what_finds_no_space_is_counted_and_tried_once(recorder) -> None:
    take, start, _, _ = recorder.marks
    for _ in range(20_000):  # open until the end
        start(take(), 0)
    for _ in range(50_000):
        with regions.monitor("late"):
            pass
    assert recorder.count() == (20_000, 50_000)
