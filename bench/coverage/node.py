"""Jobs on a simulated node, through the engine that the agent has: intervals, booking, learning, records.

Here is what the agent does between its sensors and its spool, without clocks and files of its own: a reading at every
job's start and end and every ten seconds, gauges once a second, points of the curve as often as is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.coverage.sensors import NS_PER_S, Curve, Shown, ns
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.measure import booking, curve, step_meter
from perun_hpc.agent.measure.intervals import Intervals, Stretch
from perun_hpc.agent.measure.learning import Figure, Learning
from perun_hpc.agent.outbox.boundary import Cost, boundary_record
from perun_hpc.agent.sources.gauges import Gauges
from perun_hpc.data_model.boundary import Boundary, parse_boundary
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Reading, Sensor
from perun_hpc.energy.attribute import GpuHolding, JobInput, NodeInput
from perun_hpc.energy.containment import EnergyDomain, energy_counters, plan
from perun_hpc.energy.uncertainty import STATIC_ERROR

TICK_NS = 10_000_000
REAL_NS = 1_790_000_000 * NS_PER_S
INTERVAL_S = 10.0
FITTED = ContextVar("fitted", default=False)
"""Whether nodes that are made share out by `cores+fit`."""


@dataclass(frozen=True)
class Run:
    """A job on the node: what the kernel shows of it. `busy` is its CPU time over time (CPUs busy).

    `parts` and `active` say of GPUs that it shares how many slices or shards it holds, and how active it is there
    (None: nobody knows); `stopped` from when to when it is suspended.
    """

    number: int
    cpus: frozenset[int]
    memory_b: int
    start_s: float
    end_s: float
    busy: Curve
    gpus: tuple[str, ...] = ()
    exclusive: bool = False
    parts: Mapping[str, int] = field(default_factory=dict)
    active: Mapping[str, Curve | None] = field(default_factory=dict)
    stopped: tuple[tuple[float, float], ...] = ()

    def hold(self, gpu: str, from_s: float, to_s: float) -> GpuHolding:
        """Its hold on a GPU in an interval; activity in millionths."""
        curve = self.active.get(gpu)
        mean = curve.between(from_s, to_s) / (to_s - from_s) if curve is not None else None
        return GpuHolding(part=self.parts.get(gpu, 1), activity=None if mean is None else round(mean * 1e6))

    @property
    def key(self) -> SessionKey:
        """Its name."""
        return SessionKey(self.number + 1, 0)


@dataclass(frozen=True)
class StepRun:
    """A step of the node's first job: `busy` is its CPU time over time, `held` how many CPUs it has."""

    number: int
    start_s: float
    end_s: float
    busy: Curve
    held: int


