"""The agent's words to its log: one line each; a loss is logged, and the agent goes on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from perun_hpc.errors import PerunError
from perun_hpc.process.stamp import stamp

QUIET_NS = 60_000_000_000
"""The same failure is said once in this time."""
MOST_SAID = 256
"""Different failures that are remembered."""
T = TypeVar("T")


class Noted(Protocol):
    """Whose record names a failure: a session."""

    def fail(self, what: str) -> None:
        """Something of it could not be done."""


S = TypeVar("S", bound=Noted)


def log(text: str) -> None:
    """Write one line, with its time where no journal adds it."""
    with contextlib.suppress(OSError):  # the log's disk may be full, too
        print(stamp() + text, file=sys.stderr, flush=True)


def guard(what: str, work: Callable[[], T], of: Noted | None = None) -> T | None:
    """Do something whose failure must cost no more than itself; None where it failed.

    What a disk, a tool or a message refuses is said. Anything else is a fault of perun's own: it is said with its
    place, and `of`, whose record then says that it is partial, hears of it.
    """
    try:
        return work()
    except Exception as error:
        _note(what, error, of)
    return None


def guard_each(what: str, work: Callable[[S], T], sessions: Iterable[S]) -> list[T | None]:
    """The same for each of many sessions, at each edge of a job on a full node: what the work gave, None: it failed."""
    found: list[T | None] = []
    for session in sessions:
        try:
            found.append(work(session))
        except Exception as error:
            found.append(None)
            _note(what, error, session)
    return found


def _note(what: str, error: Exception, of: Noted | None) -> None:
    if isinstance(error, (OSError, PerunError)):
        failures.say(f"{what}: {error}")
        return
    failures.say(f"{what}: a fault of perun: {place(error)}")
    if of is not None:
        of.fail(what)


def place(error: BaseException) -> str:
    """An exception in one line, with the line of code that raised it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" ({Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno})" if at is not None else ""
    return f"{type(error).__name__}: {error}{where}"


class Failures:
    """What has failed lately: a failure that repeats is said once a minute, with how often it was."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, say: Callable[[str], None] = log) -> None:
        self._clock = clock
        self._say = say
        self._said: dict[str, tuple[int, int]] = {}

    def say(self, text: str) -> None:
        """Say it, unless it was said just now."""
        now_ns = self._clock()
        said_ns, unsaid = self._said.get(text, (None, 0))
        if said_ns is not None and now_ns - said_ns < QUIET_NS:
            self._said[text] = said_ns, unsaid + 1
            return
        if len(self._said) >= MOST_SAID:
            self._said.clear()
        self._said[text] = now_ns, 0
        self._say(f"{text} ({unsaid} more times since)" if unsaid else text)


failures = Failures()
"""Those of this process, as its log is."""
