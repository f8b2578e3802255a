"""The node's end where it shares no file system with the collector: what would go into the archive goes over to it.

Its other end is `archive/listener.py`, which puts what it received into the archive as a node does (`ArchiveDelivery`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perun_hpc.archive import stream
from perun_hpc.archive.delivery import encode
from perun_hpc.archive.learnt import LEARNT, Learnt
from perun_hpc.archive.stream import Munge, Receiver, Sender
from perun_hpc.data_model.job import run_of
from perun_hpc.errors import DataError
from perun_hpc.store import layout
from perun_hpc.store.description import TRACK, TRACKS, descriptions

RECORD = "record.json"
ALLOWED = re.compile(
    rf"{re.escape(RECORD)}|{re.escape(LEARNT)}|\d{{4}}-\d\d-\d\d\.jsonl"
    rf"|{TRACKS}/[^/]+/{re.escape(TRACK)}|{re.escape(layout.STORE)}(/[^/]+){{2,3}}"
)
"""Names of files that go over the connection."""


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
        """Hand over the days of the node ledger that have grown since; the collector names what is odd."""
        sent = directory / "sent"
        since_ns = sent.stat().st_mtime_ns if sent.exists() else -1
        sending = sent.with_suffix(".now")
        sending.touch()
        days = [path for path in sorted(directory.glob("????-??-??.jsonl")) if path.stat().st_mtime_ns >= since_ns]
        if days:
            about = {"what": "ledger", "cluster": cluster, "node": node}
            stream.send({path.name: path for path in days}, about, self.address, self.sender)
        sending.replace(sent)
        return ()

    def keep_learnt(self, learnt: Learnt, cluster: str, node: str) -> None:
        """Hand over what the node has learnt."""
        about = {"what": "learnt", "cluster": cluster, "node": node}
        stream.send({LEARNT: learnt.encode()}, about, self.address, self.sender)

    def learnt_of(self, cluster: str, node: str, machine: str = "") -> Learnt | None:
        """Ask for what the node handed over last, which the collector gives to the node itself alone, and for what most
        nodes of its machine have."""
        about = {"what": "learnt", "cluster": cluster, "node": node, "machine": machine}
        answer = stream.send({}, about, self.address, self.sender)
        return Learnt.parse(answer) if answer else None

    def _send(self, what: str, directory: Path, files: dict[str, Path | bytes]) -> None:
        stream.send(files, {"what": what, "name": run_of(directory.name) or directory.name}, self.address, self.sender)


def _trace(directory: Path) -> dict[str, Path | bytes]:
    """The descriptions of a session's tracks, and their shards."""
    homes = [home / TRACK for home, _ in descriptions(directory)]
    shards = sorted((directory / layout.STORE).rglob("c.*"))
    return {str(path.relative_to(directory)): path for path in (*homes, *shards)}