@dataclass
class Node:
    """A node: its CPUs, its sensors, how busy each CPU is (`busy`), who runs when.

    `static` holds figures of the policy, by kind of domain; `past` is a node's idle time that it learns from first.
    `fitted` : whether the watts of jobs' work are learnt from the packages' power.
    `points_s` : how often the curves of jobs get a point; 0: never. Where `seen`, an interval ends where a step of
    `steps` begins or ends, as it does where a job is alone; else the agent does not hear of them in time.
    """

    cpus: NodeInput
    shown: Sequence[Shown]
    busy: Mapping[int, Curve]
    runs: Sequence[Run]
    length_s: float
    phase_s: float = 0.0
    static: Mapping[str, int] = field(default_factory=dict)
    learning: Learning = field(default_factory=Learning)
    slices: Mapping[str, int] = field(default_factory=dict)
    fitted: bool = field(default_factory=FITTED.get)
    poll_phase_s: float = 0.3
    points_s: float = 0.0
    steps: Sequence[StepRun] = ()
    seen: bool = True
    points: dict[SessionKey, list[tuple[int, int]]] = field(default_factory=dict)
    sessions: dict[SessionKey, Session] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    _curve: list[tuple[int, int]] = field(default_factory=list)
    _power_uw: Mapping[str, int] = field(default_factory=dict)

    def run(self, name: str = "node") -> dict[int, Boundary]:
        """Boundary records by the job's number, as the collector reads them."""
        self._begin()
        events = self._events()
        live: list[Run] = []
        records: dict[int, Boundary] = {}
        last_s: float | None = None
        for at_s in sorted(events):
            if events[at_s] == "poll":
                self._gauges.take(self._raw(at_s))
                continue
            readings = self._readings(at_s)
            if events[at_s] == "point":
                if last_s is not None and len(live) == 1:
                    self._curve.append((ns(at_s), self._curve[-1][1] + self._intervals.since(readings)))
                continue
            ending = [run for run in live if run.end_s == at_s]
            if last_s is None:
                self._intervals.begin(ns(at_s), readings)
            elif at_s > last_s:
                self._close(last_s, at_s, live, readings, bool(ending))
            self._curve = [(ns(at_s), 0)]
            last_s = at_s
            for run in ending:
                live.remove(run)
                records[run.number] = self._record(run, at_s, readings, name)
            for run in self.runs:
                if run.start_s == at_s:
                    live.append(run)
                    self._start(run, readings)
        return records

    def _events(self) -> dict[float, str]:
        """When the agent reads, and what for."""
        events: dict[float, str] = {}
        grid = np.arange(self.phase_s % INTERVAL_S, self.length_s, INTERVAL_S)
        stops = (t for run in self.runs for window in run.stopped for t in window)
        for at_s in (0.0, *grid, *(t for run in self.runs for t in (run.start_s, run.end_s)), *stops):
            events[float(at_s)] = "interval"
        for step in self.steps if self.seen else ():
            events[float(step.start_s)] = events[float(step.end_s)] = "interval"
        if self.points_s:
            for at_s in np.arange(self.poll_phase_s * self.points_s, self.length_s, self.points_s):
                events.setdefault(float(at_s), "point")
        if self._gauges.sensors:
            for at_s in np.arange(self.poll_phase_s, self.length_s, 1.0):
                events.setdefault(float(at_s), "poll")
        return events

    def _begin(self) -> None:
        self._gauges = Gauges()
        sensors = [one.sensor for one in self.shown]
        self._gauges.follow(sensors)
        self._sensors: tuple[Sensor, ...] = energy_counters((*sensors, *self._gauges.sensors))
        counted = plan((*sensors, *self._gauges.sensors)).counted
        self.domains: dict[str, EnergyDomain] = {one.name: one for one in counted}
        self._intervals = Intervals(counted, self.cpus)
        self._intervals.slices = self.slices
        self._intervals.fitted = self.fitted
        self._parametrise()

    def _parametrise(self) -> None:
        known = self.learning.figures(self.domains.values(), None)
        stated = {name: Figure(self.static[name], "policy") for name in known if name in self.static}
        self.figures = {**known, **stated}
        self._intervals.static_uw = {name: one.uw for name, one in self.figures.items()}
        self._intervals.static_error = {name: STATIC_ERROR[one.source] for name, one in self.figures.items()}
        self._intervals.guessed = {name for name, one in self.figures.items() if one.source == "unknown"}

    def _raw(self, at_s: float) -> dict[str, Reading]:
        return {one.sensor.id: one.read(at_s) for one in self.shown}

    def _readings(self, at_s: float) -> dict[str, Reading]:
        readings = self._raw(at_s)
        return {**readings, **self._gauges.advance(readings, ns(at_s))}

    def _busy(self, from_s: float, to_s: float) -> dict[int, int]:
        def ticks(curve: Curve, at_s: float) -> int:
            return int(curve.until(at_s) * NS_PER_S) // TICK_NS * TICK_NS

        return {cpu: ticks(one, to_s) - ticks(one, from_s) for cpu, one in self.busy.items()}

    def _close(
        self, from_s: float, to_s: float, live: Sequence[Run], readings: Mapping[str, Reading], settle: bool
    ) -> None:
        alone = len(live) == 1
        jobs = tuple(
            JobInput(
                owner=run.key.owner,
                cpus=run.cpus,
                cpu_ns=round(run.busy.between(from_s, to_s) * NS_PER_S),
                memory_b=run.memory_b,
                gpus={gpu: run.hold(gpu, from_s, to_s) for gpu in run.gpus},
                suspended=any(begin <= from_s and to_s <= until for begin, until in run.stopped),
                exclusive=run.exclusive and alone,
            )
            for run in live
        )
        stretch = Stretch(ns(from_s), ns(to_s), self._busy(from_s, to_s), jobs)
        before = {run.key: self.sessions[run.key].energy_uj for run in live}
        if self.points_s:
            self._curve.append((ns(to_s), self._curve[-1][1] + self._intervals.since(readings)))
        closed = self._intervals.add(stretch, readings, settle)
        sessions = [self.sessions[run.key] for run in live]
        self._power_uw = booking.book(closed, sessions, self.domains, self.figures, "2026-11-30", self._power_uw)
        if self.steps and live:
            self._share_out(live[0], from_s, to_s, sum(stretch.busy_ns.values()))
        peaks = dict.fromkeys(self.domains, 100)
        if self.learning.take(closed, stretch, self.cpus, self.domains, peaks, REAL_NS):
            self._parametrise()
        for run in live:
            if self.points_s:
                session, points = self.sessions[run.key], self.points[run.key]
                given = session.energy_uj - before[run.key]
                alone_points = curve.spread(self._curve, before[run.key], given)
                points += alone_points if alone else [(ns(to_s), session.energy_uj)]

    def _share_out(self, run: Run, from_s: float, to_s: float, busy_ns: int) -> None:
        """What the agent's look at the job's steps finds at the interval's end."""
        session = self.sessions[run.key]
        cpu_ns = round(run.busy.between(from_s, to_s) * NS_PER_S)
        session.use(cpu_ns, 0, 0)
        session.work(max(cpu_ns, busy_ns))
        for step in self.steps:
            name = str(step.number)
            if step.start_s < to_s and name not in session.uses:
                session.add_use(StepUse(name, REAL_NS + ns(step.start_s), ns(step.start_s), held=step.held))
            use = session.uses.get(name)
            if use is None or use.end_ns is not None:
                continue
            use.read(round(step.busy.between(step.start_s, min(to_s, step.end_s)) * NS_PER_S))
            if step.end_s <= to_s:
                use.finish(REAL_NS + ns(step.end_s), ns(step.end_s))
                use.settled = True
        step_meter.share_out(session, self.figures, ns(to_s))

    def _start(self, run: Run, readings: Mapping[str, Reading]) -> None:
        at_s = run.start_s
        job = {"cluster": "c", "uid": "1000", "job_id": str(run.number + 1), "exclusive": "1" if run.exclusive else ""}
        edge = Edge(REAL_NS + round(at_s * NS_PER_S), ns(at_s), 0, "hook")
        session = Session(run.key, job, {}, "", "boot", edge)
        session.edges_start = booking.take_edge(readings, self._sensors)
        session.cpus = sorted(run.cpus)
        self.sessions[run.key] = session
        self.points[run.key] = [(ns(at_s), 0)]

    def _record(self, run: Run, at_s: float, readings: Mapping[str, Reading], name: str) -> Boundary:
        session = self.sessions[run.key]
        end = Edge(REAL_NS + round(at_s * NS_PER_S), ns(at_s), 0, "hook")
        session.finish(end, booking.take_edge(readings, self._sensors), 0)
        session.cpu_ns = round(run.busy.between(run.start_s, run.end_s) * NS_PER_S)
        record: dict[str, Any] = boundary_record(
            session,
            end,
            self._sensors,
            name,
            len(self.cpus.core_of),
            Cost(0, 0, 0, 0),
            booking.doubts(session, self.domains),
            self.figures,
            "",
            edges_uj=booking.edges_uj(session, self.domains),
        )
        self.last_record = record
        return parse_boundary(json.dumps(record).encode(), name)
