"""One job cannot take down accounting: what its ranks say and hand over is bounded, its energy and others' stay."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .agent_node import FakeNode, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="speaking as another user needs root")

BOB = 40_003
COMMAND_B = 3_000

#: Bob's ranks, all of them in one process: they live until its standard input ends.
BOBS = """
import json, os, sys, time
uid, case, count, path, job = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
print("ready", flush=True)
sys.stdin.readline()
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
from array import array
from perun_hpc.wire.client import request
def ask(verb, fds=(), **fields):
    told = {"job_id": job, "restart_count": "0", **{key: str(value) for key, value in fields.items()}}
    while True:
        reply = request(verb, told, list(fds), 30, path)
        if "slow down" not in reply.fields.get("reason", ""):
            return reply.verb
        time.sleep(0.05)
def memory(names, calls, rows):
    fd = os.memfd_create("rank")
    head = {"schema": "perun.rank-data/1", "rank": 0, "regions": names, "live": rows < 0,
            "tables": [{"name": "calls", "columns": ["region", "start_ns", "end_ns"], "rows": rows}]}
    os.write(fd, json.dumps(head).encode() + b"\\n")
    os.write(fd, calls)
    return fd
def begin(**more):
    return ask("rank-start", **{"ntasks": count, "nnodes": 1, "command": "./x", "options": "", **more})
said = {}
def note(word):
    said[word] = said.get(word, 0) + 1
