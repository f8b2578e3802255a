"""`perun monitor` and `perun launch` in a Slurm step whose node has an agent, which here only keeps what it is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perun_hpc.comm import Comm
from perun_hpc.config.user import load
from perun_hpc.data_model import rank_data
from perun_hpc.monitoring.application import Application
from perun_hpc.monitoring.enrol import enrol, reachable
from perun_hpc.monitoring.monitor import DEFAULT_SENSORS, MonitorStatus, PerunMonitor
from perun_hpc.wire.message import decode, encode
from perun_hpc.wire.packet import receive_packet, send_packet

STEP = {
    "SLURM_JOB_ID": "47", "SLURM_STEP_ID": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0",
    "SLURM_NNODES": "1",
}  # fmt: skip


class Agent:
    """Answers ok to everything, or error to registrations, and keeps (verb, fields, peer's pid, data)."""

    def __init__(self, path: Path, refuses: bool = False) -> None:
        self.path = str(path)
        self.heard: list[tuple[str, dict[str, str], int, bytes]] = []
        self._refuses = refuses
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                packet, fds = receive_packet(connection)
                if not packet:
                    return
                message = decode(packet)
                data = b"".join(os.pread(fd, 1 << 20, 0) for fd in fds)
                for fd in fds:
                    os.close(fd)
                pid = int.from_bytes(
                    connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder
                )
                self.heard.append((message.verb, dict(message.fields), pid, data))
                verb = "error" if self._refuses and message.verb == "rank-start" else "ok"
                send_packet(connection, encode(verb, {"period_ms": "1000", "resolution_ms": "10000"}))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(self.path)
        self._thread.join(5)
        self._listener.close()


@pytest.fixture
def agent(tmp_path):
    agent = Agent(tmp_path / "agent")
    yield agent
    agent.close()


@pytest.fixture
def step(monkeypatch):
    for key, value in STEP.items():
        monkeypatch.setenv(key, value)


def monitor_of(tmp_path: Path, app: str, socket_path: str) -> PerunMonitor:
    config = load(environ={}, home=tmp_path, directory=tmp_path, overrides={"data_out": str(tmp_path / "out")})
    monitor = PerunMonitor(Application(app, config), Comm(), {}, DEFAULT_SENSORS, config)
    monitor.agent_socket = socket_path
    return monitor


def test_with_an_agent_no_sampling_process_is_started_and_the_rank_registers_itself(tmp_path, agent, step):
    app = tmp_path / "app.py"
    app.write_text(
        "import os\nfrom perun_hpc import monitor\nwith monitor('x'): pass\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    )
    monitor = monitor_of(tmp_path, str(app), agent.path)
    status, node, code = monitor.run_application("r")
    assert (monitor.queue, monitor.perunSP) == (None, None)
    monitor.close()
    assert (status, code) == (MonitorStatus.PROCESSING, 0)
    assert (node.metadata["job_id"], node.metadata["step_id"]) == ("47", "3")
    verbs = [verb for verb, *_ in agent.heard]
    assert verbs == ["status", "rank-start", "rank-data", "rank-data"]
    pid = int((tmp_path / "pid").read_text())
    assert {heard_pid for verb, _, heard_pid, _ in agent.heard if verb != "status"} == {pid}
    fields = agent.heard[1][1]
    assert (fields["job_id"], fields["step_id"], fields["rank"], fields["ntasks"]) == ("47", "3", "0", "1")
    assert agent.heard[2][1]["live"] == "1"
    data = rank_data.parse(agent.heard[3][3])
    assert (data.names, len(data.calls)) == (("x",), 3)


def test_an_agent_that_refuses_costs_nothing(tmp_path, step):
    agent = Agent(tmp_path / "agent", refuses=True)
    app = tmp_path / "app.py"
    app.write_text("import os, sys; sys.exit(5 + ('PERUN_PID' in os.environ))")
    status, _, code = monitor_of(tmp_path, str(app), agent.path).run_application("r")
    agent.close()
    assert (status, code) == (MonitorStatus.SCRIPT_ERROR, 5)


def test_without_a_step_or_an_agent_nobody_is_asked(tmp_path, agent):
    assert not reachable({}, agent.path)
    assert not reachable(STEP, str(tmp_path / "nobody"))
    assert enrol(["x"], {}, agent.path) is None
    assert enrol(["x"], STEP, str(tmp_path / "nobody")) is None
    assert agent.heard == []
    (tmp_path / "stale").touch()
    assert not reachable(STEP, str(tmp_path / "stale"))


BECOME = "import os, json; print(json.dumps([os.getpid(), 'PYTHONPATH' in os.environ]))"


def test_launch_becomes_the_command_under_the_same_process_id(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "perun_hpc.cli.main", "launch", sys.executable, "-c", BECOME],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "SLURM_LOCALID": "1"},
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert json.loads(out) == [process.pid, "PYTHONPATH" in os.environ]
    assert err == ""
    missing = subprocess.run(
        [sys.executable, "-m", "perun_hpc.cli.main", "launch", "no-such"], capture_output=True, text=True
    )
    assert missing.returncode == 66
