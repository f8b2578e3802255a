"""Regions: what part of a program ran when.

Marking writes three integers (region, start, end; CLOCK_MONOTONIC ns) into shared memory and nothing else; energies are
put to them after the run. The memory outlives a killed process in the hands of whoever holds its descriptor.
Standard library only, CPython 3.9 on: this runs in the user's interpreter.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import operator
import os
import sys
import time
import types
from _thread import RLock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from perun_hpc.inject import closed, rank

if TYPE_CHECKING:
    from perun_hpc.inject.packing import Packer

F = TypeVar("F", bound=Callable[..., Any])
Marks = tuple[Callable[[], int], Callable[[int, int], object], Callable[[int], object], Callable[[int], object]]

CALLS_B = 240 * 1024 * 1024
"""Space for calls, ten million of them; memory is taken page by page as it is written."""
AT_ONCE = 256 * 1024
"""When so many rows are full, short calls are packed; the space grows by as many where that does not help."""
TRIES = 8
"""How often packing is begun anew that a signal's handler ended by an exception; then the space grows."""
NONE = 1 << 62
"""No slot."""

_GENERATOR, _COROUTINE, _AWAITABLE, _ASYNC_GENERATOR = (
    0x20,
    0x80,
    0x100,
    0x200,
)  # inspect's CO_ flags; inspect itself takes 10 ms to import

_now = time.monotonic_ns


