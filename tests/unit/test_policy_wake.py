"""The collector sweeps soon after EpilogSlurmctld knocked, and in time without it."""

from __future__ import annotations

import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from perun_hpc.cli.wake import REST_S, WakeSocket


def waited_s(wake: WakeSocket, sweep_s: float) -> float:
    began_s = time.monotonic()
    wake.wait(threading.Event(), sweep_s)
    return time.monotonic() - began_s


def knock(path: Path, data: bytes = b"") -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(data, str(path))


def test_a_knock_brings_the_next_sweep_forward(tmp_path: Path) -> None:
    wake = WakeSocket(tmp_path / "wake")
    assert stat.S_IMODE((tmp_path / "wake").stat().st_mode) == 0o666  # whatever the umask: SlurmUser is another user
    knock(tmp_path / "wake")
    assert REST_S <= waited_s(wake, 600) < 60
    assert waited_s(wake, 0.2) >= 0.2


def test_without_a_knock_the_sweep_comes_in_its_time(tmp_path: Path) -> None:
    assert waited_s(WakeSocket(tmp_path / "wake"), 0.2) >= 0.2
    assert waited_s(WakeSocket(tmp_path / "absent" / "wake"), 0.2) >= 0.2


def test_nobody_can_leave_bytes_there(tmp_path: Path) -> None:
    path = tmp_path / "wake"
    wake = WakeSocket(path)
    with pytest.raises(OSError, match="No such device or address"):
        path.write_bytes(b"a" * 4096)
    kept = 0
    with pytest.raises(BlockingIOError):  # the kernel's queue is short
        while kept < 100_000:
            knock(path, b"a" * 1024)
            kept += 1
    assert path.stat().st_size == 0
    assert REST_S <= waited_s(wake, 600) < 60


def test_what_an_older_version_or_anybody_left_in_its_place_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o600)
    (tmp_path / "wake").symlink_to(victim)
    WakeSocket(tmp_path / "wake")
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("kept", 0o600)
    assert stat.S_ISSOCK((tmp_path / "wake").lstat().st_mode)
