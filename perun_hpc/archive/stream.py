"""Handing files to the collector where nodes share no file system with it: over TCP.

The node sends one line of JSON, `{"schema": "perun.parts/1", "credential": MUNGE, "about": {...}, "files": [[NAME,
BYTES, SHA256], ...]}`, then the files' bytes in that order, and waits for `ok`, `ok ANSWER` or `error TEXT`. Where the
line says `"more": true`, the collector may say `more` for `ok`: then it waits a moment for the next line. The
credential is munge's and covers the sha256 of `about` and `files`, so nothing can be changed on the way nor sent again
(munge refuses a credential seen before). The collector takes files from root and the service user only, checks every
one, and answers when they are where they belong. Where certificates stand in for munge (`archive.certificates`), all of
that goes through TLS, and the credential is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from perun_hpc.errors import AccessError, DataError, PerunError, UnavailableError
from perun_hpc.store.layout import Json

SCHEMA = "perun.parts/1"
TIMEOUT_S = 60.0
MANIFEST_S = 10.0
"""Within this time a sender must have said who it is: until then anybody may be calling."""
NEXT_S = 1.0
"""So long the collector waits for what else the same sender hands over."""
IN_A_ROW = 64
"""After so many hand-overs a sender's place is another's."""
MORE = b"more"
MAX_LINE_B = 1 << 20
MAX_ANSWER_B = 5 << 20
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*\Z")

Connection = socket.socket
_OTHERS: list[Connection] = []
"""Connections of the process that this one was forked from: to close them here could close another's descriptor."""
Listed = tuple[str, int, str]
"""Name relative to the directory, bytes, sha256 of a file."""


@dataclass(frozen=True)
class Signed:
    """What munge vouches for: whose credential it is, over what, and the address of the host that made it."""

    uid: int
    payload: bytes
    origin: str


@dataclass(frozen=True)
class Origin:
    """Who vouches for a sender: munge on the host of that address, or a certificate of those DNS names (lower case)."""

    address: str = ""
    names: frozenset[str] | None = None


Check = Callable[[str, str, Collection[int]], Origin]
"""Given a credential, what it is to cover, and the users whose files are taken: who vouches. AccessError: nobody."""


class Sender(Protocol):
    """How a node shows who it is."""

    def connect(self, connection: Connection, host: str) -> Connection:
        """The connection over which it speaks. OSError where it does not come about."""

    def credential(self, covered: str) -> str:
        """What it shows beside. UnavailableError where it cannot."""


class Receiver(Protocol):
    """How the collector sees who a sender is."""

    def accept(self, connection: Connection) -> tuple[Connection, Check]:
        """The connection over which they speak, and what says who that is. AccessError where it is nobody."""


@dataclass(frozen=True)
class Munge:
    """The munge programs, and the socket of the daemon where it is not the usual one."""

    socket: Path | None = None

    def encode(self, payload: bytes) -> str:
        """A credential of this process's user over `payload`; UnavailableError where munge does not answer."""
        return self._call(["munge"], payload).decode().strip()

    def decode(self, credential: str) -> Signed:
        """What a credential says; AccessError where it is forged, expired or was seen before."""
        try:
            answer = self._call(["unmunge", "--keys=UID,ENCODE_HOST", "--numeric"], credential.encode())
        except UnavailableError as error:
            raise AccessError(f"munge refuses the sender's credential: {error}") from error
        head, _, payload = answer.partition(b"\n\n")
        uid = re.search(rb"^UID:\s+(\d+)\s*$", head, re.MULTILINE)
        origin = re.search(rb"^ENCODE_HOST:\s+(\S+)\s*$", head, re.MULTILINE)
        if uid is None or origin is None:
            raise AccessError("munge's answer names no user or no host; is this munge 0.5.13 or newer?")
        return Signed(int(uid[1]), payload, origin[1].decode(errors="replace"))

    def connect(self, connection: Connection, host: str) -> Connection:
        """The connection as it is."""
        return connection

    def credential(self, covered: str) -> str:
        """This process's user's, over what the manifest lists."""
        return self.encode(covered.encode())

    def accept(self, connection: Connection) -> tuple[Connection, Check]:
        """The connection as it is: the first line has the credential."""
        return connection, self.check

    def check(self, credential: str, covered: str, uids: Collection[int]) -> Origin:
        """Who vouches, for whom, and for just that? AccessError where one of them is not right."""
        signed = self.decode(credential)
        if signed.uid not in uids:
            raise AccessError(
                f"hand-over: user {signed.uid} may not hand over; the agent must run as root or the service user"
            )
        if signed.payload.decode(errors="replace").strip() != covered:
            raise AccessError("hand-over: the credential belongs to another list of files")
        return Origin(address=signed.origin)

    def _call(self, command: list[str], data: bytes) -> bytes:
        where = [f"--socket={self.socket}"] if self.socket else []
        try:
            done = subprocess.run([*command, *where], input=data, capture_output=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"{command[0]} does not run ({error}): install munge and start munged") from error
        if done.returncode:
            raise UnavailableError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


