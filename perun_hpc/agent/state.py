"""What survives the agent: one file with the last readings and every session, brought up to date at each interval.

The node ledger's length stands in it, so that lines of an interval that the file does not know are cut off again: after
a `kill -9` no interval counts twice, in no session and in no ledger.
"""

from __future__ import annotations

import contextlib
import json
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.agent import state_log
from perun_hpc.agent.base import spool
from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.sources.gauges import Left
from perun_hpc.agent.sources.node import JobUse, Snapshot
from perun_hpc.agent.state_log import StateLog
from perun_hpc.archive.grown import days_of
from perun_hpc.data_model import codec
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Reading
from perun_hpc.errors import DataError
from perun_hpc.process.log import guard, log

SCHEMA = "perun.node-state/1"


@dataclass(frozen=True)
class NodeState:
    """The state as it was saved last.

    `uses` holds what each live session's cgroup said at the last reading, `done` when sealed sessions ended
    (monotonic), `unheard` those of them whose end no hook has reported, `ledger` the day and length of the node ledger,
    `home` the names of cluster and node, `inside` what parts of meters were given in the meters' open intervals
    (meter -> owner -> uJ), `gauges` where the counters that are made of power gauges were left, `spent_ns` the CPU time
    of the agent.
    """

    boot_id: str
    last: Snapshot
    uses: Mapping[SessionKey, JobUse]
    parent_cpu_ns: int | None
    ledger: tuple[str, int]
    sessions: tuple[Session, ...]
    done: Mapping[str, int]
    static: Mapping[str, Any]
    home: tuple[str, str]
    inside: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    gauges: Mapping[str, Left] = field(default_factory=dict)
    unheard: tuple[str, ...] = ()
    spent_ns: int = 0


def save(
    to: StateLog,
    state: NodeState,
    counters: Iterable[str],
    summed: bool = True,
    whole: bool = False,
) -> None:
    """Keep the state; OSError where the disk does not take it.

    `summed`: an interval has ended since it was saved last, so that all sums may be others; `whole`: as one document,
    which older agents read.
    """
    last = state.last
    node = {
        "schema": SCHEMA,
        "boot_id": state.boot_id,
        "mono_ns": last.mono_ns,
        "real_ns": last.real_ns,
        "readings": {one: last.readings[one][:2] for one in counters if one in last.readings},
        "busy_ns": {str(cpu): busy for cpu, busy in last.busy_ns.items()},
        "uses": {key.name: use.cpu_ns for key, use in state.uses.items()},
        "parent_cpu_ns": state.parent_cpu_ns,
        "ledger": list(state.ledger),
        "done": state.done,
        "unheard": sorted(state.unheard),
        "static": dict(state.static),
        "home": list(state.home),
        "inside": {meter: dict(given) for meter, given in state.inside.items()},
        "gauges": {gauge: list(left) for gauge, left in state.gauges.items()},
        "spent_ns": state.spent_ns,
    }
    sessions: dict[str, Any] = {}
    known = to.held
    for one in state.sessions:
        held = known.get(one.place)
        sessions[one.place] = None if held and held.get("changes") == one.changes else _but_for_sums(one)
    summed = summed or not sessions.keys() <= known.keys()
    to.write(node, sessions, _sums(state.sessions) if summed else None, whole)


_COUNTS = ("cpu_ns", "work_ns", "suspended_ns")
"""What of a session changes with every interval, besides its accounts and shares."""
_ACCOUNT = tuple(one.name for one in fields(DomainAccount))
"""In the order in which an account's `vars` has them."""
_counts = operator.attrgetter(*_COUNTS)
_SUMS = (*_COUNTS, "domains", "shares")


def _but_for_sums(session: Session) -> dict[str, Any]:
    """What of a session hardly changes."""
    found = session.to_json()
    for name in _SUMS:
        del found[name]
    return found


