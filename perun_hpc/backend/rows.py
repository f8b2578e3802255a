"""Rows of many sensors at a fast pace: kernel files are read by `perun-sample`, a C program, others by who has them.

It reads on the schedule's own grid and hands over a block of rows about once a second, or writes each row to a file as
soon as it is made, where it outlives both processes (`left`); values that it cannot read itself (`Rows.give`) are
repeated in each row until others come. The blocks' format: docs/architecture.md.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from perun_hpc.backend import procstat
from perun_hpc.backend.base import Reader
from perun_hpc.backend.power_pmu import Member
from perun_hpc.backend.sysfile import doubt, implausible, number_files, reason
from perun_hpc.data_model.sensor import GAP, Rise, Sensor
from perun_hpc.process import child
from perun_hpc.process.ready import readable

PROGRAM = Path(__file__).with_name("perun-sample")
MOST_COLUMNS, MOST_ROWS = 8192, 4096
PATIENCE_S = 1.0
"""How long a block that was asked for is waited for: the program may be in the middle of a row."""

_VERSION = 6
_ORDERS = struct.Struct("=IIIIqqq")
_COLUMN = struct.Struct("=23qIIIIII")
_BLOCK = struct.Struct("=IIIIqq")
_RISE = struct.Struct("=qqII")
_GAP = struct.Struct("=IIiIQ")
_TICK = struct.Struct("=q")
_MOST_BAD = 16
PIPE_B = 1 << 20
NO_STEPS: Mapping[str, int] = {}
NO_MEMBERS: Mapping[str, Member] = {}
_NO_NUMBER, _NO_VALUE, _TOO_LITTLE = -1, -2, -3
_GIVEN, _NUMBER, _EVENT = 0, 1, 4
_FORMS = {procstat.CPUS: 2, procstat.MEMORY: 3}
"""What the files of some sensors hold, by their ids; those of others hold one number."""


def files_of(readers: Iterable[Reader]) -> dict[str, int]:
    """The open file of each sensor whose values the program can read, by the sensors' ids."""
    everyone = tuple(readers)
    found = number_files(everyone)
    for reader in everyone:
        if isinstance(reader, procstat.ProcStat):
            found |= reader.files
    return found


class Grid(NamedTuple):
    """When rows are due: tick k at k periods by the wall clock, which is `offset_ns` before the monotonic one."""

    period_ns: int
    offset_ns: int
    next_index: int


