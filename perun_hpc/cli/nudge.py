"""The word of EpilogSlurmctld that a job has ended: a file that it touches, so that the collector need not wait."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

NUDGE = Path("/run/perun-collect/nudge")
POLL_S = 0.5
REST_S = 2.0
"""EpilogSlurmctld runs beside the nodes' Epilogs, which take a moment to ship; and nobody can bring sweeps closer."""


class Nudge:
    """The file and when it was last touched.

    Anybody on the collector's machine may touch it, SlurmUser above all: it says "look", nothing else is read of it.
    """

    def __init__(self, path: Path = NUDGE) -> None:
        """Make the file; where there is no place for it there are sweeps only."""
        self._path = path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                os.fchmod(descriptor, 0o666)
            finally:
                os.close(descriptor)
        except OSError:
            pass
        self._seen_ns = self._touched_ns()

    def wait(self, stop: threading.Event, sweep_s: float) -> None:
        """Return when the next sweep is due, some time after a touch, or when told to stop."""
        until_s = time.monotonic() + sweep_s
        rested_s = time.monotonic() + REST_S
        while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
            stop.wait(min(POLL_S, left_s))
            if self._touched_ns() != self._seen_ns:
                self._seen_ns = self._touched_ns()
                until_s = min(until_s, max(rested_s, time.monotonic() + REST_S))

    def _touched_ns(self) -> int:
        try:
            return self._path.stat(follow_symlinks=False).st_mtime_ns
        except OSError:
            return 0
