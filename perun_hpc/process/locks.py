"""Locks between threads and forked processes alike: a process that dies holds none any more."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


class Locks:
    """So many locks, by their numbers. Made before the processes are forked, which keep `fds`."""

    def __init__(self, count: int) -> None:
        self.fds = tuple(os.memfd_create(f"lock-{number}") for number in range(count))

    @contextmanager
    def hold(self, number: int) -> Iterator[None]:
        """Wait until nobody else has it, and have it."""
        # Opened anew: a lock of flock(2) is its description's, which all who were forked share.
        fd = os.open(f"/proc/self/fd/{self.fds[number]}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def close(self) -> None:
        """Have none of them any more."""
        for fd in self.fds:
            os.close(fd)
