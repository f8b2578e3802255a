"""The node ledger as it is written: one line per closed interval and domain; a disk that takes none gets them later.

A job that is alone may have intervals ended a hundred times a second, as often as it asks for its energy. Such short
intervals become one line as they follow each other, so that the file grows with time, not with what users do.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.process.log import failures

if TYPE_CHECKING:
    from json import JSONEncoder

MAX_LINES = 10_000
"""Lines that are kept in memory while the disk takes none."""
LEAST_NS = 1_000_000_000
"""Intervals that are shorter are held back, to be one line with those that follow."""


class NodeLedger:
    """Appends lines; `position` is the day and length of the file as far as it was written."""

    def __init__(self, paths: AgentPaths) -> None:
        self._paths = paths
        self._held: dict[str, dict[str, Any]] = {}
        self._day = ""
        self._waiting: list[str] = []
        self.position: tuple[str, int] = ("", 0)

    def append(self, day: str, lines: list[dict[str, Any]]) -> None:
        """Take the lines of one interval; they are written, with those before, as soon as one is long enough."""
        if day != self._day:
            self.flush()
            self._day = day
        for line in lines:
            held = self._held.pop(line["domain"], None)
            if held is not None and not _goes_on(held, line):
                self._wait((held,))
                held = None
            self._held[line["domain"]] = line if held is None else _joined(held, line)
        if any(line["t1_ns"] - line["t0_ns"] >= LEAST_NS for line in self._held.values()):
            self.flush()

    def flush(self) -> None:
        """Write what is held back, and what could not be written before: with the state, so at every session's edge."""
        self._wait(self._held.values())
        self._held.clear()
        if not self._waiting:
            return
        try:
            self.position = (self._day, spool.append_lines(self._paths.ledger(self._day), self._waiting))
            self._waiting.clear()
        except OSError as error:
            failures.say(f"node ledger: {error}")
            del self._waiting[:-MAX_LINES]

    def _wait(self, lines: Iterable[dict[str, Any]]) -> None:
        self._waiting += map(_encoder().encode, lines)


@cache
def _encoder() -> JSONEncoder:
    import json  # not before the first edge reading: a prolog waits for it

    return json.JSONEncoder(separators=(",", ":"))


def _goes_on(held: dict[str, Any], line: dict[str, Any]) -> bool:
    """Whether an interval begins where the one before ended, and is of its kind."""
    if held["t1_ns"] != line["t0_ns"] or held["t1_ns"] - held["t0_ns"] >= LEAST_NS or "cpu_settings" in line:
        return False
    known = held["total_uj"] is not None and line["total_uj"] is not None
    kind = ("method", "why", "estimated")
    return known and [held.get(one) for one in kind] == [line.get(one) for one in kind]


def _joined(held: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """One line of two intervals: every sum is that of both."""
    shares = dict(held["shares"])
    for owner, energy_uj in line["shares"].items():
        shares[owner] = shares.get(owner, 0) + energy_uj
    said = {"cpu_settings": held["cpu_settings"]} if "cpu_settings" in held else {}
    return {**line, **said, "t0_ns": held["t0_ns"], "total_uj": held["total_uj"] + line["total_uj"], "shares": shares}
