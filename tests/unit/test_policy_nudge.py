"""The collector sweeps soon after EpilogSlurmctld touched its file, and in time without it."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

from perun_hpc.cli.nudge import REST_S, Nudge


def waited_s(nudge: Nudge, sweep_s: float) -> float:
    began_s = time.monotonic()
    nudge.wait(threading.Event(), sweep_s)
    return time.monotonic() - began_s


def test_a_touch_brings_the_next_sweep_forward(tmp_path: Path) -> None:
    path = tmp_path / "nudge"
    nudge = Nudge(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666  # whatever the umask: SlurmUser is another user
    os.utime(path, (1, 1))
    assert REST_S <= waited_s(nudge, 600) < 60


def test_without_a_touch_the_sweep_comes_in_its_time(tmp_path: Path) -> None:
    assert waited_s(Nudge(tmp_path / "nudge"), 0.2) >= 0.2
    assert waited_s(Nudge(tmp_path / "absent" / "nudge"), 0.2) >= 0.2


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    (tmp_path / "nudge").symlink_to(victim)
    Nudge(tmp_path / "nudge")
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
