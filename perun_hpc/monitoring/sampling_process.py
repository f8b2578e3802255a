"""The sampling process of a run where no agent measures: reads the sensors of this host and writes as it goes.

Started by `spawn`, before the application. It ends when it is asked to, or when its parent is gone; a signal that is
meant for the application does not touch it. The ranks of this host hand their data to its socket (`ranks.RankServer`).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.backend.catalog import Catalog, Selection, discover_all
from perun_hpc.data_model import codec
from perun_hpc.data_model.sensor import GAP, Provenance
from perun_hpc.energy.schedule import Schedule
from perun_hpc.errors import PerunError
from perun_hpc.monitoring.machine import facts
from perun_hpc.monitoring.orders import SCHEMA, SUMMARY, Orders, Signals
from perun_hpc.monitoring.ranks import RankServer
from perun_hpc.monitoring.tally import Tallies

if TYPE_CHECKING:
    from perun_hpc.monitoring.callbacks import LiveCallbacks
    from perun_hpc.monitoring.fast_rows import FastRows
    from perun_hpc.store.node_store import NodeStore

LONGEST_WAIT_S = 0.5
MAX_GAP_PERIODS = 10
CLAIM_S = 10.0
OPEN_AHEAD_S = 0.2
"""When the store is opened before its first row: many runs end earlier, and it costs some 20 ms."""
SAVE_NS = 5_000_000_000
"""How old what a killed run leaves of its sums may be."""


def sample(orders: Orders, signals: Signals) -> None:
    """The process' work: sample until asked to stop, then say how it went."""
    try:
        status, error = "complete", ""
        path = _run(orders, signals)
    except (PerunError, OSError) as problem:
        path, status, error = orders.directory, "failed", str(problem)
    except Exception as problem:  # the parent turns it into a status; a trace on its stderr would be the application's
        path, status, error = orders.directory, "failed", f"{type(problem).__name__}: {problem}"
    with contextlib.suppress(OSError):  # nobody is left to hear it
        signals.queue.put((path, status, error))


def _run(orders: Orders, signals: Signals) -> str:
    selection = Selection(
        orders.include_backends, orders.exclude_backends, orders.include_sensors, orders.exclude_sensors
    )
    catalog = discover_all(Path(orders.root), orders.backends, selection)
    try:
        known = set(selection.sensors(catalog.sensors))
        if not orders.claims and (idle := selection.unmatched(catalog.sensors)):
            from perun_hpc.monitoring.callbacks import warn

            warn(idle)
        if orders.claims and not (known := _claimed(orders, known)):
            signals.ready.set()
            return ""
        return _Sampler(orders, signals, catalog, known).run()
    finally:
        catalog.close()


def _claimed(orders: Orders, known: set[str]) -> set[str]:
    """Those of the sensors that nobody on this host owns yet: a device that only this rank is shown."""
    from perun_hpc.wire.client import request

    answer = request(
        "claim", {"sensors": "\n".join(sorted(known))}, timeout_s=CLAIM_S, path=orders.socket, owner=os.geteuid()
    )
    return set((answer.get("sensors") or "").split("\n")) - {""}


