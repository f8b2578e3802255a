"""Slurm's own commands show perun's joules: sacct, sstat, sreport, scontrol, beside the ledger, on a real Slurm."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from devcluster import Cluster
from devcluster.daemons import DATABASE_SOCKET
from tests.figures.ground import switched_on
from tests.figures.kinds import WAVES, running, spin, submit, until
from tests.figures.looks import TAIL, ledger, sacct, sstat, watts
from tests.figures.measure import tried
from tests.figures.table import troubles
from tests.slurm.mixed import perun, settle

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def energy(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the plugin, switched on and off as docs/install.md says."""
    with switched_on(cluster):
        yield cluster


def run(cluster: Cluster, *options: str, seconds: int, user: str = "alice") -> str:
    """A batch job that computes; its id once it is over."""
    return submit(cluster, options, f"exec {spin(seconds)}", user)


def agrees(cluster: Cluster, job: str) -> tuple[float, float, float]:
    """What sacct and the record say, in J, and the most by which they may differ: docs/ledger.md's tail."""
    cluster.wait_job(job)
    (run,) = sacct(cluster, job)
    record = ledger(cluster, run)
    assert record.energy_uj is not None
    assert run.sacct_j, f"a blank beside {record.energy_uj} uJ"
    return run.sacct_j, record.energy_uj / 1e6, TAIL.uj(record) / 1e6


def test_the_audit_says_where_no_plugin_makes_slurms_figures(cluster: Cluster) -> None:
    assert "Slurm has no energy plugin" in json.loads(perun(cluster, "audit", "--json").stdout)["energy"]


def test_a_job_that_is_alone_has_its_ledgers_joules(energy: Cluster) -> None:
    job = run(energy, "--exclusive", "-w", "n1", seconds=12)
    said, ours, tail = agrees(energy, job)
    assert abs(said - ours) <= tail


def test_a_nodes_watts_are_what_its_counters_counted(energy: Cluster) -> None:
    job = submit(energy, ("--exclusive", "-w", "n1"), "sleep 45")
    assert 10 < until("the node's watts", lambda: watts(energy, ["n1"])) < 1000
    energy.run(["scancel", job])


def test_jobs_that_share_a_node_have_their_own_parts(energy: Cluster) -> None:
    """Slurm's own plugins give each of them all that the node used."""
    busy = run(energy, "-n1", "-w", "n2", seconds=36)
    idle = submit(energy, ("-n1", "-w", "n2"), "sleep 36", user="bob")
    (said_busy, ours_busy, tail), (said_idle, ours_idle, other) = (agrees(energy, job) for job in (busy, idle))
    assert said_idle < said_busy
    for said, ours, more in ((said_busy, ours_busy, tail), (said_idle, ours_idle, other)):
        assert said <= ours + 1
        assert ours - said <= more


def test_a_job_that_was_suspended(energy: Cluster) -> None:
    stopped = run(energy, "--exclusive", "-w", "n4", seconds=10)
    running(energy, stopped)
    time.sleep(3)
    energy.run(["scontrol", "suspend", stopped], user="root", check=True)
    time.sleep(4)
    energy.run(["scontrol", "resume", stopped], user="root", check=True)
    said, ours, tail = agrees(energy, stopped)
    assert abs(said - ours) <= tail


@pytest.mark.parametrize("wave", [1, 3, 4], ids=lambda wave: ", ".join(kind.name for kind in WAVES[wave]))
def test_every_command_shows_what_the_ledger_and_the_counters_have(energy: Cluster, wave: int) -> None:
    """Of these kinds; `python -m tests.figures` tries all, and sreport and profiles."""
    rows = tried(energy, WAVES[wave])
    assert len(rows) >= len(WAVES[wave])
    assert [one for row in rows for one in troubles(row)] == []


def test_the_audit_compares_sacct_with_the_ledger(energy: Cluster) -> None:
    job = run(energy, "--exclusive", "-w", "n1", seconds=4)
    said, _, _ = agrees(energy, job)
    settle(energy, [int(job)])

    def audited() -> tuple[str, list[str]]:
        audit = json.loads(perun(energy, "audit", "--json").stdout)
        return audit["energy"], [one["what"] for one in audit["findings"] if one["where"] == f"job {job}"]

    text, found = audited()
    assert "with sacct's ConsumedEnergy within its tail" in text
    assert found == []
    lie = round(said) + 5000
    with figure_in_slurmdbd(energy, job, round(said), lie):
        _, (what,) = audited()
        assert what.startswith(f"sacct has {lie} J, the ledger ")


@contextlib.contextmanager
def figure_in_slurmdbd(cluster: Cluster, job: str, energy_j: int, other_j: int) -> Iterator[None]:
    """Slurm's database says another energy of a job (TRES 3) meanwhile."""

    def put(before: int, after: int) -> None:
        client = ["mariadb", "--no-defaults", f"--socket={DATABASE_SOCKET}", "-u", "root", "slurm_acct"]
        change = f"tres_alloc = REPLACE(tres_alloc, '3={before}', '3={after}') WHERE id_job = {job}"
        statement = f"UPDATE `{cluster.name}_job_table` SET {change};"
        cluster.run(client, user="root", cwd="/", input=statement, check=True)

    put(energy_j, other_j)
    try:
        yield
    finally:
        put(other_j, energy_j)


def test_an_agent_that_is_gone_leaves_blanks_and_no_job_fails(energy: Cluster) -> None:
    job = submit(energy, ("--exclusive", "-w", "n1"), "sleep 60")
    until("its figure", lambda: sstat(energy, job))
    pid = energy.run(["pgrep", "-o", "-f", "perun_hpc.agent"], user="root", node="n1").stdout.split()[0]
    energy.run(["kill", "-STOP", pid], user="root", node="n1", check=True)
    until("a blank", lambda: sstat(energy, job) is None)
    energy.run(["kill", "-CONT", pid], user="root", node="n1", check=True)
    until("its figure again", lambda: sstat(energy, job))
    energy.run(["scancel", job])
    energy.wait_job(job)
