"""Files and directories that tell when something changes: inotify(7), where the kernel and ctypes have it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_IN_CREATE, _IN_DELETE, _IN_Q_OVERFLOW, _IN_IGNORED, _IN_ONLYDIR = 0x100, 0x200, 0x4000, 0x8000, 0x1000000
_IN_MODIFY, _IN_CLOSE_WRITE, _IN_MOVED, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x2, 0x8, 0xC0, 0x400, 0x800
_ANY = _IN_MOVED | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
_EVENT = struct.Struct("iIII")
READ_B = 64 << 10


@dataclass(frozen=True)
class Change:
    """Something was made in a directory, or removed; without a name the kernel lost some: nothing is watched now."""

    directory: Path | None
    name: str
    made: bool


class Watching:
    """Directories under watch; `fd` is readable when one of them has changed. OSError where there is no such thing.

    A user has few of them on the whole machine (fs.inotify.max_user_instances): closed when nobody has it any more.
    """

    def __init__(self) -> None:
        self._libc, self.fd = _inotify()
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

    def __len__(self) -> int:
        """How many are watched."""
        return len(self._watches)

    def take(self) -> Iterator[Change]:
        """What has changed since the last time, in order."""
        for watch, mask, name in _events(self.fd):
            if mask & _IN_Q_OVERFLOW:
                self.keep(set())  # which of them are gone may be among what is lost
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


class Signs:
    """Files and directories of which it only matters that something about them has changed.

    `fd` is readable then, until `clear`. OSError where there is no such thing.
    """

    def __init__(self) -> None:
        self._libc, self.fd = _inotify()
        self._end = weakref.finalize(self, os.close, self.fd)
        self._watches: dict[Path, tuple[int, os.stat_result]] = {}

    def keep(self, paths: Collection[Path]) -> bool:
        """Watch these and no others; False where one of them is not there, or cannot be watched.

        A file in a directory tells when who wrote to it closes it: a cgroup's own `memory.events` may change a hundred
        times a second.
        """
        there: dict[Path, os.stat_result] = {}
        for path in paths:
            with contextlib.suppress(OSError):
                there[path] = path.stat()
        self._forget(
            [
                path
                for path, (_, before) in self._watches.items()
                if path not in there or not os.path.samestat(before, there[path])
            ]
        )
        for path in there.keys() - self._watches.keys():
            mask = _ANY | (_IN_CLOSE_WRITE if stat.S_ISDIR(there[path].st_mode) else _IN_MODIFY)
            watch = int(self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask))
            if watch >= 0:
                self._watches[path] = watch, there[path]
        return len(self._watches) == len(paths)

    def clear(self) -> bool:
        """What has changed is known from now on; False where nothing has but what is watched."""
        changed, ended = False, set[int]()
        for watch, mask, _ in _events(self.fd):
            if mask & _IN_IGNORED:
                ended.add(watch)
            else:
                changed = True
        self._forget([one for one, (watch, _) in self._watches.items() if watch in ended])
        return changed

    def _forget(self, paths: Collection[Path]) -> None:
        for path in paths:
            watch, _ = self._watches.pop(path)
            if all(watch != other for other, _ in self._watches.values()):  # two names of one place have one watch
                self._libc.inotify_rm_watch(self.fd, watch)

    def close(self) -> None:
        """Watch nothing any more."""
        self._end()


def _inotify() -> tuple[ctypes.CDLL, int]:
    """The library with the calls, and a new descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        hint = "; of this user's processes? see fs.inotify.max_user_instances" if number == errno.EMFILE else ""
        raise OSError(number, os.strerror(number) + hint)
    return libc, fd


def _events(fd: int) -> Iterator[tuple[int, int, str]]:
    """What the kernel has noted and nobody has read: watch, what happened, and to which name in it."""
    while True:
        try:
            data = os.read(fd, READ_B)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, long_b = _EVENT.unpack_from(data, at)
            at += _EVENT.size + long_b
            yield watch, mask, os.fsdecode(data[at - long_b : at].rstrip(b"\0"))
