"""The figures that Slurm's own commands show of jobs and of the node: a file that our energy plugin reads.

A job that is alone on its node has its energy at every edge and once a second, with the power at which it goes on until
the next time. What is seen of a shared node moves at the node's own moments only, as everywhere (`Moments`): Slurm
shows everybody's figures to anybody. The layout stands in `docs/architecture.md`; a figure says how long it counts, so
that those of an agent that is gone become blanks.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.figure import OF_JOB, SECOND_NS, Figure, capped, packed
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.moments import Moments
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy.attribute import OTHER
from perun_hpc.process.clock import Clock

COUNTS_NS = 3 * SECOND_NS
"""So long a figure of a second counts."""
YOUNG_NS = 10 * SECOND_NS
"""While a step is younger, its job's steps have their parts once a second: Slurm asks before it ends."""


Content = tuple[Figure | None, list[tuple[int, int, Figure]]]
"""The node's figure, and those of jobs and steps (id, step or `OF_JOB`)."""


class SlurmFigures:
    """Keeps the file; `descriptor` is of a file that is root's, opened while the agent was root."""

    def __init__(
        self,
        descriptor: int,
        register: Register,
        meter: Meter,
        moments: Moments,
        policy: PolicyKeeper,
        clock: Clock,
    ) -> None:
        self._descriptor = descriptor
        self._register = register
        self._meter = meter
        self._moments = moments
        self._policy = policy
        self._clock = clock
        self._node: Figure | None = None
        self._jobs: dict[SessionKey, Figure] = {}
        self._steps: dict[SessionKey, dict[int, Figure]] = {}
        self._sequence = 0
        self._content: Content | None = None

    @property
    def _wanted(self) -> bool:
        return self._policy.settled and self._policy.site().metrics.slurm

    @property
    def want_looks(self) -> bool:
        """Whether there are figures that move each second."""
        return self._wanted and bool(self._register.live)

    def _shared_until_ns(self, at_ns: int) -> int:
        """Until when a figure of a node's moment counts: one moment may fail."""
        return at_ns + 2 * max(self._moments.resolution_ns, self._meter.schedule.period_ns) + COUNTS_NS

    def note(self, snapshot: Snapshot, moment: bool) -> None:
        """An interval of the grid has ended: figures of the node and of those who share it, if it is the moment."""
        if not self._wanted:
            return
        if moment:
            until_ns = self._shared_until_ns(snapshot.mono_ns)
            energy_uj = self._meter.totals.all_uj
            before = self._node or Figure(energy_uj, snapshot.mono_ns)
            self._node = replace(before.next(energy_uj, snapshot.mono_ns), until_ns=until_ns)
            for session in self._register.live.values():
                if not self._moments.alone(session):
                    self._show_shared(session, snapshot.mono_ns, until_ns)
        self.turn(snapshot)

    def _show_shared(self, session: Session, mono_ns: int, until_ns: int) -> None:
        """The figure of a job beside others, not sooner after its last one, or its start, than anybody may see it."""
        known, its_uj = self._jobs.get(session.key), energy_of(session)
        since_ns = session.start.mono_ns if known is None else known.at_ns
        if its_uj is None or not self._moments.far_enough(since_ns, mono_ns):
            return
        self._jobs[session.key] = Figure(its_uj, mono_ns, 0, until_ns)
        self._steps[session.key] = {
            use.number: Figure(use.energy_uj, mono_ns, 0, until_ns)
            for use in session.uses.values()
            if use.energy_uj is not None
        }

    def turn(self, snapshot: Snapshot | None = None) -> None:
        """About once a second, and at edges: the figure of a job that is alone."""
        if not self._wanted:
            self.close()
            return
        live = self._register.live
        self._jobs = {key: figure for key, figure in self._jobs.items() if key in live}
        self._steps = {key: figures for key, figures in self._steps.items() if key in live}
        for session in live.values():
            if self._moments.alone(session):
                self._follow(session, snapshot)
            elif (known := self._jobs.get(session.key)) is not None and known.power_uw:
                # Others came: what it draws is not seen any more.
                until_ns = self._shared_until_ns(known.at_ns)
                self._jobs[session.key] = replace(known, power_uw=0, until_ns=until_ns)
                self._steps[session.key] = {
                    number: replace(one, power_uw=0, until_ns=until_ns)
                    for number, one in self._steps.get(session.key, {}).items()
                }
        self._write()

    def _follow(self, session: Session, snapshot: Snapshot | None) -> None:
        """The figure of a job that has the node for itself: what counters counted in the open interval is its own."""
        inside_uj = 0
        if snapshot is None and any(_is_young(use, self._clock.mono_ns()) for use in session.uses.values()):
            snapshot = self._meter.end_interval()
        elif snapshot is None:
            snapshot = self._meter.read_without_closing()
            inside_uj = self._meter.counted_uj(snapshot, session)
        energy_uj = energy_of(session)
        if energy_uj is None and (session.domains or not inside_uj):
            return
        began = Figure(0, session.start.mono_ns)
        figure = self._jobs.get(session.key, began).next((energy_uj or 0) + inside_uj, snapshot.mono_ns)
        self._jobs[session.key] = replace(figure, until_ns=snapshot.mono_ns + COUNTS_NS)
        self._follow_steps(session)

    def _follow_steps(self, session: Session) -> None:
        """Its steps' figures as of when they were given their parts last, with the mean power since the time before."""
        shared_ns = session.shared_out.get("mono_ns", session.start.mono_ns)
        before = self._steps.get(session.key, {})
        self._steps[session.key] = {
            use.number: before.get(use.number, Figure(0, use.start_mono_ns)).next(use.energy_uj, shared_ns)
            for use in session.uses.values()
            if use.energy_uj is not None
        }

    def _write(self) -> None:
        """Steps that have ended stand last: Slurm hardly asks for them, and the file has an end."""
        jobs = [(key.job_id, OF_JOB, figure) for key, figure in self._jobs.items()]
        going_on: list[tuple[int, int, Figure]] = []
        over: list[tuple[int, int, Figure]] = []
        for key in self._steps:
            ended = _ended(self._register.live[key])
            for number, figure in self._shown_steps(key, ended).items():
                step = number & 0xFFFF_FFFF
                if step != OF_JOB:  # the sum of further steps is none of Slurm's
                    (over if number in ended else going_on).append((key.job_id, step, figure))
        self._put((self._node, [*jobs, *going_on, *over]))

    def _put(self, content: Content) -> None:
        """Write what is not there yet: without jobs that is at the node's moments, by which a living agent is known."""
        if content != self._content:
            self._content = content
            self._sequence += 1
            os.pwrite(self._descriptor, packed(*content, self._sequence), 0)

    def _shown_steps(self, key: SessionKey, ended: Collection[int]) -> dict[int, Figure]:
        session, steps = self._register.live[key], self._steps[key]
        if not self._moments.alone(session) or key not in self._jobs:
            return steps
        return capped(steps, ended, self._jobs[key])

    def close(self) -> None:
        """Leave no figure: the agent ends, or the policy asks for none any more."""
        self._node, self._jobs, self._steps = None, {}, {}
        self._put((None, []))


def _ended(session: Session) -> frozenset[int]:
    return frozenset(use.number for use in session.uses.values() if use.end_ns is not None)


def _is_young(use: StepUse, mono_ns: int) -> bool:
    """Whether it is a step that began a moment ago and goes on."""
    return use.end_ns is None and use.number >= 0 and mono_ns - use.start_mono_ns < YOUNG_NS


def energy_of(session: Session) -> int | None:
    """What the job has by its record's rule: its parts, or the meter where that is all.

    None if nothing was measured, or its CPUs or a GPU never: the record says that it is partial, which Slurm cannot.
    """
    leaves = [one for name, one in session.domains.items() if not name.startswith(OTHER)]
    counted = leaves or list(session.domains.values())
    known = [one for one in counted if one.covered_ns]
    if not known or any(one not in known and one.component != "dram" for one in counted):
        return None
    return sum(one.energy_uj for one in known)
