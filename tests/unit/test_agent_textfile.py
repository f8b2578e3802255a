"""The node's figures for monitoring: what stands in the file, and how finely in time anybody sees a neighbour by it."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.booking import take_edge
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.losses import NO_FIGURES, Losses
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node, Snapshot
from perun_hpc.agent.textfile import NAME, Textfile
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.config.policy import load
from perun_hpc.data_model.job import SessionKey
from tests.flow.agent_node import FakeNode
from tests.flow.test_agent_clock import S, Turned

SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


class Watched:
    """A node with one package and DRAM whose seconds the test lets pass, 1 mJ each; what the file showed, and when."""

    def __init__(self, base: Path, policy: str, metrics: str = "") -> None:
        self.node, self.turned = FakeNode(base), Turned()
        self.directory = base / "metrics"
        self.directory.mkdir(mode=0o755)
        metrics = f"metrics: {{textfile: {self.directory}, labels: [job, account]{metrics}}}\n"
        (base / "policy.yaml").write_text(metrics + policy)
        clock, paths = self.turned.clock, AgentPaths(self.node.run_dir, self.node.spool, self.node.root)
        paths.node.mkdir(parents=True)
        compiled = compile_policy(load(base / "policy.yaml"))
        self.policy = PolicyKeeper(base / "none.yaml", clock, "n1", policy=compiled)
        self.policy.check()
        self.register = Register("n1", 4)
        self.visibility, topology = Visibility(paths, self.register), partial(machine.topology, self.node.root)
        sources = Node.open(self.node.root, ("powercap", "procstat"), clock)
        ledger = NodeLedger(paths)
        self.meter = Meter(sources, topology, self.register, self.policy, ledger, self.visibility, clock)
        self.meter.account_anew()
        self.losses = Losses(clock.real_ns)
        self.textfile = Textfile(self.register, self.meter, self.policy, self.losses)
        self.shown: dict[int, float] = {}

    @property
    def path(self) -> Path:
        return self.directory / NAME

    def begin(self, job_id: int, **job: str) -> None:
        snapshot = self.meter.end_interval()
        key, start = SessionKey(job_id, 0), Edge(snapshot.real_ns, snapshot.mono_ns, 0, "hook")
        fields = {"uid": "2001", "user": "alice", "account": "physics", "partition": "main", "cpus_on_node": "2", **job}
        rules = self.policy.settings(fields, "n1", None).to_json()
        self.register.live[key] = session = Session(key, fields, rules, "", "boot", start)
        session.edges_start = take_edge(snapshot.readings, self.meter.sensors)

    def end(self, job_id: int) -> None:
        self.meter.end_interval(settle=True)
        del self.register.live[SessionKey(job_id, 0)]

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.turned.ns += S
            self.node.serve(package_uj=1000)
            if self.meter.is_due(self.turned.clock.mono_ns(), self.turned.clock.real_ns()):
                self.note(self.meter.end_interval())
            if self.path.exists() and (joules := self.total()) != next(reversed(self.shown.values()), None):
                self.shown[self.turned.ns // S] = joules

    def note(self, snapshot: Snapshot) -> None:
        """What the agent's loop does as an interval of the grid ends."""
        least_ns = self.policy.site().privacy.shared_resolution_ns
        moment = self.visibility.moments.take(snapshot.mono_ns, least_ns)
        self.visibility.show_all(snapshot)
        self.show(snapshot, moment)

    def show(self, snapshot: Snapshot, moment: bool) -> None:
        self.textfile.note(snapshot, moment)

    def samples(self) -> dict[tuple[str, str], float]:
        found = [SAMPLE.fullmatch(line) for line in self.path.read_text().splitlines() if not line.startswith("#")]
        return {(one[1], one[2] or ""): float(one[3]) for one in found if one}

    def total(self) -> float:
        named = {key: value for key, value in self.samples().items() if key[0] == "perun_node_energy_joules_total"}
        return sum(value for (_, labels), value in named.items() if 'domain="package-0"' in labels)


