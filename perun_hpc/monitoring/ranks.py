"""The rank server where the ranks of a host hand in their data, and the reading of what they handed in.

It lives in the sampling process and speaks the agent's wire: `rank-start` and `rank-end` by `perun monitor` for each
rank but its own, `rank-data`, `window` and `summary` by the application. What is handed in is kept as it came;
`rank_data.parse` checks it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from perun_hpc.data_model import rank_data
from perun_hpc.errors import DataError
from perun_hpc.files import write_new
from perun_hpc.monitoring.address import BESIDE
from perun_hpc.monitoring.child import Ended
from perun_hpc.process.ready import readable
from perun_hpc.wire.client import address, peer_uid
from perun_hpc.wire.message import Message, decode, encode
from perun_hpc.wire.packet import receive_packet, send_packet

CAP_B = 320 * 1024 * 1024
SUFFIX = ".rank"
ANSWER_S = 1.0
REGISTER_S = 10.0


class Host(Protocol):
    """What the rank server asks of the sampling process it lives in; called from the rank server's thread."""

    def energy_uj(self) -> tuple[int | None, int]:
        """A fresh reading: the host's energy since the start in uJ (None without a sensor), and when (monotonic ns)."""

    def write_summary(self) -> str:
        """Write the summary as of now; returns the directory that it is in."""

    def claim(self, sensors: Sequence[str]) -> list[str]:
        """Which of these sensors nobody on this host owns yet; they are the caller's from now on."""


class RankServer:
    """Listens on a socket in a thread until `close`.

    Parameters
    ----------
    path : of the socket, in a directory of the user's own; `@NAME` for an abstract one.
    directory : where ranks' data go, a file each.
    host : asked for windows and summaries.
    expected : how many ranks may register with `rank-start`; `finish` waits for those that have not until `REGISTER_S`
        seconds after the start, unless a rank has seen MPI initialised: then all that there are had registered before.

    Attributes
    ----------
    ended : how the registered ranks' commands ended, by rank, as `rank-end` said.
    """

    def __init__(self, path: str, directory: Path, host: Host, expected: int = 0) -> None:
        self._directory = directory
        self._host = host
        self._uid = os.geteuid()
        self._live: dict[str, int] = {}
        self._pids: dict[str, int] = {}
        self._expected = expected
        self._latest_s = time.monotonic() + REGISTER_S
        self.ended: dict[str, Ended] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if path.startswith("@"):
            self._listener.bind(address(path))
            self._listener.listen(256)
        else:  # bound beside and renamed: who sees the name can connect
            self._listener.bind(path + BESIDE)
            self._listener.listen(256)
            Path(path + BESIDE).rename(path)
        self._path = path
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="perun-ranks", daemon=True)
        self._thread.start()

    def finish(self, abandoned: Callable[[], bool]) -> None:
        """Wait until every rank that registered has ended, unless `abandoned` says that nobody waits for us any
        more."""
        with self._changed:
            while not abandoned():
                running = [fd for fd in self._pids.values() if not readable(fd, 0)]
                missing = len(self._pids) < self._expected and time.monotonic() < self._latest_s
                if not running and not missing:
                    break
                self._changed.wait(0.02)

    def close(self) -> None:
        """Stop listening; ranks that never handed in a final message are read from the memory that they shared. A
        second call does nothing."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_w, b"x")
        self._thread.join(ANSWER_S)
        if not self._path.startswith("@"):
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
                Path(self._path).parent.rmdir()  # the monitoring process may be gone
        self._listener.close()
        for rank, fd in self._live.items():
            self._keep(rank, fd)
        for fd in (*self._live.values(), *self._pids.values(), self._wake_r, self._wake_w):
            os.close(fd)
        self._live.clear()
        self._pids.clear()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj == self._wake_r:
                        self._drain()
                        return
                    with contextlib.suppress(OSError):
                        self._accept()

    def _drain(self) -> None:
        """Take what came in before the end: a rank may have sent its data just before it ended."""
        self._listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                self._accept()

    def _accept(self) -> None:
        """Answer one rank, whatever it says; OSError where nobody waits, or there is no descriptor left for him."""
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(ANSWER_S)
            try:
                if peer_uid(connection) != self._uid:
                    return
                packet, fds = receive_packet(connection)
                try:
                    verb, fields = self._answer(decode(packet), fds)
                finally:
                    for fd in fds:
                        os.close(fd)
                send_packet(connection, encode(verb, fields))
            except Exception:
                return  # that rank goes without, whatever it said; the others are served

    def _answer(self, message: Message, fds: tuple[int, ...]) -> tuple[str, dict[str, str]]:
        rank = message.get("rank", "0") or "0"
        if message.verb == "window":
            energy_uj, mono_ns = self._host.energy_uj()
            if energy_uj is None:
                return "error", {"reason": "none", "text": "no energy sensor"}
            return "ok", {"energy_uj": str(energy_uj), "mono_ns": str(mono_ns)}
        if message.verb == "summary":
            return "ok", {"path": self._host.write_summary()}
        if message.verb == "claim":
            return "ok", {"sensors": "\n".join(self._host.claim((message.get("sensors") or "").split("\n")))}
        if not (rank.isascii() and rank.isdigit() and len(rank) <= 10):
            return "error", {"reason": "malformed", "text": "rank"}
        if message.verb == "rank-start" and fds:
            with self._changed:
                self._pids[rank] = os.dup(fds[0])
                self._changed.notify()
        elif message.verb == "rank-end":
            self.ended[rank] = Ended(**{one.name: number(message.get(one.name)) for one in fields(Ended)})
        elif message.verb == "rank-data" and fds and message.get("live") == "1":
            self._forget(rank)
            self._live[rank] = os.dup(fds[0])
            self._look(_content(fds[0], 1))
        elif message.verb == "rank-data" and fds:
            self._forget(rank)
            self._keep(rank, fds[0])
        else:
            return "error", {"reason": "unknown", "text": message.verb}
        return "ok", {}

    def _forget(self, rank: str) -> None:
        fd = self._live.pop(rank, None)
        if fd is not None:
            os.close(fd)

    def _keep(self, rank: str, fd: int) -> None:
        try:
            self._directory.mkdir(exist_ok=True)
            content = _content(fd)
            self._look(content)
            write_new(self._directory / f"{rank}{SUFFIX}", content, mode=0o666, durable=False)  # as the umask says
        except (OSError, DataError):
            return

    def _look(self, content: bytes) -> None:
        """Note whether this rank has seen MPI initialised."""
        with contextlib.suppress(DataError):  # whoever reads it all says what is wrong with it
            mpi = rank_data.head(content).get("mpi")
            if mpi and mpi["size"] > 1:
                self._latest_s = 0.0


def number(text: str | None) -> int:
    """A number of a message; 0 for anything else."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else 0


def _content(fd: int, most_b: int = CAP_B) -> bytes:
    """What a rank's memory holds, without the pages after the end of a table that was still growing; no more than the
    first MiB that reaches `most_b`."""
    parts, at = [], 0
    while at < most_b:
        part = os.pread(fd, 1 << 20, at)
        if not part or (at and not any(part)):
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def read_ranks(directory: Path) -> tuple[list[rank_data.RankData], list[str]]:
    """All ranks' data in a directory, and what could not be read."""
    found, problems = [], []
    for path in sorted(directory.glob(f"*{SUFFIX}"), key=lambda path: (len(path.name), path.name)):
        try:
            found.append(rank_data.parse(path.read_bytes()))
        except (DataError, OSError) as error:
            problems.append(f"{path.name}: {error}")
    return found, problems
