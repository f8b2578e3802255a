"""The agent and a kernel that says odd things: times that go backwards, CPUs that come and go, files that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .agent_node import ALL_BY_WORK, FakeNode, until

MJ = 1_000
"""A millijoule: joules within a few milliseconds would be more than the device can take."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, ALL_BY_WORK)
    yield fake
    fake.stop()


def beside(node: FakeNode, job_id: int, cpus: str = "0-1") -> None:
    """A job with a cgroup that does not hold the whole node."""
    node.cgroup(job_id, cpus, 0)
    node.begin(job_id, cpus_on_node="2")
    assert node.answers()  # the agent has looked at the job's cgroup: that comes after its answer to the hook


def whys(node: FakeNode, job_id: int) -> list[str]:
    return [gap["why"] for gap in node.record(job_id)["gaps"]]


def closes(node: FakeNode) -> bool:
    return all(sum(line["shares"].values()) == line["total_uj"] for line in node.ledger())


def test_a_cpu_whose_busy_time_goes_backwards_costs_neither_agent_nor_energy(node: FakeNode) -> None:
    node.serve(busy_s={0: 5, 1: 5})
    agent = node.start()
    beside(node, 1)
    node.cgroup(1, "0-1", 0.005)
    node.serve(100 * MJ, busy_s={0: 0.01, 1: -0.02})
    node.end(1)
    record = node.record(1)
    # Of the 10 ms that are known the job's own time explains 5 ms.
    assert record["domains"]["package-0"]["energy_uj"] == 50 * MJ
    assert record["domains"]["package-0"]["provenance"] in ("modelled", "simulated")
    assert "busy time of CPU 1 went backwards: taken from the jobs' own CPU times" in whys(node, 1)
    assert agent.poll() is None
    node.stop()
    assert closes(node)
    assert any("went backwards" in line.get("why", "") for line in node.ledger())


def test_where_every_cpu_went_backwards_the_jobs_cpu_times_share_the_energy(node: FakeNode) -> None:
    node.serve(busy_s=dict.fromkeys(range(4), 5.0))
    node.start()
    beside(node, 1, "0-1")
    beside(node, 2, "2-3")
    node.cgroup(1, "0-1", 3)
    node.cgroup(2, "2-3", 1)
    node.serve(100 * MJ, busy_s=dict.fromkeys(range(4), -0.5))
    node.end(1)
    node.end(2)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 75 * MJ
    assert node.record(2)["domains"]["package-0"]["energy_uj"] == 25 * MJ


def test_a_job_whose_own_cpu_time_goes_backwards_is_given_its_cpus_busy_time(node: FakeNode) -> None:
    node.start()
    node.cgroup(1, "0-1", 9)
    node.begin(1, cpus_on_node="2")
    assert node.answers()
    node.serve(100 * MJ, busy_s={0: 3, 3: 1})
    node.cgroup(1, "0-1", 2)
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 75 * MJ


def test_a_state_that_holds_a_stretch_of_that_kind_kills_no_agent(node: FakeNode) -> None:
    node.serve(busy_s={0: 5, 1: 5})
    node.start()
    beside(node, 1)
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.kill()
    node.cgroup(1, "0-1", 0.005)
    node.serve(100 * MJ, busy_s={0: 0.01, 1: -0.02})
    for _ in range(3):
        agent = node.start()
        assert node.ask("status").fields["sessions"] == "1.0"
        assert agent.poll() is None
        node.kill()
    node.start()
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["node_uj"] == 100 * MJ
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 50 * MJ


def test_a_cpu_that_comes_online_does_not_eat_the_interval(node: FakeNode) -> None:
    online = node.root / "sys/devices/system/cpu/online"
    online.write_text("0-2\n")
    node.busy_s = [100.0, 100.0, 100.0]
    node.serve()
    node.start()
    beside(node, 1)
    online.write_text("0-3\n")
    node.busy_s.append(4_000)  # it was busy for an hour before it was taken offline
    node.cgroup(1, "0-1", 2)
    node.serve(100 * MJ, busy_s={0: 1, 1: 1})
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 100 * MJ
    assert "busy time of CPU 3 is not known, it came online: taken from the jobs' own CPU times" in whys(node, 1)
    assert node.record(1)["node_cpus"] == 4


