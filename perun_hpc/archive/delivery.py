"""Where a node's records, traces and ledger go in the archive: for whoever may write there, node or collector.

Everything is put under its final name in one step and may be put there again.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perun_hpc.archive.grown import days_of, edge_of, go_on, grown, whole_lines
from perun_hpc.archive.learnt import LEARNT, Learnt, typical_of
from perun_hpc.archive.places import INCOMING, NODES, PASSABLE, RUNNING_NOW, Archive, Run
from perun_hpc.data_model.job import CUT_OFF, SessionKey, run_of, safe_name
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.files import make_directory, write_new

ASIDE_LINES = ".aside.jsonl"
"""What follows the day in the name of the file of lines of a node's ledger that did not fit."""
PUT_TRIES = 100
OTHER_RUN_NS = 60 * 1_000_000_000
"""Two records of one node and one name that began further apart are of two runs: job ids come again."""


@dataclass(frozen=True)
class ArchiveDelivery:
    """The archive in a directory that this process can write."""

    root: Path

    def session(self, directory: Path, record: dict[str, Any]) -> None:
        """Put the trace in a sealed session's directory into the job's store, then the node's boundary record."""
        name, node = _run(directory), safe_name(record["node"], "node")
        cluster = self._cluster(record["cluster"] or "cluster")
        incoming = cluster / INCOMING / name
        there = incoming / f"{node}.json"
        if not (record["start"]["from"] == "epilog" and there.exists()) and not _ends_it_better(there, record):
            if (record.get("trace") or {}).get("stored"):
                record = _with_trace(directory, Archive(self.root, cluster.name), name, record)
            _put(_place(incoming, node, record), encode(record))

    def progress(self, directory: Path, record: dict[str, Any], grow: bool) -> None:
        """Put what a node knows so far of a running job beside the others'; `grow`: and its trace as far as it goes."""
        name, node = _run(directory), safe_name(record["node"], "node")
        cluster = self._cluster(record["cluster"] or "cluster")
        if grow:
            _grow_trace(directory, Archive(self.root, cluster.name), name, record)
        path = cluster / RUNNING_NOW / name / f"{node}.json"
        if not _tells_more(path, record):
            _put(path, encode(record), durable=False)

    def ledger(self, directory: Path, cluster: str, node: str) -> tuple[str, ...]:
        """Put every day of the node ledger in a directory that has grown into the archive.

        Lines that do not fit what lies there go into a file beside it. Returns what an administrator should hear of.
        """
        target = self._node(cluster, node)
        odd_files = []
        for path in days_of(directory):
            shipped, aside = target / path.name, target / f"{path.stem}{ASIDE_LINES}"
            size_b = shipped.stat().st_size if shipped.exists() else 0
            if go_on(shipped, size_b, edge_of(path, size_b), whole_lines(path, size_b)):
                continue
            known = _bytes(shipped)
            data, odd = grown(known, path.read_bytes())
            if data != known:
                write_new(shipped, data)
            before = _bytes(aside) if odd else b""
            if new := [line for line in odd if line not in set(before.splitlines(keepends=True))]:
                write_new(aside, before + b"".join(new))
                odd_files.append(f"{aside}: {len(new)} lines of {node} contradict what it sent of these times before")
        return tuple(odd_files)

    def ledger_from(self, directory: Path, cluster: str, node: str, places: Mapping[str, tuple[int, str]]) -> bool:
        """Let days of the node ledger go on with what a directory holds of them; False where one of them does not.

        `places` has of each day how many bytes there were before, and how these end (`grown.edge_of`).
        """
        target = self._node(cluster, node)
        days = [(path, places.get(path.name, (0, ""))) for path in days_of(directory)]
        return all([go_on(target / path.name, from_b, edge, path.read_bytes()) for path, (from_b, edge) in days])

    def keep_learnt(self, learnt: Learnt, cluster: str, node: str) -> None:
        """Keep what a node has learnt, in place of what it handed over before."""
        write_new(self._node(cluster, node) / LEARNT, learnt.encode())

    def learnt_of(self, cluster: str, node: str, machine: str = "") -> Learnt | None:
        """What a node handed over last, with what most nodes of its machine have; None where nothing can be used."""
        own = None
        with contextlib.suppress(FileNotFoundError, DataError):
            own = Learnt.read(self._node(cluster, node) / LEARNT)
        typical_uw = typical_of(self._cluster(cluster), machine) if machine else {}
        if own is not None and (own.machine == machine or not typical_uw):
            return replace(own, typical_uw=typical_uw, sender="")
        return Learnt(machine, {}, typical_uw) if typical_uw else None

    def _node(self, cluster: str, node: str) -> Path:
        """The node's directory."""
        found = self._cluster(cluster) / NODES / safe_name(node, "node")
        found.mkdir(mode=0o750, parents=True, exist_ok=True)
        return found

    def _cluster(self, name: str) -> Path:
        """The cluster's directory; the archive itself is never made here: it may only be not mounted."""
        cluster = self.root / safe_name(name, "cluster")
        if not self.root.is_dir():
            raise NotFoundError(f"{self.root}: no archive here: mount it, or make it (store.archive)")
        make_directory(cluster, 0o777)
        if stat.S_IMODE(cluster.stat().st_mode) != PASSABLE:
            with contextlib.suppress(PermissionError):  # somebody else's, who decides
                cluster.chmod(PASSABLE)  # against the umask: owners of jobs pass through to their own directories
        return cluster


