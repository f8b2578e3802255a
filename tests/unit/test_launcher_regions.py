"""Regions: what a decorator, a context manager, a thread, a task, an exception leave in the table of calls."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import os
import pathlib
import pickle
import socket
import subprocess
import sys
import threading
import types

import pytest

from perun_hpc.data_model.rank_data import RankData, parse
from perun_hpc.inject import rank, regions


@pytest.fixture(autouse=True, params=("C", "Python"))
def way(request, monkeypatch):
    """Calls are marked by C, and where that part cannot be had."""
    if request.param == "C":
        assert regions._mark is not None
    else:
        monkeypatch.setattr(regions, "_mark", None)


@pytest.fixture
def recorded(way):
    """Record regions in this process; calling the fixture's value returns what was recorded."""
    regions.recorder.open(calls_b=24 * 10_000)
    yield lambda: parse(regions.snapshot({"PERUN_RANK": "3"}))
    regions.recorder.close()


def call(recorder: regions.Recorder, number: int, ends: bool = True) -> None:
    take, start, end, _ = recorder.marks
    slot = take()
    start(slot, number)
    if ends:
        end(slot)


def rows(data: RankData, name: str) -> list[tuple[int, int]]:
    number = data.names.index(name)
    calls = data.calls
    return [(calls[i + 1], calls[i + 2]) for i in range(0, len(calls), 3) if calls[i] == number]


def test_every_way_of_marking_leaves_one_row_per_call(recorded):
    @regions.monitor
    def bare():
        return 1

    @regions.monitor()
    def empty():
        return 2

    @regions.monitor("given name")
    def named():
        return 3

    assert (bare(), bare(), empty(), named()) == (1, 1, 2, 3)
    with regions.monitor("block"):
        pass
    data = recorded()
    prefix = f"{__name__}.test_every_way_of_marking_leaves_one_row_per_call.<locals>."
    counts = {name: len(rows(data, name)) for name in (f"{prefix}bare", f"{prefix}empty", "given name", "block")}
    assert counts == {f"{prefix}bare": 2, f"{prefix}empty": 1, "given name": 1, "block": 1}
    assert data.rank == 3
    for start, end in rows(data, "block"):
        assert 0 < start <= end


def test_a_nameless_block_is_named_after_its_place(recorded):
    with regions.monitor():
        pass
    assert any(name.startswith(f"{__name__}:") for name in recorded().names)


def test_wrapping_keeps_the_function_and_its_kind():
    @regions.monitor
    def function(a, b=2):
        "doc"

    @regions.monitor
    async def coroutine(): ...

    @regions.monitor
    def generator():
        yield

    @regions.monitor
    async def stream():
        yield

    assert (function.__name__, function.__doc__) == ("function", "doc")
    assert str(inspect.signature(function)) == "(a, b=2)"
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(stream)


def test_recursion_leaves_a_row_per_level_all_inside_the_first(recorded):
    @regions.monitor("down")
    def down(depth):
        return depth if depth == 0 else down(depth - 1)

    down(4)
    found = rows(recorded(), "down")
    assert len(found) == 5
    assert all(found[0][0] <= start and end <= found[0][1] for start, end in found)


def test_an_exception_closes_the_region_and_is_marked(recorded):
    @regions.monitor("raising")
    def raising():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        raising()
    with pytest.raises(ZeroDivisionError), regions.monitor("block raising"):
        _ = 1 / 0
    data = recorded()
    for name in ("raising", "block raising"):
        ((start, end),) = rows(data, name)
        assert end < 0 < start <= -end


def test_threads_and_tasks_that_share_a_region_lose_no_call(recorded):
    shared = regions.monitor("shared")

    def work():
        for _ in range(200):
            with shared:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    @regions.monitor("task")
    async def task(pause):
        await asyncio.sleep(pause)

    async def several():
        await asyncio.gather(*(task(0.001 * i) for i in range(5)))

        @regions.monitor("stream")
        async def stream():
            for i in range(3):
                yield i

        assert [i async for i in stream()] == [0, 1, 2]
        async with regions.monitor("async block"):
            pass

    asyncio.run(several())
    data = recorded()
    assert len(rows(data, "shared")) == 800
    assert all(0 < start <= end for start, end in rows(data, "shared"))
    assert [len(rows(data, name)) for name in ("task", "stream", "async block")] == [5, 1, 1]


def test_a_generator_is_open_until_it_is_used_up_or_closed(recorded):
    @regions.monitor("generator")
    def generator():
        yield 1
        yield 2

    assert list(generator()) == [1, 2]
    half = generator()
    next(half)
    half.close()
    never_finished = generator()
    next(never_finished)
    found = rows(recorded(), "generator")
    assert [end == 0 for _, end in found] == [False, False, True]
    assert all(end >= 0 for _, end in found)


