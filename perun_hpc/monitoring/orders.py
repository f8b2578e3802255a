"""What the sampling process is given, and what it shares with the one that starts it."""

from __future__ import annotations

from collections.abc import Mapping
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
    socket : where the ranks find the rank server.
    claims : whether the rank server is another process'; only sensors that it does not own are then sampled here.
    parent : process whose end is the end of this one.
    ranks : how many ranks of this host register at the rank server.
    live : files of Python code that register live callbacks.
    root : of the machine's /sys and /proc.
    app, config : the application's name and the options in force (`config.user.flat`), for whoever reads the summary.
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
    app: str = ""
    config: Mapping[str, str] = {}


class Signals(NamedTuple):
    """The four events that parent and sampling process share, and the queue of the one final message."""

    ready: Event
    start: Event
    stop: Event
    close: Event
    queue: Queue