def test_the_file_holds_what_the_node_ledger_gave(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "sampling: {interval: 1 s}\n")
    watched.begin(1)
    watched.pass_s(30)
    lines = watched.node.ledger()
    begun = lines[0]["t0_ns"]
    upto = begun + max(watched.shown) * S
    told = {
        party: sum(
            line["shares"].get(party, 0) for line in lines if line["domain"] == "package-0" and line["t1_ns"] <= upto
        )
        for party in ("job:1.0", "idle", "system", "unknown")
    }
    found = watched.samples()
    for party, uj in told.items():
        label = "jobs" if party.startswith("job") else party
        key = f'domain="package-0",component="cpu",provenance="simulated",party="{label}"'
        assert found.get(("perun_node_energy_joules_total", key), 0.0) == pytest.approx(uj / 1e6), party
    assert watched.total() == pytest.approx(0.001 * max(watched.shown))
    named = 'jobid="1",restart="0",partition="main",account="physics",component="cpu"'
    assert found["perun_job_energy_joules_total", named] == pytest.approx(told["job:1.0"] / 1e6)
    assert found["perun_node_jobs", ""] == 1
    assert "alice" not in watched.path.read_text()


def test_figures_are_at_most_as_fine_as_ten_seconds_however_fine_the_intervals_are(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "sampling: {interval: 1 s}\n")
    watched.begin(1, cpus_on_node="4", exclusive="1")
    watched.pass_s(7)
    watched.begin(2)  # neither the start of a job nor its end is a moment at which anybody sees anything
    watched.pass_s(3)
    watched.end(2)
    watched.pass_s(45)
    moments = sorted(watched.shown)
    assert len(moments) >= 4
    assert all(later - sooner >= 10 for sooner, later in zip(moments, moments[1:], strict=False)), moments


def test_an_agent_that_has_just_begun_shows_nothing_yet(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "sampling: {interval: 1 s}\n")
    watched.turned.ns = 1007 * S
    watched.begin(1)
    watched.pass_s(40)
    assert min(watched.shown) >= 1007 + 9
    assert len(watched.shown) >= 2


def test_what_a_partitions_jobs_may_show_in_a_minute_the_node_does_not_show_sooner(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "partitions: {secret: {privacy: {shared_resolution: 1 min}}}\n")
    watched.pass_s(25)
    watched.begin(1, partition="secret")
    watched.pass_s(5)
    watched.end(1)
    before = set(watched.shown)
    watched.pass_s(100)
    assert min(set(watched.shown) - before) - max(before) >= 54


def test_a_directory_that_everybody_can_write_gets_no_file_and_that_is_said(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "")
    watched.directory.chmod(0o1777)
    watched.pass_s(25)
    assert not watched.path.exists()
    assert "can be written by everybody" in str(watched.losses.visible_to(0))
    watched.directory.chmod(0o755)
    watched.pass_s(15)
    assert watched.path.exists()
    assert watched.losses.counts()[NO_FIGURES] == 0


def test_a_link_in_the_files_place_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "")
    (tmp_path / "precious").write_text("as it was")
    watched.path.symlink_to(tmp_path / "precious")
    watched.pass_s(25)
    assert (tmp_path / "precious").read_text() == "as it was"
    assert not watched.path.is_symlink()
    assert watched.path.stat().st_mode & 0o777 == 0o644


def test_an_agent_that_ends_takes_its_file_away(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "")
    watched.pass_s(25)
    assert watched.path.exists()
    watched.textfile.close()
    assert list(watched.directory.iterdir()) == []


def test_promtool_has_nothing_to_say_of_the_file(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "")
    watched.begin(1, account='a "b" \\ c\nd', partition="p\udc80")
    watched.pass_s(25)
    done = promtool(watched.path.read_bytes())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def promtool(text: bytes) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
