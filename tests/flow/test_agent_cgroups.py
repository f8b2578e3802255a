"""What the agent makes of cgroups that come late, piece by piece, or go and come again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.agent_node import FakeNode

J = 1_000_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    fake.start()
    yield fake
    fake.stop()


def begin(node: FakeNode, job: int) -> None:
    node.begin(job, cpus_on_node=1)
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
