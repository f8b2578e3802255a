"""Sensors that come after the agent began, or come again: found without a restart, and nothing is made up meanwhile."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .agent_node import RANGE_UJ, FakeNode, until

MJ = 1_000
"""A millijoule: joules within a few milliseconds would be more than the device can take."""


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """Not below pytest's own directory: a session that begins meanwhile closes that to everybody but root."""
    base = Path(tempfile.mkdtemp(prefix="perun-late-"))
    base.chmod(0o755)
    fake = FakeNode(base)
    yield fake
    fake.stop()
    shutil.rmtree(base)


def zone(node: FakeNode, name: str, domain: str, energy_uj: int) -> Path:
    """A zone's directory, whole before it has its name; its counter is root's alone, as the kernel's."""
    directory = node.root / "sys/class/powercap" / name
    fresh = directory.with_name("being-made")
    fresh.mkdir()
    files = {"name": domain, "max_energy_range_uj": str(RANGE_UJ), "constraint_0_max_power_uw": "10000000000"}
    for file, text in {**files, "energy_uj": str(energy_uj)}.items():
        (fresh / file).write_text(text + "\n")
    (fresh / "energy_uj").chmod(0o400)
    fresh.rename(directory)
    return directory / "energy_uj"


def domains(node: FakeNode) -> set[str]:
    node.ask("status")
    return {line["domain"] for line in node.ledger()}


def said(node: FakeNode, text: str) -> None:
    until(lambda: text in (node.spool / "agent.log").read_text(), f"the log says {text!r}")


def test_a_zone_that_comes_later_is_read_without_a_restart_and_counts_from_its_first_reading(node: FakeNode) -> None:
    agent = node.start()
    node.begin(1, exclusive="1")
    file = zone(node, "intel-rapl:1", "package-1", 5_000_000)
    said(node, "powercap: its files are others than before; 3 sensors are there now")
    file.write_text(f"{5_000_000 + 7 * MJ}\n")
    node.serve(3 * MJ)
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-1"]["energy_uj"] == 7 * MJ
    assert record["domains"]["package-0"]["energy_uj"] == 3 * MJ
    assert next(gap["why"] for gap in record["gaps"] if gap["sensor"] == "package-1").endswith("after the job's start")
    assert record["domains"]["package-1"]["gap_ns"] > 0
    assert agent.poll() is None


