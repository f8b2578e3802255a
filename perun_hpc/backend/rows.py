"""Rows of many sensors at a fast pace: kernel files are read by `perun-sample`, a C program, others by who has them.

It reads on the schedule's own grid and hands over a block of rows about once a second; values that it cannot read
itself (`Rows.give`) are repeated in each row until others come. The blocks' format: docs/architecture.md.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from perun_hpc.backend import procstat
from perun_hpc.backend.base import Reader
from perun_hpc.backend.sysfile import doubt, implausible, number_files, reason
from perun_hpc.data_model.sensor import GAP, Rise, Sensor
from perun_hpc.process import child
from perun_hpc.process.ready import readable

PROGRAM = Path(__file__).with_name("perun-sample")
MOST_COLUMNS, MOST_ROWS = 8192, 4096
PATIENCE_S = 1.0
"""How long a block that was asked for is waited for: the program may be in the middle of a row."""

_VERSION = 3
_ORDERS = struct.Struct("=IIIIqqq")
_COLUMN = struct.Struct("=18qII")
_BLOCK = struct.Struct("=IIIIqq")
_RISE = struct.Struct("=qqII")
_GAP = struct.Struct("=IIiIQ")
_MOST_BAD = 16
PIPE_B = 1 << 20
_NO_NUMBER, _NO_VALUE, _TOO_LITTLE = -1, -2, -3
_GIVEN, _NUMBER = 0, 1
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
    """

    ticks: array.array[int]
    mono_ns: list[int]
    late_us: array.array[int]
    columns: list[array.array[int]]
    rises: list[Rise | None]
    gaps: tuple[Gap, ...]
    skipped: int


class Rows:
    """Rows of some sensors, made by a process of its own from its start to `stop`.

    Parameters
    ----------
    columns : each sensor with its open file, one of `files_of`; -1: its values come by `give`.
    grid : its next tick is the first row's.
    rows : of a block.
    """

    def __init__(self, columns: Sequence[tuple[Sensor, int]], grid: Grid, rows: int) -> None:
        """Start it; OSError where that cannot be."""
        self.sensors = tuple(sensor for sensor, _ in columns)
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
        self._pipe, out = os.pipe()
        try:
            with contextlib.suppress(OSError):
                import fcntl

                fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIPE_B)
            self._child = child.execute((str(PROGRAM),), out, 2, theirs.fileno())
            self._send_orders(files, rows)
            os.set_blocking(self._pipe, False)
        except OSError:
            self._socket.close()
            os.close(self._pipe)
            raise
        finally:
            theirs.close()
            os.close(out)

    def _send_orders(self, files: Sequence[int], rows: int) -> None:
        self._socket.sendall(_ORDERS.pack(_VERSION, len(files), rows, os.getpid(), *self.grid))
        for sensor, fd in zip(self.sensors, files, strict=True):
            least, bad = implausible(sensor)
            bad = bad[:_MOST_BAD]
            form = _FORMS.get(sensor.id, _NUMBER) if fd >= 0 else _GIVEN
            record = _COLUMN.pack(least, procstat.KEPT_NS, *bad, *[0] * (_MOST_BAD - len(bad)), len(bad), form)
            socket.send_fds(self._socket, [record], [fd] if fd >= 0 else [])

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
        ended = False
        while True:
            try:
                part = os.read(self._pipe, PIPE_B)
            except BlockingIOError:
                break
            if not part:
                ended = True
                break
            self._data += part
        found = []
        while (block := self._next()) is not None:
            found.append(block)
        if ended and not found:
            raise EOFError
        return found

    def now(self, patience_s: float = PATIENCE_S) -> list[Block]:
        """The blocks up to this moment, the one that is being made among them, if they come in time."""
        with contextlib.suppress(OSError):
            self._socket.sendall(b"f")
        return self._wait_for_one(patience_s)

    def stop(self, patience_s: float = PATIENCE_S) -> list[Block]:
        """End the process; its last blocks, as long as they come in time."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        found = []
        with contextlib.suppress(EOFError):
            while readable(self._pipe, patience_s):
                found += self.blocks()
        self.close()
        return found

    def close(self) -> None:
        """End the process, whatever it still has; a second call does nothing."""
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
        data = self._data
        if len(data) < _BLOCK.size:
            return None
        _, rows, gaps, skipped, offset_ns, step_ns = _BLOCK.unpack_from(data)
        columns = len(self.sensors)
        rises_at = _BLOCK.size + 8 * rows * (columns + 1)
        gaps_at = rises_at + _RISE.size * columns
        late_at = gaps_at + _GAP.size * gaps
        end = late_at + 4 * rows
        if len(data) < end:
            return None
        values, rises, gap_bytes, late = (
            bytes(data[_BLOCK.size : rises_at]),
            bytes(data[rises_at:gaps_at]),
            bytes(data[gaps_at:late_at]),
            bytes(data[late_at:end]),
        )
        del data[:end]
        table = array.array("q", values)
        ticks, late_us = table[:rows], array.array("i", late)
        period_ns = self.grid.period_ns
        self.step_ns = step_ns
        self.grid = Grid(period_ns, offset_ns, ticks[-1] + 1 if ticks else self.grid.next_index)
        return Block(
            ticks,
            [tick * period_ns - offset_ns + 1000 * us for tick, us in zip(ticks, late_us, strict=True)],
            late_us,
            [table[rows * place : rows * (place + 1)] for place in range(1, columns + 1)],
            [None if one[0] == GAP else Rise(*one) for one in _RISE.iter_unpack(rises)],
            tuple(self._gap(*fields) for fields in _GAP.iter_unpack(gap_bytes)),
            skipped,
        )

    def _gap(self, row: int, column: int, why: int, _zero: int, value: int) -> Gap:
        if why == _NO_NUMBER:
            return Gap(row, column, procstat.MALFORMED.get(self.sensors[column].id, "the file holds no number"))
        if why == _TOO_LITTLE:
            return Gap(row, column, doubt(self.sensors[column], value - (1 << 64)))
        if why == _NO_VALUE:
            return Gap(row, column, doubt(self.sensors[column], value) or "more than 63 bits hold")
        return Gap(row, column, reason(OSError(why, os.strerror(why))))
