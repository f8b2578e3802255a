"""A node that Slurm switches off and on again: an event of slurmdbd's is its time off, and nothing of it is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from devcluster import Cluster, site

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NODE = "n4"
PERUN = f"{site.PREFIX}/bin/perun"
POWER = (
    "SuspendProgram=/bin/true",
    "ResumeProgram=/bin/true",
    "SuspendTime=86400",
    "SuspendTimeout=5",
    "ResumeTimeout=120",
)
BOOT_S = 130
"""How long a node may take to be there again: Slurm's own limit, after which it says so."""


@pytest.fixture
def saving() -> Iterator[Cluster]:
    """A cluster of its own whose administrator lets Slurm switch nodes off; no power is cut.

    A node that loses its disk while its clock goes on, as none does that was switched off, has a hole for every audit.
    """
    if os.geteuid() != 0:
        pytest.skip("the cluster needs root: it makes namespaces and cgroups")
    cluster = Cluster("-".join(filter(None, ("power", os.environ.get("PYTEST_XDIST_WORKER")))))
    cluster.up()
    try:
        site.install(cluster)
        cluster.configure((*site.SLURM_CONF, *POWER), site.PLUGSTACK)
        cluster.restart("slurmctld")
        cluster.wait_idle()
        yield cluster
    finally:
        cluster.down()


def run(cluster: Cluster, *words: str, node: str | None = None, user: str = "root") -> str:
    return str(cluster.run(list(words), user=user, node=node, check=True).stdout)


def until(cluster: Cluster, state: str) -> None:
    for _ in range(300):
        if state in run(cluster, "scontrol", "--oneliner", "show", "node", NODE):
            return
        time.sleep(0.2)
    raise AssertionError(f"{NODE} is not {state}: {run(cluster, 'scontrol', 'show', 'node', NODE)}")


def test_a_node_that_was_switched_off_is_off_and_has_handed_over(saving: Cluster) -> None:
    job = run(saving, "sbatch", "--parsable", "-w", NODE, "--wrap", "sleep 2", user="alice").strip()
    assert saving.wait_job(job) == "COMPLETED"
    assert run(saving, PERUN, "agent", "flush", node=NODE) == ""
    spooled = run(saving, "sh", "-c", "cat /var/spool/perun/node/????-??-??.jsonl", node=NODE)
    shipped = run(saving, "sh", "-c", f"cat /shared/perun/*/nodes/{NODE}/????-??-??.jsonl")
    assert spooled and shipped.endswith(spooled)
    run(saving, "sh", "-c", "rm -rf /var/spool/perun/node/*", node=NODE)  # the machine is gone, with its disk
    down_s = time.monotonic()
    run(saving, "scontrol", "update", f"nodename={NODE}", "state=POWER_DOWN")
    until(saving, "POWERED_DOWN")
    time.sleep(5)
    up_s = time.monotonic()
    run(saving, "scontrol", "update", f"nodename={NODE}", "state=POWER_UP")
    until(saving, "POWERING_UP")
    booting_s = time.monotonic()
    saving.stop("slurmd", NODE)
    run(saving, "slurmd", "-b", node=NODE)  # says that the node was booted
    saving.wait_idle(BOOT_S)
    job = run(saving, "sbatch", "--parsable", "-w", NODE, "--wrap", "sleep 2", user="alice").strip()
    assert saving.wait_job(job) == "COMPLETED"
    there_s = time.monotonic()
    run(saving, PERUN, "agent", "flush", node=NODE)
    assert run(saving, "sh", "-c", f"cat /shared/perun/*/nodes/{NODE}/????-??-??.jsonl").startswith(shipped)
    deadline_s = time.monotonic() + 120  # the collector's turn
    while True:
        made = json.loads(run(saving, PERUN, "balance", f"{datetime.now():%Y-%m}", "--json"))
        if made["nodes"][NODE]["boot"] or time.monotonic() > deadline_s:
            break
        time.sleep(0.3)
    mine = made["nodes"][NODE]
    events = run(saving, "sacctmgr", "-nP", "show", "event", "event=node", f"nodes={NODE}", "format=NodeName,State")
    assert f"{NODE}|IDLE" in events and ("~" in events or "POWERED_DOWN" in events)
    # Slurm's events are of whole seconds.
    assert 4 <= mine["off"] <= booting_s - down_s + 2
    assert 0 < mine["boot"] <= there_s - up_s + 2
    assert made["nodes"]["n1"]["off"] == 0 and made["findings"] == []
    assert sum(one["energy_uj"] or 0 for one in made["edges"] if one["from"] == "nodes") == next(
        one["energy_uj"] for one in made["edges"] if one["to"] == "nodes"
    )
