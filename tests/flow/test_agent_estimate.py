"""A node on which nothing measures: its jobs have an estimate, marked as one; with a sensor there is none."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.audit import boundary_files, compare_edges, compare_shares, find_holes, read_books
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.archive.places import Archive
from perun_hpc.store.job_store import open_job
from perun_hpc.store.merge import finalise
from tests.accounting_data import slurm_job

from .agent_node import RANGE_UJ, FakeNode, until

S = 1_000_000_000
W = 1_000_000
STATED = "energy: {estimate_model: {idle: 20 W, full: 100 W, error: 0.2, source: a wall meter}}\n"


@pytest.fixture
def bare(tmp_path: Path) -> Any:
    """Makes a node without counters; the policy's further lines are the argument."""
    made = []

    def make(policy: str = "") -> FakeNode:
        node = FakeNode(tmp_path, policy, simulated=False, zones={})
        made.append(node)
        node.start()
        return node

    yield make
    for node in made:
        node.stop()


def cpu(record: dict[str, Any]) -> dict[str, Any]:
    assert list(record["domains"]) == ["cpu"], record["domains"]
    found: dict[str, Any] = record["domains"]["cpu"]
    return found


def rules(node: FakeNode, word: str) -> bool:
    """Whether a policy with that word in it rules the agent."""
    compiled = node.run_dir / "agent/policy.json"
    return compiled.exists() and word in compiled.read_text()


def lasted_s(record: dict[str, Any]) -> float:
    return float(record["end"]["mono_ns"] - record["start"]["mono_ns"]) / S


def idle_uj(record: dict[str, Any]) -> Any:
    """What four CPUs at 1 W take in a job's time; its edges were read a little later than they were."""
    whole_uj = 4 * W * lasted_s(record)
    late_s = (record["start"]["late_ns"] + record["end"]["late_ns"]) / S
    return pytest.approx(whole_uj, abs=0.02 * whole_uj + 4 * W * late_s)


def test_a_job_on_a_node_without_sensors_has_a_marked_estimate(bare):
    node = bare()
    node.begin(1, exclusive="1")
    time.sleep(0.5)
    node.serve(busy_s={0: 0.5, 1: 0.25})
    node.end(1)
    record = node.record(1)
    account = cpu(record)
    # Four CPUs at 1 W, and 3 W more for each second in which one was busy.
    assert account["energy_uj"] == account["node_uj"] and account["energy_uj"] - round(3 * W * 0.75) == idle_uj(record)
    assert (account["provenance"], account["method"]) == ("estimated", "exclusive")
    assert record["static"]["cpu"] == {"uw": 4 * W, "from": "estimate"}
    assert account["static_uj"] == idle_uj(record)
    # What processors take by their rated powers lies within the printed bounds (k = 2).
    for rated_w in (1.5, 9.4):
        true_uj = account["energy_uj"] * rated_w / 4
        assert abs(true_uj - account["energy_uj"]) <= 2 * account["u_uj"]
    assert record["scope"].startswith("Figures are estimated from CPU utilisation, not measured")
    assert (record["state"], record["notes"]) == ("closed", [])


def test_a_virtual_machine_whose_counters_stand_at_zero_has_the_estimate(tmp_path):
    node = FakeNode(tmp_path, simulated=False)
    (node.root / "proc/cpuinfo").write_text("vendor_id : GenuineIntel\nflags : fpu hypervisor\n")
    for zone in node.zones:
        (node.root / "sys/class/powercap" / zone / "energy_uj").write_text("0".ljust(16, "\n"))
    node.start()
    node.begin(1, exclusive="1")
    time.sleep(0.3)
    node.end(1)
    record = node.record(1)
    node.stop()
    assert cpu(record)["energy_uj"] == idle_uj(record)
    assert (record["state"], cpu(record)["provenance"]) == ("closed", "estimated")


def test_what_the_site_states_of_its_nodes_counts_with_its_own_uncertainty(bare):
    node = bare()
    node.begin(1, exclusive="1")
    time.sleep(0.5)
    node.serve(busy_s={0: 0.4})
    node.policy.write_text(node.policy.read_text() + STATED)
    node.ask("reload")
    until(lambda: rules(node, "idle_uw"), "the policy rules")
    until(lambda: "another sensor counts it from now on" in json.dumps(node.ledger()), "the policy's model counts")
    node.end(1)
    assert node.record(1)["why"] == "cpu: another sensor counts it from now on"
    assert find_holes(read_books([*(node.spool / "node").glob("*.jsonl")])) == []
    node.begin(2, exclusive="1")
    time.sleep(0.5)
    node.serve(busy_s={0: 0.4})
    node.end(2)
    record = node.record(2)
    account = cpu(record)
    assert account["energy_uj"] == pytest.approx(20 * W * lasted_s(record) + 80 * W * 0.4 / 4, rel=0.02)
    assert account["u_uj"] == pytest.approx(0.2 * account["energy_uj"], rel=0.05)
    (sensor,) = [one for one in record["sensors"] if one["quantity"] == "energy"]
    assert (sensor["provenance"], sensor["gain_source"]) == ("estimated", "a wall meter")


def test_a_site_that_wants_no_estimate_has_none(bare):
    node = bare("energy: {estimate: false}\n")
    until(lambda: rules(node, "estimate"), "the policy rules")
    until(lambda: node.ask("status").fields["sensors"] == "2", "no sensor of energy is there")
    node.begin(1)
    node.end(1)
    assert node.record(1)["domains"] == {}


