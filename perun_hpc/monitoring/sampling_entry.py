"""Where the sampling process begins; light, since the application waits for it."""

from __future__ import annotations

import os

from perun_hpc.monitoring.orders import Orders, Signals
from perun_hpc.monitoring.shared import Event, Queue


def main(orders_fd: int, ready: int, start: int, stop: int, close: int, queue: int) -> None:
    """Run the sampling process; the numbers are those of the descriptors that it was given."""
    os.setsid()  # launchers end a failed run by killing the process group, terminals by interrupting it
    for fd in (orders_fd, ready, start, stop, close, queue):
        os.set_inheritable(fd, False)
    from perun_hpc.monitoring.sampling_process import sample

    try:
        given = Queue((orders_fd, -1)).get()
    except EOFError:
        os._exit(0)  # the parent has ended, or has no use for us
    signals = Signals(Event(ready), Event(start), Event(stop), Event(close), Queue((-1, queue)))
    sample(Orders._make(tuple(item) if isinstance(item, list) else item for item in given), signals)
    os._exit(0)  # all is written; taking the interpreter down in order would cost the parent another 30 ms
