"""Sending and receiving packets, with the file descriptors that travel along."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from perun_hpc.errors import DataError
from perun_hpc.wire.message import MAX_BYTES

MAX_FDS = 4


def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet; ``fds`` travel as SCM_RIGHTS. Raises OSError."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    """Receive one packet and the descriptors that came with it; the caller closes them.

    An empty packet means that the peer has closed the connection. Raises OSError, and DataError if the packet or its
    descriptors are more than allowed (what came is closed again).
    """
    space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    packet, ancillary, flags, _ = sock.recvmsg(MAX_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    fds = tuple(received)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(packet) > MAX_BYTES:
        for fd in fds:
            os.close(fd)
        raise DataError(f"packet exceeds {MAX_BYTES} bytes or {MAX_FDS} descriptors")
    return packet, fds
