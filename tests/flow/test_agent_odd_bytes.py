"""Any bytes in names, paths, environments and packets: at most the one message is refused."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.wire.client import connect
from perun_hpc.wire.message import MAX_BYTES, encode

from .agent_node import FakeNode, until

PACKETS = 1_500
VERBS = ("job-start", "job-end", "rank-start", "rank-data", "window", "summary", "claim", "status", "reload")
KEYS = [
    *("job_id", "restart_count", "uid", "gid", "node", "cluster", "nodelist", "num_nodes", "cpus_per_node", "gpus"),
    *("sluid", "step_id", "rank", "local_rank", "ntasks", "nnodes", "command", "options", "live", "hook_mono_ns"),
    *("flag", "exclusive"),
]
NUMBERS = (b"", b"0", b"1", b"-1", b"7", b"18446744073709551616", b"9" * 5_000, "\N{ARABIC-INDIC DIGIT THREE}".encode())
TEXTS = (b"n[1-", b"n[1-99999999]", b"2(x3),1", b"../../etc/passwd", b"=monitor:\xff", b"\x01\x1b[2J", b"x" * 300)
VALUES = (*NUMBERS, *TEXTS, b"\xff\xfe", b"\xed\xa0\x80")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    yield fake
    fake.stop()


def test_a_cgroup_whose_name_is_no_text_costs_no_agent(node: FakeNode) -> None:
    agent = node.start()
    node.begin(1, uid=os.getuid(), exclusive="1")
    process = node.root / f"proc/{os.getpid()}"
    process.mkdir(parents=True)
    (process / "cgroup").write_bytes(b"0::/system.slice/slurmstepd.scope/job_1/step_0/\xff\xfe\n")
    node.serve(1_000)
    # A reading that is 10 ms old is fresh enough for a window.
    until(lambda: node.ask("window", job_id=1, restart_count=0).fields["energy_uj"] == "1000", "the energy is seen")
    (process / "cgroup").write_bytes(b"0::/system.slice/slurmstepd.scope/job_2/\xc3\x28\n")
    assert node.ask("window", job_id=1, restart_count=0).verb == "error"
    assert agent.poll() is None


def test_a_policy_whose_path_is_no_text_rules_and_is_told_to_the_hooks(tmp_path: Path) -> None:
    from perun_hpc.slurm.hook import settings

    node = FakeNode(tmp_path)
    node.policy = node.policy.rename(tmp_path / os.fsdecode(b"policy-\xff.yaml"))
    agent = node.start()
    try:
        conf = node.run_dir / "hook.conf"
        until(conf.exists, "the hooks are told")
        assert b"policy-\xff.yaml\n" in conf.read_bytes()
        assert settings(conf)["policy"] == str(node.policy)
        node.leave("job-start", 1)  # the root helper lives, too
        node.leave("job-end", 1)
        node.record(1)
        assert agent.poll() is None
    finally:
        node.stop()


def packet(chance: random.Random) -> bytes:
    """A message that is nearly one."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(1, 300))
    fields = {key: chance.choice(VALUES) for key in chance.sample(KEYS, chance.randrange(6))}
    if chance.random() < 0.7:  # else nothing of it would be looked at
        fields |= {"job_id": b"%d" % chance.randrange(1, 5), "restart_count": b"0", "uid": b"0", "gid": b"0"}
    words = b"".join(key.encode() + b"\0" + value + b"\0" for key, value in fields.items())
    whole = b"perun1\0" + chance.choice(VERBS).encode() + b"\0" + words
    if chance.random() < 0.2:
        at = chance.randrange(len(whole))
        whole = whole[:at] + chance.randbytes(3) + whole[at + chance.randrange(4) :]
    return whole[: MAX_BYTES + 1]


def test_no_packet_ends_the_agent_nor_costs_another_job_anything(node: FakeNode) -> None:
    chance = random.Random(6)
    agent = node.start()
    node.begin(4_711, exclusive="1")
    node.serve(1_000)
    sock = connect(node.socket, 10)
    for _ in range(PACKETS):
        told = packet(chance)
        if told.startswith((b"perun1\0stop", b"perun1\0release")):
            continue
        try:
            sock.sendmsg([told])
            sock.recv(MAX_BYTES)
        except OSError:
            sock.close()
            sock = connect(node.socket, 10)
    sock.close()
    assert agent.poll() is None
    node.end(4_711)
    record = node.record(4_711)
    assert record["domains"]["package-0"]["node_uj"] == 1_000
    assert record["why"] is None


def test_no_file_of_the_inbox_ends_the_agent_or_holds_up_another(node: FakeNode) -> None:
    chance = random.Random(7)
    inbox = node.run_dir / "inbox"
    inbox.mkdir(parents=True, mode=0o700)
    for number in range(300):
        name = f"{number:020d}-{chance.choice(('job-start', 'job-end'))}-{number}-0.msg"
        (inbox / name).write_bytes(packet(chance))
    (inbox / f"{400:020d}-job-start-400-0.msg").mkdir()
    (inbox / f"{401:020d}-job-start-401-0.msg").symlink_to("/etc/passwd")
    (inbox / os.fsdecode(b"\xff\xfe.msg")).write_bytes(b"perun1\0")
    node.leave("job-start", 9_000)
    node.leave("job-end", 9_000)
    agent = node.start()
    assert node.record(9_000)["start"]["from"] == "inbox"
    assert agent.poll() is None


def test_a_desk_answers_its_ranks_whatever_one_of_them_says(tmp_path: Path) -> None:
    from perun_hpc.monitoring.ranks import RankServer

    class Host:
        def energy_uj(self) -> tuple[int | None, int]:
            return 7, 1

        def write_summary(self) -> str:
            raise ValueError("no summary today")

        def claim(self, sensors: object) -> list[str]:
            return ["\ud800"]  # text that no packet can hold

    rank_server = RankServer(str(tmp_path / "rank server"), tmp_path / "ranks", Host())
    try:
        for verb in ("summary", "claim", "rank-start"):
            with connect(str(tmp_path / "rank server"), 10) as sock, contextlib.suppress(OSError):
                sock.send(encode(verb, {"rank": "\N{SUPERSCRIPT TWO}"}))
                sock.recv(MAX_BYTES)
        with connect(str(tmp_path / "rank server"), 10) as sock:
            sock.send(encode("window", {}))
            assert b"energy_uj\x007\x00" in sock.recv(MAX_BYTES)
    finally:
        rank_server.close()


def test_a_desk_with_more_descriptors_than_select_takes_sees_its_ranks_end(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = f"""
import os, resource, socket
from pathlib import Path
from perun_hpc.monitoring.ranks import RankServer
from perun_hpc.wire.client import request
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
rank_server = RankServer({str(tmp_path / "rank_server")!r}, Path({str(tmp_path / "ranks")!r}), None, 1)
child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
request("rank-start", {{"rank": "0"}}, (os.pidfd_open(child),), 10, {str(tmp_path / "rank_server")!r})
rank_server.finish(lambda: False)
rank_server.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
