"""What `perun monitor` and its sampling process share: flags and one-way queues, with `multiprocessing`'s interface.

Made of an eventfd or a pipe each. Those of `multiprocessing` cost each side about 15 ms of imports and start a third
process that looks after named semaphores.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from perun_hpc.process.ready import readable


class Event:
    """A flag, as `multiprocessing.Event`.

    Parameters
    ----------
    fd : the eventfd of a flag that another process made; None for a new one.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if fd is None else fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.fd)

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self.wait(0)

    def set(self) -> None:
        """Raise the flag."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Take the flag down."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the flag; False after `timeout` seconds."""
        return readable(self.fd, timeout)


class Queue:
    """A queue from one process to another of whatever JSON can hold, as `multiprocessing.Queue`.

    Parameters
    ----------
    fds : the ends for reading and for writing; None for a new queue. An end that this process has not is -1.
    """

    def __init__(self, fds: tuple[int, int] | None = None) -> None:
        self.fds = os.pipe() if fds is None else fds
        self._text = b""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.leave(0)
            self.leave(1)

    def leave(self, end: int) -> None:
        """Close this process' end for reading (0) or for writing (1)."""
        if self.fds[end] >= 0:
            os.close(self.fds[end])
            self.fds = (-1, self.fds[1]) if end == 0 else (self.fds[0], -1)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add one item; OSError where nobody is left to read it. A pipe takes what is put here at once."""
        rest = json.dumps(item).encode() + b"\n"
        while rest:
            rest = rest[os.write(self.fds[1], rest) :]

    def put_nowait(self, item: Any) -> None:
        """The same."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item; raises `queue.Empty` after `timeout` seconds, or at once unless it may `block`, EOFError where
        nobody is left to write one."""
        while b"\n" not in self._text:
            if not self._fill(timeout if block else 0):
                import queue

                raise queue.Empty
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)

    def get_nowait(self) -> Any:
        """The next item; raises `queue.Empty` where there is none yet."""
        return self.get(block=False)

    def qsize(self) -> int:
        """How many items wait here."""
        with contextlib.suppress(EOFError):
            while self._fill(0):
                pass
        return self._text.count(b"\n")

    def empty(self) -> bool:
        """Whether none waits."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Close both of this process' ends; a second call does nothing."""
        self.leave(0)
        self.leave(1)

    def join_thread(self) -> None:
        """Nothing: items are written by whoever puts them."""

    def cancel_join_thread(self) -> None:
        """Nothing."""

    def _fill(self, timeout: float | None) -> bool:
        """Take more of what was written; False where nothing came in that time, EOFError where nothing will."""
        if self.fds[0] < 0:
            raise ValueError("this queue is closed, or its other end is the one for reading")
        if not readable(self.fds[0], timeout):
            return False
        part = os.read(self.fds[0], 1 << 16)
        if not part:
            raise EOFError
        self._text += part
        return True