def test_a_zone_that_is_made_anew_goes_on_and_says_when_it_was_not_there(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    file = node.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    file.write_text("")  # the kernel's would fail with ENODEV
    node.begin(2)
    node.end(2)
    old = file.parent.rename(file.parent.with_name("old"))
    again = zone(node, "intel-rapl:0", "package-0", node.counters["intel-rapl:0"] + 4 * MJ)
    for left in old.iterdir():
        left.unlink()
    old.rmdir()
    said(node, "powercap: its files are others than before; 2 sensors are there now")
    again.write_text(f"{node.counters['intel-rapl:0'] + 9 * MJ}\n")
    node.end(1)
    record = node.record(1)
    # RAPL's register counts on while no driver shows it.
    assert record["domains"]["package-0"]["node_uj"] == 9 * MJ
    assert any("the file holds no number" in gap["why"] for gap in record["gaps"])


def test_a_zone_that_goes_for_good_is_a_gap_not_zero(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    directory = node.root / "sys/class/powercap/intel-rapl:0:0"
    node.serve(1 * MJ, 2 * MJ)
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    said(node, "powercap: its files are others than before; 1 sensors are there now")
    node.end(1)
    record = node.record(1)
    assert record["state"] == "partial"
    assert "it is not there any more" in record["why"]
    assert record["domains"]["package-0"]["node_uj"] == 1 * MJ


def test_a_counter_that_its_driver_adds_up_begins_anew_with_it(node: FakeNode) -> None:
    chip = node.root / "sys/class/hwmon/hwmon0"

    def load(energy_uj: int) -> None:
        fresh = chip.with_name("fresh")
        fresh.mkdir(parents=True)
        for name, text in {"name": "power_meter", "energy1_input": str(energy_uj)}.items():
            (fresh / name).write_text(text + "\n")
        if chip.exists():
            chip.rename(chip.with_name("gone"))
        fresh.rename(chip)
        for file in chip.with_name("gone").glob("*"):
            file.unlink()
        if chip.with_name("gone").exists():
            chip.with_name("gone").rmdir()

    load(1_000)
    node.start()
    node.begin(1, exclusive="1")
    load(5_000)  # of a new life of the counter: nobody knows what the old one counted last
    said(node, "hwmon: its files are others than before")
    node.end(1)
    record = node.record(1)
    assert record["domains"]["node"]["energy_uj"] is None
    assert "node: its counter was made anew" in record["why"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_agent_that_is_root_no_more_is_handed_what_is_roots(node: FakeNode) -> None:
    user = pwd.getpwnam("nobody")
    node.spool.mkdir()
    os.chown(node.spool, user.pw_uid, user.pw_gid)
    os.chown(node.archive, user.pw_uid, user.pw_gid)
    node.start()
    if node.ask("status").fields["uid"] == "0":
        pytest.skip("the agent stayed root")
    node.begin(1, exclusive="1")
    file = zone(node, "intel-rapl:1", "package-1", 5_000_000)
    said(node, "3 sensors are there now")
    file.write_text(f"{5_000_000 + 7 * MJ}\n")
    node.end(1)
    assert node.record(1)["domains"]["package-1"]["energy_uj"] == 7 * MJ


def test_nothing_but_a_backends_own_files_below_sys_leaves_roots_child(tmp_path: Path) -> None:
    import socket

    from perun_hpc.agent.sources.finding import Findings, find

    powercap = tmp_path / "root/sys/class/powercap"
    (tmp_path / "secret").write_text("4711\n")
    for number, target in enumerate((tmp_path / "secret", powercap / "intel-rapl:0/name")):
        (powercap / f"intel-rapl:{number}").mkdir(parents=True)
        (powercap / f"intel-rapl:{number}/name").write_text(f"package-{number}\n")
        (powercap / f"intel-rapl:{number}/energy_uj").symlink_to(target)
    (powercap / "intel-rapl:2").mkdir()
    (powercap / "intel-rapl:2/name").write_text("package-2\n")
    (powercap / "intel-rapl:2/energy_uj").write_text("12\n")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    find(theirs, tmp_path / "root", "powercap")
    answer = Findings(ours).take()
    assert answer is not None
    backend, found = answer
    assert backend == "powercap"
    assert [sensor.domain for sensor in found.sensors] == ["package-2"]
    assert [reading.ticks for reader in found.readers for reading in reader.read()] == [12]
    found.close()
    ours.close()
    theirs.close()


def test_a_zone_that_turns_out_to_show_anothers_counter_is_counted_once_from_then_on(node: FakeNode) -> None:
    powercap = node.root / "sys/class/powercap"
    (powercap / "perun_simulated").unlink()
    file = zone(node, "intel-rapl:1", "package-1", 5_000_000)
    other = zone(node, "intel-rapl:2", "package-2", 0)
    other.unlink()
    other.symlink_to(file)
    node.start()
    node.begin(1, exclusive="1")
    node.begin(2)
    node.end(2)
    assert {"package-1", "package-2"} <= domains(node)  # they stand still: nothing says what they are
    energy_uj, in_place = 5_000_000, os.open(file, os.O_WRONLY)
    while "same counter as intel-rapl:1" not in (node.spool / "agent.log").read_text():
        energy_uj += MJ
        os.pwrite(in_place, f"{energy_uj}\n".encode(), 0)
        time.sleep(0.002)
    os.close(in_place)
    counted = len(node.ledger())
    node.end(1)
    assert "package-2" not in {line["domain"] for line in node.ledger()[counted:]}
    record = node.record(1)
    assert "shows the same counter as intel-rapl:1; until then it was counted twice" in record["why"]
