"""What the policy says of a node rules the real agent: sensors, intervals, traces, GPUs, the spool's size."""

from __future__ import annotations

import json
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perun_hpc.cli.agent import lines

from .agent_node import FakeNode, until

Make = Callable[[str], FakeNode]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[FakeNode] = []

    def start(policy: str) -> FakeNode:
        node = FakeNode(tmp_path, policy)
        made.append(node)
        node.start()
        until((node.spool / "policy.json").exists, "the policy is compiled")
        return node

    yield start
    for node in made:
        node.stop()


def test_an_excluded_sensor_counts_for_no_job_and_a_declared_one_does(make: Make, tmp_path: Path) -> None:
    psu = tmp_path / "root/psu"
    told = "{name: psu, path: /psu, pattern: 'energy=(\\d+)', kind: counter, unit: J, component: node}"
    psu.parent.mkdir()
    psu.write_text("energy=100\n")
    node = make(f"sensors: {{exclude: ['powercap:dram'], files: [{told}]}}\n")
    node.begin(9)
    until(lambda: "file:psu:energy" in (node.spool / "node/state.json").read_text(), "the declared sensor is read")
    node.end(9)
    node.begin(1, exclusive="1")
    node.serve(package_uj=5_000_000, dram_uj=70_000)
    psu.write_text("energy=120\n")
    until(lambda: '"1.0"' in (node.spool / "node/state.json").read_text(), "the job is kept")
    node.kill()
    node.start()  # it knows at once what the policy says, and goes on with the job
    node.end(1)
    record = node.record(1)
    assert set(record["domains"]) == {"package-0", "other"}
    assert record["domains"]["package-0"]["energy_uj"] == 5_000_000
    assert record["domains"]["other"]["energy_uj"] == 15_000_000
    assert set(record["edges"]) == {"powercap:package-0:energy", "file:psu:energy"}
    told = (node.spool / "policy.json").read_text()
    node.policy.write_text(f"store: {{archive: {node.archive}}}\n")
    node.ask("reload")
    until(lambda: (node.spool / "policy.json").read_text() != told, "the new policy is compiled")
    until(lambda: "powercap:dram-0" in (node.spool / "node/state.json").read_text(), "its sensors are read")
    node.begin(2)
    node.end(2)
    assert set(node.record(2)["domains"]) == {"package-0", "dram-0"}


def test_attributions_are_as_often_as_the_policy_says(make: Make) -> None:
    node = make("sampling: {interval: 100 ms}\n")
    # At the default of 10 s this would take minutes.
    until(lambda: len([line for line in node.ledger() if line["domain"] == "package-0"]) > 20, "short intervals")


def test_a_trace_is_made_durable_as_often_as_the_policy_says(make: Make) -> None:
    node = make("  flush: 7 s\n  trace_min_duration: 0 s\n")
    node.begin(1)
    until(lambda: any(node.spool.rglob("track.json")), "the trace begins")
    described = json.loads(next(node.spool.rglob("track.json")).read_text())
    assert described["sync_ns"] == 7 * 10**9
    assert described["energy_step_uj"] == 1000


def test_above_the_spools_quota_a_running_jobs_trace_ends_and_its_record_says_so(make: Make) -> None:
    node = make("  spool_quota: 1 B\n  trace_min_duration: 0 s\n")
    node.begin(1, exclusive="1")
    until(lambda: "quota was exceeded" in (node.spool / "agent.log").read_text(), "the trace is dropped")
    assert not any(node.spool.rglob("track.json"))
    node.serve(package_uj=5_000)
    node.end(1)
    record = node.record(1)
    assert not record["trace"]["stored"]
    assert "quota" in record["trace"]["why"]
    assert record["domains"]["package-0"]["energy_uj"] > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("planted", ["account", "pipe", "device", "link"])
def test_what_lies_in_the_spool_does_not_say_whom_root_becomes(tmp_path: Path, planted: str) -> None:
    node = FakeNode(tmp_path)
    node.spool.mkdir()
    file = node.spool / "policy.json"
    if planted == "account":
        file.write_text(json.dumps({"site": {"values": {"agent.service_user": "nobody"}}}))
    elif planted == "pipe":
        os.mkfifo(file)
    elif planted == "device":
        os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: no end
    else:
        file.symlink_to("/dev/zero")
    node.start()
    try:
        uid = int(node.ask("status").fields["uid"])
    finally:
        node.stop()
    assert pwd.getpwnam("nobody").pw_uid not in (uid, node.spool.stat().st_uid)


def test_an_agent_without_a_service_user_says_so_everywhere(make: Make) -> None:
    node = make("")
    uid = node.ask("status").fields["uid"]
    node.begin(1)
    node.end(1)
    assert str(node.record(1)["agent"]["uid"]) == uid
    told = (node.spool / "agent.log").read_text()
    assert ("it stays root" in told) == (uid == "0")
    assert any("runs as root" in line for line in lines(node.ask("status").fields, 0)) == (uid == "0")


@pytest.mark.parametrize("damage", ['"x"', '{"nodes": []}', '{"site": {"values": [1]}}'])
def test_a_damaged_copy_of_the_policy_ends_no_agent(tmp_path: Path, damage: str) -> None:
    node = FakeNode(tmp_path)
    try:
        node.spool.mkdir()
        (node.spool / "policy.json").write_text(damage)
        node.start()
        node.begin(1, exclusive="1")
        node.serve(package_uj=5_000_000)
        node.end(1)
        assert node.record(1)["domains"]["package-0"]["energy_uj"] == 5_000_000
        assert f"{node.spool / 'policy.json'}: no compiled policy" in (node.spool / "agent.log").read_text()
    finally:
        node.stop()