def test_a_job_that_loses_the_estimate_on_the_way_is_partial(bare):
    node = bare()
    node.begin(1, exclusive="1")
    time.sleep(0.3)
    node.policy.write_text(f"{node.policy.read_text()}energy: {{estimate: false}}\n")
    node.ask("reload")
    until(lambda: node.ask("status").fields["sensors"] == "2", "no sensor of energy is there")
    node.end(1)
    record = node.record(1)
    assert cpu(record)["energy_uj"] > 0
    assert (record["state"], record["why"]) == ("partial", "cpu: counted for a part of the job only")


def test_jobs_that_share_a_node_share_the_estimate_and_the_node_ledger_closes(bare):
    node = bare()
    for job, cpus in ((1, "0-1"), (2, "2")):
        node.cgroup(job, cpus, 0)
        node.begin(job)
    time.sleep(0.4)
    node.serve(busy_s={0: 0.4, 2: 0.1})
    node.cgroup(1, "0-1", 0.4)
    node.cgroup(2, "2", 0.1)
    node.end(1)
    node.end(2)
    for job, cpus, busy_s in ((1, 2, 0.4), (2, 1, 0.1)):
        record = node.record(job)
        account = cpu(record)
        assert (account["method"], account["provenance"]) == ("cores", "estimated")
        assert account["static_uj"] == pytest.approx(cpus * W * lasted_s(record), rel=0.05)
        assert account["dynamic_uj"] == pytest.approx(3 * W * busy_s, rel=0.05)
    for line in node.ledger():
        assert line["estimated"] is True
        assert line["total_uj"] == sum(line["shares"].values())


def test_the_next_agent_of_the_boot_goes_on_with_the_estimate(bare):
    node = bare()
    node.begin(1, exclusive="1")
    time.sleep(0.3)
    node.kill()
    node.serve(busy_s={0: 0.5})
    node.start()
    node.end(1)
    record = node.record(1)
    assert cpu(record)["node_uj"] == pytest.approx(4 * W * lasted_s(record) + 3 * W * 0.5, rel=0.02)
    assert record["state"] == "closed"


def test_what_is_estimated_closes_and_is_told_in_the_ledger(bare, tmp_path):
    """Two jobs beside each other: their edges, the node ledger, their records and the ledger's sums."""
    node = bare()
    for job, cpus in ((1, "0-1"), (2, "2")):
        node.cgroup(job, cpus, 0)
        node.begin(job)
    time.sleep(0.3)
    node.serve(busy_s={0: 0.3, 2: 0.1})
    for job, cpus, busy_s in ((1, "0-1", 0.3), (2, "2", 0.1)):
        node.cgroup(job, cpus, busy_s)
        node.end(job)
    records = [node.record(job) for job in (1, 2)]
    node.stop()
    rows = [
        slurm_job(job, nodelist="n1", start_s=one["start"]["real_ns"] // S, end_s=one["end"]["real_ns"] // S + 1)
        for job, one in ((1, records[0]), (2, records[1]))
    ]
    archive = Archive(node.archive, "test")
    opened = open_ledger(str(tmp_path / "ledger.db"), create=True)
    Collector(archive, opened, Tools(time.time, Slurm(lambda ids: rows, lambda since, until: rows)), 900).sweep()
    books = read_books(archive.node_ledgers())
    (first, last) = min(books.accounts)[1], max(books.accounts)[1]
    shares = opened.shares_between("test", first, last)
    boundaries = list(boundary_files(archive, archive.all_runs(), 0, 2**40))
    assert [*books.findings, *compare_shares(books, shares, set()), *find_holes(books)] == []
    assert compare_edges(books, boundaries) == (2, [])
    total_uj = sum(one["domains"]["cpu"]["energy_uj"] for one in records)
    (sums,) = usage(opened, ["cluster"], Filter(), first, last)
    assert sums.values["energy_uj"] == sums.values["estimated_uj"] == total_uj > 0
    assert all(account.estimated_uj == account.total_uj for account in books.accounts.values())
    opened.close()


def test_its_trace_shows_the_estimate(bare):
    node = bare("  trace_min_duration: 0 s\n")
    node.begin(1, exclusive="1")
    time.sleep(2.5)
    node.end(1)
    assert node.record(1)["trace"]["stored"]
    job_dir = node.archive / "test" / "jobs" / "0" / "1.0"
    finalise(job_dir, ["n1"], time.time_ns())
    assert "cpu" in open_job(job_dir).energy_channel.values


def test_a_sensor_that_comes_takes_the_estimates_place(bare):
    node = bare()
    node.begin(1, exclusive="1")
    time.sleep(0.3)
    zone = node.root / "sys/class/powercap/being-made"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("max_energy_range_uj", RANGE_UJ), ("energy_uj", 1_000_000)):
        (zone / name).write_text(f"{text}\n")
    zone.rename(zone.with_name("intel-rapl:0"))
    until(lambda: "package-0" in json.dumps(node.ledger()) or node.ask("status").verb != "ok", "the zone counts")
    node.end(1)
    node.begin(2, exclusive="1")
    (zone.with_name("intel-rapl:0") / "energy_uj").write_text("1200000\n")
    time.sleep(0.3)
    node.end(2)
    both, measured = node.record(1), node.record(2)
    assert "counted for a part" not in (both["why"] or "")
    assert set(both["domains"]) == {"cpu", "package-0"}
    assert both["domains"]["cpu"]["provenance"] == "estimated"
    assert both["domains"]["cpu"]["u_uj"] >= 0.7 * both["domains"]["cpu"]["energy_uj"] > 0
    assert {name: one["provenance"] for name, one in measured["domains"].items()} == {"package-0": "measured"}
    assert measured["domains"]["package-0"]["energy_uj"] == 200_000
