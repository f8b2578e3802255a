"""Files that other processes read: made beside their name, then renamed or linked into place, so that none sees half.

`Replacement` is the one way in which perun replaces a file: of data that are there (`write_new`), that come piece by
piece (`write_pieces`), of another file's content (`link_new`), or made by a library that wants a name.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_JSON_B = 256 << 20
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)
"""What a file system answers that has no hard links, or no more of them."""
PARTIAL = ".partial"
"""How the name ends of what is to become a file, or a directory."""
_SERIAL = iter(range(1 << 62))


class Replacement:
    """A file under a temporary name that takes the place of `path` once it is whole, or goes.

    As a context manager it gives the temporary name; what makes the file there leaves it whole, or raises.
    """

    def __init__(self, path: Path) -> None:
        """Choose the name; nothing is there yet."""
        self.path = path
        self.partial = temporary(path)

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.drop()
        else:
            self.keep()

    def write(self, data: bytes, mode: int = 0o640) -> None:
        """Make it of these data, which are not durable yet. OSError where that cannot be; then nothing stays."""
        try:
            _write(self.partial, (data,), mode, durable=False)
        except OSError:
            self.drop()
            raise

    def keep(self) -> None:
        """Put it in its place. OSError where that cannot be; then it is gone."""
        try:
            self.partial.replace(self.path)
        except OSError:
            self.drop()
            raise

    def drop(self) -> None:
        """Take it away."""
        self.partial.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses, on this or another node; readers ignore such names."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.{next(_SERIAL)}{PARTIAL}")


def create(path: Path, mode: int = 0o640) -> int:
    """A descriptor to write a file that is not there yet; OSError where there is anything of that name."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data` at `offset`; OSError where the disk does not take it, then any part may be written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def write_new(path: Path, data: bytes, mode: int = 0o640, durable: bool = True, exact: bool = False) -> None:
    """Put `data` under `path` in one step, replacing what was there; `exact`: the umask takes nothing from `mode`."""
    write_pieces(path, (data,), mode, durable, exact)


def write_pieces(
    path: Path, pieces: Iterable[bytes], mode: int = 0o640, durable: bool = True, exact: bool = False
) -> int:
    """As `write_new`, of data that come piece by piece; how many bytes they were. Whatever fails, nothing stays."""
    with Replacement(path) as partial:
        length = _write(partial, pieces, mode, durable)
        if exact:
            partial.chmod(mode)
    if durable:
        sync_directory(path.parent)
    return length


def link_new(path: Path, source: Path) -> None:
    """Let `path` be another name of the file `source`, replacing what was there. OSError, `NO_LINKS` among them."""
    replacement = Replacement(path)
    os.link(source, replacement.partial)
    replacement.keep()
    replacement.drop()  # two names of one file are left as they are by a rename


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
            if error.errno not in NO_LINKS:
                raise
            return _write_exclusive(path, data, mode)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write one JSON document in one step."""
    write_new(path, json.dumps(value, separators=(",", ":")).encode(), durable=durable)


def read_json(path: Path) -> Any | None:
    """The document under `path`; None where there is none or it is damaged (a damaged one is kept beside its name)."""
    try:
        data = content(path)
    except FileNotFoundError:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        path.replace(path.with_name(path.name + ".damaged"))
        return None


def make_directory(path: Path, mode: int = 0o750) -> None:
    """Make a directory and those above it, as far as they are missing, durably: what is put there is not lost."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for one in reversed(missing):
        one.mkdir(mode=mode, exist_ok=True)
        sync_directory(one.parent)


def remove_tree(path: Path) -> None:
    """Take a directory away with all that is in it; shutil brings decompressors along. OSError where it stays."""
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            Path(entry.path).unlink()
    path.rmdir()


def give_to_owner(path: Path) -> None:
    """What root makes in a directory of another user's belongs to that one, who goes on with it."""
    if os.geteuid() == 0:
        status = path.parent.stat()
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    sync_file(path, os.O_DIRECTORY)


def sync_file(path: Path, flags: int = 0) -> None:
    """Make what a file holds durable; `flags` are open(2)'s, besides reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def content(path: Path) -> bytes:
    """What a plain file holds, nothing of what is none or too long: the agent may still be root when it reads here."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return b""
        raise
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON_B:
            return b""
        return file.read(status.st_size)  # not the most: a buffer of that size would be asked for


def _write(path: Path, pieces: Iterable[bytes], mode: int, durable: bool) -> int:
    length = 0
    fd = create(path, mode)
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