def _run(directory: Path) -> str:
    """The run of a session's directory, whatever other runs of that name were there."""
    return SessionKey.parse(run_of(directory.name) or directory.name).name


def encode(record: dict[str, Any]) -> bytes:
    """The bytes of a record's file."""
    return json.dumps(record, separators=(",", ":")).encode()


def _put(path: Path, data: bytes, durable: bool = True) -> None:
    """Put a file into a directory that the collector takes away whenever it finds nothing in it."""
    for tries_left in reversed(range(PUT_TRIES)):
        try:
            make_directory(path.parent)
            write_new(path, data, durable=durable)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            return


def _place(directory: Path, node: str, record: dict[str, Any]) -> Path:
    """Where a node's record goes: never over one of another run of that name, or a newer one, still to be collected."""
    path, at_s = directory / f"{node}.json", record["start"]["real_ns"] // 1_000_000_000
    while not _may_replace(path, record):
        path, at_s = directory / f"{node}@{at_s}.json", at_s + 1
    return path


def _may_replace(path: Path, record: dict[str, Any]) -> bool:
    try:
        there = json.loads(path.read_bytes())
        apart_ns = abs(there["start"]["real_ns"] - record["start"]["real_ns"])
        if there.get("sluid") and record.get("sluid") and there["sluid"] != record["sluid"]:
            return False
        return bool(apart_ns <= OTHER_RUN_NS and there["revision"] <= record["revision"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True  # none, or a damaged one


def _ends_it_better(path: Path, record: dict[str, Any]) -> bool:
    """Whether what is there is of the same run, and knows its end where this one was cut off, or cut off later.

    A node that lost its power goes on from a state of some time before, by which a job may run that has ended since.
    """
    return _is_ahead(path, record, lambda one: (one["end"]["from"] != CUT_OFF, one["end"]["mono_ns"]))


def _tells_more(path: Path, record: dict[str, Any]) -> bool:
    """Whether what is there is of the same run, and of a later moment: a word that was held up takes nothing back."""
    return _is_ahead(path, record, lambda one: one["end"]["mono_ns"])


def _is_ahead(path: Path, record: dict[str, Any], known: Callable[[dict[str, Any]], Any]) -> bool:
    """Whether what is there is of the same run, and more is `known` by it; of a damaged one nothing is."""
    try:
        there = json.loads(path.read_bytes())
        same = (there["boot_id"], there["start"]["mono_ns"]) == (record["boot_id"], record["start"]["mono_ns"])
        return bool(same and known(there) > known(record))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _with_trace(directory: Path, archive: Archive, name: str, record: dict[str, Any]) -> dict[str, Any]:
    """Ship the trace; one that cannot go is named in the record that is returned, which is the evidence."""
    from perun_hpc.store import layout, ship

    try:
        _check_tracks(directory, record)
        job_dir = _job_directory(archive, name)
        ship.ship(directory, job_dir, _nodes(record))
    except layout.OtherLayoutError as error:
        apart = ship.put_apart(directory, job_dir, safe_name(record["node"], "node"))
        note = f"its trace waits in {layout.APART}/{apart.name} for a newer perun: {error}"
        return {**record, "notes": [*record.get("notes", ()), note]}
    except (DataError, ValueError) as error:
        return {**record, "trace": {**record["trace"], "stored": False, "why": str(error)}}
    return record


def _check_tracks(directory: Path, record: dict[str, Any]) -> None:
    """A node's trace holds its own rows alone: `DataError` for a track of another node's."""
    from perun_hpc.store.description import descriptions

    for home, track in descriptions(directory):
        if track.get("node") != record["node"]:
            raise DataError(f"{home.name}: a track of node {str(track.get('node'))[:40]!r}: see who wrote it")


def _job_directory(archive: Archive, name: str) -> Path:
    """The directory of a run, made where it is not there."""
    run = Run.parse(name)
    if run is None:
        raise DataError(f"{name[:40]!r} is no job's run: see who wrote it")
    with contextlib.suppress(FileExistsError):
        archive.make_job(run)
    return archive.job(run)


def _grow_trace(directory: Path, archive: Archive, name: str, record: dict[str, Any]) -> None:
    """The trace of a running job as far as it is in shards; what cannot go now goes at the end, and is named then."""
    from perun_hpc.config.settings import trace_wanted
    from perun_hpc.store import ship

    lasted_ns = record["end"]["mono_ns"] - record["start"]["mono_ns"]
    if not trace_wanted(record["settings"], record.get("flagged", bool(record["steps"])), lasted_ns):
        return
    with contextlib.suppress(DataError, ValueError):
        ship.grow(directory, _job_directory(archive, name), _nodes(record))


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _nodes(record: dict[str, Any]) -> list[str]:
    from perun_hpc.slurm import hostlist

    return list(hostlist.expand(record["nodelist"]))
