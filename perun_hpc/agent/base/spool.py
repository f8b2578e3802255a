"""Files of the spool that `store.files` does not cover: JSON documents, and lines that are appended and cut back."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from perun_hpc.store.files import write_new

MAX_LOG_B = 1 << 20
MAX_JSON_B = 256 << 20


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write one JSON document in one step."""
    write_new(path, json.dumps(value, separators=(",", ":")).encode(), durable=durable)


def read_json(path: Path) -> Any | None:
    """The document under `path`; None where there is none or it is damaged (a damaged one is kept beside its name)."""
    try:
        data = _content(path)
    except FileNotFoundError:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        path.replace(path.with_name(path.name + ".damaged"))
        return None


def _content(path: Path) -> bytes:
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
                total += (Path(place) / name).lstat().st_size
    return total
