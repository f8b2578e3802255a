"""The node's end where it shares no file system with the collector: what would go into the archive goes over to it.

Its other end is `archive/taking.py`, which puts what it received into the archive as a node does (`ArchiveDelivery`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from perun_hpc.archive.delivery import encode
from perun_hpc.archive.grown import days_of, edge_of, whole_lines
from perun_hpc.archive.learnt import LEARNT, Learnt
from perun_hpc.archive.stream import Channel, Munge, Receiver, Sender
from perun_hpc.data_model.job import run_of
from perun_hpc.errors import DataError
from perun_hpc.files import read_json, write_new
from perun_hpc.store import layout
from perun_hpc.store.description import TRACK, TRACKS, descriptions

RECORD = "record.json"
ALLOWED = re.compile(
    rf"{re.escape(RECORD)}|{re.escape(LEARNT)}|\d{{4}}-\d\d-\d\d\.jsonl"
    rf"|{TRACKS}/[^/]+/{re.escape(TRACK)}|{re.escape(layout.STORE)}(/[^/]+){{2,3}}"
)
"""Names of files that go over the connection."""
MOST_B = 1 << 40
SENT = "sent"
"""How much of each day of the node ledger was handed over, beside it."""
FROM, WHOLE = "from", b"whole"
"""Behind which places parts of days come; what the collector answers where it needs these days whole."""


def address(text: str) -> tuple[str, int]:
    """Host and port of the policy's `store.collector`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def sender(tls: Mapping[str, str] | None) -> Sender:
    """How a node shows the collector who it is: by the certificates of the policy's `store.tls`, else by munge."""
    if not tls:
        return Munge()
    from perun_hpc.archive.certificates import Certificates  # no node needs ssl that has munge

    return Certificates.of(tls)


def receiver(tls: Mapping[str, str] | None) -> Receiver:
    """The collector's end of it. AccessError where the certificates cannot be used."""
    if not tls:
        return Munge()
    from perun_hpc.archive.certificates import Certificates, Presented

    return Presented(Certificates.of(tls))


@dataclass(frozen=True)
class StreamDelivery:
    """The collector that answers at an address."""

    address: tuple[str, int]
    sender: Sender = field(default_factory=Munge)

    @cached_property
    def channel(self) -> Channel:
        """What is handed over in a row goes one way."""
        return Channel(self.address, self.sender)

    def session(self, directory: Path, record: dict[str, Any]) -> None:
        """Hand over a sealed session: its boundary record and its trace."""
        trace: dict[str, Path | bytes] = {}
        if record["trace"]["stored"]:
            try:
                trace = _trace(directory)
            except (DataError, ValueError) as error:
                record = {**record, "trace": {**record["trace"], "stored": False, "why": str(error)}}
        self._send("session", directory, {RECORD: encode(record), **trace})

    def progress(self, directory: Path, record: dict[str, Any], grow: bool) -> None:
        """Hand over what is known so far of a running job; a trace goes when it is complete."""
        self._send("progress", directory, {RECORD: encode(record)})

    def ledger(self, directory: Path, cluster: str, node: str) -> tuple[str, ...]:
        """Hand over what the days of the node ledger have grown by; the collector names what is odd.

        Where it has something else of a day up to there it asks for the whole. One of before takes what it gets for a
        day that lacks its beginning, and keeps the same.
        """
        days = {path.name: path for path in days_of(directory)}
        sent = _sent(directory, days)
        grown = {name: more for name, path in days.items() if (more := whole_lines(path, sent[name]))}
        if grown:
            about = {"what": "ledger", "cluster": cluster, "node": node}
            places = {name: (sent[name], edge_of(days[name], sent[name])) for name in grown if sent[name]}
            begun = {FROM: json.dumps(places)} if places else {}
            if self.channel.send(grown, {**about, **begun}) == WHOLE:
                sent.update(dict.fromkeys(grown, 0))
                grown = {name: whole_lines(days[name], 0) for name in grown}
                self.channel.send(grown, about)
            sent.update((name, sent[name] + len(more)) for name, more in grown.items())
            write_new(directory / SENT, json.dumps(sent).encode(), durable=False)
        return ()

    def keep_learnt(self, learnt: Learnt, cluster: str, node: str) -> None:
        """Hand over what the node has learnt."""
        about = {"what": "learnt", "cluster": cluster, "node": node}
        self.channel.send({LEARNT: learnt.encode()}, about)

    def learnt_of(self, cluster: str, node: str, machine: str = "") -> Learnt | None:
        """Ask for what the node handed over last, which the collector gives to the node itself alone, and for what most
        nodes of its machine have."""
        about = {"what": "learnt", "cluster": cluster, "node": node, "machine": machine}
        answer = self.channel.send({}, about)
        return Learnt.parse(answer) if answer else None

    def _send(self, what: str, directory: Path, files: dict[str, Path | bytes]) -> None:
        self.channel.send(files, {"what": what, "name": run_of(directory.name) or directory.name})


def _sent(directory: Path, days: Mapping[str, Path]) -> dict[str, int]:
    """How many bytes of each day the collector has taken; of a day that is shorter than that by now, none.

    An agent of before left a file without content, as old as what it had sent last. One that is damaged says nothing.
    """
    known, since_ns = None, -1
    with contextlib.suppress(FileNotFoundError):
        mark = (directory / SENT).stat()
        if mark.st_size:
            known = read_json(directory / SENT)
        else:
            since_ns = mark.st_mtime_ns
    status = {name: path.stat() for name, path in days.items()}
    if isinstance(known, dict):
        found = {name: known.get(name, 0) for name in days}
        return {name: at if type(at) is int and 0 <= at <= status[name].st_size else 0 for name, at in found.items()}
    return {name: one.st_size if one.st_mtime_ns < since_ns else 0 for name, one in status.items()}


def places_of(about: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Behind how many bytes of each day what is handed over of it comes, and how these end (`grown.edge_of`).

    DataError where that cannot be read.
    """
    try:
        places = {str(name): (int(at), str(edge)) for name, (at, edge) in json.loads(about[FROM]).items()}
        if not all(0 <= at < MOST_B for at, _ in places.values()):
            raise ValueError("out of range")
        return places
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"hand-over: {FROM}: places in days were expected ({error})") from error


def _trace(directory: Path) -> dict[str, Path | bytes]:
    """The descriptions of a session's tracks, and their shards."""
    homes = [home / TRACK for home, _ in descriptions(directory)]
    shards = sorted((directory / layout.STORE).rglob("c.*"))
    return {str(path.relative_to(directory)): path for path in (*homes, *shards)}
