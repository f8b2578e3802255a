"""Waiting for one descriptor, not by select(2), which takes those below 1024 only; in the user's interpreter, too."""

from __future__ import annotations

import select


def readable(fd: int, timeout_s: float | None) -> bool:
    """Whether something can be read within that time (None: however long it takes), or the end be seen."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))
