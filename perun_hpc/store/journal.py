"""The journal of one inner chunk: rows not yet in a shard, as checksummed records; a torn tail is cut off.

Record: u4 length of the payload, u4 crc32 of it, payload; all little-endian. With the length's highest bit set the
payload is a JSON object with state (the first record is one), else it is a whole number of rows: i8 tick, i4 offset in
us, one i8 of raw ticks per sensor (the least i8: no reading). With the next bit set these are column by column: all
ticks, each sensor's values, all offsets.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.errors import DataError

_RECORD = struct.Struct("<II")
_STATE, _COLUMNS = 1 << 31, 1 << 30

Row = tuple[int, ...]
"""Tick, offset in us, then raw ticks per sensor (`GAP`: none)."""


class Journal:
    """A journal that is being written. A failed write (a full disk) leaves what was written before readable."""

    def __init__(self, path: Path, state: dict[str, Any], sensors: int) -> None:
        self.path = path
        self._struct = struct.Struct(f"<qi{sensors}q")
        if not path.exists():  # one without a record is one that lost what it had
            files.write_new(path, _state_record(state), durable=False)
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._end = _valid(path)[1]
        os.ftruncate(self._fd, self._end)
        if not self._end:
            try:
                self.note(state)
            except OSError:
                os.close(self._fd)
                raise

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows as one record."""
        self._append(_record(b"".join(self._struct.pack(*row) for row in rows), 0))

    def write_columns(self, ticks: array[int], offsets: array[int], columns: Sequence[array[int]]) -> None:
        """Append rows as one record, given column by column: of 64 bits, offsets of 32."""
        self._append(_record(b"".join((ticks, *columns, offsets)), _COLUMNS))

    def note(self, state: dict[str, Any]) -> None:
        """Append state; its keys replace those that were noted before."""
        self._append(_state_record(state))

    def _append(self, record: bytes) -> None:
        files.write_all(self._fd, record, self._end)
        self._end += len(record)

    def sync(self) -> None:
        """Make what was written durable."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def remove(self) -> None:
        """Close, and delete the file: its rows are in a shard."""
        self.close()
        self.path.unlink(missing_ok=True)


def read(path: Path, sensors: int) -> tuple[dict[str, Any], list[Row], int]:
    """State, rows, and how many bytes of a torn tail were left out.

    Raises
    ------
    DataError
        where not even the first record is whole.
    """
    records, whole = _valid(path)
    torn = path.stat().st_size - whole
    if not records:
        raise DataError(f"{path.name}: no whole record, its rows are lost")
    row = struct.Struct(f"<qi{sensors}q")
    state: dict[str, Any] = {}
    rows: list[Row] = []
    try:
        for kind, payload in records:
            if kind == _STATE:
                state.update(json.loads(payload))
            elif kind == _COLUMNS:
                rows.extend(_rows(payload, sensors))
            else:
                rows.extend(row.iter_unpack(payload))
    except (ValueError, TypeError, RecursionError, struct.error) as error:
        raise DataError(f"{path.name}: damaged: {error}") from error
    return state, rows, torn


def _record(payload: bytes, kind: int) -> bytes:
    return _RECORD.pack(len(payload) | kind, zlib.crc32(payload)) + payload


def _state_record(state: dict[str, Any]) -> bytes:
    return _record(json.dumps(state, separators=(",", ":")).encode(), _STATE)


def _rows(payload: bytes, sensors: int) -> Iterator[Row]:
    count = len(payload) // (12 + 8 * sensors)
    table = struct.unpack(f"<{count * (1 + sensors)}q{count}i", payload)
    columns = [table[count * place : count * (place + 1)] for place in range(sensors + 2)]
    return zip(columns[0], columns[-1], *columns[1:-1], strict=True)


def _valid(path: Path) -> tuple[list[tuple[int, bytes]], int]:
    """Kind and payload of the whole records at the file's start, and the bytes that these take."""
    data = path.read_bytes()
    records, position = [], 0
    while position + _RECORD.size <= len(data):
        size, crc = _RECORD.unpack_from(data, position)
        length = size & ~(_STATE | _COLUMNS)
        payload = data[position + _RECORD.size : position + _RECORD.size + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            break
        records.append((size & (_STATE | _COLUMNS), payload))
        position += _RECORD.size + length
    return records, position
