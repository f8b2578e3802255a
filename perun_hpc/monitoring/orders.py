"""What the sampling process is told, and its entry point; light, since the application waits for it."""

from __future__ import annotations

import os
from typing import NamedTuple

from perun_hpc.monitoring.shared import Event, Queue

SUMMARY = "summary.json"
"""What the sampling process leaves of a host beside its readings."""
SCHEMA = "perun.host/1"


class Orders(NamedTuple):
    """What the sampling process is to do; travels to it as JSON.

    Attributes
    ----------
    directory : of this host's part of the run; created by the parent.
    run_id, host : names that the trace carries.
    period_ns : sampling period.
    backends : names to open; None for the default ones, with the estimate where nothing measures power.
    include_backends, exclude_backends, include_sensors, exclude_sensors : expressions, see `catalog.Selection`.
    socket : where the ranks find the desk.
    claims : whether the desk is another process'; only sensors that it does not own are then sampled here.
    parent : process whose end is the end of this one.
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
    parent: int
    ranks: int = 0
    live: tuple[str, ...] = ()
    root: str = "/"
    claims: bool = False


class Signals(NamedTuple):
    """The four events that parent and sampling process share, and the queue of the one final message."""

    ready: Event
    start: Event
    stop: Event
    close: Event
    queue: Queue


def main(orders_fd: int, ready: int, start: int, stop: int, close: int, queue: int) -> None:
    """Run the sampling process; the numbers are those of the descriptors that it was given."""
    os.setsid()  # launchers end a failed run by killing the process group, terminals by interrupting it
    for fd in (orders_fd, ready, start, stop, close, queue):
        os.set_inheritable(fd, False)
    from perun_hpc.monitoring.sampling_process import sample

    try:
        told = Queue((orders_fd, -1)).get()
    except EOFError:
        os._exit(0)  # the parent has ended, or has no use for us
    signals = Signals(Event(ready), Event(start), Event(stop), Event(close), Queue((-1, queue)))
    sample(Orders._make(tuple(item) if isinstance(item, list) else item for item in told), signals)
    os._exit(0)  # all is written; taking the interpreter down in order would cost the parent another 30 ms
