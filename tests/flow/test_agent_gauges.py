"""A node whose only power sensors are gauges, and static power told by the policy."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .agent_node import FakeNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, "energy: {package_static: 30 W}\n")
    yield fake
    fake.stop()


def be_a_superchip(node: FakeNode) -> None:
    """500 W of the module, 200 W of them Grace's, and no counter."""
    shutil.rmtree(node.root / "sys/class/powercap")
    for number, (rail, watts) in enumerate({"Module": 500, "Grace": 200}.items()):
        chip = node.root / f"sys/class/hwmon/hwmon{number}/device"
        chip.mkdir(parents=True)
        (chip / "power1_average").write_text(f"{watts * 10**6}\n")
        (chip / "power1_average_interval").write_text("50\n")
        (chip / "power1_oem_info").write_text(f"{rail} Power Socket 0\n")
        (chip.parent / "name").write_text("power_meter\n")


def test_a_superchips_gauges_are_integrated_over_the_job(node: FakeNode) -> None:
    be_a_superchip(node)
    node.start()
    node.begin(1, exclusive="1")
    time.sleep(2.5)
    node.end(1)
    record = node.record(1)
    assert record["state"] == "closed"
    edges = record["edges"]["hwmon:grace-0:energy"]
    elapsed_ns = edges["end"]["mono_ns"] - edges["start"]["mono_ns"]
    grace, other = record["domains"]["grace-0"], record["domains"]["other"]
    assert abs(grace["energy_uj"] - 200 * elapsed_ns // 1000) <= 10
    assert abs(other["energy_uj"] - 300 * elapsed_ns // 1000) < 300_000
    assert "superchip module" in record["scope"]


def test_what_is_integrated_goes_on_where_a_killed_agent_left_it(node: FakeNode) -> None:
    be_a_superchip(node)
    node.start()
    node.begin(1, exclusive="1")
    node.kill()
    node.start()
    node.end(1)
    record = node.record(1)
    assert (record["state"], record["why"]) == ("closed", None)
    assert [gap["why"] for gap in record["gaps"]] == ["the agent was restarted"]
    edges = record["edges"]["hwmon:grace-0:energy"]
    elapsed_ns = edges["end"]["mono_ns"] - edges["start"]["mono_ns"]
    assert abs(record["domains"]["grace-0"]["energy_uj"] - 200 * elapsed_ns // 1000) <= 10
    assert record["domains"]["grace-0"]["gap_ns"] == 0


def test_static_power_of_the_policy_and_the_scope_stand_in_the_record(node: FakeNode) -> None:
    node.start()
    node.cgroup(1, "0-1", 0)
    node.begin(1)
    node.begin(2)
    node.serve(package_uj=100_000_000)
    time.sleep(0.2)
    node.end(2)
    node.end(1)
    record = node.record(1)
    assert record["static"] == {
        "dram-0": {"uw": 0, "from": "unknown"},
        "package-0": {"uw": 30_000_000, "from": "policy"},
    }
    assert "memory" in record["scope"]
    package = record["domains"]["package-0"]
    assert package["static_uj"] > 0
