"""What this node has failed to do, since when and why, for whoever asks: `perun agent status`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox.faults import Faults
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.process.clock import MACHINE
from perun_hpc.process.log import failures, guard

SHIPPING, NOT_SHIPPED, SET_ASIDE, NOT_WRITTEN = "shipping", "not-shipped", "set-aside", "not-written"
NO_READING, NOT_MOVING, NOT_THERE = "no-reading", "not-moving", "not-there"
NOT_READ = "not-read"
NOT_CONFINED, NO_FIGURES = "not-confined", "no-figures"
LOGGED = {
    NO_READING: "no reading",
    NOT_MOVING: "not moving",
    NOT_THERE: "not there",
    NOT_CONFINED: "not confined",
    NO_FIGURES: "no figures for monitoring",
}
"""What the log says of sensors, of what the kernel refused, of figures; whoever ships or writes logs the rest."""
MOST = 1000
"""Entries that are kept of one kind; those that stand longest."""
NAMED = 5
"""Names that one line of an answer gives."""
STILL_NS = 60_000_000_000
STILL_BUSY_NS = 10_000_000_000
"""A counter that stays where it is for so long, while CPUs work for so long, is silent: any package takes a watt."""


@dataclass(frozen=True)
class Loss:
    """One thing that stands: why, since when (epoch), and whose it is (None: the administrator's alone)."""

    why: str
    since_ns: int
    uid: int | None = None


class Losses:
    """What stands now, by kind and name; what is noted again keeps its beginning."""

    def __init__(
        self, clock_ns: Callable[[], int] = MACHINE.real_ns, say: Callable[[str], None] = failures.say
    ) -> None:
        self._clock_ns = clock_ns
        self._say = say
        self._kinds: dict[str, dict[str, Loss]] = {}
        self._still: dict[str, tuple[int, int, int]] = {}

    def put(self, kind: str, found: Mapping[str, Loss]) -> None:
        """All that stands of a kind, as its keeper knows it; what is new or over of `LOGGED` is logged."""
        before = self._kinds.get(kind, {})
        self._kinds[kind] = dict(sorted(found.items(), key=lambda one: one[1].since_ns)[:MOST])
        if kind in LOGGED:
            if new := [name for name in found if name not in before]:
                self._say(f"{LOGGED[kind]}: {_some(new)}: {found[new[0]].why}")
            if over := [name for name in before if name not in found]:
                self._say(f"ended: {LOGGED[kind]}: {_some(over)}")

    def follow(self, kind: str, why: Mapping[str, str], uids: Mapping[str, int] | None = None) -> None:
        """Of a kind these stand now, by name and why, and no others."""
        before, now_ns = self._kinds.get(kind, {}), self._clock_ns()
        found = {}
        for name, text in why.items():
            since_ns = before[name].since_ns if name in before else now_ns
            found[name] = Loss(text, since_ns, (uids or {}).get(name))
        self.put(kind, found)

    def note_readings(
        self, sensors: Iterable[Sensor], readings: Mapping[str, Reading], busy_ns: Mapping[int, int]
    ) -> None:
        """Take a moment's readings in: sensors without one, and counters that do not move while CPUs work."""
        worked_ns, now_ns = sum(busy_ns.values()), self._clock_ns()
        failing: dict[str, str] = {}
        silent: dict[str, Loss] = {}
        still: dict[str, tuple[int, int, int]] = {}
        for sensor in sensors:
            reading = readings.get(sensor.id)
            if reading is None:
                continue
            if reading.ticks is None:
                failing[sensor.id] = reading.error or "no reading"
            elif sensor.kind is Kind.COUNTER and sensor.quantity is Quantity.ENERGY and sensor.component == "cpu":
                before = self._still.get(sensor.id)
                same = before is not None and before[0] == reading.ticks
                still[sensor.id] = before if same and before is not None else (reading.ticks, now_ns, worked_ns)
                _, since_ns, since_worked_ns = still[sensor.id]
                if now_ns - since_ns >= STILL_NS and worked_ns - since_worked_ns >= STILL_BUSY_NS:
                    silent[sensor.id] = Loss("its counter stands still while CPUs work", since_ns)
        self._still = still
        self.follow(NO_READING, failing)
        self.put(NOT_MOVING, silent)

    def counts(self) -> dict[str, int]:
        """How many things stand, by kind; of a kind of which nothing stands any more 0."""
        return {kind: len(found) for kind, found in self._kinds.items()}

    def visible_to(self, uid: int) -> list[dict[str, Any]]:
        """What a user may hear: root of everything, others of what is theirs; one entry a kind, the eldest's words."""
        answer = []
        for kind, all_ in self._kinds.items():
            found = {name: loss for name, loss in all_.items() if uid in (0, loss.uid)}
            if found:
                eldest = min(found.values(), key=lambda loss: loss.since_ns)
                names = [name[:80] for name in list(found)[:NAMED]]
                about = {"kind": kind, "names": names, "count": len(found)}
                answer.append({**about, "since_ns": eldest.since_ns, "why": eldest.why[:400]})
        return answer


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# What could not be shipped, as the child that ships leaves it in the spool: an agent that starts later knows it, too.


def read_undelivered(paths: AgentPaths) -> dict[str, Loss]:
    """What could not be shipped when it was last tried, by name."""
    value = files.read_json(paths.undelivered)
    try:
        return {str(name): Loss(str(why), int(since_ns), uid) for name, why, since_ns, uid in value or ()}
    except (TypeError, ValueError):
        return {}


def keep_undelivered(paths: AgentPaths, found: Mapping[str, Loss]) -> None:
    """Leave word of what could not be shipped; a disk that is full loses the words, nothing else."""
    kept = sorted(found.items(), key=lambda one: one[1].since_ns)[:MOST]
    rows = [[name, loss.why, loss.since_ns, loss.uid] for name, loss in kept]
    if rows or paths.undelivered.exists():
        guard("saving what could not be shipped", lambda: files.write_json(paths.undelivered, rows))


def find_set_aside(paths: AgentPaths) -> dict[str, Loss]:
    """The sessions that no child could ship, by name, and why."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(paths.set_aside) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                why = Faults.of(Path(entry.path)).why
                words = f"{why}; see {entry.path}" if why else f"see {entry.path}"
                found[f"job {entry.name}"] = Loss(words, entry.stat().st_mtime_ns)
    return found
