"""The word of EpilogSlurmctld that a job has ended: an empty datagram, so that the collector need not wait."""

from __future__ import annotations

import select
import socket
import threading
import time
from pathlib import Path

WAKE = Path("/run/perun-collect/wake")
POLL_S = 0.5
REST_S = 2.0
"""EpilogSlurmctld runs beside the nodes' Epilogs, which take a moment to ship; and nobody can bring sweeps closer."""


class WakeSocket:
    """The socket that is knocked at.

    Anybody on the collector's machine may knock, SlurmUser above all: it says "look", nothing else is read of it, and
    what waits in the kernel's queue is bounded there.
    """

    def __init__(self, path: Path = WAKE) -> None:
        """Make the socket; where there is no place for it there are sweeps only."""
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)  # of a collector that is gone, or the file that older versions had here
            self._socket.bind(str(path))
            path.chmod(0o666)
        except OSError:
            self._socket.close()
            self._socket = None

    def wait(self, stop: threading.Event, sweep_s: float) -> None:
        """Return when the next sweep is due, some time after a knock, or when it is stopped."""
        until_s = time.monotonic() + sweep_s
        rested_s = time.monotonic() + REST_S
        while not stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if self._knocked(min(POLL_S, left_s), stop):
                until_s = min(until_s, max(rested_s, time.monotonic() + REST_S))

    def _knocked(self, seconds: float, stop: threading.Event) -> bool:
        """Wait so long at most; whether somebody knocked, however often."""
        if self._socket is None or not select.select([self._socket], [], [], seconds)[0]:
            if self._socket is None:
                stop.wait(seconds)
            return False
        for _ in range(1000):  # whoever knocks on and on is not listened to for ever
            try:
                self._socket.recv(1)
            except BlockingIOError:
                break
        return True
