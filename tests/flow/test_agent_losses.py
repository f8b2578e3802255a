"""What an agent has failed to do is named by `perun agent status`, with its reason and since when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.agent_node import FakeNode, until

POLICY = "sampling: {interval: 1 s}\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    made = FakeNode(tmp_path, POLICY)
    yield made
    made.stop()


def status(node: FakeNode) -> str:
    """What an administrator reads."""
    command = [sys.executable, "-m", "perun_hpc.cli.main", "agent", "--socket", node.socket, "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def losses(node: FakeNode) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in json.loads(node.ask("status").fields["losses"])}


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_a_record_that_cannot_be_shipped_is_named_until_it_can(node: FakeNode, there: str) -> None:
    node.archive.rmdir()
    if there == "file":
        node.archive.touch()
    node.start()
    node.begin(4711)
    node.end(4711)
    until(lambda: "job 4711.0" in losses(node).get("not-shipped", {}).get("names", ()), "the loss is told")
    told = losses(node)["not-shipped"]
    assert told["count"] == 3  # and the node ledger, and what the node has learnt
    assert str(node.archive) in told["why"]
    shown = [line for line in status(node).splitlines() if line.startswith("not shipped since 2")]
    assert len(shown) == 1
    assert "job 4711.0" in shown[0]
    assert str(node.archive) in shown[0]
    assert "waits in the spool" in shown[0]
    node.kill()
    node.start()
    assert losses(node)["not-shipped"]["since_ns"] == told["since_ns"]
    if there == "file":
        node.archive.unlink()
    assert not node.archive.exists()
    node.archive.mkdir()
    assert node.record(4711)["job_id"] == 4711
    until(lambda: "not-shipped" not in losses(node), "nothing is left to ship")
    assert not any("not shipped" in line for line in status(node).splitlines())
    log = (node.spool / "agent.log").read_text()
    assert log.count("cannot ship job 4711.0: ") == 1
    assert "shipped job 4711.0 at last" in log


def test_a_sensor_that_gives_nothing_is_named_since_when(node: FakeNode) -> None:
    node.start()
    assert "no-reading" not in losses(node)
    path = node.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"no number here \n", 0)
    os.close(fd)
    until(lambda: "no-reading" in losses(node), "the sensor is named")
    told = losses(node)["no-reading"]
    assert (told["names"], told["count"]) == (["powercap:package-0:energy"], 1)
    assert any(line.startswith("no reading since 2") and "package-0" in line for line in status(node).splitlines())
    node.serve()
    until(lambda: "no-reading" not in losses(node), "it reads again")
    log = (node.spool / "agent.log").read_text()
    assert " no reading: powercap:package-0:energy: " in log
    assert " ended: no reading: powercap:package-0:energy" in log
