"""Directories that tell when something is made or removed in them: inotify(7), where the kernel and ctypes have it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_IN_CREATE, _IN_DELETE, _IN_Q_OVERFLOW, _IN_IGNORED, _IN_ONLYDIR = 0x100, 0x200, 0x4000, 0x8000, 0x1000000
_EVENT = struct.Struct("iIII")
READ_B = 64 << 10


@dataclass(frozen=True)
class Change:
    """Something was made in a directory, or removed; without a name the kernel lost some, and all may be otherwise."""

    directory: Path | None
    name: str
    made: bool


class Watching:
    """Directories under watch; `fd` is readable when one of them has changed. OSError where there is no such thing.

    A user has few of them on the whole machine (fs.inotify.max_user_instances): closed when nobody has it any more.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self.fd < 0:
            number = ctypes.get_errno()
            hint = "; of this user's processes? see fs.inotify.max_user_instances" if number == errno.EMFILE else ""
            raise OSError(number, os.strerror(number) + hint)
        self._end = weakref.finalize(self, os.close, self.fd)
        self._directories: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}

    def add(self, directory: Path) -> bool:
        """Watch a directory, from now on or as before; False where it is not there, or cannot be watched."""
        flags = _IN_CREATE | _IN_DELETE | _IN_ONLYDIR
        watch = int(self._libc.inotify_add_watch(self.fd, os.fsencode(directory), flags))
        if watch >= 0:
            self._directories[watch], self._watches[directory] = directory, watch
        return watch >= 0

    def keep(self, directories: set[Path]) -> None:
        """Watch no other ones than these any more."""
        for directory in self._watches.keys() - directories:
            watch = self._watches.pop(directory)
            del self._directories[watch]
            self._libc.inotify_rm_watch(self.fd, watch)

    def __contains__(self, directory: Path) -> bool:
        """Whether it is watched; one that was removed is not."""
        return directory in self._watches

    def take(self) -> Iterator[Change]:
        """What has changed since the last time, in order."""
        while True:
            try:
                data = os.read(self.fd, READ_B)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, long_b = _EVENT.unpack_from(data, at)
                name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + long_b].rstrip(b"\0"))
                at += _EVENT.size + long_b
                if mask & _IN_Q_OVERFLOW:
                    yield Change(None, "", False)
                elif mask & _IN_IGNORED:
                    self._forget(watch)
                elif watch in self._directories:
                    yield Change(self._directories[watch], name, bool(mask & _IN_CREATE))

    def _forget(self, watch: int) -> None:
        """Its directory is gone; another one of that name may be under watch already."""
        directory = self._directories.pop(watch, None)
        if directory is not None and self._watches.get(directory) == watch:
            del self._watches[directory]

    def close(self) -> None:
        """Watch nothing any more."""
        self._end()