class Channel:
    """A node's way to the collector: a connection, kept while the collector waits for what else is handed over.

    A process that is forked meanwhile makes one of its own.
    """

    def __init__(self, address: tuple[str, int], sender: Sender) -> None:
        """Nothing is connected yet."""
        self._address = address
        self._sender = sender
        self._kept: list[tuple[int, Connection]] = []
        weakref.finalize(self, _close, self._kept)

    def send(self, files: Mapping[str, Path | bytes], about: Json) -> bytes:
        """Hand files (name: where it lies, or its content) over; returns once they are where they belong.

        Returns what the collector answered beside that, as a rule nothing.

        Raises
        ------
        UnavailableError
            where the collector does not answer or refuses; nothing is lost, send again later.
        """
        listed = [_listed(name, source) for name, source in files.items()]
        where = f"collector at {self._address[0]}:{self._address[1]}"
        said = None
        try:
            if kept := _of_this_process(self._kept):
                try:
                    said = self._said(kept, files, listed, about)
                except OSError as error:  # the collector had waited for a moment only
                    if error.filename is not None or isinstance(error, TimeoutError):
                        raise
            word, answer = said or self._said(self._connected(), files, listed, about)
        except OSError as error:
            raise UnavailableError(f"{where}: {error}; nothing left the spool") from error
        if word not in (b"ok", MORE):
            raise UnavailableError(f"{where} refused: {answer.decode(errors='replace')[:MAX_LINE_B]}")
        return answer

    def _connected(self) -> Connection:
        plain = at_once(socket.create_connection(self._address, TIMEOUT_S))
        try:
            return self._sender.connect(plain, self._address[0])
        except BaseException:
            plain.close()
            raise

    def _said(
        self, connection: Connection, files: Mapping[str, Path | bytes], listed: Sequence[Listed], about: Json
    ) -> tuple[bytes, bytes]:
        """Hand over on a connection, and keep it if the collector does; its answer's first word, and the rest."""
        goes_on = False
        try:
            credential = self._sender.credential(_covered(about, listed))
            line = {"schema": SCHEMA, "credential": credential, "about": about, "files": listed, "more": True}
            try:
                connection.sendall(json.dumps(line).encode() + b"\n")
                for (_, size, _), source in zip(listed, files.values(), strict=True):
                    if isinstance(source, bytes):
                        connection.sendall(source)
                    elif size:
                        _send_file(connection, source, size)
            except OSError as error:
                if error.filename is not None or isinstance(error, TimeoutError):
                    raise
                # else it refused before it had read everything, and may have said why
            with connection.makefile("rb") as reader:
                said = reader.readline(MAX_ANSWER_B)
            if not said.endswith(b"\n"):  # half of an answer may mean something else
                raise ConnectionError("it closed the connection")
            word, _, answer = said.strip().partition(b" ")
            goes_on = word == MORE
        finally:
            if goes_on:
                self._kept.append((os.getpid(), connection))
            else:
                connection.close()
        return word, answer


def send(files: Mapping[str, Path | bytes], about: Json, address: tuple[str, int], sender: Sender) -> bytes:
    """Hand files over as `Channel.send` does, on a connection of their own."""
    return Channel(address, sender).send(files, about)


def _of_this_process(kept: list[tuple[int, Connection]]) -> Connection | None:
    """A connection that was kept; one of the process that this one was forked from is that one's alone."""
    while kept:
        pid, connection = kept.pop()
        if pid == os.getpid():
            return connection
        _OTHERS.append(connection)
    return None


def _close(kept: list[tuple[int, Connection]]) -> None:
    while connection := _of_this_process(kept):
        connection.close()


