"""`perun doctor` on a real cluster: it says nothing where all is well, and names the culprit of each break."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from devcluster import Cluster
from tests.slurm.breaks import BREAKS, NODE, PERUN, agent_lives, until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def site_(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster on which jobs have run, with an agent on the node and a ledger that closes."""
    cluster.run(["srun", "-N4", "true"], check=True)
    cluster.wait_idle()
    agent_lives(cluster)
    until("nothing to find", lambda: doctor(cluster, None)[0] == doctor(cluster, NODE)[0] == 0)
    yield cluster


def doctor(
    cluster: Cluster,
    host: str | None,
    *options: str,
    env: dict[str, str] | None = None,
    program: Sequence[str] = (PERUN,),
) -> tuple[int, dict[str, Any]]:
    """Exit code and what it says."""
    done = cluster.run([*program, "doctor", "--json", *options], user="root", node=host, timeout=120, env=env)
    assert done.returncode in range(4), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, said


@pytest.mark.parametrize("name", BREAKS)
def test_the_culprit_is_named_and_nothing_else(site_: Cluster, name: str) -> None:
    broken = BREAKS[name]
    with broken.how(site_):
        code, said = doctor(site_, broken.host, *broken.options, env=broken.env, program=broken.program)
    found = {one["key"] for one in said["findings"]}
    assert found == broken.keys, said["findings"]
    words = [f"{' '.join(one['hosts'])} {one['where']}: {one['what']}" for one in said["findings"]]
    assert any(broken.names in text for text in words), words
    assert all(one["remedy"] for one in said["findings"])
    assert code == max(one["severity"] for one in said["findings"] if one["severity"] < 3)


@pytest.mark.parametrize(("host", "user"), [(None, "root"), (NODE, "root"), (None, "alice"), ("n2", "alice")])
def test_it_says_one_line_where_all_is_well(site_: Cluster, host: str | None, user: str) -> None:
    agent_lives(site_)
    done = site_.run([PERUN, "doctor"], user=user, node=host, timeout=120)
    assert done.returncode == 0, done.stdout
    (line,) = done.stdout.splitlines()
    assert line.startswith("PERUN OK - ")
    assert ("need root" in line) == (user != "root")


def test_quickly_it_does_without_the_audit(site_: Cluster) -> None:
    whole, quick = doctor(site_, None)[1], doctor(site_, None, "--quick")[1]
    (one,), (other,) = whole["reports"], quick["reports"]
    assert set(one["passed"]) - set(other["passed"]) == {"ledger-closes"}


def test_all_nodes_are_asked_and_agree(site_: Cluster) -> None:
    done = site_.run([PERUN, "doctor", "--all"], user="root", timeout=120)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stdout
    assert "and 4 nodes" in done.stdout


def test_a_node_that_cannot_be_asked_is_said_to_be_unknown(site_: Cluster) -> None:
    site_.run(["scontrol", "update", "nodename=n4", "state=drain", "reason=disk"], user="root", check=True)
    try:
        code, said = doctor(site_, None, "--nodes", "n[3-4]")
    finally:
        site_.run(["scontrol", "update", "nodename=n4", "state=resume"], user="root", check=True)
    assert [(one["key"], one["hosts"]) for one in said["findings"]] == [("node-asked", ["n4"])]
    assert code == 3
