"""What the agent makes of cgroups that come late, piece by piece, or go and come again."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.agent_node import ALL_BY_WORK, FakeNode, until

J = 1_000_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, ALL_BY_WORK)
    fake.start()
    yield fake
    fake.stop()


def begin(node: FakeNode, job: int, cpus: int = 1) -> None:
    node.begin(job, cpus_on_node=cpus)
    assert node.answers()  # after what the hook does not wait for: it has looked for the job's cgroup


def test_cpus_of_a_job_whose_cgroup_was_found_while_it_was_being_made(node: FakeNode) -> None:
    node.freeze(1, False)  # the freezer's directory is the first that slurmstepd makes
    begin(node, 1)
    node.cgroup(1, "2", 0)
    node.serve(2 * J, 0, {2: 1, 3: 1})
    node.cgroup(1, "2", 1)
    node.end(1)
    record = node.record(1)
    assert record["usage"]["cpu_ns"] == 1_000_000_000
    assert record["domains"]["package-0"]["energy_uj"] == 1 * J


def test_a_cgroup_that_went_with_a_step_and_comes_with_the_next(node: FakeNode) -> None:
    begin(node, 1)
    node.cgroup(1, "2", 3)
    begin(node, 2)  # ends the interval
    for directory in node.root.glob("sys/fs/cgroup/*/slurm/uid_1000/job_1"):
        for file in directory.iterdir():
            file.write_bytes(b"")  # as an old descriptor reads it once the kernel removed it: nothing
        shutil.rmtree(directory)
    node.end(2)
    node.cgroup(1, "3", 1)
    node.serve(2 * J, 0, {2: 1, 3: 1})
    begin(node, 3)
    before_j = node.ledger()[-2:]
    (package,) = [line for line in before_j if line["domain"] == "package-0"]
    assert package["shares"]["job:1.0"] == 1 * J
    node.cgroup(1, "3", 2)
    node.end(3)
    node.end(1)
    assert node.record(1)["usage"]["cpu_ns"] == 5_000_000_000


def test_a_cgroup_that_comes_again_while_it_is_looked_for_each_second(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, ALL_BY_WORK, cgroup_version=2)
    node.start()
    try:
        begin(node, 1)
        node.cgroup(1, "", 3)
        begin(node, 2)  # ends the interval
        (directory,) = node.root.glob("sys/fs/cgroup/system.slice/slurmstepd.scope/job_1")
        for file in directory.iterdir():
            file.write_bytes(b"")
        shutil.rmtree(directory)
        node.cgroup(1, "2", 1)
        until(lambda: _holds(node, directory), "the agent has found the new one by itself")
        node.end(2)
        node.end(1)
        assert node.record(1)["usage"]["cpu_ns"] == 4_000_000_000
    finally:
        node.stop()


def _holds(node: FakeNode, directory: Path) -> bool:
    """Whether the agent has a file of a cgroup open."""
    assert node.agent is not None
    wanted = (directory / "cpu.stat").stat().st_ino
    for file in Path(f"/proc/{node.agent.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if file.stat().st_ino == wanted:
                return True
    return False


def test_cpu_time_that_could_not_be_read_once_is_not_used_twice(node: FakeNode) -> None:
    begin(node, 1)
    node.cgroup(1, "2", 3)
    begin(node, 2)
    (usage,) = node.root.glob("sys/fs/cgroup/cpuacct/slurm/uid_1000/job_1/cpuacct.usage")
    usage.write_text("")
    node.end(2)
    node.cgroup(1, "2", 4)
    begin(node, 3)
    node.cgroup(1, "2", 5)
    node.end(3)
    node.end(1)
    assert node.record(1)["usage"]["cpu_ns"] in (4_000_000_000, 5_000_000_000)


def test_a_job_that_slurm_does_not_confine_holds_what_it_was_given(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, "energy:\n  package_static: 1 W\n", cgroup_version=2)
    node.start()
    try:
        until((node.spool / "policy.json").exists, "the policy is compiled")
        assert node.answers()  # and rules by now
        node.cgroup(1, "", 0)
        begin(node, 1)
        node.serve(400)  # less than the static power of the time that passes
        begin(node, 2)
        (alone,) = [line for line in node.ledger() if line["total_uj"] == 400]
        assert alone["shares"] == {"job:1.0": 100, "idle": 300}
        node.cgroup(2, "", 0)
        node.serve(4 * J, 0, {1: 2, 3: 2})
        node.cgroup(1, "", 1)
        node.cgroup(2, "", 3)
        node.end(2)
        (both,) = [line for line in node.ledger() if line["total_uj"] == 4 * J]
        fixed = min(4 * J, (both["t1_ns"] - both["t0_ns"]) // 1000)  # 1 W is 1 uJ per us
        assert both["shares"]["job:1.0"] == pytest.approx(fixed / 4 + (4 * J - fixed) / 4, abs=2)
        assert both["shares"]["job:2.0"] == pytest.approx(fixed / 4 + (4 * J - fixed) * 3 / 4, abs=2)
    finally:
        node.stop()


@pytest.mark.parametrize(("job_before", "method"), [("1", "exclusive"), ("3", "cores")])
def test_a_job_with_all_cpus_but_the_specialised_ones_has_the_node_alone(
    node: FakeNode, job_before: str, method: str
) -> None:
    own = node.root / "sys/fs/cgroup/cpuset/slurm/system"
    own.mkdir(parents=True)
    (own / "cpuset.cpus").write_text("3\n")
    node.cgroup(7, job_before, 0)
    begin(node, 7)
    node.end(7)  # one that was on CPU 3 shows that it is not kept for the system
    node.cgroup(1, "0-2", 0)
    node.begin(1, cpus_on_node=3)
    assert node.answers()
    node.serve(2 * J, 0, {0: 1, 3: 1})
    node.end(1)
    package = node.record(1)["domains"]["package-0"]
    assert (package["method"], package["energy_uj"] == 2 * J) == (method, method == "exclusive")


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_whose_cpuset_is_the_whole_node_holds_what_slurm_counted(tmp_path: Path, version: int) -> None:
    # ConstrainCores=no: of four CPUs the job was given one, and it may run on all.
    node = FakeNode(tmp_path, ALL_BY_WORK, cgroup_version=version)
    node.start()
    try:
        begin(node, 1)
        node.cgroup(1, "0-3", 0)
        node.serve(0, 0)
        begin(node, 2)  # ends the interval
        node.end(2)
        node.serve(4 * J, 0, {0: 1, 1: 1, 2: 1, 3: 1})
        node.cgroup(1, "0-3", 1)
        node.end(1)
        record = node.record(1)
        package = record["domains"]["package-0"]
        assert (package["energy_uj"], package["node_uj"]) == (1 * J, 4 * J)
        assert (package["method"], package["provenance"]) == ("cores", "simulated")
        (note,) = [one for one in record["notes"] if "ConstrainCores=no" in one]
        assert "its share goes by its CPU time, and its static part by the 1 CPUs of Slurm's count" in note
        assert record["state"] == "closed"
    finally:
        node.stop()


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_of_one_thread_a_core_has_the_node_when_its_cpuset_is_all_of_it(tmp_path: Path, version: int) -> None:
    """A lone job that Slurm gave one of two cores without confining it looks the same: the record says what is taken.

    Slurm makes a cpuset of cgroup v1 where it confines jobs (task_cgroup_cpuset.c), so that the cpuset is the job's.
    """
    node = FakeNode(tmp_path, ALL_BY_WORK, cgroup_version=version)
    for cpu in range(4):
        siblings = node.root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    node.start()
    try:
        node.begin(1, cpus_on_node=2)
        node.cgroup(1, "0-3", 0)
        node.serve(4 * J, 0, {0: 1, 1: 1})
        node.cgroup(1, "0-3", 1)
        node.end(1)
        record = node.record(1)
        assert record["domains"]["package-0"]["energy_uj"] == 4 * J
        assert record["domains"]["package-0"]["method"] == "exclusive"
        assert [note for note in record["notes"] if "one thread of each core" in note] == record["notes"] != []
    finally:
        node.stop()


@pytest.mark.parametrize("version", [1, 2])
def test_two_jobs_whose_cpusets_are_both_the_whole_node_are_confined_to_none(tmp_path: Path, version: int) -> None:
    # Two cores with two threads each, and each job was given one core: Slurm counts as many CPUs as there are cores.
    node = FakeNode(tmp_path, ALL_BY_WORK, cgroup_version=version)
    for cpu in range(4):
        siblings = node.root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    node.start()
    try:
        for job in (1, 2):
            node.cgroup(job, "0-3", 0)
            begin(node, job, cpus=2)
        node.serve(4 * J, 0, {0: 3, 1: 1})
        node.cgroup(1, "0-3", 3)
        node.cgroup(2, "0-3", 1)
        node.end(2)
        node.serve(2 * J, 0, {0: 1})
        node.cgroup(1, "0-3", 4)
        node.end(1)
        records = {job: node.record(job) for job in (1, 2)}
        assert [records[job]["domains"]["package-0"]["energy_uj"] for job in (1, 2)] == [5 * J, J]
        assert all(any("ConstrainCores=no" in note for note in records[job]["notes"]) for job in (1, 2))
    finally:
        node.stop()
