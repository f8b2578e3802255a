"""Figures for monitoring, from a real agent and a real collector through node_exporter to a real Prometheus.

Dashboards and alert rules are asked against that Prometheus: a query that finds nothing has a name that nobody serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.questions import Filter, usage
from tests.accounting_data import boundary, domain, put_incoming
from tests.flow.agent_node import FakeNode, until
from tests.monitoring import DASHBOARDS, ROOT, RULES, Prometheus, free_port, node_exporter, prometheus, queries

ALERTS = ROOT / "tests" / "fixtures" / "perun.rules.test.yml"
HELD = 5_000_000_000
SERVED_UJ = 30_000_000


class Watched:
    """What runs: the node's agent with a job, the collector and its ledger, Prometheus."""

    def __init__(self, node: FakeNode, ledger: Path, asked: Prometheus, port: int) -> None:
        self.node, self.ledger, self.asked, self.port = node, ledger, asked, port

    def sums(self, by: str) -> dict[str, float]:
        ledger = open_ledger(str(self.ledger))
        rows = usage(ledger, (by,), Filter(), "0000-00-00", "9999-99-99")
        ledger.close()
        return {row.group[0]: row.values["energy_uj"] / 1e6 for row in rows}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    base = tmp_path_factory.mktemp("monitoring")
    directory, port, archive = base / "metrics", free_port(), base / "archive"
    directory.mkdir(mode=0o755)
    now_s = time.time()
    for job_id, account, partition, uj in (
        (1, "physics", "main", HELD),
        (2, "chemistry", "gpu", 7),
        (3, "physics", "gpu", 9),
    ):
        parts = {"package-0": domain("cpu", uj)}
        put_incoming(
            archive, boundary(job_id, account=account, partition=partition, domains=parts, start_s=now_s - 500)
        )
    running = boundary(5, start_s=now_s - 50, state="running")
    (archive / "c" / "running" / "5.0").mkdir(parents=True)
    (archive / "c" / "running" / "5.0" / "n7.json").write_text(json.dumps(running))
    put_incoming(archive, boundary(4, nodelist="n[1-2]", start_s=now_s - 200))  # waits for its other node
    policy = base / "collector.yaml"
    policy.write_text(
        f"store: {{archive: {archive}}}\ncollect: {{ledger: 'sqlite:///{base}/ledger.db', sweep: 1 s}}\n"
        f"metrics: {{listen: '127.0.0.1:{port}', labels: [account, user]}}\n"
    )
    environ = {**os.environ, "PERUN_POLICY": str(policy)}
    perun = [sys.executable, "-m", "perun_hpc.cli.main"]
    node = FakeNode(base / "node", f"metrics: {{textfile: {directory}, labels: [job]}}\nsampling: {{interval: 1 s}}\n")
    with contextlib.ExitStack() as stack:
        stack.callback(node.stop)
        node.start()
        node.begin(11, cpus_on_node=2)
        node.serve(package_uj=SERVED_UJ)
        daemon = subprocess.Popen([*perun, "collect", "--daemon", "--no-slurm"], env=environ)
        stack.callback(lambda: (daemon.terminate(), daemon.wait(60)))
        until(lambda: (base / "ledger.db").exists() and (archive / "c/sweep.json").exists(), "the first sweep")
        audit = [*perun, "audit", "--no-slurm", "--cluster", "c", "--json"]
        subprocess.run(audit, env=environ, stdout=subprocess.DEVNULL, check=False, timeout=120)
        exporter = stack.enter_context(node_exporter(directory))
        asked = stack.enter_context(prometheus(base / "prometheus", {"nodes": exporter, "perun": port}))
        until((directory / "perun-node.prom").exists, "the agent's file")
        for metric in (
            "perun_node_energy_joules_total > 0",
            "rate(perun_job_energy_joules_total[5m])",
            "delta(perun_ledger_energy_joules[1d])",
            "perun_audit_findings",
            'perun_backlog_entries{kind="waiting"} > 0',
        ):
            asked.wait(metric)
        yield Watched(node, base / "ledger.db", asked, port)


def labelled(found: dict[tuple[tuple[str, str], ...], float], label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in found.items()}