class Recorder:
    """Where the calls of this process are written: rows of (region, start_ns, end_ns).

    `marks` is None until `open` was called; marking then costs one test. They are (take, start, end, failed): the first
    gives a call's slot, the number of its row's first integer, which the others are given, `start` with the region. A
    signal's handler may raise after each of them: who knows the slot before the call starts can end it whatever comes.
    `end_ns` is negative for a call that raised and 0 for one that is still open. `take` gives a free slot; `NONE` where
    all are taken, for which `more` may have another one.
    """

    def __init__(self) -> None:
        self.marks: Marks | None = None
        self.rows: memoryview | None = None
        self.names: list[str] = []
        self.fd = -1
        self._file: tuple[int, int] | None = None
        self.take: Callable[[], int] = _no_slot
        self._numbers: dict[str, _Number] = {}
        self._memory: mmap.mmap | None = None
        self._refill: Callable[[Iterator[int]], object] = _nothing
        self._shut: Callable[[], object] = _nothing
        self._on_name: Callable[[], None] = _nothing
        self._lock = RLock()  # a signal's handler may come in between, with a call of its own
        self._makes_space = False
        self._tries = 0
        self._begin_with(0, 0)

    def __reduce__(self) -> str:
        return "recorder"  # the one of the process in which a marked function is unpickled (cloudpickle)

    def _begin_with(self, most: int, at_once: int) -> None:
        """Nothing is recorded yet; `most` is the space, in rows."""
        self._packs = _threads_take_turns()
        self._most, self._at_once = most, at_once if self._packs else most
        self._limit = min(most, self._at_once)
        self._dropped = 0
        self._packer: Packer | None = None
        if not self._packs:  # of what counts only itertools.count is certain then
            self._fresh: Iterator[int] = _Slots(self._limit)
            self.take = self._fresh.__next__
            return
        self._fresh = iter(range(0, 3 * self._limit, 3))
        self._hand_out(self._fresh)

    def _hand_out(self, free: Iterator[int]) -> None:
        """These slots are free."""
        self.take = itertools.chain(free, itertools.repeat(NONE)).__next__
        self._refill(free)

    def open(self, calls_b: int = CALLS_B, on_name: Callable[[], None] | None = None, at_once: int = AT_ONCE) -> None:
        """Start recording; `on_name` is called whenever a region is defined, `at_once` rows are filled before calls are
        packed."""
        self.fd = rank.memory_file("perun-regions")
        self._file = _identity(self.fd)
        os.ftruncate(self.fd, rank.HEAD_B + calls_b)
        self._memory = mmap.mmap(self.fd, rank.HEAD_B + calls_b)
        self._begin_with(calls_b // 24, at_once)
        self.rows = memoryview(self._memory)[rank.HEAD_B : rank.HEAD_B + self._most * 24].cast("q")
        self.marks = self._by_c(self._memory) or self._by_python(self.rows)
        self._on_name = on_name or _nothing
        if self.names:
            self._on_name()

    def _by_c(self, memory: mmap.mmap) -> Marks | None:
        if _mark is None or not self._packs:
            return None
        try:
            take, start, end, failed, self._refill, self._shut = _mark.marks(memory, rank.HEAD_B, self.more)
        except (MemoryError, AttributeError, ValueError):  # no memory; of another version
            return None
        self._refill(self._fresh)
        return take, start, end, failed

    def _by_python(self, rows: memoryview) -> Marks:
        record, now, none = self, _now, NONE

        def take() -> int:
            slot = record.take()
            return record.more() if slot == none else slot

        def start(slot: int, region: int) -> None:
            if slot != none and record.rows is rows:
                rows[slot + 1] = now()  # before the region: a row without one is no call
                rows[slot] = region

        def end(slot: int) -> None:
            # Else over already, or a forked child's: the row may be another call's by now.
            if slot != none and record.rows is rows and not rows[slot + 2]:
                rows[slot + 2] = now()

        def failed(slot: int) -> None:
            if slot != none and record.rows is rows and not rows[slot + 2]:
                rows[slot + 2] = -now()

        return take, start, end, failed

    def more(self, is_finalizing: Callable[[], bool] = sys.is_finalizing, none: int = NONE) -> int:
        """A slot where all are taken: short calls are packed, or the space grows; `NONE` where neither can be.

        Other threads wait meanwhile, some milliseconds at most. A call of a signal's handler that interrupted this very
        work is not recorded, and counted as that.
        """
        if is_finalizing():
            return none  # a thread that is gone for good may have the lock
        with self._lock:
            slot = NONE if self._makes_space else self.take()  # somebody else may have made some meanwhile
            if slot == NONE and not self._makes_space:
                self._makes_space = True
                try:
                    slot = self._make_space()
                finally:
                    self._makes_space = False
            self._dropped += slot == NONE
            return slot

    def _make_space(self) -> int:
        """A slot of rows that were packed or are new; `NONE` where there are none."""
        if self.rows is None or self._memory is None:
            return NONE
        free: Iterable[int] = ()
        self._tries += 1
        if self._tries <= TRIES:  # else signals' handlers raise each time, and the program would not get on
            free = self._packed(self._memory)
        self._tries = 0
        if not free and self._limit == self._most:
            self._packs = False  # else every call would try
            return NONE
        if not free:
            before, self._limit = self._limit, min(self._most, self._limit + self._at_once)
            free = self._fresh = iter(range(3 * before, 3 * self._limit, 3))
        self._hand_out(iter(free))
        return self.take()

    def _packed(self, memory: mmap.mmap) -> Sequence[int]:
        """Pack short calls; the slots that are free then."""
        if not self._packs:
            return ()
        try:
            if self._packer is None:
                self._packer = closed.load("perun_hpc.inject.packing").Packer()
            return self._packer.pack(memory, rank.HEAD_B, self._limit)
        except (ImportError, AttributeError, OSError, MemoryError) as error:
            # Ours: no library, no memory; the space grows as long as it can. Whatever else comes is of a signal's
            # handler, and the application's own.
            if isinstance(error, TimeoutError):
                raise
            self._packs = False
            return ()

    def close(self) -> None:
        """Stop recording and give the memory back."""
        rows, self.rows = self.rows, None
        self._let_go()
        if rows is not None and self._memory is not None:
            rows.release()
            # Views that other threads still hold keep the mapping alive; it goes with them.
            self._memory = None
            if self.has_fd():
                os.close(self.fd)
            self.fd = -1

    def has_fd(self) -> bool:
        """Whether `fd` is still the memory's; a program may close what it did not open, and open a file of its own."""
        return self._file is not None and self._file == _identity(self.fd)

    def forget(self) -> None:
        """In a forked child: leave the parent's memory alone and record nothing."""
        self.rows = None
        self._lock = RLock()  # a thread that is not in the child may have the parent's
        self._let_go()
        self._on_name = _nothing

    def _let_go(self) -> None:
        """Nobody marks any more; calls that are open are left so."""
        shut, self.marks, self._refill, self._shut = self._shut, None, _nothing, _nothing
        shut()

    def define(self, name: str) -> int:
        """The number of a region of this name."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = _Number(len(self.names))
            number.name = name
            self.names.append(name)
            self._on_name()
        return number

    def count(self) -> tuple[int, int]:
        """How many rows are in use, and how many calls found no space."""
        return self._limit - operator.length_hint(self._fresh), self._dropped

    def table(self) -> bytes:
        """The calls so far, little-endian int64 rows of (region, start_ns, end_ns)."""
        used, _ = self.count()
        rows = self.rows
        if rows is None:
            return b""
        return rows[: used * 3].tobytes()

    def write_head(self, line: bytes) -> None:
        """Put a header line before the calls; blanks fill the rest."""
        if self._memory is not None and len(line) < rank.HEAD_B:
            self._memory[: rank.HEAD_B] = line.rstrip(b"\n").ljust(rank.HEAD_B - 1) + b"\n"


def _c_part() -> Any:
    """The module `mark` (slurm/mark/perun_mark.c), which marks in half of the time, where it certainly fits.

    It is of CPython's stable ABI: another implementation, a build for debugging or one whose threads run at once has
    other objects.
    """
    if sys.implementation.name != "cpython" or sys.abiflags or hasattr(sys, "getobjects"):
        return None
    if not closed.whole(os.path.join(os.path.dirname(__file__), "mark.abi3.so")):
        return None
    try:
        return closed.load("perun_hpc.inject.mark")
    except (ImportError, SystemError):
        return None


def _threads_take_turns() -> bool:
    check = getattr(sys, "_is_gil_enabled", None)
    return check is None or bool(check())


class _Slots:
    """The slots of so many rows, for a Python whose threads run at once; then `NONE` for ever."""

    def __init__(self, rows: int) -> None:
        self._limit = 3 * rows
        self._count = itertools.count(0, 3)

    def __iter__(self) -> _Slots:
        return self

    def __next__(self) -> int:
        slot = next(self._count)
        return slot if slot < self._limit else NONE

    def __length_hint__(self) -> int:
        # The counter's next value is kept nowhere else; its text shows it ("count(6, 3)") without taking it.
        return max(0, self._limit - int(repr(self._count).partition("(")[2].partition(",")[0])) // 3


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        file = os.fstat(fd)
    except OSError:
        return None
    return file.st_dev, file.st_ino


class _Number(int):
    """A region's number, which in another process is the one of its name."""

    name: str

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return _number, (self.name,)


def _number(name: str) -> int:
    return recorder.define(name)


def _nothing(*_: object) -> None:
    """The callback of a recorder that nobody listens to."""


def _no_slot() -> int:
    return NONE


_NO_MARKS: Marks = (_no_slot, _nothing, _nothing, _nothing)

_mark = _c_part()
recorder = Recorder()


def snapshot(settings: Mapping[str, str], end: str = "exit") -> bytes:
    """What the recorder of this very process holds, as rank data; `settings` are the launcher's variables that name
    the rank, `end` says how its function ended."""
    here = rank.Rank(settings)
    here.recorder = recorder
    return b"".join(here.content(end))


class Region:
    """One named region: a decorator and a context manager; may be nested, entered again, shared by threads and
    tasks."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._number = -1 if name is None else recorder.define(name)
        # Calls in flight through `with`. Threads that share one object may close each other's; the intervals' union and
        # the sum of their lengths are the same either way.
        self._open: list[tuple[Marks, int] | None] = []

    def __reduce__(self) -> tuple[type[Region], tuple[str | None]]:
        return type(self), (self.name,)

    def __call__(self, function: F) -> F:
        """Decorate a function, a coroutine function or a generator function, or another callable."""
        if isinstance(function, (classmethod, staticmethod)):
            return cast("F", type(function)(self(function.__func__)))
        named: Any = function.func if isinstance(function, functools.partial) else function
        # As its author knows it: of another module with that module's name.
        module = getattr(named, "__module__", "__main__")
        own = getattr(named, "__qualname__", type(named).__qualname__)
        name = self.name or (own if module == "__main__" else f"{module}.{own}")
        flags = getattr(getattr(named, "__code__", None), "co_flags", 0)
        return cast("F", _wrap(function, recorder.define(name), flags))

    def __enter__(self) -> Region:
        if self._number < 0:
            caller = sys._getframe(1)
            self._number = recorder.define(f"{caller.f_globals.get('__name__')}:{caller.f_lineno}")
        marks = recorder.marks
        if marks is None:
            self._open.append(None)
            return self
        take, start, _, failed = marks
        slot = take()
        self._open.append((marks, slot))
        try:
            start(slot, self._number)
        except BaseException:
            self._open.pop()
            failed(slot)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = self._open.pop()
        if call is not None:
            (_, _, end, failed), slot = call
            (end if kind is None else failed)(slot)

    async def __aenter__(self) -> Region:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


@overload
def monitor(region_name: F) -> F: ...
@overload
def monitor(region_name: str | None = None) -> Region: ...
def monitor(region_name: str | Callable[..., Any] | None = None) -> Region | Callable[..., Any]:
    """Mark a region: ``@monitor``, ``@monitor()``, ``@monitor("name")`` or ``with monitor("name"):``.

    A function's region is called after its module and qualified name unless a name is given.
    """
    if callable(region_name) or isinstance(region_name, (classmethod, staticmethod)):
        return Region()(region_name)
    return Region(region_name)


def _wrap(function: Any, region: int, flags: int) -> Any:
    if flags & _COROUTINE:
        return _coroutine(function, region)
    if flags & _ASYNC_GENERATOR:
        return _async_generator(function, region)
    if flags & _GENERATOR:
        generator = _generator(function, region)
        return types.coroutine(generator) if flags & _AWAITABLE else generator
    return _function(function, region)


def _function(function: Any, region: int) -> Any:
    if _mark is None:
        return _function_by_python(function, region)
    record = recorder

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        marks = record.marks
        if marks is None:
            return function(*args, **kwargs)
        take, start, end, failed = marks
        slot = take()
        try:
            start(slot, region)
            result = function(*args, **kwargs)
            end(slot)
        except BaseException:
            failed(slot)
            raise
        return result

    return measured


def _function_by_python(function: Any, region: int) -> Any:
    # The four of `marks` written out: calls less are a quarter of the cost.
    record, now, none = recorder, _now, NONE

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        rows = record.rows
        if rows is None:
            return function(*args, **kwargs)
        slot = record.take()
        if slot == none:
            slot = record.more()
            if slot == none:
                return function(*args, **kwargs)
        rows[slot + 1] = now()
        rows[slot] = region
        try:
            result = function(*args, **kwargs)
            if record.rows is rows:  # else a forked child's, where the row may be another call's by now
                rows[slot + 2] = now()
        except BaseException:
            if record.rows is rows and not rows[slot + 2]:
                rows[slot + 2] = -now()
            raise
        return result

    return measured


def _coroutine(function: Any, region: int) -> Any:
    @functools.wraps(function)
    async def measured(*args: Any, **kwargs: Any) -> Any:
        marks = recorder.marks
        if marks is None:
            return await function(*args, **kwargs)
        take, start, end, failed = marks
        slot = take()
        try:
            start(slot, region)
            result = await function(*args, **kwargs)
            end(slot)
        except BaseException:
            failed(slot)
            raise
        return result

    return measured


def _generator(function: Any, region: int) -> Any:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        marks = recorder.marks
        if marks is None:
            return (yield from function(*args, **kwargs))
        take, start, end, failed = marks
        slot = take()
        try:
            start(slot, region)
            result = yield from function(*args, **kwargs)
            end(slot)
        except GeneratorExit:
            end(slot)
            raise
        except BaseException:
            failed(slot)
            raise
        return result

    return measured


def _async_generator(function: Any, region: int) -> Any:
    @functools.wraps(function)
    async def measured(*args: Any, **kwargs: Any) -> Any:
        take, start, end, failed = recorder.marks or _NO_MARKS
        inner = function(*args, **kwargs)
        slot = take()
        try:
            start(slot, region)
            item = await inner.__anext__()
            while True:  # what "yield from" does
                try:
                    sent = yield item
                except BaseException as error:
                    item = await inner.athrow(error)
                else:
                    item = await inner.asend(sent)
        except StopAsyncIteration:
            end(slot)
        except GeneratorExit:
            end(slot)
            raise
        except BaseException:
            failed(slot)
            raise

    return measured


class Window(Region):
    """A region whose energy is known when it is left.

    Attributes
    ----------
    energy_uj : energy of the host between entry and exit in uJ, in a job on a shared node as coarse in time as the
        site's policy says: between the last moments before entry and exit up to which it may be seen. None when it is
        not known: inside the window; where nobody measures (no agent and no sampling process); where entry and exit
        lie between the same two such moments.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.energy_uj: int | None = None
        self._before: tuple[int, int] | None = None

    @property
    def energy_j(self) -> float | None:
        """`energy_uj` in joules."""
        return None if self.energy_uj is None else self.energy_uj / 1e6

    def __enter__(self) -> Window:
        self.energy_uj = None
        self._before = rank.energy()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        after = rank.energy()
        if self._before is not None and after is not None:
            (before_uj, before_ns), (after_uj, after_ns) = self._before, after
            if after_ns > before_ns:
                self.energy_uj = after_uj - before_uj


def window(name: str = "window") -> Window:
    """``with window("name") as w: ...`` then ``w.energy_j``; asks the sampling process twice, so it costs more than a
    region."""
    return Window(name)


if rank.current is not None and rank.current.socket:  # else nobody would take what is recorded
    rank.current.record(recorder)
os.register_at_fork(after_in_child=recorder.forget)