class _Sampler:
    def __init__(self, orders: Orders, signals: Signals, catalog: Catalog, known: set[str]) -> None:
        self._orders = orders
        self._signals = signals
        self._catalog = catalog
        self._readers = [reader for found in catalog.found.values() for reader in found.readers]
        everything = [sensor for reader in self._readers for sensor in reader.sensors]
        self._columns = [column for column, sensor in enumerate(everything) if sensor.id in known]
        self._kept = [everything[column] for column in self._columns]
        self._owned = set(known)
        self._tallies = Tallies(self._kept, MAX_GAP_PERIODS * max(orders.period_ns, 1_000_000_000))
        self._sensors = [sensor.to_json() for sensor in self._tallies.sensors]
        self._lock = threading.Lock()
        self._fast: FastRows | None = None
        self._edges: list[tuple[int, tuple[int | None, ...]]] = []
        self._why = ""
        self._machine = facts(Path(orders.root))

    def run(self) -> str:
        orders = self._orders
        directory = Path(orders.directory)
        self._start_real_ns, self._start_mono_ns = time.time_ns(), time.monotonic_ns()
        rank_server = None if orders.claims else RankServer(orders.socket, directory / "ranks", self, orders.ranks)
        try:
            self._edge()
            self._signals.ready.set()
            store = self._sample()
            if rank_server is not None:
                rank_server.finish(self._abandoned)
        finally:
            if rank_server is not None:
                rank_server.close()
        state, rows = "partial" if self._why else "complete", 0
        if store is not None and (rows := store.seal(state, self._why).rows):
            from perun_hpc.store.merge import finalise

            finalise(directory, (), time.time_ns())
        ended = [] if rank_server is None else [codec.encode(one) for one in rank_server.ended.values()]
        self._write({**self._summary(rows, state, self._edges), "ended": ended})
        return orders.directory

    def _write(self, summary: dict[str, Any]) -> None:
        from perun_hpc.files import write_new

        data = json.dumps(summary).encode()
        write_new(Path(self._orders.directory) / SUMMARY, data, mode=0o666, durable=False)  # as the umask says

    def _open_store(self) -> NodeStore:
        import perun_hpc.store.merge  # noqa: F401  (now: hours later it may be another version's)
        from perun_hpc.store.node_store import NodeStore

        orders, sensors = self._orders, self._tallies.sensors
        directory = Path(orders.directory)
        return NodeStore.open(
            directory,
            cluster="local",
            job_id=orders.run_id,
            restart_count=0,
            node=orders.host,
            nodes=(orders.host,),
            sensors=sensors,
            period_ns=orders.period_ns,
            start_ns=self._start_real_ns,
            job_dir=directory,
            sync_ns=None,
            simulated=any(sensor.provenance is Provenance.SIMULATED for sensor in sensors),
        )

    def _sample(self) -> NodeStore | None:
        """Sample until asked to stop, and take the last reading; returns the store, None where the run was over before
        the first row."""
        from perun_hpc.monitoring.callbacks import LiveCallbacks

        live = LiveCallbacks.from_files(self._orders.live)
        live.call(self._tallies.sensors, self._edges[0][1])
        schedule = Schedule.starting(self._orders.period_ns, time.monotonic_ns(), time.time_ns())
        store, fast = None, self._fast_rows(schedule, live)
        if fast is not None:
            store = self._sample_fast(fast, live)
            schedule = fast.schedule
        if not self._ends():
            store = self._sample_here(schedule, store, live)
        self._edge()
        live.call(self._tallies.sensors, self._edges[-1][1])
        live.close()
        return store

    def _ends(self) -> bool:
        return self._signals.stop.is_set() or self._signals.close.is_set() or self._abandoned()

    def _fast_rows(self, schedule: Schedule, live: LiveCallbacks) -> FastRows | None:
        """`perun-sample` at work, where the period asks for it and it can be had."""
        from perun_hpc.monitoring.fast_rows import FAST_NS, FastRows

        if schedule.period_ns >= FAST_NS:
            return None
        try:
            return FastRows(self._readers, self._kept, self._tallies, schedule, at_once=live.wanted)
        except OSError:
            return None

    def _sample_here(self, schedule: Schedule, store: NodeStore | None, live: LiveCallbacks) -> NodeStore | None:
        stop, saved_ns = self._signals.stop, 0
        while not self._ends():
            wait_s = (schedule.due_mono_ns - time.monotonic_ns()) / 1e9
            if store is None and wait_s <= OPEN_AHEAD_S:
                store = self._open_store()
                continue
            if wait_s > 0:
                stop.wait(min(wait_s - (OPEN_AHEAD_S if store is None else 0), LONGEST_WAIT_S))
                continue
            now_ns = time.monotonic_ns()
            tick, schedule = schedule.observe(now_ns, time.time_ns()).take(now_ns)
            if tick is None:
                continue
            read_ns, values = self._read()
            assert store is not None
            store.append(tick.index, values, (time.monotonic_ns() - tick.due_mono_ns) // 1000)
            if read_ns - saved_ns >= SAVE_NS:
                saved_ns = read_ns
                self._save((read_ns, values))
            live.call(self._tallies.sensors, values)
        return store

    def _save(self, edge: tuple[int, tuple[int | None, ...]]) -> None:
        with contextlib.suppress(OSError):
            self._write(self._summary(0, "running", [*self._edges, edge]))

    def _sample_fast(self, fast: FastRows, live: LiveCallbacks) -> NodeStore:
        """Sample by `perun-sample` until asked to stop, or until it has ended: `fast` then knows where to go on."""
        store, saved_ns = self._open_store(), self._start_mono_ns
        with self._lock:
            self._fast = fast
        try:
            while not self._ends():
                with self._lock:
                    fast.turn()
                self._store_rows(fast, store, live)
                if (now_ns := time.monotonic_ns()) - saved_ns >= SAVE_NS and fast.edge[1]:
                    saved_ns = now_ns
                    with self._lock:
                        self._save(fast.edge)
                self._signals.stop.wait(min(LONGEST_WAIT_S, fast.wait_ns / 1e9))
        except EOFError:
            pass
        with self._lock:
            self._fast = None
            fast.stop()
        self._store_rows(fast, store, live)
        return store

    def _store_rows(self, fast: FastRows, store: NodeStore, live: LiveCallbacks) -> None:
        with self._lock:
            taken = list(fast.rows())
        for ticks, late_us, columns, rising in taken:
            store.extend(ticks, late_us, columns, rising)
            if live.wanted:
                for row in zip(*columns, strict=True):
                    live.call(self._tallies.sensors, [None if one == GAP else one for one in row])

    def _abandoned(self) -> bool:
        gone = os.getppid() != self._orders.parent
        if gone:
            self._why = "the monitoring process ended"
        return gone

    def _read(self) -> tuple[int, tuple[int | None, ...]]:
        with self._lock:
            if self._fast is not None:
                self._fast.settle()
            readings = [reading for reader in self._readers for reading in reader.read()]
            kept = [readings[column] for column in self._columns]
            values = self._tallies.add(kept)
            read_ns = time.monotonic_ns()
            if self._fast is not None:
                self._fast.go_on_from((read_ns, values))
            return read_ns, values

    def _edge(self) -> None:
        self._edges.append(self._read())

    def energy_uj(self) -> tuple[int | None, int]:
        """A fresh reading for a window: the host's energy since the start and when."""
        now_ns, _ = self._read()
        with self._lock:
            return self._tallies.energy_uj(), now_ns

    def claim(self, sensors: Sequence[str]) -> list[str]:
        """Those of another process' sensors that nobody owns yet; they are that process' from now on."""
        with self._lock:
            granted = [name for name in sensors if name not in self._owned]
            self._owned.update(granted)
        return granted

    def write_summary(self) -> str:
        """The summary up to now, for callbacks in the application."""
        edge = self._read()
        with self._lock:
            self._write(self._summary(0, "running", [*self._edges, edge]))
        return self._orders.directory

    def _summary(self, rows: int, state: str, edges: list[tuple[int, tuple[int | None, ...]]]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "host": self._orders.host,
            "pid": os.getpid(),
            "run_id": self._orders.run_id,
            "app": self._orders.app,
            "config": self._orders.config,
            "machine": self._machine,
            "state": state,
            "why": self._why,
            "period_ns": self._orders.period_ns,
            "start_real_ns": self._start_real_ns,
            "start_mono_ns": self._start_mono_ns,
            "cpus": os.cpu_count() or 1,
            "rows": rows,
            "edges": [{"mono_ns": mono_ns, "values": values} for mono_ns, values in edges],
            "sensors": self._sensors,
            "results": self._tallies.results(),
            "missing": [codec.encode(one) for one in self._catalog.missing],
        }
