"""What waits in a cluster's archive, what was refused or set aside there, and how the last sweep went."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.archive import aside, kept
from perun_hpc.archive.places import DAMAGED, REFUSED, Archive, Run
from perun_hpc.data_model import codec
from perun_hpc.files import write_new

SCHEMA = "perun.sweep/1"


@dataclass(frozen=True)
class Sweep:
    """The last sweep of a cluster; times are epoch seconds.

    Attributes
    ----------
    outcome : what it did, or why it failed.
    well_s : when the last one that went well ended; None when none is known.
    failing_s : when the first of those failed that have failed since; None where the last one went well.
    compared_s : up to when sacct's jobs were compared with the records; None where they never were.
    """

    began_s: float
    ended_s: float
    outcome: str
    well_s: float | None = None
    failing_s: float | None = None
    compared_s: float | None = None


@dataclass(frozen=True)
class Entry:
    """Something in the archive that waits: what, since when (epoch), and why where that is known."""

    what: str
    since_s: float
    why: str = ""


@dataclass(frozen=True)
class Backlog:
    """Job runs that wait for nodes or for the next sweep, those that the ledger refused, damaged boundary records, and
    what does not fit its node or job."""

    waiting: tuple[Entry, ...]
    refused: tuple[Entry, ...]
    damaged: tuple[Entry, ...]
    aside: tuple[Entry, ...] = ()


def note_sweep(
    archive: Archive, began_s: float, ended_s: float, outcome: str, well: bool, compared_s: float | None = None
) -> None:
    """Leave word of a sweep; what cannot be written (a full disk) is not worth failing for."""
    before = last_sweep(archive)
    known = Sweep(0, 0, "") if before is None else before
    if well:
        sweep = Sweep(began_s, ended_s, outcome, ended_s, None, compared_s or known.compared_s)
    else:
        failing_s = known.failing_s if known.failing_s is not None else ended_s
        sweep = replace(known, began_s=began_s, ended_s=ended_s, outcome=outcome, failing_s=failing_s)
    with contextlib.suppress(OSError):
        write_new(archive.sweep, json.dumps({"schema": SCHEMA, **codec.encode(sweep)}).encode(), durable=False)


def last_sweep(archive: Archive) -> Sweep | None:
    """What is known of the last sweep; None where nothing is, or it cannot be read."""
    try:
        value = json.loads(archive.sweep.read_bytes())
        if value.pop("schema") != SCHEMA:
            return None
        return codec.decode(Sweep, value)
    except (OSError, *codec.MISFITS, AttributeError, RecursionError):
        return None


def look(archive: Archive) -> Backlog:
    """What lies in `incoming/` and `aside/` now, each kind with the oldest first."""
    waiting, refused, damaged = [], [], []
    for run, directory in archive.incoming():
        name = f"job {run.name}"
        files = _files(directory)
        damaged += [Entry(f"{name}, {_node(one.name)}", _mtime(one)) for one in files if one.name.endswith(DAMAGED)]
        records = [one for one in files if one.name.endswith(".json")]
        mark = next((one for one in files if one.name == REFUSED), None)
        if mark is not None:
            refused.append(Entry(name, _mtime(mark), _text(mark.path)))
        elif records:
            waiting.append(Entry(name, min(map(_mtime, records))))
    apart = [Entry(one.path.name, one.since_s, one.why) for one in aside.entries(archive) if one.holds]
    return Backlog(_by_age(waiting), _by_age(refused), _by_age(damaged), _by_age(apart))


def damaged_of(archive: Archive, runs: Iterable[Run]) -> tuple[Entry, ...]:
    """Damaged boundary records that were set aside in the directories of `runs`."""
    found = []
    for run in runs:
        for file in kept.boundaries(archive, run):
            if file.name.endswith(DAMAGED):
                with contextlib.suppress(OSError):
                    found.append(Entry(f"job {run.name}, {_node(file.path.name)}", file.changed_s))
    return _by_age(found)


def _by_age(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda one: one.since_s))


def _files(directory: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [one for one in entries if not one.name.startswith(".")]
    except OSError:
        return []


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # gone meanwhile
        return float("inf")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _node(name: str) -> str:
    return name.partition(".json")[0]
