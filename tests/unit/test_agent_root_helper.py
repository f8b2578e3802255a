"""Root's one helper: it takes the words on its list alone; a late one is waited for, one that is gone is named."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox.losses import NOT_READ, Losses
from perun_hpc.agent.sources import root_helper as helper
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.cli import agent
from perun_hpc.process import child
from perun_hpc.process.clock import MACHINE


@pytest.fixture
def paths(tmp_path: Path) -> AgentPaths:
    made = AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path / "root")
    made.inbox.mkdir(parents=True)
    return made


def children() -> set[int]:
    """Other tests may have left some."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


POLICY = Path("/etc/perun/policy.yaml")


def helper_of(paths: AgentPaths) -> tuple[RootHelper, int]:
    """A root helper and its process id."""
    before = children()
    root_helper = RootHelper(paths, POLICY, MACHINE)
    (pid,) = children() - before
    return root_helper, pid


def heard(root_helper: RootHelper) -> list[tuple[str, bytes]]:
    """What it says once it says something, on a machine that may be busy."""
    return next((found for _ in range(100_000) if (found := root_helper.messages())), [])


def test_a_root_helper_that_is_late_is_asked_once_and_heard_later(
    paths: AgentPaths, capfd: pytest.CaptureFixture
) -> None:
    root_helper, pid = helper_of(paths)
    try:
        assert root_helper.messages() == [] and root_helper.changed()
        names = [f"{number:020d}-job-end-{number}-0.msg" for number in (1, 2)]
        (paths.inbox / names[0]).write_bytes(b"one")
        os.kill(pid, signal.SIGSTOP)
        assert root_helper.messages() == []  # no CPU for the child, for longer than it is waited for
        assert root_helper.messages() == []  # not waited for again
        assert root_helper.changed()
        assert "what hooks left in the inbox waits" in capfd.readouterr().err
        os.kill(pid, signal.SIGCONT)
        assert heard(root_helper) == [(names[0], b"one")]
        (paths.inbox / names[1]).write_bytes(b"two")
        assert heard(root_helper) == [(names[0], b"one"), (names[1], b"two")]
    finally:
        root_helper.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_root_helper_that_is_gone_is_named(paths: AgentPaths, capfd: pytest.CaptureFixture) -> None:
    root_helper, pid = helper_of(paths)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert root_helper.messages() == []
    assert "the root helper is gone" in capfd.readouterr().err
    assert root_helper.messages() == []


def test_a_message_of_the_same_tick_as_the_last_look_is_seen(paths: AgentPaths) -> None:
    root_helper, pid = helper_of(paths)
    try:
        root_helper.changed()
        time.sleep(0.05)
        (paths.inbox / f"{1:020d}-job-end-1-0.msg").write_bytes(b"one")
        stamp_ns = paths.inbox.stat().st_mtime_ns
        assert root_helper.changed()
        (paths.inbox / f"{2:020d}-job-end-2-0.msg").write_bytes(b"two")
        os.utime(paths.inbox, ns=(stamp_ns, stamp_ns))  # as the kernel has it within one tick
        assert root_helper.changed()
        time.sleep(0.05)
        assert root_helper.changed() and not root_helper.changed()
    finally:
        root_helper.close()
        os.waitpid(pid, 0)


MESSAGE = "00000000000000000001-job-end-7-0.msg"