@dataclass(frozen=True, slots=True)
class Gap:
    """One value that is missing: its row and column in the block, and why."""

    row: int
    column: int
    why: str


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in order of time.

    Attributes
    ----------
    ticks : grid index of each row.
    mono_ns : when each was read, CLOCK_MONOTONIC.
    columns : one array per sensor of raw ticks, `GAP` where there is none.
    rises : of each column; None where a value is missing, or there are no two rows.
    gaps : of sensors that `perun-sample` reads itself, why there is none.
    skipped : ticks since the block before that have no row.
    sums : of each row, over the columns that were to be added up, modulo 2^64; without meaning where one has gaps.
    divided : by the place of a column, its values divided by the step that was asked for, rounded down.
    """

    ticks: array.array[int]
    mono_ns: list[int]
    late_us: array.array[int]
    columns: list[array.array[int]]
    rises: list[Rise | None]
    gaps: tuple[Gap, ...]
    skipped: int
    sums: array.array[int]
    divided: Mapping[int, array.array[int]]

    def first(self, count: int) -> Block:
        """Its first rows; what is known of the steps of all is left out."""
        return replace(
            self,
            ticks=self.ticks[:count],
            mono_ns=self.mono_ns[:count],
            late_us=self.late_us[:count],
            columns=[one[:count] for one in self.columns],
            rises=[None] * len(self.columns),
            sums=self.sums[:count],
            divided={place: one[:count] for place, one in self.divided.items()},
        )


class Left(NamedTuple):
    """What a process that is gone left in its file: the sensors of the columns, and the rows as one block."""

    ids: tuple[str, ...]
    period_ns: int
    block: Block | None


def left(file: Path, after: int) -> Left | None:
    """What lies in a file of `Rows` behind the tick `after`, up to where it is torn.

    None where there is none, or none of this version's.
    """
    try:
        line, _, data = file.read_bytes().partition(b"\n")
        head = json.loads(line)
        ids, period_ns = tuple(map(str, head["sensors"])), int(head["period_ns"])
        if head["version"] != _VERSION:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    found = _singles(bytearray(data), len(ids), period_ns, after)
    return Left(ids, period_ns, None if found is None else found[1])


class _Head(NamedTuple):
    version: int
    rows: int
    gaps: int
    skipped: int
    offset_ns: int
    step_ns: int


_Parsed: TypeAlias = "tuple[_Head, Block, list[tuple[int, int, int, int, int]]]"
"""The head of a block, its rows, and why values are missing."""


def _parsed(data: bytearray, columns: int, period_ns: int, divided: Sequence[int]) -> _Parsed | None:
    """Take the first block off `data`, its gaps apart; None where none is whole."""
    if len(data) < _BLOCK.size:
        return None
    head = _Head(*_BLOCK.unpack_from(data))
    rows = head.rows
    rises_at = _BLOCK.size + 8 * rows * (2 + columns + len(divided))
    gaps_at = rises_at + _RISE.size * columns
    late_at = gaps_at + _GAP.size * head.gaps
    end = late_at + 4 * rows
    if len(data) < end:
        return None
    table, late_us = array.array("q"), array.array("i")
    with memoryview(data) as view:
        table.frombytes(view[_BLOCK.size : rises_at])
        rises = list(_RISE.iter_unpack(view[rises_at:gaps_at]))
        gaps = list(_GAP.iter_unpack(view[gaps_at:late_at]))
        late_us.frombytes(view[late_at:end])
    del data[:end]
    ticks = table[:rows]
    block = Block(
        ticks,
        [tick * period_ns - head.offset_ns + 1000 * us for tick, us in zip(ticks, late_us, strict=True)],
        late_us,
        [table[rows * place : rows * (place + 1)] for place in range(2, columns + 2)],
        [None if one[0] == GAP else Rise(*one) for one in rises],
        (),
        head.skipped,
        table[rows : 2 * rows],
        {one: table[rows * place : rows * (place + 1)] for place, one in enumerate(divided, columns + 2)},
    )
    return head, block, gaps


def _singles(data: bytearray, columns: int, period_ns: int, after: int = -1) -> _Parsed | None:
    """Take all whole blocks of one row each off `data`, as one with the last one's head; None where there is none.

    Rows up to the tick `after` are left out, as are why values are missing and what is known of steps and sums.
    """
    table, late_us, offsets_ns, skipped = array.array("q"), array.array("i"), [], 0
    head, at, size = None, 0, 8 * (2 + columns)
    with memoryview(data) as view:
        while len(data) - at >= _BLOCK.size:
            one, row = _Head(*_BLOCK.unpack_from(view, at)), at + _BLOCK.size
            late = row + size * one.rows + _RISE.size * columns + _GAP.size * one.gaps
            if one.version != _VERSION or one.rows > 1 or late + 4 * one.rows > len(data):
                break
            head, at = one, late + 4 * one.rows
            if one.rows and (tick := _TICK.unpack_from(view, row)[0]) > after:
                after = tick
                table.frombytes(view[row : row + size])
                late_us.frombytes(view[late:at])
                offsets_ns.append(one.offset_ns)
                skipped += one.skipped
    if head is None:
        return None
    del data[:at]
    ticks = table[:: 2 + columns]
    rows = zip(ticks, offsets_ns, late_us, strict=True)
    block = Block(
        ticks,
        [tick * period_ns - offset_ns + 1000 * us for tick, offset_ns, us in rows],
        late_us,
        [table[place :: 2 + columns] for place in range(2, 2 + columns)],
        [None] * columns,
        (),
        skipped,
        array.array("q"),
        {},
    )
    return head, block, []


class Rows:
    """Rows of some sensors, made by a process of its own from its start to `stop`.

    Parameters
    ----------
    columns : each sensor with its open file, one of `files_of`; -1: its values come by `give`.
    grid : its next tick is the first row's.
    rows : of a block.
    file : where blocks of one row go, begun anew (None: a pipe, and blocks of so many rows); those that have come are
        one block here, without why values are missing and what is known of steps and sums.
    steps : by what blocks shall have values divided, too, of some sensors, by their ids; nothing in a file.
    summed : the ids of those that are added up in each row.
    members : where those are that a perf group stands in for, by their ids; each 64th row is of their files, as is one
        for which the group counted nothing.
    """

    def __init__(
        self,
        columns: Sequence[tuple[Sensor, int]],
        grid: Grid,
        rows: int,
        file: Path | None = None,
        steps: Mapping[str, int] = NO_STEPS,
        summed: frozenset[str] = frozenset(),
        members: Mapping[str, Member] = NO_MEMBERS,
    ) -> None:
        """Start it; OSError where that cannot be."""
        self.sensors = tuple(sensor for sensor, _ in columns)
        self._steps, self.summed = steps if file is None else NO_STEPS, summed
        self._members = members
        self._divided = [place for place, one in enumerate(self.sensors) if self._steps.get(one.id, 1) > 1]
        self.grid = grid
        """As it is now: it follows a clock that is slewed. `step_ns` is by how much the clock was set meanwhile."""
        self.step_ns = 0
        files = [fd for _, fd in columns]
        if not (0 < len(files) <= MOST_COLUMNS and 0 < rows <= MOST_ROWS):
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.given = tuple(column for column, fd in enumerate(files) if fd < 0)
        """The columns whose values come by `give`."""
        self._give = struct.Struct(f"=c{len(self.given)}q")
        self._data = bytearray()
        self._socket, theirs = socket.socketpair()
        self._file, self._at = file, 0
        try:
            self._pipe, out = _pipe() if file is None else self._begin(file)
        except OSError:
            self._socket.close()
            theirs.close()
            raise
        try:
            self._child = child.execute((str(PROGRAM),), out, 2, theirs.fileno())
            self._send_orders(files, rows)
        except OSError:
            self._socket.close()
            os.close(self._pipe)
            raise
        finally:
            theirs.close()
            os.close(out)

    def _begin(self, file: Path) -> tuple[int, int]:
        """The file, open to read and to go on with, after a line that says whose columns they are."""
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            head = {"version": _VERSION, "period_ns": self.grid.period_ns, "sensors": [one.id for one in self.sensors]}
            self._at = os.write(fd, json.dumps(head).encode() + b"\n")
            return fd, os.dup(fd)
        except OSError:
            os.close(fd)
            raise

    def _send_orders(self, files: Sequence[int], rows: int) -> None:
        self._socket.sendall(_ORDERS.pack(_VERSION, len(files), rows, os.getpid(), *self.grid))
        leaders: dict[int, int] = {}
        for column, (sensor, fd) in enumerate(zip(self.sensors, files, strict=True)):
            least, bad = implausible(sensor)
            bad = bad[:_MOST_BAD]
            count = len(bad)
            form = _FORMS.get(sensor.id, _NUMBER) if fd >= 0 else _GIVEN
            bad = (*bad, *[0] * (_MOST_BAD - len(bad)))
            step = self._steps.get(sensor.id, 1)
            fds, event, head = [fd] if fd >= 0 else [], (0, 0, 0, 0), (0, 0, 0)
            member = self._members.get(sensor.id)
            if member is not None and fd >= 0:
                form, event = _EVENT, (sensor.wrap_range or 0, member.num, member.den, member.last)
                if member.leader not in leaders:
                    leaders[member.leader] = column
                    fds.append(member.leader)
                head = (leaders[member.leader], member.place, 0)
            summed = sensor.id in self.summed
            record = _COLUMN.pack(least, procstat.KEPT_NS, step, *event, *bad, count, form, summed, *head)
            socket.send_fds(self._socket, [record], fds)

    @property
    def written_b(self) -> int:
        """The length of the file, as far as it was read."""
        return self._at

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._child.poll() is not None

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    def fileno(self) -> int:
        """Becomes readable when a block comes, or the process ended."""
        return self._pipe

    def give(self, ticks: Sequence[int | None]) -> None:
        """What rows shall hold from now on in the columns `given`."""
        values = [GAP if one is None or not GAP < one < -GAP else one for one in ticks]
        with contextlib.suppress(OSError):  # it has ended: `blocks` will tell
            self._socket.sendall(self._give.pack(b"v", *values))

    def blocks(self) -> list[Block]:
        """The blocks that have come; EOFError where the process has ended and all it made was taken."""
        ended = self._take_file() if self._file is not None else self._take_pipe()
        found = []
        while (block := self._next()) is not None:
            found.append(block)
        if ended and not found:
            raise EOFError
        return found

    def _take_pipe(self) -> bool:
        """Take what is there; whether no more will come."""
        while True:
            try:
                part = os.read(self._pipe, PIPE_B)
            except BlockingIOError:
                return False
            if not part:
                return True
            self._data += part

    def _take_file(self) -> bool:
        ended = self.ended  # before the last look: what it wrote before is there then
        while part := os.pread(self._pipe, PIPE_B, self._at):
            self._at += len(part)
            self._data += part
        return ended

    def now(self, patience_s: float = PATIENCE_S) -> list[Block]:
        """The blocks up to this moment, the one that is being made among them, if they come in time."""
        if self._file is not None:  # each row is there as soon as it is made
            return self.blocks()
        with contextlib.suppress(OSError):
            self._socket.sendall(b"f")
        return self._wait_for_one(patience_s)

    def stop(self, patience_s: float = PATIENCE_S) -> list[Block]:
        """End the process; its last blocks, as long as they come in time."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        found = []
        with contextlib.suppress(EOFError):
            if self._file is not None:
                readable(self._socket.fileno(), patience_s)
                found += self.blocks()
            while self._file is None and readable(self._pipe, patience_s):
                found += self.blocks()
        self.close()
        return found

    def close(self) -> None:
        """End the process, whatever it still has; the file stays. A second call does nothing."""
        if self._pipe >= 0:
            self._child.kill()
            self._child.wait()
            os.close(self._pipe)
            self._socket.close()
            self._pipe = -1

    def _wait_for_one(self, patience_s: float) -> list[Block]:
        found: list[Block] = []
        while not found and readable(self._pipe, patience_s):
            found = self.blocks()
        return found

    def _next(self) -> Block | None:
        columns, period_ns = len(self.sensors), self.grid.period_ns
        found = (
            _parsed(self._data, columns, period_ns, self._divided)
            if self._file is None
            else _singles(self._data, columns, period_ns)
        )
        if found is None:
            return None
        head, block, gaps = found
        self.step_ns = head.step_ns
        next_index = block.ticks[-1] + 1 if block.ticks else self.grid.next_index
        self.grid = Grid(self.grid.period_ns, head.offset_ns, next_index)
        return replace(block, gaps=tuple(self._gap(*one) for one in gaps)) if gaps else block

    def _gap(self, row: int, column: int, why: int, _zero: int, value: int) -> Gap:
        if why == _NO_NUMBER:
            return Gap(row, column, procstat.MALFORMED.get(self.sensors[column].id, "the file holds no number"))
        if why == _TOO_LITTLE:
            return Gap(row, column, doubt(self.sensors[column], value - (1 << 64)))
        if why == _NO_VALUE:
            return Gap(row, column, doubt(self.sensors[column], value) or "more than 63 bits hold")
        return Gap(row, column, reason(OSError(why, os.strerror(why))))


def _pipe() -> tuple[int, int]:
    """A pipe that holds much; reading it never waits."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):
        import fcntl

        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_B)
    os.set_blocking(reading, False)
    return reading, writing
