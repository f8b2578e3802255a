"""GPUs in the real agent: a child reads NVML's stand-in, and its log says what it served."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.store.job_store import open_job
from perun_hpc.store.merge import finalise
from perun_hpc.wire.client import request
from tests.accounting_data import parsed
from tests.vendor_stubs import STUBS, built

from .agent_node import FakeNode, until

ENERGY = "nvml:gpu-GPU-a:energy"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nvml")
    built(STUBS / "nvml.c", directory / "libnvidia-ml.so.1")
    return directory


@pytest.fixture
def engine(library, tmp_path, monkeypatch):
    """What the stand-in of libdcgm says, a file."""
    built(STUBS / "dcgm.c", library / "libdcgm.so.4")
    config = tmp_path / "engine"
    config.touch()
    monkeypatch.setenv("STUB_DCGM", str(config))
    return config


class GpuNode(FakeNode):
    """A node with the stand-in's GPUs; the agent's environment is this process'."""

    def __init__(self, base: Path, config: str, policy: str = "", **more: Any) -> None:
        super().__init__(base, f"  trace_min_duration: 0 s\n{policy}", **more)
        self.config, self.log, self.hang = base / "stub", base / "log", base / "hang"
        self.config.write_text(f"hang {self.hang}\n{config}")
        (self.root / "proc/driver/nvidia").mkdir(parents=True)

    def served(self, index: int = 0) -> dict[int, int]:
        """Energy in mJ -> time stamp in us, of one GPU."""
        lines = [line.split() for line in self.log.read_text().splitlines() if line.startswith("energy")]
        return {int(words[3]): int(words[4]) for words in lines if words[1] == str(index)}

    def ledger_text(self) -> str:
        """The node ledger, as it stands on the disk after a look at the agent."""
        self.ask("status")
        return json.dumps(self.ledger())

    def found(self) -> bool:
        return int(self.ask("status").fields["sensors"]) > 4

    def child(self) -> int | None:
        """Pid of the child that holds NVML."""
        assert self.agent is not None
        path = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
        for pid in path.read_text().split():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                if "libnvidia-ml" in Path(f"/proc/{pid}/maps").read_text():
                    return int(pid)
        return None


@pytest.fixture
def gpus(library, tmp_path, monkeypatch):
    made = []

    def make(config: str, wait: bool = True, **more: Any) -> GpuNode:
        node = GpuNode(tmp_path, config, **more)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("STUB_NVML", str(node.config))
        monkeypatch.setenv("STUB_LOG", str(node.log))
        made.append(node)
        node.start()
        if wait:
            until(node.found, "the GPUs are found")
        return node

    yield make
    for node in made:
        node.stop()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.alone  # an edge waits 0.1 s for the child that reads GPUs
def test_the_edges_are_values_that_the_library_served_and_no_older_than_the_job(gpus):
    node = gpus("gpu GPU-a 1 300000 0 0\ngpu GPU-b 0 200000 0 0\n")
    before_us = time.time_ns() // 1000
    node.begin(1, gpus="1")
    began_us = time.time_ns() // 1000
    time.sleep(0.3)
    ending_us = time.time_ns() // 1000
    node.end(1, gpus="1")
    record = node.record(1)
    edges, served = record["edges"][ENERGY], node.served(0)
    assert before_us <= served[edges["start"]["ticks"]] <= began_us
    assert ending_us <= served[edges["end"]["ticks"]]
    counted_uj = (edges["end"]["ticks"] - edges["start"]["ticks"]) * 1000
    held, free = record["domains"]["gpu-GPU-a"], record["domains"]["gpu-GPU-b"]
    assert held["energy_uj"] == held["node_uj"] == counted_uj > 0
    assert held["method"] == "holder"
    assert free["energy_uj"] == 0 < free["node_uj"]
    assert record["state"] == "closed"
    assert [note for note in record["notes"] if note.startswith("GPU 1 taken by its device file")], record["notes"]


