"""Bringing the hosts of a run together at rank 0: over MPI's communicators if this process has them, else by files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.comm import Comm
from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode
from perun_hpc.monitoring.ranks import read_rank
from perun_hpc.monitoring.results import host_node, read_summary, run_node
from perun_hpc.monitoring.rundir import RunDirectory
from perun_hpc.store import files

if TYPE_CHECKING:
    from perun_hpc.monitoring.monitor import _Result

NODE = "node.json"


def collect(
    comm: Comm, run: RunDirectory, number: int, directory: Path, settings: UserSettings, result: _Result
) -> tuple[DataNode | None, str]:
    """Work up this host's data, and at rank 0 all hosts'. Called by the leaders of the hosts.

    Returns the run's tree at rank 0, else None; and what is missing of other ranks, "" if nothing is.
    """
    summary = read_summary(directory)
    place = comm.place
    own, missing = [], ""
    if result.rank_data:
        parts: Sequence[bytes | None] = [result.rank_data]
        if comm.talks:
            parts = comm.gather_host(result.rank_data, settings.queue_timeout) or []
        own = [read_rank(part) for part in parts if part]
        if len(own) < len(parts):
            missing = f"{len(parts) - len(own)} of {len(parts)} ranks of this host did not hand in their data"
    ended = [] if result.ended is None else [result.ended]
    node = host_node(directory, summary, ended, own)
    files.write_new(directory / NODE, json.dumps(node.to_json()).encode(), durable=False)
    hosts, absent = _hosts(comm, run, number, node, settings)
    if place.rank != 0:
        return None, missing
    tree = run_node(str(number), hosts, settings)
    if absent or missing:
        tree.metadata["state"] = "partial"
    return tree, absent or missing


def _hosts(
    comm: Comm, run: RunDirectory, number: int, node: DataNode, settings: UserSettings
) -> tuple[list[DataNode], str]:
    if comm.talks:
        parts = comm.gather_leaders(json.dumps(node.to_json()).encode(), settings.queue_timeout)
        if parts is None:
            return [], ""
        nodes = [DataNode.from_json(json.loads(part)) for part in parts if part]
        lost = len(parts) - len(nodes)
        return nodes, f"{lost} of {len(parts)} hosts did not hand in their data" if lost else ""
    expected = _expected_hosts(comm, node)
    if comm.place.rank != 0 or expected <= 1:
        return [node], ""
    deadline_s = time.monotonic() + settings.queue_timeout
    base = run.path / str(number)
    while len(found := sorted(base.glob(f"*/{NODE}"))) < expected and time.monotonic() < deadline_s:
        time.sleep(0.05)
    nodes = [DataNode.from_json(json.loads(path.read_bytes())) for path in found]
    lost = expected - len(nodes)
    return nodes, f"{lost} of {expected} hosts did not hand in their data" if lost > 0 else ""


def _expected_hosts(comm: Comm, node: DataNode) -> int:
    """How many hosts the run has: as MPI told its ranks, else as the launcher says."""
    told = [entry["mpi"]["hosts"] for entry in node.metadata["ranks"] if entry.get("mpi")]
    return int(max(told, default=0) or comm.place.hosts or 1)
