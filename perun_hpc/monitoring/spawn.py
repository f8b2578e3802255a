"""The sampling process, seen by the one that starts it: a fresh interpreter that inherits nothing of the application,
no lock, no library, no MPI.

It is what `multiprocessing` calls spawn, with the interface of its processes, but not one of them: the application's
`__main__` is never imported a second time, its own `active_children` are its own, and the start is 40 ms shorter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import perun_hpc
from perun_hpc.inject import closed
from perun_hpc.monitoring.orders import Orders, Signals
from perun_hpc.monitoring.shared import Event, Queue

SHIELDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
"""Signals that are meant for the application: the sampling process is started with these blocked."""

_HERE = perun_hpc.__path__[0].rpartition("/")[0]
_BOOT = (
    "import sys; sys.path[:] = sys.argv[7:]; "
    "from perun_hpc.monitoring.sampling_entry import main; main(*map(int, sys.argv[1:7]))"
)


class SamplingProcess:
    """A sampling process that has been started and waits for its orders. OSError where it cannot be started.

    Parameters
    ----------
    events : ready, start, stop, close: to share with it; new ones if there are none yet.

    Attributes
    ----------
    signals : what it shares with this process.
    name : of the process.
    daemon : it ends with this process.
    """

    name = "perun-sampling"
    daemon = True
    _pidfd = -1

    def __init__(self, events: tuple[Event, Event, Event, Event] | None = None) -> None:
        self.signals = Signals(*(events or (Event(), Event(), Event(), Event())), Queue())
        self._orders = Queue()
        *shared, queue = self.signals
        fds = [self._orders.fds[0], *(event.fd for event in shared), queue.fds[1]]
        # Without `site`, whose work this process has done already: what it found is handed over; the standard
        # library comes first, so that a program's own `socket.py` is none of this process.
        path = dict.fromkeys([*closed.PLACES, *filter(None, sys.path), _HERE])
        command = [sys.executable, "-S", "-c", _BOOT, *map(str, fds), *path]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._orders.leave(0)
        queue.leave(1)

    def give(self, orders: Orders) -> None:
        """Hand over its orders, once."""
        self._orders.put(orders)
        self._orders.leave(1)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ident(self) -> int:
        """The same."""
        return self.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read once it has ended."""
        if self._pidfd < 0:
            self._pidfd = os.pidfd_open(self.pid)
        return self._pidfd

    def start(self) -> None:
        """ValueError: it was started when it was made."""
        raise ValueError("the sampling process has been started already")

    def run(self) -> None:
        """ValueError: its work is done in its own process."""
        raise ValueError("the sampling process works in a process of its own")

    @property
    def exitcode(self) -> int | None:
        """How it ended: -N by signal N; None while it runs."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.exitcode is None

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, no longer than `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def terminate(self) -> None:
        """The same: signals that are meant for the application do not reach it."""
        self.kill()

    def close(self) -> None:
        """Give back what is held of one that has ended; ValueError while it runs."""
        if self.is_alive():
            raise ValueError("the sampling process still runs: join it first")
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def end(self) -> None:
        """End it at once if it is still there; a second call does nothing."""
        if self.is_alive():
            self.kill()
            self.join()
        self.close()
