from __future__ import annotations

import array
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perun_hpc
from perun_hpc.data_model import rank_data as packed

from .agent_node import FakeNode, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="speaking as another user needs root")

ALICE, MALLORY = 40_001, 40_002

#: A rank in a process and under a user of its own: it does what the lines on its standard input say.
RANK = """
import json, os, sys
uid = int(sys.argv[1])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
from perun_hpc.wire.client import request
for line in sys.stdin:
    verb, fields, data, path = json.loads(line)
    fds = []
    if data is not None:
        fds = [os.memfd_create("rank")]
        os.write(fds[0], bytes.fromhex(data))
    try:
        reply = request(verb, fields, fds, 10, path)
        print(json.dumps([reply.verb, dict(reply.fields)]), flush=True)
    except Exception as error:
        print(json.dumps(["failed", {"reason": str(error)}]), flush=True)
    for fd in fds:
        os.close(fd)
"""


class Rank:
    def __init__(self, node: FakeNode, uid: int, cgroup: str) -> None:
        self.node = node
        self.process = subprocess.Popen(
            [sys.executable, "-c", RANK, str(uid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        proc = node.root / "proc" / str(self.process.pid)
        proc.mkdir()
        (proc / "cgroup").write_text(f"4:freezer:{cgroup}\n")

    def say(self, verb: str, data: bytes | None = None, **fields: str | int) -> tuple[str, dict[str, str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        texts = {key: str(value) for key, value in {"job_id": 1, "restart_count": 0, **fields}.items()}
        line = json.dumps([verb, texts, None if data is None else data.hex(), self.node.socket])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: list[Any] = json.loads(self.process.stdout.readline())
        return answer[0], answer[1]

    def start(self, rank: int = 0, step: int = 0, **more: str | int) -> tuple[str, dict[str, str]]:
        told = {"step_id": step, "rank": rank, "local_rank": rank, "ntasks": 2, "nnodes": 1, "command": "./a.out"}
        return self.say("rank-start", **{**told, **more})

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    base = Path(tempfile.mkdtemp(prefix="perun-ranks-"))
    base.chmod(0o755)
    fake = FakeNode(base)
    fake.start()
    fake.begin(1, uid=ALICE, exclusive="1")
    until((fake.spool / "sessions" / "1.0" / "tracks").exists, "the session has its settings")
    yield fake
    fake.stop()
    shutil.rmtree(base)


def rank_data(names: list[str], calls: list[tuple[int, int, int]]) -> bytes:
    table = array.array("q", [n for call in calls for n in call]).tobytes()
    return b"".join(packed.final({"rank": 0}, "exit", names, table, ()))


def test_the_record_says_of_which_steps_no_regions_can_be_seen(node: FakeNode) -> None:
    told = [
        {"command": "./a.out"},
        {"command": "/usr/bin/apptainer"},
        {"command": "./a.out", "outside": "container"},
        {"command": "./a.out", "outside": "prefix"},
        {"command": "python", "outside": "prefix"},
        {"command": "python", "outside": "\x1b[2J"},
        {"command": " "},
    ]
    for step, more in enumerate(told):
        rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
        assert rank.start(step=step, **more)[0] == "ok"
        rank.end()
    until(node.ranks_ended, "the ends were seen")
    node.end(1, uid=ALICE)
    said = [note for note in node.record(1)["notes"] if "from outside" in note]
    assert said == [
        "flagged steps that start a container (apptainer): measured from outside, without regions",
        "flagged steps in a container where the launcher is not seen: measured from outside, without regions",
        "flagged steps where the installation is not there or did not answer: measured from outside, without regions",
    ]


def test_a_rank_its_regions_and_their_energy(node: FakeNode) -> None:
    rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    verb, fields = rank.start()
    assert verb == "ok"
    assert fields == {"period_ms": "1000", "resolution_ms": "1000", "owner_hint": "1"}
    begin = time.monotonic_ns()
    time.sleep(0.05)
    node.serve(3_000_000)
    rank.say("window")
    end = time.monotonic_ns()
    time.sleep(0.05)
    assert rank.say("rank-data", rank_data(["solve"], [(0, begin, end)]), step_id=0, rank=0)[0] == "ok"
    rank.end()
    until(node.ranks_ended, "the end was seen")
    node.serve(50_000)
    node.end(1)
    record = node.record(1)
    (step,) = record["steps"]
    (run,) = step["ranks"]
    assert (step["tasks"], step["command"], run["pid"]) == (2, "./a.out", rank.process.pid)
    assert step["start_ns"] <= run["end_ns"] <= record["end"]["real_ns"]
    (region,) = record["regions"]
    assert (region["name"], region["calls"], region["time_ns"]) == ("solve", 1, end - begin)
    assert region["energy_uj"] == pytest.approx(3_000_000, abs=region["u_uj"] + 1)
    assert record["trace"]["state"] == "complete"


def test_a_jobs_energy_is_its_own_never_the_sum_of_its_steps(node: FakeNode) -> None:
    steps = [Rank(node, ALICE, f"/slurm/uid_40001/job_1/step_{number}") for number in range(2)]
    for number, step in enumerate(steps):
        assert step.start(step=number)[0] == "ok"
    time.sleep(0.05)
    node.serve(4_000_000)
    steps[0].say("window")
    for step in steps:
        step.end()
    until(node.ranks_ended, "the ends were seen")
    node.end(1)
    record = node.record(1)
    whole = record["domains"]["package-0"]["energy_uj"]
    assert whole == record["domains"]["package-0"]["node_uj"] == 4_000_000
    # Both ran all the time, and there is no cgroup that would tell whose work it was.
    for step in record["steps"]:
        assert step["energy_uj"] is None
        assert step["why"] == "no cgroup shows what it used, and other steps ran meanwhile"
    assert sum(share["energy_uj"] for share in record["shares"] if share["domain"] == "package-0") == whole


#: What perun-launch does whose agent does not answer in time, and the program that it becomes.
LATE = """
import contextlib, json, os, sys
uid, path, inject = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
from perun_hpc.wire.client import request
told = {"step_id": "0", "rank": "0", "local_rank": "0", "ntasks": "1", "nnodes": "1", "command": "python"}
with contextlib.suppress(Exception):
    request("rank-start", {"job_id": "1", "restart_count": "0", **told}, (), 0.5, path)
    sys.exit("it was answered")
print("late", flush=True)
program = "import perun_hpc, sys\\nwith perun_hpc.monitor('solve'): print('in', flush=True); sys.stdin.readline()\\n"
program += "print('out', flush=True); sys.stdin.readline()"
os.execve(sys.executable, [sys.executable, "-c", program], {
    "PYTHONPATH": inject, "PERUN_ORIG_PYTHONPATH": "", "PERUN_PID": str(os.getpid()), "PERUN_SOCKET": path,
    "PERUN_JOB": "1.0", "PERUN_STEP": "0", "PERUN_RANK": "0", "PERUN_LOCAL_RANK": "0", "PERUN_NTASKS": "1",
    "PERUN_NNODES": "1", "PERUN_LATE": "1"})
"""


@pytest.mark.parametrize("answers", ["while the program runs", "before its end"])
def test_a_rank_whose_registration_is_answered_late_has_its_regions(node: FakeNode, answers: str) -> None:
    assert node.agent is not None
    inject = Path(perun_hpc.__file__).parent / "inject/path"
    os.kill(node.agent.pid, signal.SIGSTOP)
    try:
        rank = subprocess.Popen(
            [sys.executable, "-c", LATE, str(ALICE), node.socket, str(inject)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        proc = node.root / "proc" / str(rank.pid)
        proc.mkdir()
        (proc / "cgroup").write_text("4:freezer:/slurm/uid_40001/job_1/step_0\n")
        assert rank.stdin is not None and rank.stdout is not None
        assert rank.stdout.readline() == "late\n"
        if answers == "before its end":
            assert rank.stdout.readline() == "in\n"
    finally:
        os.kill(node.agent.pid, signal.SIGCONT)
    if answers == "while the program runs":
        assert rank.stdout.readline() == "in\n"
    until((node.spool / "sessions/1.0/steps.jsonl").exists, "the rank is registered")
    rank.stdin.write("\n")
    assert rank.stdout.readline() == "out\n"
    rank.communicate("\n", timeout=60)
    until(node.ranks_ended, "the end was seen")
    node.end(1)
    (region,) = node.record(1)["regions"]
    assert (region["name"], region["calls"]) == ("solve", 1)


def test_a_killed_rank_leaves_what_it_shared(node: FakeNode) -> None:
    rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    rank.start()
    now = time.monotonic_ns()
    growing = packed.live({"rank": 0}, ["solve"]) + array.array("q", [0, now, 0, 0, 0, 0]).tobytes()
    assert rank.say("rank-data", growing, step_id=0, rank=0, live="1")[0] == "ok"
    rank.process.kill()
    rank.process.wait(20)
    until(lambda: list((node.spool / "sessions" / "1.0").glob("ranks/*")) != [], "its memory was read")
    node.end(1)
    (region,) = node.record(1)["regions"]
    assert (region["name"], region["calls"]) == ("solve", 1)
    assert region["time_ns"] > 0


def test_only_the_jobs_own_processes_may_speak_for_it(node: FakeNode) -> None:
    own = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    assert own.start()[0] == "ok"
    outside = Rank(node, ALICE, "/slurm/uid_40001/job_2/step_0")
    assert outside.start(rank=1) == ("error", {"reason": "your process is not part of job 1"})
    mallory = Rank(node, MALLORY, "/slurm/uid_40001/job_1/step_0")
    for verb in ("rank-start", "rank-data", "window"):
        verb, fields = mallory.say(verb, b"x" if verb == "rank-data" else None, step_id=0, rank=0)
        assert (verb, fields["reason"]) == ("error", "job 1 is not yours")
    for word in ("job-start", "job-end", "stop", "reload", "release-gpus"):
        assert mallory.say(word)[1]["reason"] == "only root may send this message"
    other = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    reason = other.say("rank-data", rank_data([], []), step_id=0, rank=0)[1]["reason"]
    assert reason == "this rank is another process"
    assert mallory.say("status")[1]["sessions"] == ""
    assert own.say("status")[1]["sessions"] == "1.0"
    for rank in (own, outside, mallory, other):
        rank.end()


def test_a_neighbour_ends_what_a_job_sees_of_the_node_also_where_no_hook_told_of_it(node: FakeNode) -> None:
    """What a rank is told it may see, and what it sees: at once after a hook, within a second without."""
    rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    told = rank.start()
    assert told[1]["resolution_ms"] == "1000", "alone"
    node.begin(2, uid=MALLORY)
    assert rank.start(rank=1)[1]["resolution_ms"] == "10000"
    shown = rank.say("window")[1]["mono_ns"]
    assert rank.say("window")[1]["mono_ns"] == shown, "nothing new before the common moment"
    node.end(2)
    assert rank.start(rank=2)[1]["resolution_ms"] == "1000"
    untold = node.root / "sys/fs/cgroup/freezer/slurm/uid_40002/job_3/step_0"
    untold.mkdir(parents=True)
    (untold / "cgroup.procs").write_text("4711\n")
    ranks = iter(range(3, 4000))
    until(lambda: rank.start(rank=next(ranks))[1]["resolution_ms"] == "10000", "the agent sees job 3", 30)
    (untold / "cgroup.procs").write_text("")
    until(lambda: rank.start(rank=next(ranks))[1]["resolution_ms"] == "1000", "the agent sees that it is gone", 30)
    rank.end()


@pytest.mark.parametrize(
    "fields",
    [
        {"job_id": "1/../2"},
        {"job_id": "-1"},
        {"job_id": "1" * 30},
        {"job_id": ""},
        {"restart_count": "x"},
        {"step_id": "../../etc"},
        {"rank": "99999999999999"},
        {"rank": "\u0661"},
    ],
)
def test_numbers_of_users_are_checked(node: FakeNode, fields: dict[str, str]) -> None:
    rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    verb, answer = rank.start(**fields) if "job_id" not in fields else rank.say("rank-start", **fields)
    assert verb == "error"
    assert answer["reason"]
    assert node.answers()
    rank.end()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[" * 100_000,
        b'{"schema":"perun.rank-data/1"}\n',
        b"\xff" * 4096,
        rank_data(["x"], [])[:-1],
    ],
)
def test_damaged_rank_data_harms_only_its_own_regions(node: FakeNode, data: bytes) -> None:
    rank = Rank(node, ALICE, "/slurm/uid_40001/job_1/step_0")
    rank.start()
    rank.say("rank-data", data, step_id=0, rank=0)
    rank.end()
    node.end(1)
    record = node.record(1)
    assert record["state"] == "closed"
    assert record["regions"] == []


@pytest.mark.parametrize("packet", [b"x", b"perun1", b"perun2\0status\0", b"perun1\0STATUS\0", b"\0" * 32768])
def test_malformed_packets_are_answered_and_forgotten(node: FakeNode, packet: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(node.socket)
        for _ in range(3):
            sock.send(packet)
            assert sock.recv(4096).startswith(b"perun1\0error\0reason\0")
    assert node.answers()


def test_one_user_cannot_take_all_connections(node: FakeNode) -> None:
    code = (
        "import os,socket,sys,time\nos.setresuid(40002,40002,40002)\nheld=[]\n"
        "for _ in range(700):\n s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n s.settimeout(5)\n"
        f" held.append(s)\n try: s.connect({node.socket!r})\n except OSError: pass\n"
        "print('full',flush=True)\ntime.sleep(60)\n"
    )
    flood = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "full\n"
        node.serve(7_000)
        node.end(1)
        assert node.record(1)["domains"]["package-0"]["node_uj"] == 7_000
    finally:
        flood.kill()
        flood.wait(20)
