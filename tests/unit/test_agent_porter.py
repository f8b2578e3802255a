"""Root's child that fetches what hooks left: one that is late is waited for, one that is gone is named."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.porter import Porter


@pytest.fixture
def paths(tmp_path: Path) -> AgentPaths:
    made = AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path / "root")
    made.inbox.mkdir(parents=True)
    return made


def children() -> set[int]:
    """Other tests may have left some."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def porter_of(paths: AgentPaths) -> tuple[Porter, int]:
    """A porter and its process id."""
    before = children()
    porter = Porter(paths)
    (pid,) = children() - before
    return porter, pid


def heard(porter: Porter) -> list[tuple[str, bytes]]:
    """What it says once it says something, on a machine that may be busy."""
    return next((found for _ in range(100_000) if (found := porter.messages())), [])


def test_a_porter_that_is_late_is_asked_once_and_heard_later(paths: AgentPaths, capfd: pytest.CaptureFixture) -> None:
    porter, pid = porter_of(paths)
    try:
        assert porter.messages() == [] and porter.changed()
        names = [f"{number:020d}-job-end-{number}-0.msg" for number in (1, 2)]
        (paths.inbox / names[0]).write_bytes(b"one")
        os.kill(pid, signal.SIGSTOP)
        assert porter.messages() == []  # no CPU for the child, for longer than it is waited for
        assert porter.messages() == []  # not waited for again
        assert porter.changed()
        assert "what hooks left in the inbox waits" in capfd.readouterr().err
        os.kill(pid, signal.SIGCONT)
        assert heard(porter) == [(names[0], b"one")]
        (paths.inbox / names[1]).write_bytes(b"two")
        assert heard(porter) == [(names[0], b"one"), (names[1], b"two")]
    finally:
        porter.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_porter_that_is_gone_is_named(paths: AgentPaths, capfd: pytest.CaptureFixture) -> None:
    porter, pid = porter_of(paths)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert porter.messages() == []
    assert "root's child is gone" in capfd.readouterr().err
    assert porter.messages() == []


def test_a_message_of_the_same_tick_as_the_last_look_is_seen(paths: AgentPaths) -> None:
    porter, pid = porter_of(paths)
    try:
        porter.changed()
        time.sleep(0.05)
        (paths.inbox / f"{1:020d}-job-end-1-0.msg").write_bytes(b"one")
        stamp_ns = paths.inbox.stat().st_mtime_ns
        assert porter.changed()
        (paths.inbox / f"{2:020d}-job-end-2-0.msg").write_bytes(b"two")
        os.utime(paths.inbox, ns=(stamp_ns, stamp_ns))  # as the kernel has it within one tick
        assert porter.changed()
        time.sleep(0.05)
        assert porter.changed() and not porter.changed()
    finally:
        porter.close()
        os.waitpid(pid, 0)
