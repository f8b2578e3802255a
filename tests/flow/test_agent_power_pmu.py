"""The agent with groups of the power PMU: a real perf group of a CPU's clock beside powercap files that follow it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.process import confine
from tests import power_pmu

from .agent_node import FakeNode, until

ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "dram",
    "intel-rapl:0:1": "core",
    "intel-rapl:0:2": "uncore",
} | {"intel-rapl:1": "psys"}
EVENTS = dict.fromkeys(power_pmu.NAMES, "event=0x0")
SCALE, UJ_PER_NS = "1e-7", 0.1
"""J per ns: 100 W."""
RANGE_UJ = 20_000_000 * 2**32
"""Steps of 20 J: files may be 0.4 s late."""
PIDFD_GETFD = 438
"""Of every architecture."""
POLICY = "sampling:\n  interval: {}\nsensors:\n  power_pmu: {}\n"


def _opens() -> bool:
    attr = (1).to_bytes(4, "little") + (128).to_bytes(4, "little") + bytes(120)
    try:
        os.close(confine.perf_event_open(attr, -1, 0, -1, 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not _opens(), reason="perf_event_open is not permitted here, or this is not root"
)


class Writer(threading.Thread):
    """Keeps the counters' files at the clock, one at a gain of its own, until it is told to leave them alone."""

    worker: threading.Thread | None

    def __init__(self, files: dict[str, Path], gain: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.files, self.gain, self.ended = files, gain, threading.Event()
        self.gone, self.worker = threading.Event(), None
        self.write()

    def write(self) -> None:
        now_uj = int(time.monotonic_ns() * UJ_PER_NS)
        for name, file in self.files.items():
            power_pmu.put(file, int(now_uj * (self.gain if name == "dram" else 1)))

    def run(self) -> None:
        with contextlib.suppress(OSError):  # not late where the machine is busy
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        while not self.ended.wait(0.01):
            self.write()

    def use_cpu(self, node: FakeNode) -> None:
        """Have a job of that node work from now on, whatever becomes of the files."""
        node.zones, began_s = {}, time.monotonic()

        def go_on() -> None:
            while not self.gone.wait(0.02):
                used_s = time.monotonic() - began_s
                node.cgroup(1, "0", used_s)
                node.serve(busy_s={0: used_s - node.busy_s[0]})

        self.worker = threading.Thread(target=go_on, daemon=True)
        self.worker.start()

    def close(self) -> None:
        self.gone.set()
        if self.worker is not None:
            self.worker.join()
        self.leave()

    def leave(self) -> None:
        self.ended.set()
        self.join()


@pytest.fixture
def near() -> Iterator[None]:
    """On the CPU whose events are counted: reading them costs less than files then, as with RAPL's on any CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    yield
    os.sched_setaffinity(0, before)


def node_of(base: Path, said: str, more: str = "", every: str = "100 ms") -> tuple[FakeNode, dict[str, Path]]:
    node = FakeNode(base, policy=POLICY.format(every, said) + more, zones=ZONES)
    power_pmu.pmu(node.root, EVENTS, scale=SCALE)
    files = {}
    for zone, name in ZONES.items():
        directory = node.root / "sys/class/powercap" / zone
        (directory / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        files[name] = directory / "energy_uj"
    return node, files


def state(node: FakeNode) -> str:
    return node.ask("status").fields["power_pmu"]


def tried(node: FakeNode) -> str:
    """What came of the trial."""
    until(lambda: state(node) and not state(node).startswith("compared"), "the groups were tried", 90)
    return state(node)


def test_a_group_counts_where_it_agrees_with_files_and_the_status_says_where_not(tmp_path: Path, near: None) -> None:
    # every 64th reading is the files' own, and these will stand still: at this pace it is far off when the trial ends
    node, files = node_of(tmp_path, "when-cheaper", "energy:\n  package_static: 0 W\n", every="500 ms")
    writer = Writer(files, gain=0.7)
    writer.start()
    try:
        node.start()
        writer.use_cpu(node)
        node.begin(1)
        assert tried(node).startswith("1 groups for 4 counters; dram-0: the group's value is")
        writer.leave()  # from here on the files stand still: what is counted is the group's
        still_ns = time.monotonic_ns()
        time.sleep(2)
        node.end(1)
        record = node.record(1)
        package = record["domains"]["package-0"]
        without_uj = (package["covered_ns"] - (time.monotonic_ns() - still_ns)) * UJ_PER_NS
        assert package["energy_uj"] == pytest.approx(package["covered_ns"] * UJ_PER_NS, rel=0.05)
        assert package["energy_uj"] > without_uj + 1.5e9 * UJ_PER_NS
    finally:
        writer.close()
        node.stop()


def test_the_policy_turns_it_on_and_off_and_by_default_nothing_counts(tmp_path: Path) -> None:
    node, files = node_of(tmp_path, "'off'")
    writer = Writer(files)
    writer.start()
    try:
        node.start()
        writer.use_cpu(node)
        node.begin(1)
        assert state(node) == ""
        text = node.policy.read_text()
        node.policy.write_text(text.replace("power_pmu: 'off'", "power_pmu: when-cheaper"))
        assert node.ask("reload").verb == "ok"
        until(lambda: "compared with powercap's files: 5 counters" in state(node), "the trial")
        node.policy.write_text(text)
        assert node.ask("reload").verb == "ok"
        until(lambda: state(node) == "", "it is off")
        node.end(1)
        assert node.record(1)["domains"]["package-0"]["energy_uj"] > 0
    finally:
        writer.close()
        node.stop()


def stop_group(pid: int) -> None:
    """Let the group of a process count no more, as the kernel does where all CPUs of a package go offline."""
    there = os.pidfd_open(pid)
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # others come and go
            if "perf_event" in str(name.readlink()):
                fd = ctypes.CDLL(None).syscall(PIDFD_GETFD, there, int(name.name), 0)
                fcntl.ioctl(fd, power_pmu.DISABLE, power_pmu.WHOLE)
                os.close(fd)
    os.close(there)


@pytest.mark.parametrize("rows", ["", "\n  period: 10 ms\n  period_min: 10 ms"], ids=["slow rows", "fast rows"])
def test_a_job_during_which_a_group_stops_counting_lacks_nothing(tmp_path: Path, near: None, rows: str) -> None:
    node, files = node_of(tmp_path, "when-cheaper", "energy:\n  package_static: 0 W\n", every=f"500 ms{rows}")
    writer = Writer(files)
    writer.start()
    try:
        node.start()
        writer.use_cpu(node)
        node.begin(1, exclusive="1")
        assert tried(node) == "1 groups for 5 counters"
        assert node.agent is not None
        stop_group(node.agent.pid)
        time.sleep(3)
        node.end(1)
        package = node.record(1)["domains"]["package-0"]
        assert package["energy_uj"] == pytest.approx(package["covered_ns"] * UJ_PER_NS, rel=0.01, abs=2_000_000)
        assert package["gap_ns"] == 0
        assert state(node).startswith("powercap's files are read; ")
    finally:
        writer.close()
        node.stop()
