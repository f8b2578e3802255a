"""What a node has to hand over, for tests of both ways: by munge and by certificates."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.store import layout
from perun_hpc.store.node_store import NodeStore
from tests.soak.store_data import START, sensors

S = layout.NS_PER_S
HOSTS: Any = collections.defaultdict(
    tuple, {"n": ("127.0.0.1",), "n1": ("192.0.2.1", "2001:db8::1"), "n2": ("127.0.0.1",), "7": ("127.0.0.1",)}
)
"""What the collector's host knows of its nodes' addresses; everything comes from 127.0.0.1."""


def record(job_id: int, stored: bool) -> dict[str, Any]:
    """A boundary record as an agent writes it, without domains."""
    edge = {"real_ns": START * S, "mono_ns": 1, "late_ns": 0, "from": "hook"}
    return {
        "schema": "perun.boundary/1",
        "cluster": "c",
        "job_id": job_id,
        "restart_count": 0,
        "node": "n2",
        "nodelist": "n[1-2]",
        "num_nodes": 2,
        "state": "closed",
        "start": edge,
        "end": {**edge, "real_ns": (START + 700) * S},
        "domains": {},
        "shares": [],
        "steps": [],
        "regions": [],
        "trace": {"stored": stored},
    }


def filled_spool(tmp_path: Path) -> AgentPaths:
    """A node's spool with one sealed session, one that goes on, and a day of its ledger."""
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    (paths.node / "2025-11-24.jsonl").write_text('{"t0_ns":1}\n')
    session = paths.session("9.0")
    store = NodeStore.open(
        session,
        cluster="c",
        job_id="9",
        restart_count=0,
        node="n2",
        sensors=sensors(8),
        period_ns=S,
        start_ns=START * S,
    )
    for index in range(700):
        store.append(START + index, [index] * 8)
    store.seal()
    paths.boundary("9.0").write_text(json.dumps(record(9, stored=True)))
    paths.session("10.0").mkdir()
    paths.progress("10.0").write_text(json.dumps({**record(10, stored=False), "state": "running"}))
    return paths


def everything_in(directory: Path) -> dict[str, bytes]:
    """Content by name of what lies in an archive, hidden names apart; what depends on the moment is left out."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    names = {str(path.relative_to(directory)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".")}