if case == "steps":
    for step in range(count):
        note(begin(step_id=step, rank=0, command="\\U0001f600" * (int(sys.argv[6]) // 4)))
elif case == "shared":
    now = time.monotonic_ns()
    fd = memory(["f"], array("q", [0, now, now + 1000] * ((32 << 20) // 24 - 100)), -1)
    for rank in range(count):
        begin(step_id=0, rank=rank)
        note(ask("rank-data", (fd,), step_id=0, rank=rank, live=1))
elif case == "calls":
    for rank in range(count):
        begin(step_id=0, rank=rank)
        now = time.monotonic_ns()
        rows = array("q", [n for at in range(50_000) for n in (at % 7, now + 2 * at, now + 2 * at + 1)])
        fd = memory([str(n) for n in range(7)], rows * ((32 << 20) // (24 * 50_000) - 1), -1)
        note(ask("rank-data", (fd,), step_id=0, rank=rank, live=1))
        os.close(fd)
elif case == "names":
    for rank in range(count):
        begin(step_id=0, rank=rank)
        now = time.monotonic_ns()
        calls = array("q", [n for at in range(1000) for n in (at, now, now + 1000 + at)])
        fd = memory([f"{at:04d}" + "\\x01" * 150 for at in range(1000)], calls, 1000)
        note(ask("rank-data", (fd,), step_id=0, rank=rank))
        os.close(fd)
print(json.dumps(said), flush=True)
sys.stdin.readline()
"""


class Bobs:
    """A process of Bob's that is many ranks of his job."""

    def __init__(self, node: FakeNode, case: str, count: int, job: int = 1, *more: int) -> None:
        words = [str(BOB), case, str(count), node.socket, str(job), *map(str, more)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOBS, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        proc = node.root / "proc" / str(self.process.pid)
        proc.mkdir()
        (proc / "cgroup").write_text(f"4:freezer:/slurm/uid_{BOB}/job_{job}/step_0\n")
        self._say()
        self.said: dict[str, int] = json.loads(self.process.stdout.readline())

    def _say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    base = Path(tempfile.mkdtemp(prefix="perun-bounds-"))
    base.chmod(0o755)
    fake = FakeNode(base)
    yield fake
    fake.stop()
    shutil.rmtree(base)


def begun(node: FakeNode) -> FakeNode:
    """Bob's job has begun, and it has its settings."""
    node.start()
    node.begin(1, uid=BOB, user="bob", exclusive="1")
    until((node.spool / "sessions/1.0/tracks").exists, "the session has its settings")
    return node


def shortest_s(times: int, work: Callable[[int], Any]) -> float:
    """How long some work takes if nothing comes between, the least of some tries."""
    found = []
    for number in range(times):
        begin = time.monotonic()
        work(number)
        found.append(time.monotonic() - begin)
    return min(found)


@pytest.mark.alone
def test_the_state_stays_small_whatever_steps_a_job_has(node: FakeNode) -> None:
    begun(node)
    bobs = Bobs(node, "steps", 4200, 1, COMMAND_B)
    assert bobs.said["ok"] == 4096
    took_s = shortest_s(5, lambda number: node.begin(100 + number))
    assert (node.spool / "node/state.json").stat().st_size < 100_000
    assert took_s < 0.1
    node.kill()
    node.start()
    node.serve(5_000_000)
    bobs.kill()
    begin = time.monotonic()
    node.begin(200)  # while the agent sees the end of 4096 ranks
    assert time.monotonic() - begin < 3
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 5_000_000
    assert len(record["steps"]) == 4096
    assert all(step["ranks"][0]["end_ns"] for step in record["steps"])
    assert "104 ranks left out: a node keeps 4096 of a job and 8192 of a user" in record["notes"]
    assert any("commands of steps left out" in note for note in record["notes"])
    assert node.boundary_path(1).stat().st_size < 4 << 20


def test_five_hundred_ranks_of_one_memory_hold_nobody_up(node: FakeNode) -> None:
    begun(node)
    bobs = Bobs(node, "shared", 500)
    bobs.kill()
    begin = time.monotonic()
    node.begin(2, user="alice")
    node.serve(7_000)
    node.end(2)
    node.end(1)
    silent_s = time.monotonic() - begin
    assert node.record(2)["domains"]["package-0"]["node_uj"] == 7_000
    record = node.record(1)
    assert record["state"] == "closed"
    assert "499 ranks whose regions are left out: they handed over another rank's memory" in record["notes"]
    assert silent_s < 10  # it was 60 s


def test_a_job_with_much_to_read_keeps_no_other_job_from_its_record(node: FakeNode) -> None:
    begun(node)
    assert node.agent is not None
    most_b = 150 << 20  # as a unit's limit: what reads 32 MiB of calls must do with less than that
    resource.prlimit(node.agent.pid, resource.RLIMIT_DATA, (most_b, most_b))
    bobs = Bobs(node, "calls", 2)
    node.serve(3_000_000)
    bobs.kill()
    node.end(1)
    node.begin(2, user="alice")
    node.serve(7_000)
    node.end(2)
    assert node.record(2)["domains"]["package-0"]["node_uj"] == 7_000
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 3_000_000
    assert len(record["regions"]) == 14
    assert min(region["calls"] for region in record["regions"]) > 180_000


def test_many_regions_with_long_names_leave_a_record_that_can_be_read(node: FakeNode) -> None:
    begun(node)
    bobs = Bobs(node, "names", 20)
    node.serve(3_000_000)
    bobs.kill()
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 3_000_000
    assert 1000 < len(record["regions"]) < 20_000
    assert len(json.dumps(record["regions"])) < 2.1 * (1 << 20)
    assert min(region["time_ns"] for region in record["regions"]) > 1000  # those that took longest are kept
    assert any(" regions left out: a node reports 20000 of a job, 2 MiB of them" in note for note in record["notes"])
    assert node.boundary_path(1).stat().st_size < 4 << 20


def test_where_the_memory_cap_is_near_what_a_job_says_of_its_ranks_goes_and_the_agent_stays(node: FakeNode) -> None:
    with node.policy.open("a") as policy:
        policy.write("agent:\n  memory_cap: 40 MiB\n")
    begun(node)
    assert node.agent is not None
    bobs = Bobs(node, "steps", 4200, 1, COMMAND_B)
    assert bobs.said["ok"] > 64
    node.begin(2, user="alice")  # what is known of ranks stands in the journal
    journal = node.spool / "sessions/1.0/steps.jsonl"
    until(lambda: len(journal.read_text().splitlines()) < 64, "the agent lets go of ranks")
    node.serve(5_000_000)
    bobs.kill()
    until(lambda: len(node.ask("status").fields["sessions"].split()) == 2, "the agent goes on")
    node.end(2)
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 5_000_000
    assert any(note.endswith("ranks left out: the agent neared its memory cap") for note in record["notes"])
    assert len(record["steps"]) == 1
    assert node.agent.poll() is None