def test_a_cpu_that_goes_offline_is_told_and_its_jobs_time_counts(node: FakeNode) -> None:
    node.serve(busy_s=dict.fromkeys(range(4), 100.0))
    node.start()
    beside(node, 1, "0-1")
    beside(node, 2, "2-3")
    (node.root / "sys/devices/system/cpu/online").write_text("0-2\n")
    node.busy_s.pop()
    node.cgroup(1, "0-1", 2)
    node.cgroup(2, "2-3", 2)
    node.serve(100 * MJ, busy_s={0: 1, 1: 1, 2: 1})
    node.end(1)
    node.end(2)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 50 * MJ
    assert node.record(2)["domains"]["package-0"]["energy_uj"] == 50 * MJ
    assert "busy time of CPU 3 ended when it went offline: taken from the jobs' own CPU times" in whys(node, 2)


def test_cpus_that_are_offline_do_not_count_as_the_nodes(node: FakeNode) -> None:
    (node.root / "sys/devices/system/cpu/online").write_text("0-1\n")
    node.busy_s = node.busy_s[:2]
    node.serve()
    node.start()
    beside(node, 1, "0-1")  # all that there is: the job is alone
    node.serve(100 * MJ)
    node.end(1)
    assert node.record(1)["node_cpus"] == 2
    assert node.record(1)["domains"]["package-0"]["method"] == "exclusive"


def test_a_failed_read_of_busy_times_is_not_idleness(node: FakeNode) -> None:
    node.serve(busy_s=dict.fromkeys(range(4), 100.0))
    node.start()
    beside(node, 1)
    stat = node.root / "proc/stat"
    size = stat.stat().st_size
    node.serve(100 * MJ)
    with stat.open("r+b") as file:
        file.write(b"cpu0 garbage\n".ljust(size, b"\n"))
    node.cgroup(1, "0-1", 2)
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == 100 * MJ
    assert any("was not read" in why for why in whys(node, 1))


def test_one_damaged_session_in_the_state_costs_no_other(node: FakeNode) -> None:
    node.start()
    node.begin(1)
    node.begin(2, exclusive="1")
    state = node.spool / "node" / "state.json"
    until(state.exists, "the state was saved")
    node.kill()
    saved = node.state()
    damaged = next(one for one in saved["sessions"] if one["key"] == "1.0")
    damaged["start"] = "yesterday"
    state.write_text(json.dumps(saved))
    node.serve(5 * MJ)
    node.start()
    assert node.ask("status").fields["sessions"] == "2.0"
    node.end(2)
    assert node.record(2)["domains"]["package-0"]["node_uj"] == 5 * MJ
    assert any(path.name.startswith("state.json.damaged") for path in state.parent.iterdir())


