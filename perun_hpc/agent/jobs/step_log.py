"""Flagged steps and their ranks, journaled in the session's directory: a rank that begins costs a line, not all anew.

The state of the node is written before every hook has its answer; what users can make many of is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.data_model import codec
from perun_hpc.files import write_new
from perun_hpc.process.log import guard

MAX_B = 8 << 20
"""A journal that has grown above this is written anew: the same rank may begin and end as often as its user likes."""


class StepLog:
    """Remembers which ranks changed until `flush` has written them; what a disk refuses is written the next time.

    A line is a step without its ranks, or `[step, rank]`; the last one of a rank counts.
    """

    def __init__(self, paths: AgentPaths) -> None:
        self._paths = paths
        self._changed: dict[str, tuple[Session, dict[tuple[str, str], None]]] = {}  # by the session's place
        self._begun: dict[str, set[str]] = {}

    def note(self, session: Session, step: Step, run: RankRun) -> None:
        """A rank has begun, handed something over, or ended."""
        _, changed = self._changed.setdefault(session.place, (session, {}))
        changed[str(step.step_id), str(run.rank)] = None

    def rewrite(self, session: Session) -> None:
        """Write all of a session's steps with the next flush."""
        self._begun.pop(session.place, None)
        self._changed.setdefault(session.place, (session, {}))

    def forget(self, session: Session) -> None:
        """The session's record has been written, and its steps with it."""
        self._begun.pop(session.place, None)
        self._changed.pop(session.place, None)

    def flush(self) -> None:
        """Write what has changed."""
        for place in list(self._changed):
            guard("steps", lambda place=place: self._write(*self._changed[place]))  # type: ignore[misc]

    def load(self, session: Session) -> None:
        """Give a session the steps that the last agent wrote; one that has them from an older agent keeps those."""
        if session.steps:
            session.count_ranks()
            return self.rewrite(session)
        path = self._paths.steps(session.place)
        data = path.read_bytes() if path.exists() else b""
        good = 0
        for line in data.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    break
                _apply(session, json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                break
            good += len(line)
        if good < len(data):  # torn by a crash
            spool.cut(path, good)
        self._begun[session.place] = set(session.steps)
        session.count_ranks()
        return None

    def _write(self, session: Session, changed: Iterable[tuple[str, str]]) -> None:
        path = self._paths.steps(session.place)
        begun = self._begun.pop(session.place, None)  # back when all went well: else the next flush writes all anew
        if begun is None:
            begun = set()
            every = ((name, rank) for name, step in session.steps.items() for rank in step.ranks)
            write_new(path, "".join(line + "\n" for line in _lines(session, every, begun)).encode(), durable=False)
        elif spool.append_lines(path, list(_lines(session, changed, begun))) > MAX_B:
            return
        self._begun[session.place] = begun
        del self._changed[session.place]


def _lines(session: Session, ranks: Iterable[tuple[str, str]], begun: set[str]) -> Iterator[str]:
    """The lines of some ranks, each step's own line before the first of its ranks; adds to those that have begun."""
    for name, rank in ranks:
        step = session.steps.get(name)
        run = step.ranks.get(rank) if step is not None else None
        if step is None or run is None:
            continue
        if name not in begun:
            begun.add(name)
            yield json.dumps({**vars(step), "ranks": {}}, separators=(",", ":"))
        yield json.dumps([name, vars(run)], separators=(",", ":"))


def _apply(session: Session, line: object) -> None:
    if isinstance(line, dict):
        step = codec.made(Step, line)
        _check(step)
        session.add_step(step)
    elif isinstance(line, list):
        name, run = line
        rank = codec.made(RankRun, run)
        _check(rank)
        session.add_rank(name, rank)
    else:
        raise TypeError("neither a step nor a rank")


def _check(one: Step | RankRun) -> None:
    if codec.wrong(one):
        raise TypeError("a value is not of its type")