def test_the_use_of_a_gpu_is_its_holders_and_a_job_without_one_has_none(gpus):
    node = gpus("gpu GPU-a 1 300000 0 0\ngpu GPU-b 0 200000 0 0\n")
    node.begin(1, gpus="1")
    node.begin(2)
    seen = len(node.served(0))
    until(lambda: len(node.served(0)) >= seen + 4, "the agent has read the GPU some times")
    node.end(1, gpus="1")
    node.end(2)
    (held,), none = (sum_boundaries([parsed(node.record(job))]).devices for job in (1, 2))
    assert held.domain == "gpu-GPU-a"
    assert held.watched_ns > 0
    assert held.busy_ns / held.watched_ns == pytest.approx(0.4, abs=0.001)
    assert held.mem_peak_b == 1 << 30
    assert none == ()


def test_where_the_policy_says_that_slurm_counts_pci_addresses_the_other_gpu_is_meant(gpus):
    node = gpus("gpu GPU-a 1 300000 0 0\ngpu GPU-b 0 200000 0 0\n", policy="sensors: {gpu_numbers: pci}\n")
    node.begin(1, gpus="1")
    time.sleep(0.3)
    node.end(1, gpus="1")
    record = node.record(1)
    assert record["domains"]["gpu-GPU-b"]["energy_uj"] == record["domains"]["gpu-GPU-b"]["node_uj"] > 0
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] == 0
    assert record["notes"] == []


def test_a_job_that_starts_with_the_agent_has_its_gpu_from_the_first_reading_on(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n", wait=False)
    node.begin(1, gpus="0", exclusive="1")
    until(node.found, "the GPUs are found")
    time.sleep(2.5)  # its trace has rows
    # The child is asked again once the agent has its answer: so it has two later ones than the first.
    until(lambda: len(node.served()) >= 4, "the agent has read the GPU again")
    node.end(1, gpus="0")
    record = node.record(1)
    edges = record["edges"][ENERGY]
    assert record["state"] == "closed"
    assert edges["start"]["ticks"] in node.served()
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] == (edges["end"]["ticks"] - edges["start"]["ticks"]) * 1000 > 0
    assert "gpu-GPU-a" in {gap["sensor"] for gap in record["gaps"]}
    assert record["trace"]["stored"], record["trace"]
    job_dir = node.archive / "test" / "jobs" / "0" / "1.0"
    finalise(job_dir, ["n1"], time.time_ns())
    assert "gpu-0" in open_job(job_dir).energy_channel.values


