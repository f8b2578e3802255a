"""The agent's socket: who speaks is what the kernel says, every message is bounded, nobody can take all the places."""

from __future__ import annotations

import os
import selectors
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.errors import AccessError, DataError, PerunError
from perun_hpc.process.log import failures, place
from perun_hpc.wire.message import Message, decode, encode
from perun_hpc.wire.packet import receive_packet, send_packet

_UCRED = struct.Struct("iII")
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Peer:
    """The process at the other end (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Limits:
    """What one user may take of the agent."""

    connections: int = 512
    connections_per_uid: int = 128
    messages_per_s: int = 500
    burst: int = 4096
    idle_ns: int = 30 * SECOND_NS
    turn_ns: int = 20_000_000
    """Work for users in one turn of the loop; what is left waits for the next one, so that hooks are served between."""
    accepts: int = 128
    """New connections in one turn."""
    work_ns: int = 500_000
    """Work that costs a user one more message: who has much done for him waits for it."""


class Allowance:
    """A token bucket per user: `burst` messages at once, `messages_per_s` in the long run; root has no limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left: dict[int, tuple[int, int]] = {}

    def take(self, uid: int, mono_ns: int) -> bool:
        """Spend one message of a user; False when there is none left."""
        if uid == 0:
            return True
        full = self._limits.burst * SECOND_NS
        left, seen_ns = self._left.get(uid, (full, mono_ns))
        left = min(full, left + (mono_ns - seen_ns) * self._limits.messages_per_s)
        granted = left >= SECOND_NS
        self._left[uid] = (left - SECOND_NS if granted else left, mono_ns)
        return granted

    def charge(self, uid: int, work_ns: int) -> None:
        """Let a user pay for the work that a message made."""
        if uid in self._left:
            left, seen_ns = self._left[uid]
            self._left[uid] = (left - work_ns // self._limits.work_ns * SECOND_NS, seen_ns)

    def forget_full(self, mono_ns: int) -> None:
        """Drop users whose bucket has filled up again."""
        horizon_ns = self._limits.burst * SECOND_NS // self._limits.messages_per_s
        self._left = {uid: seen for uid, seen in self._left.items() if mono_ns - seen[1] < horizon_ns}


def only_root(peer: Peer) -> None:
    """Refuse anybody else."""
    if peer.uid != 0:
        raise AccessError("only root may send this message")


#: Answers one message: the reply's fields, or a PerunError whose text becomes the refusal.
Handler = Callable[[Message, Peer, tuple[int, ...]], dict[str, str]]


@dataclass
class _Connection:
    sock: socket.socket
    peer: Peer
    used_ns: int


class Server:
    """Listens on the agent's socket and answers one packet at a time; it never blocks nor fails by what a peer does."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        handler: Handler,
        clock: Callable[[], int],
        limits: Limits | None = None,
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._handler = handler
        self._clock = clock
        self._limits = limits or Limits()
        self._allowance = Allowance(self._limits)
        self._connections: dict[int, _Connection] = {}
        self._turn_until_ns = 0
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.unregister(self._listener)
        self._listener.close()

    @property
    def busy(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def turn(self) -> None:
        """A new turn of the loop begins."""
        self._turn_until_ns = self._clock() + self._limits.turn_ns

    def sweep(self) -> None:
        """Drop connections that have been silent for too long."""
        now_ns = self._clock()
        for connection in list(self._connections.values()):
            if connection.peer.uid != 0 and now_ns - connection.used_ns > self._limits.idle_ns:
                self._drop(connection)
        self._allowance.forget_full(now_ns)

    def _accept(self) -> None:
        for _ in range(self._limits.accepts):
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody waits any more, the peer is gone again, or we are out of descriptors
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            peer = Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
        except OSError:
            sock.close()
            return
        held = sum(1 for c in self._connections.values() if c.peer.uid == peer.uid)
        full = held >= self._limits.connections_per_uid or len(self._connections) >= self._limits.connections
        if peer.uid != 0 and full:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, peer, self._clock())
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._serve(connection))

    def _serve(self, connection: _Connection) -> None:
        connection.used_ns = self._clock()
        if connection.peer.uid != 0 and connection.used_ns > self._turn_until_ns:
            return
        try:
            packet, fds = receive_packet(connection.sock)
        except BlockingIOError:
            return
        except DataError as error:
            self._answer(connection, "error", {"reason": str(error)})
            return
        except OSError:
            self._drop(connection)
            return
        if not packet:
            self._drop(connection)
            return
        try:
            if not self._allowance.take(connection.peer.uid, connection.used_ns):
                raise DataError("too many messages: slow down")
            reply = self._handler(decode(packet), connection.peer, fds)
        except (PerunError, OSError) as error:
            self._answer(connection, "error", {"reason": str(error)[:1024]})
        except Exception as error:  # a fault of perun's own costs this message
            self._fail(connection, error)
        else:
            self._answer(connection, "ok", reply)
        finally:
            for fd in fds:
                os.close(fd)
            self._allowance.charge(connection.peer.uid, self._clock() - connection.used_ns)

    def _answer(self, connection: _Connection, verb: str, fields: dict[str, str]) -> None:
        try:
            send_packet(connection.sock, encode(verb, fields))
        except OSError:  # gone, or not reading what it asked for
            self._drop(connection)
        except PerunError as error:  # longer than a packet
            self._fail(connection, error)

    def _fail(self, connection: _Connection, error: Exception) -> None:
        """Root's message is not answered: a hook that hears nothing leaves it in the inbox, where it is read again."""
        failures.say(f"a message: {place(error)}")
        if connection.peer.uid == 0:
            self._drop(connection)
        else:
            self._answer(connection, "error", {"reason": "the agent failed on this message"})

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()


def listen(path: Path) -> socket.socket:
    """Bind the agent's socket, world-connectable, replacing what a dead agent left."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(512)
    except OSError:
        sock.close()
        raise
    return sock
