"""What the agent and its children are to the kernel: who they are, and what they can no longer do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.data_model import rank_data
from perun_hpc.process import confine

from .agent_node import FakeNode, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
FILTERED = 2 if os.uname().machine in confine.NUMBERS else 0
LANDLOCK = not confine.attempt({"": confine.check_write_only})
READS_AS = 47_110
"""The second service account, in a list of users that only the agent sees."""
TOOL = """#!/bin/sh
touch {device} && read line <{device} || exit 1
chmod 666 {device}
touch {outside}
cat /proc/self/status >{told}
echo 'Current Power : 120 Watts'
echo 'Power Measurement : Active'
"""


@dataclass(frozen=True)
class Standing:
    """A process as /proc/PID/status tells of it."""

    pid: int
    uids: frozenset[int]
    capabilities: Mapping[str, int]
    gains_nothing: bool
    filtered: bool
    filters: int
    """How many lists of refused system calls: each process adds its own to its parent's."""

    @classmethod
    def of(cls, pid: int) -> Standing:
        return cls.told(Path(f"/proc/{pid}/status").read_text())

    @classmethod
    def told(cls, text: str) -> Standing:
        lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        held = {name: int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        return cls(
            int(lines["Pid"]),
            frozenset(map(int, lines["Uid"].split())),
            held,
            lines["NoNewPrivs"] == "1",
            lines["Seccomp"] == str(FILTERED),
            int(lines.get("Seccomp_filters", 0)),
        )


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that other users may pass through, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="perun-confined-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def node(base: Path, nobody: pwd.struct_passwd) -> Iterator[FakeNode]:
    fake = FakeNode(base)
    fake.spool.mkdir()
    for directory in (fake.spool, fake.archive):
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    yield fake
    fake.stop()


def with_account(base: Path) -> list[str]:
    """A program that executes what follows where the second service account exists, in a mount namespace."""
    line = f"perun-parse:x:{READS_AS}:{READS_AS}::/nonexistent:/usr/sbin/nologin\n"
    (base / "passwd").write_text(Path("/etc/passwd").read_text() + line)
    return ["unshare", "-m", "sh", "-c", f'mount --bind {base}/passwd /etc/passwd && exec "$@"', "sh"]


def sealed(node: FakeNode, rows: int, damaged: bool = False) -> None:
    """A session that an earlier agent left: two ranks, one of which called `solve` so often."""
    directory = node.spool / "sessions/7.0"
    (directory / "ranks").mkdir(parents=True)
    calls = array("q", (value for at in range(rows) for value in (0, 10 * at + 1, 10 * at + 6)))
    for rank, table in enumerate((calls.tobytes(), b"")):
        data = b"".join(rank_data.final({"rank": rank}, "exit", ["solve"], table, ()))
        (directory / f"ranks/0-{rank}.rank").write_bytes(b"{" if damaged and rank else data)
    (directory / "curve.bin").write_bytes(array("q", (0, 0, 10 * rows, 20 * rows)).tobytes())
    start, end = {"from": "hook", "mono_ns": 0, "real_ns": 0}, {"mono_ns": 10 * rows, "real_ns": 10 * rows}
    ranks = [{"rank": rank, "start_mono_ns": 0, "end_mono_ns": 10 * rows} for rank in (0, 1)]
    record = {"node": "n1", "cluster": "test", "start": start, "end": end, "trace": {"stored": False}}
    record |= {"steps": [{"step_id": 0, "ranks": ranks}]}
    (directory / "boundary.json").write_text(json.dumps(record))


def test_the_agent_and_its_children_hold_nothing_that_they_do_not_need(
    base: Path, node: FakeNode, nobody: pwd.struct_passwd
) -> None:
    device, told, outside = node.root / "dev/ipmi0", node.root / "dev/told", base / "outside"
    device.parent.mkdir()
    device.write_text("one line\n")
    device.chmod(0o600)
    tool = base / "bin/ipmi-dcmi"
    tool.parent.mkdir()
    tool.write_text(TOOL.format(device=device, told=told, outside=outside))
    tool.chmod(0o755)
    agent = node.start(within=with_account(base), env={"PATH": f"{tool.parent}:{os.environ['PATH']}"})
    until(lambda: told.exists() and "Seccomp" in told.read_text(), "the controller is read")
    until(lambda: (node.run_dir / "hook.conf").exists(), "the helper writes root's file")
    until(lambda: {READS_AS} in [Standing.of(pid).uids for pid in children(agent.pid)], "the reader is itself")
    found = [Standing.of(agent.pid), *map(Standing.of, children(agent.pid)), Standing.told(told.read_text())]
    # Of root's are the helper, the controller's worker and its tool; the agent's own are it, and what ships meanwhile.
    who = [max(one.uids) for one in found]
    assert (who[0], who.count(0), who.count(READS_AS)) == (nobody.pw_uid, 3, 1)
    assert set(who) == {nobody.pw_uid, 0, READS_AS}
    for one in found:
        assert len(one.uids) == 1
        assert set(one.capabilities.values()) == {0}, one
        assert one.gains_nothing and one.filtered, one
    assert device.stat().st_mode & 0o777 == 0o600 or not FILTERED
    assert (not outside.exists()) == LANDLOCK
    assert ("not confined" not in (node.spool / "agent.log").read_text()) == LANDLOCK


def watch(node: FakeNode, uid: int, root: int) -> list[Standing]:
    """The processes below another that are of a user, until the record of job 7 is there: each as it was last."""
    seen: dict[int, Standing] = {}

    def look() -> bool:
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            waiting += children(pid)
            with contextlib.suppress(OSError, KeyError):
                if (one := Standing.of(pid)).uids == {uid}:
                    seen[pid] = one
        return node.boundary_path(7).exists()

    until(look, "the record of job 7", 120)
    return list(seen.values())


def regions(node: FakeNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.record(7)["regions"]
    return found


ROWS = 600_000


def test_what_ranks_handed_over_is_read_by_another_user_who_can_do_nothing_else(base: Path, node: FakeNode) -> None:
    sealed(node, ROWS, damaged=True)
    agent = node.start(within=with_account(base), wait=False)
    found = watch(node, READS_AS, agent.pid)
    assert len(found) >= 3  # the reader, the session's process, and the one below it that reads
    for one in found:
        assert set(one.capabilities.values()) == {0} and one.gains_nothing and one.filtered, one
    assert not FILTERED or max(one.filters for one in found) == 3  # the agent's, the reader's, its own
    assert [(one["name"], one["calls"], one["energy_uj"]) for one in regions(node)] == [("solve", ROWS, 5 * ROWS)]
    assert node.record(7)["notes"][0].startswith("step 0 rank 1: ")
    assert "no user" not in (node.spool / "agent.log").read_text()


def test_without_that_account_the_service_user_reads_and_the_log_says_so_once(
    node: FakeNode, nobody: pwd.struct_passwd
) -> None:
    sealed(node, ROWS)
    agent = node.start(wait=False)
    found = watch(node, nobody.pw_uid, agent.pid)
    assert [one["calls"] for one in regions(node)] == [ROWS]
    until(lambda: node.answers(), "the agent answers")
    log = (node.spool / "agent.log").read_text()
    assert log.count("what ranks hand over is read as the user of the agent: there is no user perun-parse") == 1
    for one in found:
        assert set(one.capabilities.values()) == {0} and one.gains_nothing and one.filtered, one
    assert not FILTERED or max(one.filters for one in found) == 2  # the agent's, and that of the process that reads


def test_a_reader_that_is_gone_costs_no_region(base: Path, node: FakeNode) -> None:
    agent = node.start(within=with_account(base))
    until(lambda: {READS_AS} in [Standing.of(pid).uids for pid in children(agent.pid)], "the reader is itself")
    (reader,) = [pid for pid in children(agent.pid) if Standing.of(pid).uids == {READS_AS}]
    os.kill(reader, 9)
    sealed(node, 3)
    for path in (node.spool / "sessions/7.0", *(node.spool / "sessions/7.0").rglob("*")):
        os.chown(path, node.spool.stat().st_uid, node.spool.stat().st_gid)
    node.begin(8)
    node.end(8)  # something is shipped
    assert [one["calls"] for one in regions(node)] == [3]
    until(lambda: "read as the user of the agent" in (node.spool / "agent.log").read_text(), "the log says so")


REFUSALS = {
    "bounding": (["setpriv", "--bounding-set=-setpcap"], {"bounded capabilities"}),
    "prctl": (
        [
            sys.executable,
            "-c",
            "import os, sys; from perun_hpc.process import confine as c; c.gain_nothing()\n"
            "c.NUMBERS['x86_64']['prctl'], c.NUMBERS['aarch64']['prctl'] = 157, 167\n"
            "c.deny(['prctl']); os.execvp(sys.argv[1], sys.argv[1:])",
        ],
        {"no new privileges", "fewer system calls", "bounded capabilities"},
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_kernel_that_refuses_costs_nothing_and_is_named_once(node: FakeNode, name: str) -> None:
    if name == "prctl" and not FILTERED:
        pytest.skip("no list for this machine")
    within, refused = REFUSALS[name]
    node.start(within=within)
    node.begin(1, exclusive="1")
    node.serve(3_000)
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 3_000
    (line,) = [one for one in (node.spool / "agent.log").read_text().splitlines() if "not confined: " in one]
    assert all(one in line for one in refused)
    losses = json.loads(node.ask("status").fields["losses"])
    (told,) = [one for one in losses if one["kind"] == "not-confined"]
    assert {*told["names"]} - {"places to write"} == refused
    assert told["why"] == os.strerror(errno.EPERM) or not LANDLOCK


def test_an_agent_that_stays_root_keeps_what_its_files_need_alone(base: Path) -> None:
    fake = FakeNode(base)
    agent = fake.start()
    try:
        until(lambda: fake.answers(), "the agent answers")
        one = Standing.of(agent.pid)
        keep = sum(
            1 << number for number in (confine.CHOWN, confine.DAC_OVERRIDE, confine.DAC_READ_SEARCH, confine.FOWNER)
        )
        assert one.uids == {0} and one.gains_nothing and one.filtered
        assert one.capabilities == {**dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), keep), "CapInh": 0, "CapAmb": 0}
        fake.begin(1)
        fake.end(1)
        fake.record(1)
    finally:
        fake.stop()


def test_figures_for_monitoring_are_the_service_users_who_may_write_in_that_place_alone(
    base: Path, node: FakeNode, nobody: pwd.struct_passwd
) -> None:
    metrics = base / "metrics"
    metrics.mkdir(mode=0o755)
    with node.policy.open("a") as policy:
        policy.write(f"metrics: {{textfile: {metrics}}}\nsampling: {{interval: 1 s}}\n")
    node.start()
    until(lambda: "no-figures" in node.ask("status").fields["losses"], "that root's directory is refused is said")
    assert list(metrics.iterdir()) == []
    os.chown(metrics, nobody.pw_uid, nobody.pw_gid)
    until((metrics / "perun-node.prom").exists, "the file")
    written = (metrics / "perun-node.prom").stat()
    assert (written.st_uid, written.st_mode & 0o777) == (nobody.pw_uid, 0o644)
    node.stop()
    assert list(metrics.iterdir()) == []
