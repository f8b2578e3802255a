"""When steps of jobs begin and end: what the kernel tells of directories that Slurm makes, without work in a job's way.

The directories above all jobs, of users (version 1) and of jobs are under watch (inotify). Where the kernel does not
tell, directories are listed each second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.sources.node import Node
from perun_hpc.backend.cgroup import JobCgroup, job_places, step_in
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import log
from perun_hpc.process.watching import Watching

MOST_HEARD = 4096
"""Steps of a job that may begin and end between two looks and are known by their times; of more only how many."""


@dataclass(frozen=True)
class Moment:
    """Both clocks."""

    mono_ns: int
    real_ns: int


@dataclass(frozen=True)
class Heard:
    """What was heard of a step since the last look: when it began, when it ended."""

    made: Moment | None = None
    gone: Moment | None = None

    @property
    def just_made(self) -> bool:
        """Whether the last that was heard is that it began: version 1 has a step in one directory after the other."""
        return self.made is not None and (self.gone is None or self.gone.mono_ns < self.made.mono_ns)


class StepWatch:
    """Follows the directories of live sessions."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._heard: dict[SessionKey, dict[str, Heard]] = {}
        self._owners: dict[Path, SessionKey] = {}
        self._followed: tuple[list[JobCgroup | None], int] | None = None
        """The jobs' cgroups when all of them, and nothing else, were under watch, and how many that are."""
        self._watching: Watching | None = None
        try:
            self._watching = Watching()
        except (OSError, AttributeError) as error:
            log(f"steps are looked for each second, since the kernel tells of none: {error}")

    @property
    def fd(self) -> int | None:
        """Readable when there is something to tell; None where nothing is heard."""
        return None if self._watching is None else self._watching.fd

    def hears_of(self, session: Session) -> bool:
        """Whether the kernel tells of the steps of a session that has a directory: a user has only so many watches
        (fs.inotify.max_user_watches).
        """
        group = self._node.cgroups.get(session.key)
        return self._watching is not None and (group is None or group.steps_in in self._watching)

    def follow(self, sessions: Iterable[Session]) -> bool:
        """Watch the directories of these sessions and no others, where a job without one may get one as well.

        True where one is watched from now on: what was made in it before is to be looked for.
        """
        live = list(sessions)
        groups = [self._node.cgroups.get(session.key) for session in live]
        if self._watching is not None and (groups, len(self._watching)) == self._followed:
            return False
        owners: dict[Path, SessionKey] = {}
        whose: set[tuple[int, str | None]] = set()
        for session, group in zip(live, groups, strict=True):
            if group is not None:
                owners[group.steps_in] = session.key
            else:
                whose.add((session.uid, session.job.get("node")))
        self._owners = owners
        more: list[Path] = []
        above = {place for uid, node in whose for place in job_places(self._node.root, uid, node)}
        if self._watching is not None:
            self._watching.keep(above | owners.keys())
            more = [one for one in (*above, *owners) if one not in self._watching and self._watching.add(one)]
            all_are = None not in groups and len(self._watching) == len(owners)
            self._followed = (groups, len(owners)) if all_are else None
        self._heard = {key: heard for key, heard in self._heard.items() if key in owners.values()}
        return bool(more)

    def hear(self) -> tuple[set[SessionKey], bool]:
        """Take what the kernel tells: of which jobs' steps, and whether a job may have got its directory."""
        changed: set[SessionKey] = set()
        others = False
        for change in self._watching.take() if self._watching is not None else ():
            owner = self._owners.get(change.directory) if change.directory is not None else None
            step = step_in(change.name)
            if change.directory is None:  # of whose steps is lost
                changed.update(self._owners.values())
            if owner is None or step is None:
                others = True
                continue
            now = Moment(self._clock.mono_ns(), self._clock.real_ns())
            heard = self._heard.setdefault(owner, {})
            if step in heard or len(heard) < MOST_HEARD:
                former = heard.get(step, Heard())
                heard[step] = replace(former, made=now) if change.made else replace(former, gone=now)
            changed.add(owner)
        return changed, others

    def heard(self, session: Session) -> dict[str, Heard]:
        """What was heard of a session's steps since it was asked last."""
        return self._heard.pop(session.key, {})
