"""An upgrade under a live agent with a live job: the older agent keeps to its own code, in its children too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import perun_hpc

from .agent_node import FakeNode, until
from .test_agent_ranks import ALICE, Rank, rank_data

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="speaking as another user needs root")

POLICY = "  trace_min_duration: 0 s\nsampling:\n  period: 100 ms\n  interval: 1 s\n"
OTHER = "raise ImportError(f'{__name__} is of the newer version')\n"


class Prefix:
    """An installation of its own, whose Python code can be exchanged."""

    def __init__(self, base: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", base], check=True, timeout=120)
        self.python = base / "bin/python"
        (site,) = base.glob("lib/python*/site-packages")
        self.package = site / "perun_hpc"
        shutil.copytree(Path(perun_hpc.__file__).parent, self.package)
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def upgrade(self) -> None:
        """Put code in its place that does not get along with the older one at all: no module of it can be imported."""
        new = self.package.with_name("new")
        shutil.copytree(self.package, new, ignore=shutil.ignore_patterns("__pycache__"))
        for path in new.rglob("*.py"):
            path.write_text(OTHER)
        shutil.rmtree(self.package)
        new.rename(self.package)


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="perun-upgraded-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_an_agent_that_was_upgraded_under_a_job_loses_nothing_of_it(base: Path) -> None:
    prefix = Prefix(base / "prefix")
    node = FakeNode(base / "node", POLICY, cgroup_version=2)
    try:
        node.start(python=str(prefix.python))
        node.cgroup(1, "0-3", 0.0)
        node.begin(1, uid=ALICE, exclusive="1")
        until((node.spool / "sessions/1.0/tracks").exists, "its trace has begun, a second after the agent")
        prefix.upgrade()
        node.step(1, "0", 0.0, "0-3")
        rank = Rank(node, ALICE, "/system.slice/slurmstepd.scope/job_1/step_0")
        assert rank.start()[0] == "ok"
        begin = time.monotonic_ns()
        node.serve(3_000_000)
        node.step(1, "0", 1.0, "0-3")
        rank.say("window")
        end = time.monotonic_ns()
        assert rank.say("rank-data", rank_data(["solve"], [(0, begin, end)]), step_id=0, rank=0)[0] == "ok"
        rank.end()
        until(node.ranks_ended, "the end was seen")
        node.serve(50_000)
        node.end(1, uid=ALICE)
        record = node.record(1)
    finally:
        node.stop()
    assert [note for note in record["notes"] if "left out" in note or "failed" in note] == []
    assert (record["state"], record["why"]) == ("closed", None)
    assert [region["name"] for region in record["regions"]] == ["solve"]
    assert record["trace"]["stored"] and record["trace"]["state"] == "complete"
    assert list((node.archive / "test/jobs/0/1.0/nodes").iterdir())
    assert "newer version" not in (node.spool / "agent.log").read_text()
