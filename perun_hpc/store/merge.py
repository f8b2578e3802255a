"""Merging: what all nodes wrote becomes one store by rewriting a handful of small files, however many nodes there are.

Safe to run at any time and any number of times: while the job runs, twice at once, again when a late node reports.
Nothing is decided from an earlier merge; plan, group descriptions and marks say everything.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, layout, tables
from perun_hpc.store.layout import Json, Mark, Plan, Track
from perun_hpc.store.ship import take_in

AHEAD_NS = 24 * 3600 * layout.NS_PER_S
"""Ticks further in the future than this come from a clock that is wrong: they are not shown."""
MOST_SHARDS = 1000
"""A trace of more (20 months at 1 s, 2 at 10 ms) began by a wrong clock: its times alone would fill the archive."""
YEAR_NS = 365 * 24 * 3600 * layout.NS_PER_S


@dataclass(frozen=True)
class Merged:
    """What a merge found.

    Attributes
    ----------
    state : `complete`; `partial` (a node is missing after the deadline, or says partial); `open` (nodes are still
        expected); `empty` (no trace was stored); `busy` (somebody else is merging this store right now).
    nodes : status of every expected node, e.g. `complete`, `running`, `missing: did not report`, `partial: disk full`.
    missing : expected nodes without data.
    """

    state: str
    nodes: Mapping[str, str]
    missing: tuple[str, ...]


def finalise(
    job_dir: Path,
    expected_nodes: Sequence[str],
    now_ns: int,
    deadline_ns: int | None = None,
    reasons: Mapping[str, str] | None = None,
    records: Sequence[Mapping[str, Any]] = (),
) -> Merged:
    """Merge the store in `job_dir`.

    Parameters
    ----------
    job_dir : the job's directory.
    expected_nodes : the nodes of the job; the plan's where empty.
    now_ns, deadline_ns : wall clock; after the deadline the store is closed without the nodes that are missing, which
        are taken in when they come.
    reasons : why a node is missing or partial, where the caller knows better, by node.
    records : boundary records, whose steps, ranks and regions go into tables of the store.

    Raises
    ------
    DataError
        where the plan or a group's description is damaged; `repair` names it.

    Returns
    -------
    What the store holds now, and whether it is closed.
    """
    if (job_dir / layout.APART).exists() and (expected_nodes or (job_dir / layout.PLAN).exists()):
        take_in(job_dir, expected_nodes)
    if not (job_dir / layout.PLAN).exists():
        return Merged("empty", {}, tuple(expected_nodes))
    with lease(job_dir) as held:
        if not held:
            return Merged("busy", {}, ())
        plan = create.read_plan(job_dir)
        tracks = create.tracks(job_dir, plan)
        if not tracks:  # the node that came first is at work, or died between its plan and its track
            return Merged("empty", {}, tuple(expected_nodes))
        marks = newest_marks(job_dir)
        expected = tuple(expected_nodes) or plan.nodes
        late = deadline_ns is not None and now_ns >= deadline_ns
        nodes = _statuses(expected, marks, late, reasons or {})
        present = set().union(*marks.values())
        missing = tuple([node for node in expected if node not in present])
        state = _state(nodes, late)
        tables.write(job_dir, records)
        _write(job_dir, plan, tracks, marks, nodes, state, now_ns)
        return Merged(state, nodes, missing)


Marks = Mapping[str, Mapping[str, Mark]]
"""Marks by group and node, which is not named in them: most nodes of a large job say the same, and share one."""


def newest_marks(job_dir: Path) -> Marks:
    """The newest mark of every track and node; older ones are removed."""
    best: dict[str, dict[str, Mark]] = {}
    names = os.listdir(job_dir / layout.MARKS) if (job_dir / layout.MARKS).is_dir() else []  # noqa: PTH208
    known: dict[str, Mark | None] = {}
    for name in names:
        node, _, rest = name.partition("~")
        if rest not in known:
            known[rest] = Mark.parse(f"~{rest}")
        mark = known[rest]
        if mark is None:
            continue
        own = best.setdefault(mark.group, {})
        other = own.setdefault(node, mark)
        if other is mark:
            continue
        older, newer = sorted((mark, other), key=_newness)
        own[node] = newer
        (job_dir / layout.MARKS / older._replace(node=node).name).unlink(missing_ok=True)
    return best


def _newness(mark: Mark) -> tuple[bool, bool, int, bool]:
    return mark.why != layout.MARK_LOST, mark.state != "running", mark.last, mark.state == "complete"


@contextmanager
def lease(job_dir: Path) -> Iterator[bool]:
    """One merge at a time per store. Where the file system knows no locks it goes on: every single write is atomic.

    DataError where no store is there.
    """
    try:
        fd = os.open(job_dir / layout.PLAN, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise create.no_trace(job_dir) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
    finally:
        os.close(fd)


def busy(job_dir: Path) -> DataError:
    """What there is to say where somebody else has the lease."""
    return DataError(f"{job_dir}: somebody else is working on this store; try again")


def _statuses(expected: Sequence[str], marks: Marks, late: bool, reasons: Mapping[str, str]) -> dict[str, str]:
    worst = {"complete": 0, "partial": 1, "running": 2}
    found: dict[str, Mark] = {}
    for own_marks in marks.values():
        if not found:
            found = dict(own_marks)
            continue
        for node, mark in own_marks.items():
            other = found.setdefault(node, mark)
            if worst.get(mark.state, 2) > worst.get(other.state, 2):
                found[node] = mark
    result = {}
    for node in expected:
        own = found.get(node)
        if own is not None and own.state == "complete" and node not in reasons:
            result[node] = "complete"
            continue
        why = reasons.get(node, "")
        if own is None:
            result[node] = f"missing: {why or ('no data by the deadline' if late else 'has not reported yet')}"
        elif own.state == "complete":
            result[node] = f"partial: {why}" if why else "complete"
        elif own.state == "running" and not late:
            result[node] = "running"
        else:
            result[node] = f"partial: {why or own.why or 'the node did not seal its part'}"
    return result


def _state(nodes: Mapping[str, str], late: bool) -> str:
    found = set(nodes.values())
    if found <= {"complete"}:
        return "complete"
    waiting = any(status == "running" or status.startswith("missing") for status in found)
    return "open" if waiting and not late else "partial"


def _write(
    job_dir: Path,
    plan: Plan,
    tracks: Sequence[Track],
    marks: Marks,
    nodes: Mapping[str, str],
    state: str,
    now_ns: int,
) -> None:
    """Everything but the root's document, then that: readers of consolidated metadata see one state or the other."""
    store = job_dir / layout.STORE
    everything: dict[str, Json] = tables.documents(job_dir)
    recoded = (job_dir / layout.RECODED).exists()
    root: Json = layout.group_document({**plan.attributes, "state": state})
    for track in tracks:
        own = marks.get(track.group, {})
        horizon = (now_ns + AHEAD_NS) // track.period_ns
        origin = track.origin
        shown = {mark: min(mark.last, horizon) for mark in set(own.values()) if origin <= mark.first <= horizon}
        lasts = {node: shown[mark] for node, mark in own.items() if mark in shown}
        columns = max(lasts.values()) - origin + 1 if lasts else 1
        if columns > MOST_SHARDS * layout.shard_rows(track.period_ns):
            years = columns * track.period_ns / YEAR_NS
            raise DataError(
                f"{job_dir / layout.PLAN}: the trace would span {years:.0f} years: the clock of the node that "
                "began it was wrong; its parts stay as they are, and the energy record does not rest on it"
            )
        start = min([mark.first for mark in shown], default=origin) - origin
        extra = {"state": state, "time_start": start, "time_stop": columns if lasts else start, "merged_ns": now_ns}
        documents = track.documents(columns, extra, recoded)
        group = store / track.group
        create.complete(job_dir, track)  # its creator may be at work, or may have died over it
        _write_times(group, track, columns)
        _write_nodes(group, track, _statuses_within(own, nodes, plan.nodes), lasts)
        for name, document in documents.items():
            if name:
                create.make_directory(group / name)
                files.write_new(group / name / "zarr.json", create.encode(document), durable=False)
        everything |= track.within({name: document for name, document in documents.items() if name})
        if track.group:
            files.write_new(group / "zarr.json", create.encode(documents[""]), durable=False)
            everything[track.group] = documents[""]
        else:
            root = documents[""]
    files.write_new(store / "zarr.json", create.encode(layout.consolidated(root, everything)))


