"""What ranks hand over, copied into the spool piece by piece between the loop's other work, never more than is allowed.

The memory is its user's: many ranks may share it, it may grow, shrink or be cut off while it is read. What counts is
what it holds when it is taken, against the job and against the user, before the first byte is copied; no more than that
is copied then.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.agent.base.paths import RANKS, AgentPaths
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.jobs import ranks
from perun_hpc.errors import DataError
from perun_hpc.files import Replacement, create, write_all
from perun_hpc.process.log import failures

MAX_DATA_B = 32 * 1024 * 1024
"""Most that one rank may hand over."""
MAX_JOB_B = 256 * 1024 * 1024
"""Most that all ranks of a session may hand over."""
MAX_USER_B = 2 * MAX_JOB_B
"""Most that all jobs of a user may have handed over that are not sealed yet."""
PIECE_B = 1 << 20
"""What is copied in one turn of the loop: about a millisecond, for which a hook may wait."""
BYTES_LEFT_OUT = (
    f"ranks whose regions are left out: a node takes {MAX_DATA_B >> 20} MiB of a rank, {MAX_JOB_B >> 20} MiB of a job, "
    f"{MAX_USER_B >> 20} MiB of a user"
)
FILES_LEFT_OUT = "ranks whose regions are left out: the user's ranks on the node hold too many memory files"
SHARED_LEFT_OUT = "ranks whose regions are left out: they handed over another rank's memory"
DISK_LEFT_OUT = "ranks whose regions are left out: the spool did not take them"
_EMPTY = bytes(PIECE_B)

Place = tuple[str, int, int]
"""Session (its place), step and rank."""


@dataclass(eq=False)
class _Held:
    """The memory of one rank, by a descriptor of ours; `most_b` is what may be copied of it."""

    session: Session
    step_id: int
    rank: int
    fd: int
    inode: tuple[int, int]
    most_b: int = 0
    at: int = 0
    out: int = -1
    copy: Replacement | None = None

    @property
    def place(self) -> Place:
        return self.session.place, self.step_id, self.rank


class Intake:
    """Holds what living ranks share, and copies what is complete, one piece a turn, the users in turn."""

    def __init__(self, paths: AgentPaths, most_files: int) -> None:
        """`most_files` are the descriptors that all ranks together may hold, not all of them one user's."""
        self._paths = paths
        self._most_files = most_files
        self._live: dict[Place, _Held] = {}
        self._queues: dict[int, deque[_Held]] = {}
        self._inodes: dict[tuple[int, int], Place] = {}
        self._files: Counter[int] = Counter()
        self._taken_b: dict[str, tuple[int, int]] = {}

    @property
    def busy(self) -> bool:
        """Whether something waits to be copied."""
        return bool(self._queues)

    def copies(self, session: Session) -> bool:
        """Whether something of a session waits to be copied."""
        return any(one.session is session for one in self._queues.get(session.uid, ()))

    def hold(self, session: Session, step_id: int, rank: int, fd: int) -> None:
        """Keep a descriptor of memory that a living rank goes on filling; DataError where there are too many."""
        self._live[session.place, step_id, rank] = self._held(session, step_id, rank, fd)

    def take(self, session: Session, step_id: int, rank: int, fd: int) -> None:
        """Copy what a rank handed over for good; DataError where it is too much."""
        held = self._held(session, step_id, rank, fd)
        try:
            self._admit(held)
        except DataError:
            self._release(held)
            raise

    def rank_ended(self, session: Session, step_id: int, rank: int) -> None:
        """A rank has ended: what it shared is all that it leaves."""
        held = self._live.pop((session.place, step_id, rank), None)
        if held is None:
            return
        try:
            self._admit(held)
        except (OSError, DataError):
            self._release(held)

    def drop(self, session: Session) -> None:
        """Let go of everything of a session that is not in the spool yet."""
        for place in [place for place in self._live if place[0] == session.place]:
            self._release(self._live.pop(place))
        for held in [one for one in self._queues.get(session.uid, ()) if one.session is session]:
            self._finish(held, kept=False)

    def forget(self, session: Session) -> None:
        """The session is sealed: it hands over nothing more."""
        self._taken_b.pop(session.place, None)

    def resume(self, session: Session) -> None:
        """Count what a session has in the spool, from before this agent."""
        with contextlib.suppress(OSError):
            held_b = sum(path.stat().st_size for path in (self._paths.session(session.place) / RANKS).iterdir())
            self._taken_b[session.place] = (session.uid, held_b)

    def step(self) -> None:
        """Copy one piece for the user whose turn it is."""
        if not self._queues:
            return
        uid = next(iter(self._queues))
        queue = self._queues.pop(uid)
        self._queues[uid] = queue  # the others are next
        held = queue[0]
        try:
            more = self._copy(held)
        except OSError as error:
            failures.say(f"rank data of {held.session.key.name}: {error.strerror or error}")
            held.session.leave_out(DISK_LEFT_OUT)
            self._finish(held, kept=False)
        else:
            if not more:
                self._finish(held, kept=True)

    def drain(self, done: Callable[[], bool] = lambda: False) -> None:
        """Copy all that waits, or until `done`."""
        while self._queues and not done():
            self.step()

    def _held(self, session: Session, step_id: int, rank: int, fd: int) -> _Held:
        place = (session.place, step_id, rank)
        former = self._live.pop(place, None)
        if former is not None:
            self._release(former)
        status = os.fstat(fd)
        inode = (status.st_dev, status.st_ino)
        if self._inodes.get(inode, place) != place:
            session.leave_out(SHARED_LEFT_OUT)
            raise DataError("this memory is another rank's: it counts once")
        own = ranks.of_one_user(self._most_files)
        if self._files[session.uid] >= own or self._files.total() >= self._most_files:
            session.leave_out(FILES_LEFT_OUT)
            raise DataError(f"your ranks on this node hold {self._files[session.uid]} memory files: no more are kept")
        held = _Held(session, step_id, rank, os.dup(fd), inode)
        self._inodes[inode] = place
        self._files[session.uid] += 1
        return held

    def _admit(self, held: _Held) -> None:
        session = held.session
        held.most_b = content_b(held.fd)
        job_b = self._taken_b.get(session.place, (0, 0))[1] + held.most_b
        user_b = sum(taken_b for uid, taken_b in self._taken_b.values() if uid == session.uid) + held.most_b
        if held.most_b > MAX_DATA_B or job_b > MAX_JOB_B or user_b > MAX_USER_B:
            session.leave_out(BYTES_LEFT_OUT)
            raise DataError(f"these {held.most_b} bytes are not kept: {BYTES_LEFT_OUT}")
        self._taken_b[session.place] = (session.uid, job_b)
        self._queues.setdefault(session.uid, deque()).append(held)

    def _copy(self, held: _Held) -> bool:
        """Copy the next piece; False when that was the last one."""
        if held.copy is None:
            target = self._target(held)
            target.parent.mkdir(mode=0o750, exist_ok=True)
            held.copy = Replacement(target)
            held.out = create(held.copy.partial)
        piece = os.pread(held.fd, min(PIECE_B, held.most_b - held.at), held.at)
        # The empty pages behind a table that was still growing are not worth their space.
        if not piece or (held.at and piece == _EMPTY[: len(piece)]):
            return False
        write_all(held.out, piece, held.at)
        held.at += len(piece)
        return held.at < held.most_b

    def _finish(self, held: _Held, kept: bool) -> None:
        queue = self._queues[held.session.uid]
        queue.remove(held)
        if not queue:
            del self._queues[held.session.uid]
        if held.out >= 0:
            os.close(held.out)
        if held.copy is not None:
            with contextlib.suppress(OSError):
                if kept:
                    held.copy.keep()
                else:
                    held.copy.drop()
        self._release(held)

    def _release(self, held: _Held) -> None:
        os.close(held.fd)
        if not any(one.inode == held.inode for one in self._queues.get(held.session.uid, ())):
            self._inodes.pop(held.inode, None)
        self._files[held.session.uid] -= 1
        if not self._files[held.session.uid]:
            del self._files[held.session.uid]

    def _target(self, held: _Held) -> Path:
        return self._paths.session(held.session.place) / RANKS / f"{held.step_id}-{held.rank}.rank"


def content_b(fd: int) -> int:
    """How much a rank's memory file holds: pages that nobody has written are nothing, whatever its size."""
    ranks.check_memory(fd)
    status = os.fstat(fd)
    return min(status.st_size, status.st_blocks * 512)