def test_prometheus_takes_the_figures_in_openmetrics_without_a_complaint(watched: Watched) -> None:
    targets = watched.asked.api("targets")["activeTargets"]
    assert [(one["health"], one["lastError"]) for one in targets] == [("up", "")] * 2
    assert watched.asked.query("up == 0") == {}
    kind = watched.asked.api("metadata", metric="perun_ledger_energy_joules")["perun_ledger_energy_joules"][0]
    assert (kind["type"], kind["unit"]) == ("gauge", "joules")
    assert watched.asked.query("node_textfile_scrape_error > 0") == {}


def test_what_prometheus_has_is_what_the_ledger_says(watched: Watched) -> None:
    for label, metric in (
        ("partition", "perun_ledger_energy_joules"),
        ("account", "perun_ledger_account_energy_joules"),
        ("user", "perun_ledger_user_energy_joules"),
    ):
        assert labelled(watched.asked.query(metric), label) == watched.sums(label)
    assert labelled(watched.asked.query("perun_ledger_jobs"), "partition") == {"main": 1, "gpu": 2}
    assert labelled(watched.asked.query("perun_recent_jobs"), "status") == {"complete": 3, "partial": 0, "missing": 0}
    kinds = {"waiting": 1.0, "refused": 0.0, "damaged": 0.0, "aside": 0.0}
    assert labelled(watched.asked.query("perun_backlog_entries"), "kind") == kinds
    assert watched.asked.one("perun_nodes_with_jobs") == 1
    assert watched.asked.one("perun_silent_nodes") == 0
    assert watched.asked.one("perun_ledger_up") == 1
    assert watched.asked.one("perun_audit_findings") > 0  # no node ledger is there


def test_a_node_tells_what_its_ledger_gave(watched: Watched) -> None:
    assert watched.asked.one('sum(perun_node_energy_joules_total{domain="package-0"})') == SERVED_UJ / 1e6
    lines = [line for line in watched.node.ledger() if line["domain"] == "package-0"]
    assert sum(line["total_uj"] for line in lines) == SERVED_UJ
    jobs_uj = sum(line["shares"].get("job:11.0", 0) for line in lines)
    assert watched.asked.one('sum(perun_job_energy_joules_total{jobid="11"})') == jobs_uj / 1e6
    assert watched.asked.one("perun_node_jobs") == 1
    (names,) = watched.asked.query('perun_job_energy_joules_total{component="cpu"}')
    assert dict(names)["jobid"] == "11"
    assert not {"user", "account", "exported_job"} & dict(names).keys()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_finds_something(watched: Watched, path: Path) -> None:
    nothing = [
        f"{title}: {query}"
        for title, query in queries(path, cluster="c", jobid="11").items()
        if not watched.asked.query(query)
    ]
    assert nothing == []


def test_every_alert_rule_is_evaluated_and_none_of_its_names_is_unknown(watched: Watched) -> None:
    until(lambda: all(one["health"] == "ok" for one in watched.asked.api("rules")["groups"][0]["rules"]), "evaluation")
    served = {name for name in watched.asked.api("label/__name__/values") if name.startswith("perun_")}
    for rule in watched.asked.api("rules")["groups"][0]["rules"]:
        assert any(name in rule["query"] for name in served), rule["name"]


def test_promtool_has_nothing_to_say_of_the_collectors_figures(watched: Watched) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{watched.port}/metrics", timeout=10) as answer:
        text = answer.read()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_alert_rules_fire_when_they_must() -> None:
    command = ["promtool", "test", "rules", str(ALERTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    names = [line.split("alert: ")[1] for line in RULES.read_text().splitlines() if "- alert: " in line]
    tested = ALERTS.read_text()
    assert [name for name in names if f"alertname: {name}\n" not in tested] == []


def _kept(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """What of a dashboard Grafana's own types do not know, or hold otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours:
            yield from _kept(ours[key], theirs[key], f"{where}.{key}") if key in theirs else [f"{where}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _kept(one, other, f"{where}[{place}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} is {theirs!r}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_own_types_know_all_that_a_dashboard_says(path: Path) -> None:
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    ours = json.loads(path.read_text())
    theirs = json.loads(JSONEncoder().encode(sdk.Dashboard.from_json(ours)))
    assert list(_kept(ours, theirs)) == []


def test_dashboards_are_three_and_have_names_of_their_own() -> None:
    contents = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert [path.stem for path in DASHBOARDS] == ["cluster", "health", "job"]
    assert len({one["uid"] for one in contents}) == 3
    for one in contents:
        assert len({panel["id"] for panel in one["panels"]}) == len(one["panels"])
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in one["panels"])
