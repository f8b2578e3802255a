"""Files of the spool that grow: lines that are appended and cut back, and the log."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

MAX_LOG_B = 1 << 20


def append_lines(path: Path, lines: list[str]) -> int:
    """Append whole lines and return the file's length after them; on a full disk none of them stays."""
    data = "".join(line + "\n" for line in lines).encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        before = os.fstat(fd).st_size
        written = os.write(fd, data)
        if written < len(data):
            os.ftruncate(fd, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return before + written
    finally:
        os.close(fd)


def log_to(path: Path) -> None:
    """Let standard output and error, tracebacks included, go to a file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except OSError:  # a full disk must not keep the agent from its work
        return
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)


def bound_log(path: Path) -> None:
    """Put a log that has grown too long aside and begin a new one; one old one is kept."""
    if path.exists() and path.stat().st_size > MAX_LOG_B:
        path.replace(path.with_name(path.name + ".1"))
        log_to(path)


def cut(path: Path, length: int) -> None:
    """Drop what was appended behind `length`."""
    if path.exists() and path.stat().st_size > length:
        os.truncate(path, length)


def size_b(directory: Path) -> int:
    """Bytes of all files below a directory; what goes meanwhile counts as nothing."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{place}/{name}").st_size  # path objects would double the time
    return total
