"""Which jobs a user's `perun report` means on a real cluster, and whose they are."""

from __future__ import annotations

import pytest

from devcluster import Cluster
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
