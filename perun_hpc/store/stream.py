"""Handing sealed parts to the collector where nodes share no file system with it: one TCP connection per session.

The node sends one line of JSON, `{"schema": "perun.parts/1", "credential": MUNGE, "nodes": [...], "files": [[NAME,
BYTES, SHA256], ...]}`, then the files' bytes in that order, and waits for `ok` or `error TEXT`. The credential is
munge's and covers the sha256 of nodes and files, so nothing can be changed on the way nor sent again (munge refuses a
credential seen before). The collector takes parts from root and the service user only, checks every file, and ships the
session as if it had been its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from perun_hpc.errors import AccessError, DataError, UnavailableError
from perun_hpc.store import layout
from perun_hpc.store.layout import Plan
from perun_hpc.store.node_store import TRACK, TRACKS, NodeStore, descriptions
from perun_hpc.store.ship import Shipped, ship

SCHEMA = "perun.parts/1"
TIMEOUT_S = 60.0
MAX_LINE_B = 1 << 20
MAX_PART_B = 1 << 40
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*\Z")
_PARTS = re.compile(rf"({TRACKS}/[^/]+/{re.escape(TRACK)}|{re.escape(layout.STORE)}(/[^/]+){{2,3}})\Z")


@dataclass(frozen=True)
class Munge:
    """The munge programs, and the socket of the daemon where it is not the usual one."""

    socket: Path | None = None

    def encode(self, payload: bytes) -> str:
        """A credential of this process's user over `payload`; UnavailableError where munge does not answer."""
        return self._call(["munge"], payload).decode().strip()

    def decode(self, credential: str) -> tuple[int, bytes]:
        """User id and payload of a credential; AccessError where it is forged, expired or was seen before."""
        try:
            answer = self._call(["unmunge", "--keys=UID", "--numeric"], credential.encode())
        except UnavailableError as error:
            raise AccessError(f"munge refuses the sender's credential: {error}") from error
        head, _, payload = answer.partition(b"\n\n")
        found = re.search(rb"^UID:\s+(\d+)\s*$", head, re.MULTILINE)
        if found is None:
            raise AccessError("munge's answer names no user; is this munge 0.5.13 or newer?")
        return int(found[1]), payload

    def _call(self, command: list[str], data: bytes) -> bytes:
        where = [f"--socket={self.socket}"] if self.socket else []
        try:
            done = subprocess.run([*command, *where], input=data, capture_output=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{command[0]} does not run ({error}): install munge and start munged") from error
        if done.returncode:
            raise UnavailableError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def send(session: Path, address: tuple[str, int], nodes: Sequence[str], munge: Munge) -> None:
    """Hand the sealed session in `session` to the collector at `address`; returns once it has everything.

    Raises
    ------
    UnavailableError
        where the collector does not answer or refuses; nothing is lost, send again later.
    DataError
        where a track is not sealed.
    """
    files = [(name, path.stat().st_size, _digest(path)) for name, path in _parts(session)]
    credential = munge.encode(_covered(nodes, files).encode())
    line = json.dumps({"schema": SCHEMA, "credential": credential, "nodes": list(nodes), "files": files}) + "\n"
    try:
        with socket.create_connection(address, TIMEOUT_S) as connection:
            connection.sendall(line.encode())
            for name, _, _ in files:
                with (session / name).open("rb") as file:
                    connection.sendfile(file)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as reader:
                answer = reader.readline(MAX_LINE_B).decode(errors="replace").strip()
    except OSError as error:
        raise UnavailableError(
            f"collector at {address[0]}:{address[1]}: {error}; the parts stay in the spool"
        ) from error
    if answer != "ok":
        raise UnavailableError(
            f"collector at {address[0]}:{address[1]} refused: {answer or 'it closed the connection'}"
        )


def receive(
    connection: socket.socket,
    munge: Munge,
    uids: Collection[int],
    place: Callable[[Plan], Path],
    workspace: Path,
) -> Shipped:
    """Take one session from a connection and ship it; answers the sender, whatever happens.

    Parameters
    ----------
    uids : users whose parts are taken: root and the service user.
    place : the directory of the job run that a plan names.
    workspace : directory for what is received until it is complete.

    Raises
    ------
    AccessError, DataError
        where the parts were refused; the sender was told why.
    """
    connection.settimeout(TIMEOUT_S)
    with connection.makefile("rb") as reader, tempfile.TemporaryDirectory(dir=workspace) as directory:
        try:
            nodes = _take(reader, Path(directory), munge, uids)
            stores = [NodeStore(home, description) for home, description in descriptions(Path(directory))]
            if len({(s.track.plan.cluster, s.track.plan.job_id, s.track.plan.restart_count) for s in stores}) != 1:
                raise DataError("parts: not of one job run")
            shipped = ship(Path(directory), place(stores[0].track.plan), nodes)
        except (AccessError, DataError, OSError) as error:
            connection.sendall(f"error {' '.join(str(error).split())}\n".encode())
            raise
        connection.sendall(b"ok\n")
        return shipped


def _parts(session: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of what has to be sent: the tracks' descriptions and their shards."""
    for home, description in descriptions(session):
        if description["sealed"] is None:
            raise DataError(f"{home}: not sealed; seal it first")
        yield str((home / TRACK).relative_to(session)), home / TRACK
    for path in sorted((session / layout.STORE).rglob("c.*")):
        yield str(path.relative_to(session)), path


def _take(reader: BinaryIO, directory: Path, munge: Munge, uids: Collection[int]) -> list[str]:
    line = reader.readline(MAX_LINE_B)
    try:
        message = json.loads(line)
        nodes = [str(node) for node in message["nodes"]]
        listed = [(str(name), int(size), str(digest)) for name, size, digest in message["files"]]
        credential, schema = str(message["credential"]), message["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"parts: the first line is no manifest ({error})") from error
    if schema != SCHEMA:
        raise DataError(f"parts: {schema!r} is not understood, {SCHEMA} is")
    uid, covered = munge.decode(credential)
    if uid not in uids:
        raise AccessError(f"parts: user {uid} may not hand over traces; the agent must run as root or the service user")
    if covered.decode(errors="replace").strip() != _covered(nodes, listed):
        raise AccessError("parts: the credential belongs to another manifest")
    for name, size, digest in listed:
        safe = _PARTS.match(name) and all(_SAFE.match(part) for part in name.split("/"))
        if not safe or not 0 <= size <= MAX_PART_B:
            raise DataError(f"parts: {name[:80]!r} is no part of a session")
        _save(reader, directory / name, size, digest)
    return nodes


def _save(reader: BinaryIO, path: Path, size: int, digest: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("xb") as file:
        while size:
            block = reader.read(min(size, 1 << 20))
            if not block:
                raise DataError(f"parts: the connection ended within {path.name}")
            found.update(block)
            file.write(block)
            size -= len(block)
    if found.hexdigest() != digest:
        raise DataError(f"parts: {path.name} was changed on the way")


def _covered(nodes: Sequence[str], files: Sequence[tuple[str, int, str]]) -> str:
    """What the credential is made over."""
    text = json.dumps([list(nodes), [list(file) for file in files]], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