def test_parts_of_a_session_that_are_damaged_in_the_state_cost_no_joule(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    node.serve(5 * MJ)
    node.begin(2)
    node.kill()
    state = node.spool / "node" / "state.json"
    saved = node.state()
    damaged = next(one for one in saved["sessions"] if one["key"] == "1.0")
    damaged.update(agent_cpu_ns=[], suspended_ns="x", mem_peak_b=None, edges_start=-1)
    damaged["domains"]["package-0"]["gap_ns"] = []
    state.write_text(json.dumps(saved))
    agent = node.start()
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["energy_uj"] == 5 * MJ
    assert record["state"] == "partial"
    assert "partial: what was kept of its suspended_ns is damaged" in record["why"]
    assert "partial: what was kept of its package-0's gap_ns is damaged" in record["why"]
    assert agent.poll() is None


def test_a_counter_beyond_64_bits_is_no_damage_of_the_state(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, ALL_BY_WORK)
    chip = node.root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("odd\n")
    (chip / "energy1_input").write_text("18446744073709551621\n")
    try:
        node.start()
        node.begin(1, exclusive="1")
        node.serve(5 * MJ)
        node.begin(2)
        node.kill()
        node.start()
        assert node.ask("status").fields["sessions"] == "1.0 2.0"
        node.end(1)
        assert node.record(1)["domains"]["package-0"]["energy_uj"] == 5 * MJ
    finally:
        node.stop()


def test_a_counter_that_could_not_be_read_when_the_agent_was_killed_loses_nothing(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    node.serve(5 * MJ)
    node.begin(2)
    node.serve(3 * MJ)
    (node.root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    node.end(2)  # an interval without a reading
    node.kill()
    node.serve()
    node.start()
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["node_uj"] == 8 * MJ
    node.stop()
    assert closes(node)


@pytest.mark.parametrize("damage", [{"done": "x"}, {"done": {"3.0": None}}, {"uses": {"1.0": {}}}, {"mono_ns": "x"}])
def test_a_state_that_is_damaged_is_named_and_kills_no_agent(node: FakeNode, damage: dict[str, object]) -> None:
    node.start()
    node.begin(1)
    node.kill()
    state = node.spool / "node" / "state.json"
    state.write_text(json.dumps({**node.state(), **damage}))
    agent = node.start()
    node.end(1)
    assert node.record(1)["why"].startswith("no job-start message")
    assert agent.poll() is None
    assert f"it stands in {state}.damaged" in (node.spool / "agent.log").read_text()


def test_a_counter_that_the_last_agent_did_not_know_costs_no_session(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    node.serve(5 * MJ)
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.kill()
    zone = node.root / "sys/class/powercap/intel-rapl:1"
    zone.mkdir()
    for name, text in {"name": "package-1", "energy_uj": "77", "max_energy_range_uj": "262143328850"}.items():
        (zone / name).write_text(text + "\n")
    node.start()
    assert node.ask("status").fields["sessions"] == "1.0"
    node.serve(5 * MJ)
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["node_uj"] == 10 * MJ


def test_a_session_of_which_something_fails_again_and_again_is_set_aside(node: FakeNode) -> None:
    node.start()
    beside(node, 1)
    beside(node, 2, "2-3")
    node.serve(100 * MJ, busy_s={0: 1, 3: 1})
    node.kill()
    state = node.spool / "node" / "state.json"
    saved = node.state()
    account = next(one for one in saved["sessions"] if one["key"] == "1.0")["domains"]["package-0"]
    account["provenance"] = "hearsay"  # nothing can be added to that
    state.write_text(json.dumps(saved))
    node.start()
    for other in range(100, 120):
        node.begin(other, cpus_on_node="1")
        node.end(other)
    until(lambda: node.ask("status").fields["sessions"] == "2.0", "the failing session is set aside, the other goes on")
    record = node.record(1)
    assert record["state"] == "partial"
    assert "partial: booking failed" in record["why"]
    assert "set aside" in record["why"]
    node.end(1)  # too late, and nobody minds
    node.end(2)
    assert node.record(2)["why"] is None
    assert node.record(2)["domains"]["package-0"]["node_uj"] == 100 * MJ
    node.stop()
    assert closes(node)


def test_a_job_of_which_slurm_told_nonsense_has_its_record(node: FakeNode) -> None:
    agent = node.start()
    odd = {"nodelist": "n[1-", "cpus_per_node": "2,1", "num_nodes": "many", "sluid": "s" * 5_000, "gpus": ",,x\udcff"}
    node.begin(1, **odd)
    node.serve(5 * MJ)
    node.end(1, **odd)
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 5 * MJ
    assert agent.poll() is None


def test_a_session_of_which_no_record_can_be_made_is_kept_and_holds_up_no_other(node: FakeNode) -> None:
    agent = node.start()
    node.begin(1, exclusive="1")
    node.serve(5 * MJ)
    node.begin(2)
    node.kill()
    state = node.spool / "node" / "state.json"
    saved = node.state()
    damaged = next(one for one in saved["sessions"] if one["key"] == "1.0")
    damaged["edges_start"] = {name: [5] for name in damaged["edges_start"]}  # no reading
    state.write_text(json.dumps(saved))
    agent = node.start()
    node.end(1)
    kept = node.spool / "set-aside" / "1.0" / "session.json"
    until(kept.exists, "what is known of it is kept")
    assert json.loads(kept.read_text())["domains"]["package-0"]["energy_uj"] == 5 * MJ
    node.end(2)
    assert node.record(2)["why"] is None
    assert agent.poll() is None
    assert node.ask("status").fields["sessions"] == ""
