"""One shard file that grows: inner chunks appended at its end, the index at its start written last.

A reader sees either the old index or the new one; both refer only to data that was there before. The index stays within
one page, so it is replaced in one write.
"""

from __future__ import annotations

import os
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec

Index = list[tuple[int, int]]


class GrowingShard:
    """A shard of `entries` inner chunks that one process writes; `put`, then `publish`.

    `backup` is what a journal knows of the index; it is used when the file's own is torn.
    """

    def __init__(self, path: Path, entries: int, backup: Index | None = None) -> None:
        self.path = path
        self._pending: dict[int, bytes] = {}
        self._dirty = False
        self._fd: int | None = None
        self._index: Index = [(codec.NONE, codec.NONE)] * entries
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            self._index = read_index(self._fd, entries, str(path))
        except DataError:
            if backup is None:
                self.close()
                raise
            self._index = list(backup)

    @property
    def index(self) -> Index:
        """Offset and length of every inner chunk as last published."""
        return list(self._index)

    def put(self, number: int, chunk: bytes) -> None:
        """Take an encoded inner chunk; nobody sees it before `publish`."""
        self._pending[number] = chunk

    def publish(self) -> None:
        """Write what was `put`: data, then the index. After an OSError call it again: nothing of before is touched."""
        if not self._pending:
            return
        index = list(self._index)
        end = end_of(index)
        data = bytearray()
        for number, chunk in sorted(self._pending.items()):
            index[number] = (end + len(data), len(chunk))
            data += chunk
        if self._fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            files.write_new(self.path, codec.encode_index(index) + bytes(data), durable=False)
            self._fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        else:
            files.write_all(self._fd, data, end)
            files.write_all(self._fd, codec.encode_index(index), 0)
        self._dirty = True
        self._index = index
        self._pending.clear()

    def sync(self) -> None:
        """Make what was published durable."""
        if self._fd is not None and self._dirty:
            os.fsync(self._fd)
            self._dirty = False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def end_of(index: Index) -> int:
    """Where a shard with this index has space for more."""
    used = [offset + length for offset, length in index if offset != codec.NONE]
    return max([codec.index_bytes(len(index)), *used])


def read_index(fd: int, entries: int, what: str) -> Index:
    """The index of an open shard; DataError where it is damaged."""
    size = codec.index_bytes(entries)
    data = os.pread(fd, size, 0)
    if len(data) < size:
        raise DataError(f"{what}: shorter than its index; run perun collect --repair")
    return codec.decode_index(data, what)