def test_a_hung_driver_costs_its_sensors_only_and_the_agent_still_ends(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n")
    node.begin(1, gpus="0")
    child = node.child()
    assert child is not None
    node.hang.touch()
    node.serve(package_uj=7_000)
    node.end(1, gpus="0")
    record = node.record(1)
    assert "gpu-GPU-a" in record["why"]
    assert record["domains"]["package-0"]["node_uj"] == 7_000
    until(lambda: not running(child), "the child is killed")
    node.begin(2)
    node.stop()
    assert node.agent.returncode == 0


def test_the_child_ends_with_a_killed_agent_even_when_it_hangs(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n")
    child = node.child()
    assert child is not None
    node.hang.touch()
    node.begin(1)
    node.kill()
    until(lambda: not running(child), "the child is gone")


def test_released_gpus_are_let_go_until_the_next_job(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n")
    assert node.child() is not None
    assert node.ask("release-gpus").verb == "ok"
    until(lambda: node.child() is None, "NVML is let go")
    time.sleep(1.5)
    assert node.child() is None
    node.begin(1, gpus="0")
    until(lambda: node.child() is not None, "the child is back")


def test_a_job_on_a_gpu_without_an_energy_counter_has_its_integrated_power(gpus):
    node = gpus("gpu GPU-a 0 250000 0 0\nlacks 0 83\nlacks 0 185\nlacks 0 186\nnocounter 0\n")
    node.begin(1, gpus="0")
    time.sleep(2.5)
    node.end(1, gpus="0")
    record = node.record(1)
    account = record["domains"]["gpu-GPU-a"]
    between_ns, lasted_ns = (
        one["end"]["mono_ns"] - one["start"]["mono_ns"] for one in (record["edges"][ENERGY], record)
    )
    assert account["energy_uj"] == pytest.approx(250 * between_ns / 1e3, abs=10)
    assert abs(account["energy_uj"] - 250 * lasted_ns / 1e3) < 2 * account["u_uj"]
    assert account["scope"].endswith("(integrated power)")
    assert (account["method"], record["why"]) == ("holder", None)


def test_where_gpus_alone_are_measured_the_cpus_are_estimated_and_each_says_which(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n", zones={}, simulated=False)
    node.begin(1, gpus="0", exclusive="1")
    time.sleep(0.3)
    node.end(1, gpus="0")
    record = node.record(1)
    assert {name: one["provenance"] for name, one in record["domains"].items()} == {
        "cpu": "estimated", "gpu-GPU-a": "measured",
    }  # fmt: skip
    assert "CPUs as estimated from their utilisation, not measured" in record["scope"]
    assert record["state"] == "closed"


def test_a_superchips_module_that_nvml_counts_has_no_estimate_beside_it(gpus):
    node = gpus("gpu GPU-a 0 120000 700000 0\n", zones={}, simulated=False)
    until(lambda: '"gpu-GPU-a"' in node.ledger_text(), "the module is accounted")
    node.begin(1, gpus="0", exclusive="1")
    time.sleep(0.3)
    node.end(1, gpus="0")
    assert list(node.record(1)["domains"]) == ["gpu-GPU-a"]


def test_gpus_of_mig_mode_are_held_by_slices(gpus):
    node = gpus("gpu GPU-a 0 300000 0 7\ninstance 0 MIG-x 3\ninstance 0 MIG-y 2\n")
    node.begin(1, gpus="MIG-x")
    time.sleep(0.2)
    node.end(1, gpus="MIG-x")
    account = node.record(1)["domains"]["gpu-GPU-a"]
    assert account["method"] == "slices"
    assert 0 < account["energy_uj"] <= account["node_uj"]


def test_a_mig_job_holds_the_instances_that_slurm_names_whatever_its_numbers_count(gpus):
    """As slurmd tells a hook: its own places of the instances, and their UUIDs, or the older names, beside them."""
    devices = "gpu GPU-a 0 300000 0 7\ngpu GPU-b 1 200000 0 7\n"
    node = gpus(f"{devices}instance 0 MIG-aaaa 4\ninstance 0 MIG-bbbb 3\ninstance 1 MIG-cccc 7\n")
    jobs = {1: ("0", "MIG-aaaa"), 2: ("1", "MIG-GPU-a/8/0"), 3: ("2", "MIG-cccc")}
    for job, (numbers, names) in jobs.items():
        node.begin(job, gpus=numbers, gpu_names=names)
    time.sleep(0.5)
    for job, (numbers, names) in reversed(jobs.items()):  # the second one is never there without the first
        node.end(job, gpus=numbers, gpu_names=names)
    records = {job: node.record(job) for job in jobs}
    held = {job: {name for name, one in record["domains"].items() if name.startswith("gpu-") and one["energy_uj"]}
            for job, record in records.items()}  # fmt: skip
    assert held == {1: {"gpu-GPU-a"}, 2: {"gpu-GPU-a"}, 3: {"gpu-GPU-b"}}
    first, second = (records[job]["domains"]["gpu-GPU-a"] for job in (1, 2))
    assert second["energy_uj"] / second["node_uj"] == pytest.approx(3 / 7, abs=0.1)
    assert first["energy_uj"] / first["node_uj"] > 4 / 7 - 0.1
    assert first["energy_uj"] + second["energy_uj"] <= first["node_uj"] + 2
    assert records[1]["gpus"] == "MIG-aaaa"
    assert not [note for record in records.values() for note in record["notes"] if "GPU" in note]


def test_an_instance_that_was_made_after_the_agent_came_is_found(gpus):
    node = gpus("gpu GPU-a 0 300000 0 7\ninstance 0 MIG-old 7\n")
    node.config.write_text(f"hang {node.hang}\ngpu GPU-a 0 300000 0 7\ninstance 0 MIG-new 2\ninstance 0 MIG-other 5\n")
    before = node.child()
    node.begin(1, gpus="0", gpu_names="MIG-new")
    until(lambda: node.child() not in (None, before), "NVML is opened anew")
    time.sleep(2.5)
    node.end(1, gpus="0", gpu_names="MIG-new")
    record = node.record(1)
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] > 0
    assert not [note for note in record["notes"] if "MIG-new" in note]


def test_a_gpu_that_nobody_can_read_is_named_in_the_jobs_record(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n")
    node.begin(1, gpus="0", gpu_names="GPU-gone")
    node.end(1, gpus="0", gpu_names="GPU-gone")
    assert [note for note in node.record(1)["notes"] if note.startswith("GPU GPU-gone is none that can be read here")]


@pytest.mark.alone
def test_of_two_mig_jobs_the_one_that_works_is_given_what_the_gpu_takes_above_idle(gpus):
    mig = "gpu GPU-a 0 300000 0 7\ninstance 0 MIG-x 3\ninstance 0 MIG-y 3\n"
    node = gpus(f"{mig}active 0 0 90\nactive 0 1 10\n")
    node.begin(1, gpus="MIG-x")
    node.begin(2, gpus="MIG-y")
    time.sleep(0.5)
    node.end(2, gpus="MIG-y")  # it was never there without the other one, however slow the machine is
    node.end(1, gpus="MIG-x")
    account, other = (node.record(job)["domains"]["gpu-GPU-a"] for job in (1, 2))
    assert account["method"] == other["method"] == "slices+activity"
    assert other["node_uj"] > 4 * other["energy_uj"] > 0


@pytest.mark.alone
def test_where_nvml_shows_no_activity_a_host_engine_does_that_the_policy_names(engine, gpus):
    mig = "gpu GPU-a 0 300000 0 7\ninstance 0 MIG-x 3\ninstance 0 MIG-y 3\n"
    node = gpus(mig)
    held = "instance GPU-a 7 0 11\ninstance GPU-a 8 0 12\n"
    engine.write_text(f"{held}value 11 1002 0.9\nvalue 12 1002 0.1\n")
    before = int(node.ask("status").fields["sensors"])
    node.policy.write_text(node.policy.read_text() + "sensors: {dcgm: /run/nv-hostengine.sock}\n")
    node.ask("reload")
    until(lambda: int(node.ask("status").fields["sensors"]) == before + 2, "the engine is found")
    node.begin(1, gpus="MIG-x")
    node.begin(2, gpus="MIG-y")
    time.sleep(2.5)  # the child is asked once a second
    node.end(2, gpus="MIG-y")
    node.end(1, gpus="MIG-x")
    account, other = (node.record(job)["domains"]["gpu-GPU-a"] for job in (1, 2))
    assert account["method"] == other["method"] == "slices+activity"
    assert other["node_uj"] > 4 * other["energy_uj"] > 0


def test_a_host_engine_that_ends_costs_the_activity_alone(engine, gpus):
    node = gpus("gpu GPU-a 0 300000 0 7\ninstance 0 MIG-x 3\ninstance 0 MIG-y 3\n")
    engine.write_text("instance GPU-a 7 0 11\ninstance GPU-a 8 0 12\nvalue 11 1002 0.9\nvalue 12 1002 0.1\ngone\n")
    before = int(node.ask("status").fields["sensors"])
    node.policy.write_text(node.policy.read_text() + "sensors: {dcgm: /run/nv-hostengine.sock}\n")
    node.ask("reload")
    until(lambda: int(node.ask("status").fields["sensors"]) == before + 2, "the engine is found")
    node.begin(1, gpus="MIG-x")
    node.begin(2, gpus="MIG-y")
    time.sleep(1.5)
    node.end(2, gpus="MIG-y")
    node.end(1, gpus="MIG-x")
    account = node.record(1)["domains"]["gpu-GPU-a"]
    assert account["method"] == "slices"
    assert account["energy_uj"] > 0


def test_the_command_lists_gpus_and_says_of_a_stuck_driver_that_it_does_not_answer(library, tmp_path):
    config, hang = tmp_path / "stub", tmp_path / "hang"
    config.write_text(f"hang {hang}\ngpu GPU-a 0 300000 0 0\n")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library), "STUB_NVML": str(config)}
    command = [sys.executable, "-m", "perun_hpc.cli.main", "sensors", "--json", "--include-backends", "nvml"]

    def shown() -> dict:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (energy,) = [one for one in shown()["sensors"] if one["id"] == ENERGY]
    assert energy["value"] > 0
    assert abs(energy["power_uw"] - 300_000_000) < 30_000_000
    hang.touch()
    stuck = shown()
    assert not [one for one in stuck["sensors"] if one["backend"] == "nvml"]
    assert [one for one in stuck["missing"] if one["what"] == "nvml" and "no answer" in one["why"]]


def test_by_the_policy_an_idle_node_lets_go_of_its_gpus(gpus):
    node = gpus("gpu GPU-a 0 300000 0 0\n")
    node.policy.write_text(node.policy.read_text() + "sensors: {gpu_release: when-idle}\n")
    node.ask("reload")
    until(lambda: node.child() is None, "the GPUs are released")
    node.begin(1)
    until(lambda: node.child() is not None, "the job's start takes them again")
    node.end(1)
    until(lambda: node.child() is None, "and its end releases them")


@pytest.mark.alone  # the child that reads GPUs begins anew, and answers an edge within a second
def test_a_gpu_that_is_being_drained_is_let_go_of_once_no_job_runs(gpus, tmp_path):
    draining = tmp_path / "draining"
    node = gpus(f"gpu GPU-a 0 300000 0 0\ngpu GPU-b 1 200000 0 0\ndrained 1 {draining}\n")
    node.begin(1, gpus="0")
    draining.touch()
    time.sleep(7)  # longer than it takes to see it
    assert node.child() is not None
    node.end(1, gpus="0")
    record = node.record(1)
    assert (record["state"], record["why"]) == ("closed", None)
    until(lambda: node.child() is None, "the GPUs are let go of")
    time.sleep(1.5)
    assert node.child() is None
    draining.unlink()
    node.begin(2, gpus="0")
    until(lambda: node.child() is not None, "the next job takes them again")
    node.end(2, gpus="0")
    time.sleep(1.5)
    assert node.child() is not None


def test_a_counter_that_stands_still_is_taken_as_it_is_and_a_short_job_is_not_judged(gpus):
    """What a longer job's record says of it: `test_agent_clock`."""
    node = gpus("gpu GPU-a 0 300000 0 0\nfrozen 0 1\n")
    node.begin(1, gpus="0")
    node.end(1, gpus="0")
    record = node.record(1)
    assert record["edges"][ENERGY]["start"]["ticks"] == record["edges"][ENERGY]["end"]["ticks"] is not None
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] == 0
    assert record["checks"] == {}


def test_the_clock_the_limit_and_the_brakes_of_a_gpu_reach_the_record_and_who_watches(gpus):
    node = gpus(
        "gpu GPU-a 0 300000 0 0\ngpu GPU-b 1 200000 0 0\npace 0 1305 350000 36\npace 1 0 0 9999\n", simulated=False
    )
    node.cgroup(1, "0-3", 0.0, uid=os.getuid())
    own = node.root / f"proc/{os.getpid()}"
    own.mkdir(parents=True, exist_ok=True)
    (own / "cgroup").write_text(f"4:cpuacct:/slurm/uid_{os.getuid()}/job_1/step_9\n")
    node.begin(1, gpus="0,1", uid=os.getuid())
    seen: dict[str, dict[str, Any]] = {}

    def is_said() -> bool:
        reply = request("window", {"job_id": "1", "restart_count": "0"}, timeout_s=5.0, path=node.socket)
        seen.update({one["gpu"]: one for one in json.loads(reply.get("gpus") or "[]")})
        return {"gpu-GPU-a", "gpu-GPU-b"} <= seen.keys()

    until(is_said, "the agent tells of the GPUs")
    assert seen["gpu-GPU-a"] == {
        "gpu": "gpu-GPU-a", "busy": 400, "clock_khz": 1_305_000, "limit_mw": 350_000, "capped": True, "slowed": True,
    }  # fmt: skip
    assert seen["gpu-GPU-b"] == {"gpu": "gpu-GPU-b", "busy": 400}

    def is_booked() -> bool:
        domains = node.state()["sessions"][0]["domains"]
        return "gpu-GPU-a" in domains and domains["gpu-GPU-a"]["clock_ns"] > 0

    until(is_booked, "an interval has ended in which it worked")
    node.end(1, gpus="0,1", uid=os.getuid())
    one, other = sorted(sum_boundaries([parsed(node.record(1))]).devices, key=lambda device: device.domain)
    assert (one.clock_khz, one.limit_mw) == (1_305_000, 350_000)
    assert one.braked_ns == one.capped_ns == one.slowed_ns > 0
    assert (other.clock_khz, other.limit_mw, other.braked_ns) == (None, None, 0)
