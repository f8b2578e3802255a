"""Files that people or scripts of a site write: read whole, up to a bound, and never waited for.

A name may turn out to be a directory, a pipe that nobody writes to, or a device without an end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most_b: int) -> bytes:
    """The content of a regular file; of a larger one a byte more than `most_b`. OSError for whatever else is there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most_b + 1)
    finally:
        os.close(descriptor)


def read_text(path: Path, most_b: int) -> str:
    """The text of a regular file in UTF-8, with or without a byte-order mark.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where it is too large, or not UTF-8: says in which line, and the remedy.
    """
    data = read_regular(path, most_b)
    if len(data) > most_b:
        raise ValueError(f"larger than {most_b >> 20} MiB: leave out the lines that are not needed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: the byte 0x{byte:02x} is not UTF-8: write the file in UTF-8") from error
