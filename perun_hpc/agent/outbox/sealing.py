"""Ended sessions become boundary records in the spool, durable; what a full disk refuses stays in memory."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.agent.base import privilege
from perun_hpc.agent.base.paths import ASIDE, AgentPaths, free_name
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.jobs.intake import Intake
from perun_hpc.agent.jobs.step_log import StepLog
from perun_hpc.agent.jobs.use_log import UseLog
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.outbox.boundary import Cost, boundary_record
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.sources.conditions import conditions
from perun_hpc.agent.sources.cpu_settings import LONGEST
from perun_hpc.agent.sources.node import resident_b
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import failures, guard, log, place

AGAIN_NS = 1_000_000_000


class Sealing:
    """Writes the records of the register's ended sessions, once the policy is settled and their ranks' data copied."""

    def __init__(
        self,
        paths: AgentPaths,
        register: Register,
        meter: Meter,
        traces: Traces,
        applier: PolicyApplier,
        step_log: StepLog,
        use_log: UseLog,
        intake: Intake,
        clock: Clock,
        machine_id: str,
    ) -> None:
        self._paths = paths
        self._register = register
        self._meter = meter
        self._traces = traces
        self._applier = applier
        self._step_log = step_log
        self._use_log = use_log
        self._intake = intake
        self._clock = clock
        self._machine_id = machine_id
        self._again_ns = 0
        self.refused: dict[SessionKey, str] = {}
        """Why records could not be written when it was last tried."""

    def is_due(self, mono_ns: int) -> bool:
        """Whether records wait, and the disk may have space."""
        return mono_ns >= self._again_ns and not all(map(self._intake.copies, self._register.ended))

    def seal_all(self) -> bool:
        """Write what waits; True when a session left the register."""
        ended = self._register.ended
        copied = [session for session in ended if not self._intake.copies(session)]
        self._register.ended = [session for session in ended if session not in copied]
        self.refused = {}
        for number, session in enumerate(copied):
            try:
                self._seal(session)
            except OSError as error:
                failures.say(f"cannot seal {session.key.name}: {error}")
                # The others would fare alike; the next time they come first.
                self._register.ended += [*copied[number + 1 :], session]
                self.refused = {one.key: str(error) for one in copied[number:]}
                self._again_ns = self._clock.mono_ns() + AGAIN_NS
                break
            except Exception as error:  # a fault of perun's own: the others are sealed all the same
                log(f"cannot seal {session.key.name}, which is put aside: {place(error)}")
                guard("putting it aside", partial(self._put_aside, session))
        return len(ended) > len(self._register.ended)

    def so_far(self, session: Session, now: Edge) -> dict[str, Any]:
        """What a live session's record would say if the job had ended at the last reading, marked as what it is."""
        return {**self._record(session, now, session.agent_cpu_ns + self._meter.spent_ns()), "state": "running"}

    def _record(self, session: Session, end: Edge, agent_cpu_ns: int) -> dict[str, Any]:
        domains = self._meter.domains
        return boundary_record(
            session,
            end,
            self._meter.sensors,
            self._register.name_of_node(session),
            self._register.cpus,
            Cost(agent_cpu_ns, resident_b(), os.getpid(), os.geteuid()),
            booking.doubts(session, domains),
            self._meter.static,
            self._meter.scope,
            guard("conditions", partial(self._conditions, session)),
            booking.edges_uj(session, domains),
            self._machine_id,
        )

    def _conditions(self, session: Session) -> dict[str, str]:
        """Those of the machine; how its CPUs were set while the job ran, one after the other, where that changed."""
        seen = {name: ", then ".join(values)[:LONGEST] for name, values in session.cpu_settings.items()}
        return {**conditions(self._paths.root, self._meter.cpu_settings.now), **seen}

    def _seal(self, session: Session) -> None:
        assert session.end is not None
        if not session.settings:
            guard("its settings", partial(self._applier.freeze, session), session)
        guard("its trace", partial(self._traces.seal, session), session)
        directory = self._paths.session(session.place)
        if not session.monitored:
            _drop(directory)
            self._forget(session)
            return
        whole = partial(self._record, session, session.end, session.agent_cpu_ns)
        record = guard("its record", whole, session)
        if record is None:  # what the energies are, with nothing that could fail
            record = self._record(session.bare(), session.end, session.agent_cpu_ns)
        privilege.make_spool(self._paths)
        directory.mkdir(mode=0o750, exist_ok=True)
        files.write_json(self._paths.boundary(session.place), record, durable=True)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self._intake.forget(session)
        self._step_log.forget(session)
        self._use_log.forget(session)

    def _put_aside(self, session: Session) -> None:
        """Keep what is known of a session of which no record can be made, for a person to look at."""
        target = self._paths.set_aside / free_name(self._paths.set_aside, session.place)
        target.mkdir(mode=0o750, parents=True, exist_ok=True)
        files.write_json(target / ASIDE, session.to_json(), durable=True)


def _drop(directory: Path) -> None:
    with contextlib.suppress(OSError):
        files.remove_tree(directory)
