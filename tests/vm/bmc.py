"""A board's management controller behind qemu's `ipmi-bmc-extern`: it answers DCMI's question for the node's power.

It speaks the byte stream that OpenIPMI calls the VM protocol: a message is a number, the network function with the
unit, the command, data and a checksum, then 0xA0; a control command ends with 0xA1; 0xAA escapes these three. qemu's
own `ipmi-bmc-sim` knows no DCMI.

Sources: IPMI v2.0 rev. 1.1 (sections 20.1, 22.1 to 22.6), DCMI v1.5 (sections 6.1.1, 6.6.1).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

END, COMMAND, ESCAPE = 0xA0, 0xA1, 0xAA
APP, GROUP = 0x06, 0x2C
DCMI = 0xDC
INVALID = 0xC1
BASE_W, STEPS = 170, 20
"""It draws 170 to 189 W, another watt every second."""


def power_w(now_s: float) -> int:
    """What the machine draws at a moment."""
    return BASE_W + int(now_s) % STEPS


class Bmc(threading.Thread):
    """Answers one qemu until that leaves.

    `served` lists (time in s, W) of every answer.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        path.unlink(missing_ok=True)
        self.served: list[tuple[float, int]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)

    def run(self) -> None:
        """Accept qemu and answer what it asks."""
        with self._listener, contextlib.suppress(OSError):
            stream, _ = self._listener.accept()
            pending = bytearray()
            escaped = False
            while piece := stream.recv(4096):
                for byte in piece:
                    if byte == END:
                        stream.sendall(self._answer(bytes(pending)))
                    if byte in (END, COMMAND):
                        pending.clear()
                    elif byte == ESCAPE:
                        escaped = True
                    else:
                        pending.append(byte & ~0x10 if escaped else byte)
                        escaped = False

    def _answer(self, request: bytes) -> bytes:
        """The packet for a request: its number, function and command, then what is said."""
        number, function, command, *data = request[:-1]
        said = self._say(function >> 2, command, data)
        body = bytes([number, function | 0x04, command, *said])
        return _escaped(body + bytes([-sum(body) & 0xFF])) + bytes([END])

    def _say(self, function: int, command: int, data: list[int]) -> list[int]:
        """Completion code and data."""
        if function == APP:
            return _APP.get(command, [INVALID])
        if function == GROUP and data[:1] == [DCMI]:
            if command == 0x01:
                return [0, DCMI, 1, 5, 2, *_CAPABILITIES.get(data[1], [0, 0, 0])]
            if command == 0x02:
                now_s = time.time()
                watts = power_w(now_s)
                self.served.append((now_s, watts))
                figures = (watts, BASE_W, BASE_W + STEPS - 1, BASE_W + STEPS // 2)
                seconds, period_ms = int(now_s).to_bytes(4, "little"), (1000).to_bytes(4, "little")
                return [0, DCMI, *b"".join(one.to_bytes(2, "little") for one in figures), *seconds, *period_ms, 0x40]
        return [INVALID]


_APP = {
    # Get Device ID: revision 1, firmware 1.0, IPMI 2.0, no sensors of its own.
    0x01: [0, 0x20, 1, 1, 0, 0x02, 0, 0, 0, 0, 0, 0],
    0x2E: [0],
    0x2F: [0, 0],
    0x30: [0],
    0x31: [0, 0],
}
_CAPABILITIES = {
    # Supported capabilities: power management, in band by the system interface.
    1: [0, 1, 1],
}


def _escaped(body: bytes) -> bytes:
    out = bytearray()
    for byte in body:
        out += bytes([ESCAPE, byte | 0x10]) if byte in (END, COMMAND, ESCAPE) else bytes([byte])
    return bytes(out)
