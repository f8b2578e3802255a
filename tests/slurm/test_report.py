"""Which jobs a user's `perun report` means on a real cluster, and whose they are."""

from __future__ import annotations

import json

import pytest

from devcluster import Cluster, site
from tests.slurm.breaks import until
from tests.slurm.mixed import perun, submit

pytestmark = pytest.mark.cluster


def test_the_last_job_an_array_and_a_range_are_what_their_owner_means(cluster: Cluster) -> None:
    single = submit(cluster, "-J", "alone", "--mem=100M", "--wrap", "sleep 3")
    cluster.wait_job(single)
    # Longer than the grid of a shared node's trace, 10 s: shorter ones have a curve, or none, by when they start.
    array = submit(cluster, "-J", "swept", "--array=1-3", "--wrap", "sleep 12")

    def shown(*words: str, user: str = "alice") -> str:
        done = perun(cluster, "report", *words, user=user)
        return str(done.stdout if done.returncode == 0 else done.stderr)

    def is_whole() -> bool:
        text = shown(str(array))
        return "3 COMPLETED" in text and "Not known" not in text and "Energy     not known" not in text

    until("the array's records", is_whole, 120)
    for words in ([], ["last"], ["-n", "swept"], [f"{array}_[1-3]"], [f"{array}_*"]):
        text = shown(*words)
        assert f"Job array {array}  swept" in text and "3 tasks" in text and "simulated" in text, (words, text)
    one = shown(f"{array}_2")
    assert f"Job {array}_2" in one and "Over time" in one and " of 1 CPU" in one, one
    last = shown("-n", "alone")
    assert f"Job {single}  alone" in last and "Memory" in last, last
    both = shown(f"{single},{array}")
    assert "alone" in both and f"{array}_3" in both and "Energy  " in both, both
    inside = cluster.run(
        ["sh", "-c", f"SLURM_JOB_ID={single} exec /opt/perun-hpc/bin/perun report"], user="alice", check=True
    ).stdout
    assert f"Job {single}  alone" in inside
    assert "no job of yours named 'swept'" in shown("-n", "swept", user="bob")
    # The prefix has what a page is drawn with.
    drawn = f"rm -f ~/page.html; /opt/perun-hpc/bin/perun report {single} --html ~/page.html && cat ~/page.html"
    assert "<svg " in cluster.run(["sh", "-c", drawn], user="alice", check=True).stdout


PACK = """
import time
from pathlib import Path
from perun_hpc.accounting import packing, upkeep
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.site import load_site
from perun_hpc.archive.places import Archive

site, later_s = load_site(), time.time() + 40 * 86400
archive = Archive(site.archive, "CLUSTER")
with packing.PackLease(open_ledger(site.ledger), archive.cluster) as lease:
    for part in archive.portions():
        for run in part:
            upkeep.drop_trace(archive.job(run))
        print(packing.pack(archive, part, later_s - 86400, later_s, packing.Access(), lease))
"""
"""What `perun ledger retention` does, in forty days, by a policy that keeps traces for less."""


def test_a_job_that_is_packed_is_reported_as_before_to_its_owner_alone(cluster: Cluster) -> None:
    job = submit(cluster, "-J", "old", "--wrap", "sleep 3")
    cluster.wait_job(job)

    def report(user: str) -> str:
        done = perun(cluster, "report", str(job), "--json", user=user)
        return str(done.stdout if done.returncode == 0 else done.stderr)

    def stored() -> bool:
        said = report("alice")
        return '"name": "old"' in said and '"status": "complete"' in said  # Slurm alone knows the name before

    until("the job's record with its name", stored, 120)
    before, others = report("alice"), report("bob")
    python = f"{site.PREFIX}/bin/python"
    cluster.run([python, "-c", PACK.replace("CLUSTER", cluster.name)], user="perun", check=True, timeout=120)
    bucket = cluster.shared / "perun" / cluster.name / "jobs" / f"{job // 1000}"
    assert not list(bucket.glob(f"{job}.*")) and (bucket / "evidence.zip").exists()
    assert report("alice") == before
    assert json.loads(others)["nodes"] == json.loads(report("bob"))["nodes"] == [], "what Slurm alone says"
    listed = perun(cluster, "jobs", "--format", "json", user="alice").stdout
    assert any(one["job_id"] == job for one in json.loads(listed))
    uid = cluster.run(["id", "-u"], user="alice", check=True).stdout.strip()
    for user, allowed in (("alice", True), ("bob", False)):
        for name in (f"{uid}.zip", "evidence.zip"):
            done = cluster.run(["head", "-c1", f"/shared/perun/{cluster.name}/jobs/{job // 1000}/{name}"], user=user)
            assert (done.returncode == 0) is (allowed and name != "evidence.zip"), (user, name, done.stderr)