def at_once(connection: Connection) -> Connection:
    """The same, which sends small pieces as they come: else the second waits 40 ms for the first to be confirmed.

    A listening socket's connections are as it is.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive(
    connection: socket.socket,
    receiver: Receiver,
    uids: Collection[int],
    allowed: re.Pattern[str],
    take: Callable[[Path, Json, Origin], bytes],
    workspace: Path,
    prefix: str = "",
) -> None:
    """Take what one connection hands over and answer the sender, whatever happens.

    Parameters
    ----------
    uids : users whose files are taken: root and the service user.
    allowed : what the whole name of a file must match.
    take : puts what lies in a directory where it belongs, given what was said about it and who vouches for it, and
        returns what the sender is answered, without a line's end; may run twice.
    workspace : directory for what is received until it is complete, under names that begin with `prefix`.

    Raises
    ------
    AccessError, DataError
        where it was refused; the sender has had the reason.
    """
    until_s = time.monotonic() + MANIFEST_S
    with contextlib.ExitStack() as stack:
        try:
            connection.settimeout(MANIFEST_S)
            connection, check = receiver.accept(connection)
            stack.enter_context(connection)
            incoming = _Incoming(connection, until_s)
            for left in reversed(range(IN_A_ROW)):
                manifest = _manifest(incoming.line(MAX_LINE_B), check, uids, allowed)
                connection.settimeout(TIMEOUT_S)
                _check_space(sum(size for _, size, _ in manifest.files), workspace)
                with tempfile.TemporaryDirectory(prefix=prefix, dir=workspace) as directory:
                    for file, size, digest in manifest.files:
                        _save(incoming, Path(directory) / file, size, digest)
                    answer = take(Path(directory), manifest.about, manifest.origin)
                word = MORE if manifest.more and left else b"ok"
                connection.sendall(b"%b %b\n" % (word, answer) if answer else word + b"\n")
                if word != MORE or not incoming.goes_on(NEXT_S):
                    return
        except (PerunError, OSError) as error:
            with contextlib.suppress(OSError):  # it may have gone away
                connection.sendall(f"error {' '.join(str(error).split())}\n".encode())
            raise


class _Incoming:
    """The bytes of a connection; a line within a time that the sender cannot stretch."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s
        self._held = b""

    def line(self, most: int) -> bytes:
        """A line, without its end; DataError where it is longer, does not come, or never ends."""
        held = bytearray(self._held)
        while (end := held.find(b"\n")) < 0:
            left_s = self._until_s - time.monotonic()
            if len(held) > most or left_s <= 0:
                raise DataError("hand-over: the first line is no list of files (too long, or too slow)")
            self._connection.settimeout(left_s)
            block = self._connection.recv(1 << 16)
            if not block:
                raise DataError("hand-over: the first line is no list of files (it does not end)")
            held += block
        self._held = bytes(held[end + 1 :])
        return bytes(held[:end])

    def goes_on(self, seconds: float) -> bool:
        """Whether another line begins within this time."""
        if not self._held:
            self._connection.settimeout(seconds)
            with contextlib.suppress(OSError):
                self._held = self._connection.recv(1 << 16)
        self._until_s = time.monotonic() + MANIFEST_S
        return bool(self._held)

    def read(self, most: int) -> bytes:
        """Up to so many of the bytes that follow; empty at the end."""
        if not self._held:
            return self._connection.recv(min(most, 1 << 20))
        block, self._held = self._held[:most], self._held[most:]
        return block


class _Manifest(NamedTuple):
    """What a line said: what it is about, the files that follow, who vouches, whether its sender goes on."""

    about: dict[str, str]
    files: list[Listed]
    origin: Origin
    more: bool


def _manifest(line: bytes, check: Check, uids: Collection[int], allowed: re.Pattern[str]) -> _Manifest:
    try:
        message = json.loads(line)
        about = {str(key): str(value) for key, value in message["about"].items()}
        files = [(str(name), int(size), str(digest)) for name, size, digest in message["files"]]
        credential, schema = str(message["credential"]), message["schema"]
        more = message.get("more") is True
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"hand-over: the first line is no list of files ({error})") from error
    if schema != SCHEMA:
        raise DataError(f"hand-over: {schema!r} is not understood, {SCHEMA} is")
    origin = check(credential, _covered(about, files), uids)
    for name, size, _ in files:
        if not (allowed.fullmatch(name) and all(_SAFE.match(part) for part in name.split("/")) and size >= 0):
            raise DataError(f"hand-over: {name[:80]!r} is no file that is handed over")
    if len({name for name, _, _ in files}) < len(files):
        raise DataError("hand-over: a file is listed twice")
    return _Manifest(about, files, origin, more)


def _check_space(size_b: int, workspace: Path) -> None:
    """Refuse what would leave others no space: everything lies twice for a moment."""
    free_b = shutil.disk_usage(workspace).free
    if size_b > free_b // 4:
        raise DataError(f"hand-over: {size_b} bytes are too much for the {free_b} that the collector has left")


def _save(incoming: _Incoming, path: Path, size: int, digest: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("xb") as file:
        while size:
            block = incoming.read(size)
            if not block:
                raise DataError(f"hand-over: the connection ended within {path.name}")
            found.update(block)
            file.write(block)
            size -= len(block)
    if found.hexdigest() != digest:
        raise DataError(f"hand-over: {path.name} was changed on the way")


def _covered(about: Json, files: Sequence[Listed]) -> str:
    """What the credential is made over."""
    text = json.dumps([about, [list(file) for file in files]], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _send_file(connection: socket.socket, source: Path, size: int) -> None:
    with source.open("rb") as file:
        sent = connection.sendfile(file, count=size)
    if sent != size:
        raise UnavailableError(f"{source} was cut short while it was sent: it is sent again")


def _listed(name: str, source: Path | bytes) -> Listed:
    if isinstance(source, bytes):
        return name, len(source), hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return name, file.tell(), digest
