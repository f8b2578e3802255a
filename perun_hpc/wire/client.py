"""Ask the node's agent: one connection, one request, one reply."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence

from perun_hpc.errors import DataError, UnavailableError
from perun_hpc.wire.message import Message, decode, encode
from perun_hpc.wire.packet import receive_packet, send_packet

AGENT_SOCKET = "/run/perun/agent.sock"


def connect(path: str = AGENT_SOCKET, timeout_s: float = 1.0, owner: int | None = None) -> socket.socket:
    """Connect to an agent; the socket keeps ``timeout_s`` for each later call.

    Parameters
    ----------
    path : of its socket; ``@NAME`` for an abstract one.
    timeout_s : how long the listener's queue may stay full, in seconds.
    owner : the user who must listen there; None for whoever does.

    Returns
    -------
    The socket, connected.

    Raises
    ------
    UnavailableError
        If nobody (or somebody else) listens there, or the listener's queue stays full for ``timeout_s``.


    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # A non-blocking connect to a full AF_UNIX queue fails at once (EAGAIN) and cannot be polled for; the send
        # timeout of a blocking one bounds the wait in the kernel.
        seconds = max(timeout_s, 1e-6)
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.connect(address(path))
        sock.settimeout(seconds)
        if owner is not None and peer_uid(sock) != owner:
            raise PermissionError("another user listens there")
    except (OSError, ValueError) as error:
        sock.close()
        raise UnavailableError(f"no agent answers at {path} ({error}): is perun's agent running?") from error
    return sock


def address(path: str) -> str:
    """What the kernel calls a socket: ``@NAME`` is an abstract one."""
    return f"\0{path[1:]}" if path.startswith("@") else path


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a connection, as the kernel says."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def request(
    verb: str,
    fields: Mapping[str, str],
    fds: Sequence[int] = (),
    timeout_s: float = 1.0,
    path: str = AGENT_SOCKET,
    owner: int | None = None,
) -> Message:
    """Send one message to the agent and wait for its reply.

    Parameters
    ----------
    verb, fields : the message.
    fds : descriptors that travel with it.
    timeout_s : for everything together, in seconds.
    path, owner : as of `connect`.

    Returns
    -------
    The reply, of verb ``ok`` or ``error``.

    Raises
    ------
    UnavailableError
        If there is no agent or it does not answer in time.
    DataError
        If the request does not fit into a packet or the reply is malformed.


    """
    packet = encode(verb, fields)
    deadline_s = time.monotonic() + timeout_s
    with connect(path, timeout_s, owner) as sock:
        try:
            send_packet(sock, packet, fds)
            sock.settimeout(max(deadline_s - time.monotonic(), 1e-6))
            reply, reply_fds = receive_packet(sock)
        except OSError as error:
            raise UnavailableError(f"the agent at {path} does not answer ({error})") from error
    for fd in reply_fds:
        os.close(fd)
    if not reply:
        raise UnavailableError(f"the agent at {path} closed the connection without an answer")
    message = decode(reply)
    if message.verb not in ("ok", "error"):
        raise DataError(f"the agent at {path} answered {message.verb!r}: expected ok or error")
    return message