@pytest.fixture
def words(paths: AgentPaths, tmp_path: Path) -> Iterator[socket.socket]:
    """The helper's socket, as whoever owns the agent has it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found, finding = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    policy = tmp_path / "policy.yaml"
    started = child.start(
        "root helper",
        lambda: helper._live(theirs, finding, paths, policy, MACHINE),
        (theirs.fileno(), finding.fileno()),
    )
    ours.settimeout(60)
    with found:
        theirs.close()
        finding.close()
        yield ours
        ours.close()
    assert started.wait() == 0


def answers(words: socket.socket) -> list[bytes]:
    words.send(b"list")
    return list(iter(lambda: words.recv(helper.MAX_B), b"end"))


REFUSED = (
    b"drop ../victim",
    b"drop ../run/victim",
    b"drop .",
    b"drop " + MESSAGE.encode() + b"/../../victim",
    b"drop " + MESSAGE.encode() + b"\n",
    b"drop  " + MESSAGE.encode(),
    b"drop %s\0" % MESSAGE.encode(),
    b"list ../",
    b"list /etc",
    b"lists",
    b"open /etc/shadow",
    b"exec id",
    b"hook 500 /tmp/policy.yaml",
    b"hook 500\npolicy=/tmp/policy.yaml",
    b"hook 9999999999",
    b"hook -5",
    b"hook",
    "hook \u0665\u0665\u0665".encode(),
    b"sensors",
    b"sensors ../../etc",
    b"sensors powercap /etc",
    b"sensors powercap|hwmon",
    b"sensors ipmi",
    b"\xff\xfe",
    b"drop " + b"x" * 60_000,
)


def test_the_helper_passes_over_every_word_that_is_not_on_its_list(paths: AgentPaths, words: socket.socket) -> None:
    victims = (paths.run_dir / "victim", paths.inbox / "other.msg", paths.inbox / MESSAGE)
    for victim in victims:
        victim.write_text("root's")
    for one in REFUSED:
        words.send(one)
    assert answers(words) == [MESSAGE.encode() + b"/root's"]
    assert [victim.read_text() for victim in victims] == ["root's"] * 3
    assert sorted(path.name for path in paths.run_dir.iterdir()) == ["inbox", "victim"]
    words.send(b"drop " + MESSAGE.encode())
    words.send(b"hook 750")
    assert answers(words) == []
    assert paths.hook_conf.read_text() == f"deadline_ms=750\npolicy={paths.run_dir.parent}/policy.yaml\n"
    assert paths.hook_conf.stat().st_mode & 0o777 == 0o644


def test_links_pipes_and_directories_in_the_inbox_are_no_messages(paths: AgentPaths, words: socket.socket) -> None:
    secret = paths.run_dir / "secret"
    secret.write_text("secret")
    names = [f"{number:020d}-job-end-{number}-0.msg" for number in range(1, 6)]
    (paths.inbox / names[0]).symlink_to(secret)
    os.link(secret, paths.inbox / names[1])
    os.mkfifo(paths.inbox / names[2])
    (paths.inbox / names[3]).mkdir()
    (paths.inbox / names[4]).write_text("a hook's")
    assert answers(words) == [names[4].encode() + b"/a hook's"]


def test_an_inbox_that_is_a_link_is_not_followed(paths: AgentPaths, words: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / MESSAGE).write_text("not a hook's")
    paths.inbox.rmdir()
    paths.inbox.symlink_to(tmp_path / "elsewhere")
    words.send(b"drop " + MESSAGE.encode())
    assert answers(words) == []
    assert (tmp_path / "elsewhere" / MESSAGE).exists()


def test_a_link_where_hook_conf_is_made_is_replaced(paths: AgentPaths, words: socket.socket) -> None:
    victim = paths.run_dir / "victim"
    victim.write_text("root's")
    for name in (".hook.conf.partial", "hook.conf"):
        (paths.run_dir / name).symlink_to(victim)
    words.send(b"hook 500")
    assert answers(words) == []
    assert victim.read_text() == "root's"
    assert not paths.hook_conf.is_symlink()


def test_a_root_helper_that_died_while_nobody_spoke_to_it_is_told_in_the_status(paths: AgentPaths) -> None:
    root_helper, pid = helper_of(paths)
    root_helper.check()
    assert root_helper.trouble == ""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    root_helper.check()
    assert root_helper.trouble.startswith("ended by signal 9: what hooks leave in the inbox")
    losses = Losses(lambda: 10**18)
    losses.follow(NOT_READ, {"the inbox": root_helper.trouble})
    (line,) = agent.losses(losses.visible_to(0), 10**9 + 60)
    assert line.startswith("not read since ") and "the root helper is gone, ended by signal 9" in line
    assert losses.visible_to(1000) == []