def _sums(sessions: Collection[Session]) -> dict[str, Any]:
    """The tables of all sessions' sums."""
    accounts: dict[tuple[str, ...], tuple[list[str], list[Any]]] = {}
    shares: dict[str, tuple[list[str], list[Any]]] = {}
    for session in sessions:
        if session.domains:
            places, rows = accounts.setdefault(tuple(session.domains), ([], []))
            places.append(session.place)
            rows += [vars(account).values() for account in session.domains.values()]
        for day, by_domain in session.shares.items():
            places, rows = shares.setdefault(day, ([], []))
            places.append(session.place)
            rows.append(by_domain)
    table = state_log.table
    return {
        state_log.ITSELF: {state_log.ITSELF: table([one.place for one in sessions], _COUNTS, map(_counts, sessions))},
        "domains": {
            str(number): table(places, _ACCOUNT, rows, names)
            for number, (names, (places, rows)) in enumerate(sorted(accounts.items(), key=lambda one: one[0]))
        },
        "shares": {day: _table_of(places, rows) for day, (places, rows) in shares.items()},
    }


def _table_of(places: list[str], rows: list[dict[str, int]]) -> dict[str, Any]:
    names = sorted({name for row in rows for name in row})
    return state_log.table(places, names, ([row.get(name) for name in names] for row in rows))


def load(paths: AgentPaths) -> NodeState | None:
    """The state of the last agent, its ledger cut to what it knows if the disk lets it; None without one."""
    data = state_log.read(paths.state)
    if data is None:
        return None
    damaged: list[str] = []
    try:
        if data["schema"] != SCHEMA:
            raise DataError(f"{paths.state}: written by another version of perun")
        day, length = data["ledger"]
        if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?", day, re.ASCII) or not isinstance(length, int) or length < 0:
            raise DataError(f"{paths.state}: damaged")
        state = NodeState(
            boot_id=data["boot_id"],
            last=Snapshot(
                data["mono_ns"],
                data["real_ns"],
                {one: Reading(ticks, mono_ns) for one, (ticks, mono_ns) in data["readings"].items()},
                {int(cpu): busy for cpu, busy in data["busy_ns"].items()},
            ),
            uses={SessionKey.parse(name): JobUse(cpu_ns) for name, cpu_ns in data["uses"].items()},
            parent_cpu_ns=data["parent_cpu_ns"],
            ledger=(day, length),
            sessions=tuple(_sessions(data["sessions"], damaged)),
            done=data["done"],
            unheard=tuple(data.get("unheard", ())),
            static=data["static"],
            home=(data["home"][0], data["home"][1]),
            inside=data.get("inside", {}),
            gauges={gauge: tuple(left) for gauge, left in data.get("gauges", {}).items()},
            spent_ns=data.get("spent_ns", 0),
        )
        if names := codec.wrong(state):
            raise DataError(f"{paths.state}: damaged: {names}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, DataError) as error:
        aside = paths.state.with_name("state.json.damaged")
        paths.state.replace(aside)
        log(f"what the last agent knew cannot be used, its sessions have no record; it stands in {aside}: {error!r}")
        return None
    if damaged:
        log(f"{paths.state}: sessions that cannot be read stand in state.json.damaged: {'; '.join(damaged)[:1000]}")
        with contextlib.suppress(OSError):
            files.write_json(paths.state.with_name("state.json.damaged"), data)
    guard("node ledger: lines that the state does not know stay in it", partial(_cut_ledger, paths, state))
    return state


def _cut_ledger(paths: AgentPaths, state: NodeState) -> None:
    day, length = state.ledger
    if day:
        spool.cut(paths.ledger(day), length)
    for path in days_of(paths.node):  # a day that began after the last readings
        if path.stem != day and path.stat().st_mtime_ns >= state.last.real_ns:
            spool.cut(path, _known_b(path, state.last.mono_ns))


def _known_b(ledger: Path, mono_ns: int) -> int:
    """The length of a node ledger's lines up to the first one that ends after a moment (monotonic)."""
    known_b = 0
    for line in ledger.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged one is nobody's to judge
            if json.loads(line)["t1_ns"] > mono_ns:
                break
        known_b += len(line)
    return known_b


def _sessions(saved: Iterable[Any], damaged: list[str]) -> Iterator[Session]:
    """Those that can be read; what is wrong with the others is added to `damaged`."""
    for one in saved:
        try:
            yield Session.from_json(one)
        except DataError as error:
            damaged.append(str(error))
