"""The shared four-node cluster: brought up once per process of a run, perun-hpc installed on it, taken down at the end.

`PERUN_TEST_CLUSTER=NAME` uses a cluster of that name and leaves it up, for quick turns while developing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devcluster import Cluster, site


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster with perun-hpc installed."""
    if os.geteuid() != 0:
        pytest.skip("the cluster needs root: it makes namespaces and cgroups")
    kept = os.environ.get("PERUN_TEST_CLUSTER")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    cluster = Cluster("-".join(filter(None, (kept or "test", worker))))
    cluster.up()
    site.install(cluster)
    yield cluster
    if not kept:
        cluster.down()


@pytest.fixture(autouse=True)
def healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that uses the cluster: whatever was broken, no node may be down or drained."""
    yield
    if "cluster" in request.fixturenames:
        states = request.getfixturevalue("cluster").states()
        bad = {node: state for node, state in states.items() if "drain" in state or "drng" in state or "down" in state}
        assert not bad, f"nodes {bad}"