def test_an_asynchronous_generator_is_sent_values_exceptions_and_its_end_as_without_us(recorded):
    @regions.monitor("stream")
    async def stream(log):
        got = yield 0
        while got != "end":
            try:
                got = yield got
            except KeyError as error:
                log.append(error.args[0])
                got = "caught"
            except GeneratorExit:
                log.append("closed")
                raise

    async def use():
        log = []
        one = stream(log)
        assert [await one.__anext__(), await one.asend(3), await one.athrow(KeyError("here"))] == [0, 3, "caught"]
        with pytest.raises(StopAsyncIteration):
            await one.asend("end")
        async with contextlib.aclosing(stream(log)) as two:
            assert [await two.__anext__(), await two.asend(4)] == [0, 4]
        three = stream(log)
        await three.__anext__()
        with pytest.raises(OSError, match="mine"):
            await three.athrow(OSError("mine"))
        return log

    assert asyncio.run(use()) == ["here", "closed"]
    assert [(start > 0, end > 0) for start, end in rows(recorded(), "stream")] == [(True, True)] * 2 + [(True, False)]


def test_whatever_is_called_is_marked_and_stays_what_it_is(recorded):
    class Kinds:
        @regions.monitor
        @staticmethod
        def static(one):
            return one

        @regions.monitor("of the class")
        @classmethod
        def of_class(cls, one):
            return cls, one

        def __call__(self):
            return "called"

    @regions.monitor("awaitable")
    @types.coroutine
    def awaitable():
        yield
        return "awaited"

    async def coroutine(one):
        await awaitable()
        return one

    def known():
        return "known"

    known.func = "its own"
    assert regions.monitor(known)() == "known"

    async def use():
        return await awaitable(), await regions.monitor(functools.partial(coroutine, 5))()

    assert (Kinds.static(1), Kinds().static(2), Kinds.of_class(3), Kinds().of_class(4)) == (
        1, 2, (Kinds, 3), (Kinds, 4),
    )  # fmt: skip
    assert regions.monitor(Kinds())() == "called"
    assert asyncio.run(use()) == ("awaited", 5)
    data = recorded()
    prefix = f"{__name__}.test_whatever_is_called_is_marked_and_stays_what_it_is.<locals>."
    names = (
        f"{prefix}Kinds.static",
        "of the class",
        f"{prefix}Kinds",
        "awaitable",
        f"{prefix}coroutine",
        f"{prefix}known",
    )
    assert [len(rows(data, name)) for name in names] == [2, 2, 1, 2, 1, 1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_regions_can_be_copied_and_sent_elsewhere(recorded, copied):
    """By value, as a program sends its functions to its workers (cloudpickle): what they hold, too."""

    @regions.monitor("sent")
    def sent(): ...

    assert copied(regions.recorder) is regions.recorder
    for cell in sent.__closure__:
        if cell.cell_contents is not sent.__wrapped__:
            assert copied(cell.cell_contents) == cell.cell_contents
    for region in (regions.monitor("block"), regions.monitor(), regions.window("block")):
        with region, copied(region) as again:
            assert (type(again), again.name, again is region) == (type(region), region.name, False)
    assert len(rows(recorded(), "block")) == 4
    sent_there = pickle.dumps(regions.recorder.define("sent"))
    regions.recorder._numbers.pop("sent")  # the worker has other regions
    assert regions.recorder.names[pickle.loads(sent_there)] == "sent" and pickle.loads(
        sent_there
    ) != regions.recorder.names.index("sent")


LAST = """
import os, sys, threading, time
from perun_hpc import monitor
from perun_hpc.inject import regions
if sys.argv[1] == "Python": regions._mark = None
f = monitor(int)
class Late:
    def __del__(self, f=f, write=os.write): write(1, b"%d" % f())
def hold():
    with regions.recorder._lock:
        held.set()
        time.sleep(600)
regions.recorder.open(calls_b=24 * 100, at_once=10)
for _ in range(10): f()
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
sys.late = Late()
"""


def test_a_thread_that_ends_with_the_interpreter_while_it_makes_space_does_not_keep_it(request, way):
    kind = request.node.callspec.params["way"]
    done = subprocess.run([sys.executable, "-c", LAST, kind], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0", "")


FORKS = """
import os, signal, sys, threading, time
from perun_hpc import monitor
from perun_hpc.inject import closed, regions
def hold():
    with closed._lock, regions.recorder._lock:
        held.set()
        time.sleep(600)
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    import perun_hpc
    with perun_hpc.window("in the child"): monitor(int)()
    regions.recorder.open(calls_b=24 * 20, at_once=10)
    for _ in range(30): monitor(int)()
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent():
    assert subprocess.run([sys.executable, "-c", FORKS], timeout=30).returncode == 7


def test_a_descriptor_that_the_program_made_its_own_is_neither_sent_nor_closed(tmp_path):
    here, recorder = rank.Rank({"PERUN_SOCKET": str(tmp_path / "agent")}), regions.Recorder()
    here.record(recorder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        os.close(recorder.fd)
        assert not recorder.has_fd()
        own = os.open(os.devnull, os.O_RDONLY)
        if own != recorder.fd:
            os.dup2(own, recorder.fd)
            os.close(own)
        program = recorder.fd
        call(recorder, recorder.define("loop"))
        agent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            agent.accept()
    assert len(parse(b"".join(here.content("exit"))).calls) == 3
    recorder.close()
    os.close(program)  # raises where it was closed


def test_calls_without_room_are_counted_and_still_run():
    regions.recorder.open(calls_b=24 * 3)
    try:

        @regions.monitor("full")
        def full(i):
            return i

        assert [full(i) for i in range(5)] == [0, 1, 2, 3, 4]
        with regions.monitor("full"):
            pass
        data = parse(regions.snapshot({}))
    finally:
        regions.recorder.close()
    assert len(rows(data, "full")) == 3
    assert data.header["dropped"] >= 3


def test_without_a_recorder_nothing_is_kept():
    assert regions.recorder.rows is None

    @regions.monitor("idle")
    def idle():
        return 7

    with regions.monitor("idle"):
        assert idle() == 7


def test_a_forked_child_does_not_write_into_the_parents_table(recorded):
    region = regions.monitor("forked")
    with region:
        pass
    pid = os.fork()
    if pid == 0:
        with region:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(rows(recorded(), "forked")) == 1


def test_a_window_outside_of_a_measured_run_has_no_energy():
    with regions.window("alone") as window:
        pass
    assert window.energy_uj is None
    assert window.energy_j is None


def test_a_region_may_be_named_by_anything_that_has_a_text(recorded):
    for name in (7, pathlib.Path("x"), "\ud800"):
        with regions.monitor(name):
            pass
    assert recorded().names[-3:] == ("7", "x", "?")


def test_calls_without_room_are_counted_once_however_often_one_looks():
    recorder = regions.Recorder()
    recorder.open(calls_b=48)
    number = recorder.define("loop")
    here = rank.Rank({})
    here.recorder = recorder
    for kept, dropped in ((1, 0), (2, 0), (2, 1), (2, 2)):
        call(recorder, number)
        for _ in range(2):
            data = parse(b"".join(here.content("exit")))
            assert (len(data.calls) // 3, data.header["dropped"]) == (kept, dropped)
    recorder.close()


def test_the_live_memory_of_a_killed_rank_is_readable(tmp_path):
    """What another process reads from the descriptor at any moment is rank data."""
    here = rank.Rank({"PERUN_RANK": "5", "PERUN_NTASKS": "8"})
    recorder = regions.Recorder()
    here.record(recorder)
    number = recorder.define("loop")
    call(recorder, number)
    call(recorder, number, ends=False)
    content = os.pread(recorder.fd, 1 << 20, 0)
    data = parse(content)
    recorder.close()
    assert (data.rank, data.whole, data.names) == (5, False, ("loop",))
    assert len(data.calls) == 6
    assert (data.calls[0], data.calls[3], data.calls[5]) == (number, number, 0)
    assert data.calls[5] == 0


def test_a_name_per_iteration_does_not_slow_down_and_all_are_kept():
    here = rank.Rank({})
    recorder = regions.Recorder()
    heads = []
    write_head = recorder.write_head
    recorder.write_head = lambda line: (heads.append(len(line)), write_head(line))
    here.record(recorder)
    for i in range(5_000):
        call(recorder, recorder.define(f"step {i}"))
    data = parse(b"".join(here.content("exit")))
    recorder.close()
    assert len(data.names) == 5_000
    assert len(data.calls) == 15_000
    assert len(heads) < 300


def test_a_function_is_named_as_its_author_knows_it(recorded):
    def relax():
        pass

    relax.__qualname__ = "Grid.relax"
    for module in ("__main__", "solver.grid"):
        relax.__module__ = module
        regions.monitor(relax)()
    assert [name for name in recorded().names if "relax" in name] == ["Grid.relax", "solver.grid.Grid.relax"]