def _statuses_within(own: Mapping[str, Mark], nodes: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The status of all nodes of the plan within one track."""
    found = [nodes.get(node, "missing: not expected") for node in names]
    if len(own) == len(names):
        return found
    return [
        status if node in own or status.startswith("missing") else layout.OTHER_KIND
        for node, status in zip(names, found, strict=True)
    ]


def _write_times(group: Path, track: Track, columns: int) -> None:
    """Chunks of the time coordinate as far as they are missing; their content does not depend on the job's end."""
    for number in range((columns - 1) // layout.shard_rows(track.period_ns) + 1):
        path = group / "time" / layout.chunk_key(number)
        if not path.exists():
            create.make_directory(path.parent)
            files.write_new(path, create.time_chunk(track, number), durable=False)


def _write_nodes(group: Path, track: Track, statuses: list[str], lasts: Mapping[str, int]) -> None:
    missing = layout.fill("int64")
    until = array("q", [lasts[n] * track.period_ns if n in lasts else missing for n in track.plan.nodes])
    key = layout.chunk_key(0)
    for name, data in (
        ("node_status", codec.vlen_utf8(statuses)),
        ("node_until", codec.encode_chunk(until.tobytes(), 8)),
    ):
        create.make_directory(group / name)
        files.write_new(group / name / key, data, durable=False)
