"""A trace whose sensors fail goes on: a row of gaps is made, and the next one is due later."""

from __future__ import annotations

from functools import partial

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.backend.procstat import ProcStat
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import MACHINE


class Odd:
    """A reader that fails in a way that nobody foresaw."""

    def __init__(self, sensors):
        self.sensors = sensors

    def read(self):
        raise KeyError("odd")

    def close(self):
        pass


def test_a_reader_that_fails_costs_rows_their_values_and_keeps_no_row_due(tmp_path):
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    files = ProcStat(tmp_path)
    node = Node(tmp_path, "n1", MACHINE, readers=[Odd(files.sensors)])
    files.close()
    node.follow_gauges()
    register = Register("n1", 1)
    policy = PolicyKeeper(tmp_path / "policy.yaml", MACHINE, "n1", (tmp_path / "policy.json",))
    visibility = Visibility(paths, register)
    meter = Meter(node, partial(machine.topology, tmp_path), register, policy, NodeLedger(paths), visibility, MACHINE)
    traces = Traces(paths, node, register, visibility, MACHINE)
    key = SessionKey(1, 0)
    session = Session(key, {}, policy.settings({}, "n1", "").to_json(), "", "boot", Edge(10**18, 0, 0, "hook"))
    session.settings["store"]["trace"] = "all"
    register.live[key] = session
    paths.session(key.name).mkdir(parents=True)
    traces.begin(session, 0)
    due_ns = traces.due_ns
    for _ in range(3):
        traces.sample(traces.due_ns, 10**18, None, meter)
    assert traces.due_ns >= due_ns + 3 * session.period_ns
    session.end = Edge(2 * 10**18, 10**18, 0, "hook")
    traces.seal(session)
    assert session.trace["rows"] == 3
