"""The node ledger on a disk that takes nothing: its lines wait, and the log is not filled with words of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perun_hpc.agent.node_ledger import NodeLedger
from perun_hpc.agent.paths import AgentPaths


def test_a_disk_that_takes_no_lines_is_named_once_and_gets_them_later(tmp_path: Path, capfd: pytest.CaptureFixture):
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    ledger = NodeLedger(paths)
    for number in range(50):
        ledger.append("2026-01-01", [{"line": number}])
    assert capfd.readouterr().err.count("node ledger:") == 1
    paths.node.mkdir(parents=True)
    ledger.append("2026-01-01", [{"line": 50}])
    lines = paths.ledger("2026-01-01").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(51))
