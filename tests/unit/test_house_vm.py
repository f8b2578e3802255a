"""The virtual machines' management controller, and their table."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.vm import bmc, table

POWER = bytes([0x2C << 2, 0x02, 0xDC, 0x01, 0x00, 0x00])
"""DCMI v1.5, section 6.6.1: Get Power Reading, mode 1."""


def asked(path: Path, number: int, request: bytes) -> bytes:
    """What the controller answers to a message, without its end."""
    body = bytes([number]) + request
    packet = b"".join(
        bytes([0xAA, one | 0x10]) if one in (0xA0, 0xA1, 0xAA) else bytes([one])
        for one in body + bytes([-sum(body) & 0xFF])
    )
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as qemu:
        qemu.settimeout(10)
        qemu.connect(str(path))
        qemu.sendall(packet + b"\xa0")
        answer = b""
        while not answer.endswith(b"\xa0"):
            answer += qemu.recv(100)
    plain, escaped = bytearray(), False
    for byte in answer[:-1]:
        if byte == 0xAA:
            escaped = True
        else:
            plain.append(byte & ~0x10 if escaped else byte)
            escaped = False
    return bytes(plain)


@pytest.mark.parametrize("number", [1, 0xA0, 0xAA])
def test_the_controller_says_the_power_that_it_logs(tmp_path: Path, number: int):
    controller = bmc.Bmc(tmp_path / "bmc")
    controller.start()
    answer = asked(tmp_path / "bmc", number, POWER)
    assert sum(answer) & 0xFF == 0
    assert answer[:5] == bytes([number, 0x2C << 2 | 4, 0x02, 0, 0xDC])
    ((_, watts),) = controller.served
    assert int.from_bytes(answer[5:7], "little") == watts
    assert bmc.BASE_W <= watts < bmc.BASE_W + bmc.STEPS
    assert answer[-2] & 0x40  # it is active


def test_the_controller_knows_no_other_commands(tmp_path: Path):
    controller = bmc.Bmc(tmp_path / "bmc")
    controller.start()
    assert asked(tmp_path / "bmc", 7, bytes([0x04 << 2, 0x2D, 0x01]))[3] == bmc.INVALID
    assert controller.served == []


def test_a_page_keeps_the_parts_of_scenarios_that_were_not_run():
    rows = [
        {"step": "one", "what": "a | b", "ok": True, "seconds": 1.4, "said": ["x", "y"]},
        {"step": "two", "what": "", "ok": False, "seconds": 2.0, "said": [], "error": "it\nfailed"},
    ]
    first, second = (table.markdown(name, "title", rows, 3.2) for name in ("first", "second"))
    assert "| one | a / b | ok | 1 | x; y |" in first
    assert "| two |  | **failed** | 2 | it failed |" in first
    assert "2 steps, 1 failed, 3 min." in first
    assert table.parts(f"head\n\n{first}\n{second}") == {"first": first, "second": second}
