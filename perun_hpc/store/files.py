"""Files that other processes read: created beside their name, made durable, then renamed or linked into place."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

_SERIAL = iter(range(1 << 62))


def temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses, on this or another node; readers ignore such names."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{next(_SERIAL)}.partial")


def write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data` at `offset`; OSError where the disk does not take it, then any part may be written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def write_new(path: Path, data: bytes, mode: int = 0o640, durable: bool = True) -> None:
    """Put `data` under `path` in one step, replacing what was there."""
    write_pieces(path, (data,), mode, durable)


def write_pieces(path: Path, pieces: Iterable[bytes], mode: int = 0o640, durable: bool = True) -> int:
    """As `write_new`, of data that come piece by piece; how many bytes they were."""
    partial = temporary(path)
    try:
        length = _write(partial, pieces, mode, durable)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)
    return length


def write_first(path: Path, data: bytes, mode: int = 0o640) -> bool:
    """Put `data` under `path` unless somebody was first; True when it was us. Never shows half a file, NFS included."""
    partial = temporary(path)
    try:
        _write(partial, (data,), mode, durable=True)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            return _write_exclusive(path, data, mode)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def make_directory(path: Path, mode: int = 0o750) -> None:
    """Make a directory and those above it, as far as they are missing, durably: what is put there is not lost."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for one in reversed(missing):
        one.mkdir(mode=mode, exist_ok=True)
        sync_directory(one.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, pieces: Iterable[bytes], mode: int, durable: bool) -> int:
    length = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        for piece in pieces:
            write_all(fd, piece, length)
            length += len(piece)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    return length


def _write_exclusive(path: Path, data: bytes, mode: int) -> bool:
    """File systems without hard links: the second best, in which a reader may see the file while it is written."""
    try:
        _write(path, (data,), mode, durable=True)
    except FileExistsError:
        return False
    return True
