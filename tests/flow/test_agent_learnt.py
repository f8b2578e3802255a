"""A node whose spool is in memory has its learnt static power again after a reboot."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.archive.learnt import LEARNT, Learnt, keep_typical
from perun_hpc.energy.static import BIN_UW, DAY_NS, StaticPower
from perun_hpc.files import write_new
from perun_hpc.process.clock import MACHINE

from .agent_node import FakeNode, until

IDLE_UW = 31_000_000
HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    (fake.root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Tested 9000\n\nprocessor\t: 1\n")
    yield fake
    fake.stop()


def idle_for(hours: int) -> StaticPower:
    """What so many hours of idle time today teach."""
    return StaticPower({MACHINE.real_ns() // DAY_NS: {IDLE_UW // BIN_UW: hours * HOUR_NS}})


def has_learnt(node: FakeNode, hours: int) -> bool:
    """Whether the archive keeps that idle time once, and what little a slow machine idled meanwhile."""
    days = Learnt.read(kept(node)).static["package-0"].bins.values()
    taught_ns = sum(day.get(IDLE_UW // BIN_UW, 0) for day in days)
    more_ns = sum(sum(day.values()) for day in days) - hours * HOUR_NS
    return taught_ns >= hours * HOUR_NS and more_ns < HOUR_NS // 4


def kept(node: FakeNode) -> Path:
    return node.archive / "test" / "nodes" / "n1" / LEARNT


def lives_on_memory(node: FakeNode, boot: str) -> None:
    """The node is rebooted, and nothing of its spool and run directory is left."""
    node.stop()
    for directory in (node.spool, node.run_dir):
        shutil.rmtree(directory)
    node.set_boot(boot)


def teach(node: FakeNode, power: StaticPower) -> None:
    """Let an agent know what one before it had learnt, and hand it over."""
    node.start()
    node.begin(1)
    node.end(1)
    node.stop()
    state = node.spool / "node" / "state.json"
    told = node.state()
    told["static"] = {"package-0": power.to_json()}
    state.write_text(json.dumps(told))
    node.start()
    node.begin(2)
    node.end(2)
    assert node.record(2)["static"]["package-0"] == {"uw": IDLE_UW, "from": "learnt"}
    node.stop()


def static_of(node: FakeNode, job: int) -> object:
    """Static power in the record of a job that begins when all that the archive keeps has come."""
    node.begin(job)
    until((node.spool / "node" / "learnt.asked").exists, "the archive was asked")
    node.end(job)
    node.begin(job + 1)
    node.end(job + 1)
    return node.record(job + 1)["static"]["package-0"]


def test_a_node_whose_spool_is_lost_has_what_it_learnt_again(node: FakeNode) -> None:
    teach(node, idle_for(hours=2))
    assert has_learnt(node, hours=2)
    for job, boot in ((10, "2" * 8), (20, "3" * 8)):  # twice: what was given is handed over again
        lives_on_memory(node, boot)
        node.start()
        assert static_of(node, job) == {"uw": IDLE_UW, "from": "learnt"}
    node.stop()
    assert has_learnt(node, hours=2)


def test_a_node_that_has_lost_everything_takes_nothing_from_what_the_archive_keeps(node: FakeNode) -> None:
    """The archive is away while the new spool is young: what little it learns meanwhile waits."""
    teach(node, idle_for(hours=2))
    before = kept(node).read_bytes()
    lives_on_memory(node, "2" * 8)
    away = node.archive.with_name("away")
    node.archive.rename(away)
    node.start()
    node.begin(2)
    node.end(2)
    node.stop()
    assert not (node.spool / "node" / "learnt.asked").exists()
    away.rename(node.archive)
    assert kept(node).read_bytes() == before
    node.start()
    assert static_of(node, 10) == {"uw": IDLE_UW, "from": "learnt"}


def test_another_machine_under_the_same_name_begins_anew(node: FakeNode) -> None:
    teach(node, idle_for(hours=2))
    lives_on_memory(node, "2" * 8)
    (node.root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Replaced 1\n")
    node.start()
    assert static_of(node, 10) == {"uw": 0, "from": "unknown"}
    assert "learnt on another machine (Tested 9000, 4 CPUs, 1 packages)" in (node.spool / "agent.log").read_text()


def test_what_the_archive_keeps_and_cannot_be_is_passed_over(node: FakeNode) -> None:
    kept(node).parent.mkdir(parents=True)
    kept(node).write_text('{"schema": "perun.learnt/1", "machine": 7, "static": {}}')
    node.start()
    assert static_of(node, 10) == {"uw": 0, "from": "unknown"}
    with contextlib.suppress(FileNotFoundError):
        assert "Traceback" not in (node.spool / "agent.log").read_text()


def test_a_node_that_knows_nothing_has_what_most_nodes_of_its_machine_have(node: FakeNode) -> None:
    machine = "Tested 9000, 4 CPUs, 1 packages"
    for other in ("n2", "n3", "n4"):
        directory = node.archive / "test" / "nodes" / other
        directory.mkdir(parents=True)
        (directory / LEARNT).write_bytes(Learnt(machine, {"package-0": idle_for(hours=1)}).encode())
    keep_typical(node.archive / "test", write_new)
    node.start()
    assert static_of(node, 10) == {"uw": IDLE_UW, "from": "nodes"}


def test_a_job_s_record_names_how_cpus_were_set_while_it_ran(node: FakeNode) -> None:
    """A governor that changes during a job ends an interval; static power is that of the governor in force."""
    governor = node.root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    told = node.spool / "node" / "state.json"
    node.start()
    node.begin(1)
    node.end(1)
    assert node.record(1)["conditions"]["governor"] == "powersave"
    node.stop()
    state = node.state()
    state["static"] = {"package-0@powersave": idle_for(hours=2).to_json()}
    told.write_text(json.dumps(state))
    node.start()
    node.begin(2)
    node.end(2)
    assert node.record(2)["static"]["package-0"] == {"uw": IDLE_UW, "from": "learnt"}
    node.begin(3)
    governor.write_text("performance\n")
    ledgers = node.archive / "test" / "nodes" / "n1"
    until(
        lambda: '{"governor":"performance"}' in "".join(p.read_text() for p in (node.spool / "node").glob("*.jsonl")),
        "an interval that began with the other governor is written",
    )
    node.end(3)
    record = node.record(3)
    assert record["conditions"]["governor"] == "powersave, then performance"
    assert record["static"]["package-0"] == {"uw": IDLE_UW, "from": "otherwise"}

    def said() -> list[str]:
        lines = [line for path in sorted(ledgers.glob("*-*.jsonl")) for line in path.read_text().splitlines()]
        return [one["cpu_settings"]["governor"] for one in map(json.loads, lines) if "cpu_settings" in one]

    until(lambda: said()[-2:] == ["powersave", "performance"], "the ledger is shipped after the record")
