"""The sampling process of a run where no agent measures: reads the sensors of this host and writes as it goes.

Started by `spawn`, before the application. It ends when it is told to, or when its parent is gone; a signal that is
meant for the application does not touch it. The ranks of this host hand their data to its socket (`ranks.Desk`).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.backend.catalog import Catalog, Selection, discover_all
from perun_hpc.data_model.sensor import Provenance
from perun_hpc.errors import PerunError
from perun_hpc.monitoring.ranks import Desk
from perun_hpc.monitoring.tally import Tallies
from perun_hpc.sampling.schedule import Schedule
from perun_hpc.store import files
from perun_hpc.store.node_store import NodeStore

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

SUMMARY = "summary.json"
SCHEMA = "perun.host/1"
SHIELDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LONGEST_WAIT_S = 0.5
MAX_GAP_PERIODS = 10


@dataclass(frozen=True)
class Orders:
    """What the sampling process is to do; travels to it by pickle.

    Attributes
    ----------
    directory : of this host's part of the run; created by the parent.
    run_id, host : names that the trace carries.
    period_ns : sampling period.
    backends : names to open; None for the default ones, with the estimate where nothing measures power.
    selection : which backends and sensors are wanted.
    socket : where the ranks find the desk; "" for none.
    ranks : how many ranks of this host register at the desk.
    live : files of Python code that register live callbacks.
    root : of the machine's /sys and /proc.
    """

    directory: str
    run_id: str
    host: str
    period_ns: int
    backends: tuple[str, ...] | None
    selection: Selection
    socket: str = ""
    ranks: int = 0
    live: tuple[str, ...] = ()
    root: str = "/"


@dataclass(frozen=True)
class Signals:
    """The four events that parent and sampling process share, and the queue of the one final message."""

    ready: Event
    start: Event
    stop: Event
    close: Event
    queue: Queue[tuple[str, str, str]]


def main(orders: Orders, signals: Signals) -> None:
    """Entry point of the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        status, error = "complete", ""
        path = _run(orders, signals)
    except (PerunError, OSError) as problem:
        path, status, error = orders.directory, "failed", str(problem)
    except Exception as problem:  # the parent turns it into a status; a trace on its stderr would be the application's
        path, status, error = orders.directory, "failed", f"{type(problem).__name__}: {problem}"
    signals.queue.put((path, status, error))


def _run(orders: Orders, signals: Signals) -> str:
    catalog = discover_all(Path(orders.root), orders.backends, orders.selection)
    try:
        return _Sampler(orders, signals, catalog).run()
    finally:
        catalog.close()


class _Sampler:
    def __init__(self, orders: Orders, signals: Signals, catalog: Catalog) -> None:
        self._orders = orders
        self._signals = signals
        self._catalog = catalog
        self._readers = [reader for found in catalog.found.values() for reader in found.readers]
        everything = [sensor for reader in self._readers for sensor in reader.sensors]
        self._columns = [column for column, sensor in enumerate(everything) if orders.selection.sensor(sensor)]
        self._tallies = Tallies(
            [everything[column] for column in self._columns], MAX_GAP_PERIODS * max(orders.period_ns, 1_000_000_000)
        )
        self._lock = threading.Lock()
        self._parent = os.getppid()
        self._edges: list[tuple[int, tuple[int | None, ...]]] = []
        self._why = ""

    def run(self) -> str:
        orders = self._orders
        directory = Path(orders.directory)
        start_real_ns, start_mono_ns = time.time_ns(), time.monotonic_ns()
        sensors = self._tallies.sensors
        simulated = any(sensor.provenance is Provenance.SIMULATED for sensor in sensors)
        store = NodeStore.open(
            directory / "session",
            cluster="local",
            job_id=orders.run_id,
            restart_count=0,
            node=orders.host,
            nodes=(orders.host,),
            sensors=sensors,
            period_ns=orders.period_ns,
            start_ns=start_real_ns,
            job_dir=directory,
            sync_ns=None,
            simulated=simulated,
        )
        desk = Desk(orders.socket, directory / "ranks", self._energy_uj, orders.ranks) if orders.socket else None
        try:
            self._edge()
            self._signals.ready.set()
            self._sample(store)
            self._edge()
            if desk is not None:
                desk.finish(self._abandoned)
        finally:
            if desk is not None:
                desk.close()
        sealed = store.seal("partial" if self._why else "complete", self._why)
        files.write_new(directory / SUMMARY, json.dumps(self._summary(sealed.rows, start_real_ns, start_mono_ns)).encode(), durable=False)
        return orders.directory

    def _sample(self, store: NodeStore) -> None:
        from perun_hpc.monitoring.callbacks import LiveCallbacks

        live = LiveCallbacks.from_files(self._orders.live)
        schedule = Schedule.starting(self._orders.period_ns, time.monotonic_ns(), time.time_ns())
        stop = self._signals.stop
        while not (stop.is_set() or self._signals.close.is_set() or self._abandoned()):
            wait_s = (schedule.due_mono_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                stop.wait(min(wait_s, LONGEST_WAIT_S))
                continue
            now_ns = time.monotonic_ns()
            tick, schedule = schedule.observe(now_ns, time.time_ns()).take(now_ns)
            if tick is None:
                continue
            read_ns, values = self._read()
            store.append(tick.index, values, (time.monotonic_ns() - tick.due_mono_ns) // 1000)
            live.call(read_ns, self._tallies.sensors, values)
        live.close()

    def _abandoned(self) -> bool:
        gone = os.getppid() != self._parent
        if gone:
            self._why = "the monitoring process ended"
        return gone

    def _read(self) -> tuple[int, tuple[int | None, ...]]:
        with self._lock:
            readings = [reading for reader in self._readers for reading in reader.read()]
            kept = [readings[column] for column in self._columns]
            return time.monotonic_ns(), self._tallies.add(kept)

    def _edge(self) -> None:
        self._edges.append(self._read())

    def _energy_uj(self) -> tuple[int | None, int]:
        """A fresh reading for a window: the host's energy since the start and when."""
        now_ns, _ = self._read()
        with self._lock:
            return self._tallies.energy_uj(), now_ns

    def _summary(self, rows: int, start_real_ns: int, start_mono_ns: int) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "host": self._orders.host,
            "run_id": self._orders.run_id,
            "state": "partial" if self._why else "complete",
            "why": self._why,
            "period_ns": self._orders.period_ns,
            "start_real_ns": start_real_ns,
            "start_mono_ns": start_mono_ns,
            "cpus": os.cpu_count() or 1,
            "rows": rows,
            "edges": [{"mono_ns": mono_ns, "values": values} for mono_ns, values in self._edges],
            "sensors": [sensor.to_json() for sensor in self._tallies.sensors],
            "results": self._tallies.results(),
            "missing": [{"what": m.what, "why": m.why, "remedy": m.remedy} for m in self._catalog.missing],
        }

