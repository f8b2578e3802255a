"""The collector's end of a hand-over from nodes that share no file system with it: a port, and processes that listen.

One process, forked while the collector has one thread, forks those that take what nodes hand over (`taking`) and forks
another one wherever one dies: what that one had begun is handed over again. All wait on one socket, whose end is
theirs: each completes what it is taking.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from perun_hpc.archive import stream
from perun_hpc.archive.addresses import names_of
from perun_hpc.archive.stream import Munge, Receiver
from perun_hpc.archive.taking import LOCKS, Taker
from perun_hpc.errors import UnavailableError
from perun_hpc.process import child
from perun_hpc.process.locks import Locks

log = logging.getLogger(__name__)

WORKSPACE = ".handover"
"""Directory in the archive for what is not complete yet, of each host that listens one."""
AT_ONCE = 16
"""Hand-overs that a process takes at the same time; others wait in the kernel's queue."""
AGAIN_S = 0.1
DIED_S = 1.0
"""So long after one has died another process is forked: what kills each at once takes no core."""
MOST = 4
"""As many processes as the collector has cores, and no more than these, where a site says nothing else."""


class Listener:
    """Takes what nodes hand over, beside the sweeps, until it is closed."""

    def __init__(
        self,
        port: int,
        archive: Path,
        uids: Collection[int],
        receiver: Receiver | None = None,
        addresses: Callable[[str], Collection[str]] | None = None,
        clock: Callable[[], float] = time.time,
        names: Callable[[str], Collection[str]] = names_of,
        processes: int = 1,
    ) -> None:
        """As `Taker`; `processes` take hand-overs, 0: one a core, `MOST` at most."""
        self._locks = Locks(LOCKS)
        self._taker = Taker(archive, uids, receiver or Munge(), self._locks, addresses, clock, names)
        self._workspace = workspace(archive)
        self._count = processes or min(len(os.sched_getaffinity(0)), MOST)
        try:
            if socket.has_dualstack_ipv6():
                self._socket = socket.create_server(
                    ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
                )
            else:
                self._socket = socket.create_server(("", port), backlog=1024)
        except OSError as error:
            raise UnavailableError(
                f"port {port}: cannot listen ({error.strerror}): is another collector running? see store.collector"
            ) from error
        stream.at_once(self._socket)
        self._workspace.parent.mkdir(mode=0o700, exist_ok=True)
        for left in (self._workspace, *self._workspace.parent.glob("tmp*")):  # so an older one names it
            shutil.rmtree(left, ignore_errors=True)  # what a collector before this one did not complete
        self._workspace.mkdir(mode=0o700)
        self._fds = (self._socket.fileno(), *self._locks.fds, *_log_fds())
        self._keeper = child.start("hand-overs", self._keep, self._fds)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def take_allowed(self) -> None:
        """Take what was set aside and fits by now: an administrator allowed it, or this host knows the address.

        UnavailableError where nothing is taken any more: something killed the process that keeps the others.
        """
        if self._keeper.poll() is not None:
            raise UnavailableError("the processes that take hand-overs are gone: see who killed them, and start again")
        self._taker.take_allowed()

    def close(self) -> None:
        """Take nothing more; what is being taken is completed."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._keeper.wait()
        self._socket.close()
        self._locks.close()

    def _keep(self) -> None:
        """In a process of its own: keep as many as there should be, until all is closed and they have ended."""
        _end_with_the_collector_alone()
        working: dict[int, child.Child] = {}
        while True:
            for number in range(self._count) if _listens(self._socket) else ():
                if number not in working:
                    with contextlib.suppress(OSError):  # no memory, say: there may be some in a second
                        working[number] = child.start("hand-overs", partial(self._serve, f"{number}-"), self._fds)
            if not working and not _listens(self._socket):
                return
            if len(working) == self._count or not _listens(self._socket):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            ended = {number: code for number, one in working.items() if (code := one.poll()) is not None}
            for number in ended:
                del working[number]
            if _listens(self._socket):
                for code in ended.values():
                    log.warning("a process that takes hand-overs ended (%s): another one goes on", code)
                time.sleep(DIED_S)

    def _serve(self, prefix: str) -> None:
        """In a process of its own: take hand-overs, some beside each other, until the socket ends."""
        _end_with_the_collector_alone()
        for left in self._workspace.glob(f"{prefix}*"):  # what one before this one did not complete
            shutil.rmtree(left, ignore_errors=True)
        slots = threading.BoundedSemaphore(AT_ONCE)

        def take(connection: socket.socket, peer: str) -> None:
            try:
                self._taker.take_one(connection, peer, self._workspace, prefix)
            finally:
                slots.release()

        with ThreadPoolExecutor(AT_ONCE, "hand-over") as takers:
            while True:
                slots.acquire()
                try:
                    connection, peer = self._socket.accept()
                except OSError as error:
                    if not _listens(self._socket):
                        return
                    slots.release()
                    log.warning("hand-overs: %s", error)  # no descriptor left, say: the next one may be had
                    time.sleep(AGAIN_S)
                    continue
                takers.submit(take, connection, str(peer[0]))


def workspace(archive: Path) -> Path:
    """Where the collector of this host has what is not complete yet; another host's may take for the same archive."""
    return archive / WORKSPACE / f"of-{os.uname().nodename}"


def _listens(listening: socket.socket) -> bool:
    """Whether a socket has not been shut down, by whatever process."""
    return bool(listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _end_with_the_collector_alone() -> None:
    """What ends a service is said to all of its processes: these complete what they take, and end by the socket."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _log_fds() -> list[int]:
    """The files that this process logs into."""
    found = []
    for file in (sys.stderr, *(getattr(one, "stream", None) for one in logging.getLogger().handlers)):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or one without a descriptor
            found.append(file.fileno())  # type: ignore[union-attr]
    return found
