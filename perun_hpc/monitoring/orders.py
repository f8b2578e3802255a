"""What the sampling process is told, and its entry point; light, since the application waits while both sides
import."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event


class Orders(NamedTuple):
    """What the sampling process is to do; travels to it by pickle.

    Attributes
    ----------
    directory : of this host's part of the run; created by the parent.
    run_id, host : names that the trace carries.
    period_ns : sampling period.
    backends : names to open; None for the default ones, with the estimate where nothing measures power.
    include_backends, exclude_backends, include_sensors, exclude_sensors : expressions, see `catalog.Selection`.
    socket : where the ranks find the desk.
    ranks : how many ranks of this host register at the desk.
    live : files of Python code that register live callbacks.
    root : of the machine's /sys and /proc.
    """

    directory: str
    run_id: str
    host: str
    period_ns: int
    backends: tuple[str, ...] | None
    include_backends: tuple[str, ...]
    exclude_backends: tuple[str, ...]
    include_sensors: tuple[str, ...]
    exclude_sensors: tuple[str, ...]
    socket: str
    ranks: int = 0
    live: tuple[str, ...] = ()
    root: str = "/"


class Signals(NamedTuple):
    """The four events that parent and sampling process share, and the queue of the one final message."""

    ready: Event
    start: Event
    stop: Event
    close: Event
    queue: Queue[tuple[str, str, str]]


SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are meant for the application; the parent starts the sampling process with these blocked."""


def main(orders: Orders, signals: Signals) -> None:
    """Run the sampling process."""
    import os

    os.setsid()  # launchers end a failed run by killing the process group, terminals by interrupting it
    from perun_hpc.monitoring.sampling_process import sample

    sample(orders, signals)
    signals.queue.close()
    signals.queue.join_thread()
    os._exit(0)  # all is written; taking the interpreter down in order would cost the parent another 30 ms
