"""Kernel files whose reads take milliseconds are read by a child: the agent's loop does not wait for them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from perun_hpc.agent.sources.finding import listing
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.sources.workers import Worker, open_in_child
from perun_hpc.agent.tending import Sources
from perun_hpc.backend import hwmon
from perun_hpc.backend.base import Discovery
from perun_hpc.process.clock import MACHINE

W = 10**6
PATIENCE_S = 60


class Slow:
    """A clock by which everything takes five milliseconds."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 5_000_000
        return self.now_ns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for chip, name, watts in (("hwmon0", "power_meter", 300), ("hwmon1", "fam15h_power", 70)):
        directory = tmp_path / "sys/class/hwmon" / chip
        directory.mkdir(parents=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "power1_input").write_text(f"{watts * W}\n")
    return tmp_path


@pytest.fixture
def node(root: Path) -> Iterator[Node]:
    node = Node.open(root, (), MACHINE)
    yield node
    node.close()


def answer(worker: Worker) -> None:
    """Ask, and wait for the answer."""
    until_s = time.monotonic() + PATIENCE_S
    while worker.starting or (worker.sensors and worker.read()[0].ticks is None):
        assert time.monotonic() < until_s
        worker.tend(MACHINE.mono_ns())
        time.sleep(0.005)
    worker.ask(MACHINE.mono_ns())
    while worker.owes and not worker.collect():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def one_slow(root: Path) -> Discovery:
    """The node's meter takes its time, the package does not."""
    slow, quick = hwmon.discover(root, Slow()), hwmon.discover(root, lambda: 7)
    keep = [one for one in slow.readers if one.sensors[0].domain == "node"]
    return Discovery((*keep, *(one for one in quick.readers if one.sensors[0].domain != "node")))


def test_a_slow_file_is_read_by_a_child_and_a_quick_one_is_not(root: Path, node: Node) -> None:
    node.renew("hwmon", one_slow(root))
    (worker,) = node.workers
    assert [sensor.id for sensor in worker.sensors] == ["hwmon:node:power"]
    assert [sensor.id for reader in node.readers for sensor in reader.sensors] == ["hwmon:package-0:power"]
    assert node.read().readings["hwmon:node:power"].ticks is None  # nobody waits for it
    answer(worker)
    assert node.read().readings["hwmon:node:power"].ticks == 300 * W
    (root / "sys/class/hwmon/hwmon0/power1_input").write_text(f"{310 * W}\n")
    answer(worker)
    assert node.read().readings["hwmon:node:power"].ticks == 310 * W
    assert node.read().readings["hwmon:node:energy"].ticks > 0


def test_a_file_that_is_found_again_is_read_by_whom_it_suits_now(root: Path, node: Node) -> None:
    node.renew("hwmon", one_slow(root))
    (worker,) = node.workers
    answer(worker)
    node.renew("hwmon", hwmon.discover(root, lambda: 7))
    assert (worker.sensors, worker.held) == ((), ())
    assert node.read().readings["hwmon:node:power"].ticks == 300 * W
    node.renew("hwmon", one_slow(root))
    answer(worker)
    assert node.read().readings["hwmon:node:power"].ticks == 300 * W
    (root / "sys/class/hwmon/hwmon0/power1_input").unlink()
    node.renew("hwmon", hwmon.discover(root, Slow()))
    answer(worker)
    readings = node.read().readings
    assert readings["hwmon:package-0:power"].ticks == 70 * W
    assert readings["hwmon:node:power"].error == "it is not there any more"
    ids = [sensor.id for sensor in node.sensors]
    assert len(ids) == len(set(ids))


def test_a_look_that_finds_what_was_there_leaves_the_child_at_work(root: Path, node: Node) -> None:
    node.renew("hwmon", one_slow(root))
    (worker,) = node.workers
    answer(worker)
    assert not node.renew("hwmon", one_slow(root)).anew
    assert not worker.starting
    assert node.read().readings["hwmon:node:power"].ticks == 300 * W


def test_a_counter_of_several_files_begins_anew_with_any_of_them(root: Path, node: Node) -> None:
    chip = root / "sys/class/hwmon/hwmon1"
    (chip / "power1_input").unlink()
    (chip / "name").write_text("altra_hwmon\n")
    for core in (1, 2):
        (chip / f"energy{core}_label").write_text(f"Core Energy {core}\n")
        (chip / f"energy{core}_input").write_text("1000\n")
    node.renew("hwmon", hwmon.discover(root))
    assert node.read().readings["hwmon:package-0:energy"].ticks == 2000
    assert not node.renew("hwmon", hwmon.discover(root)).anew
    (chip / "energy2_input").rename(chip / "kept")  # so that no inode comes twice
    (chip / "energy2_input").write_text("2000\n")
    assert node.renew("hwmon", hwmon.discover(root)).anew == {"hwmon:package-0:energy"}


class Helper:
    """Root's helper, as far as it is asked to look for something."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.findings = SimpleNamespace(take=lambda: None)

    def look_for(self, backend: str) -> None:
        self.asked.append(backend)


def test_a_meter_that_did_not_measure_is_tried_again_every_ten_minutes(root: Path) -> None:
    (root / "sys/class/hwmon/hwmon0/power1_input").write_text(f"{0xFFFFFFFF * 1000}\n")
    node, helper = Node.open(root, ("hwmon",), MACHINE), Helper()
    meter = SimpleNamespace(
        last=None, poll=lambda: None, account_anew=lambda *_, **__: None, look_for_silence=lambda now_ns: ()
    )
    policy = SimpleNamespace(settled=False)
    sources = Sources(node, policy, None, meter, helper, {"hwmon": listing(root, "hwmon")})
    asked = []
    for second in range(0, 1300, 10):
        sources.tend(second * 10**9)
        asked += [second for _ in helper.asked]
        helper.asked.clear()
    assert asked == [0, 600, 1200]
    (root / "sys/class/hwmon/hwmon0/power1_input").write_text(f"{300 * W}\n")
    node.renew("hwmon", hwmon.discover(root))
    sources.tend(2000 * 10**9)
    assert not helper.asked
    assert "hwmon:node:power" in {sensor.id for sensor in node.sensors}
    node.close()


def test_a_child_answers_an_agent_that_has_more_than_a_thousand_files_open(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    files = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1030)]
    try:
        (reader,) = open_in_child("hwmon", root, PATIENCE_S, MACHINE).readers
        assert [reading.ticks for reading in reader.read()] == [300 * W, 70 * W]
        reader.close()
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
