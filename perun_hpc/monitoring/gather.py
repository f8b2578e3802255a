"""Bringing the hosts of a run together at rank 0: over MPI's communicators if this process has them, else by files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc import files
from perun_hpc.comm import Comm, shared_key
from perun_hpc.config.user import UserSettings
from perun_hpc.data_model import codec, rank_data
from perun_hpc.data_model.data import DataNode
from perun_hpc.monitoring.child import Ended
from perun_hpc.monitoring.results import host_node, own_share, read_summary, run_node
from perun_hpc.monitoring.rundir import RunDirectory

if TYPE_CHECKING:
    from perun_hpc.monitoring.outcome import Result

NODE = "node.json"


def of_host(comm: Comm, result: Result, settings: UserSettings) -> Sequence[bytes | None]:
    """The rank data of a function's ranks on this host, None for those that did not hand it in: at its leader, all that
    can talk to it, as soon as their functions have ended."""
    if result.rank_data and comm.talks:
        return comm.gather_host(result.rank_data, settings.queue_timeout) or []
    return [result.rank_data] if result.rank_data else []


def collect(
    comm: Comm,
    run: RunDirectory,
    number: int,
    directory: Path,
    settings: UserSettings,
    result: Result,
    parts: Sequence[bytes | None],
    alone: bool,
) -> tuple[DataNode | None, str]:
    """Work up this host's data, and at rank 0 all hosts'. Called by the leaders of the hosts.

    Parameters
    ----------
    parts : see `of_host`.
    alone : this host is a run of its own.

    Returns the run's tree at rank 0, else None; and what is missing of other ranks, "" if nothing is.
    """
    summary = read_summary(directory)
    own = [rank_data.parse(part) for part in parts if part]
    missing = ""
    if len(own) < len(parts):
        missing = f"{len(parts) - len(own)} of {len(parts)} ranks of this host did not hand in their data"
    ended = [codec.decode(Ended, row) for row in summary.get("ended", ())]
    if result.ended is not None:
        ended.append(result.ended)
    node = host_node(directory, summary, sorted(ended, key=lambda one: one.rank), own)
    whole = len(ended) >= max(1, comm.place.host_size) or comm.place.size == 1
    if whole and (share := own_share(node, sum(one.cpu_ns for one in ended) if ended else result.cpu_ns)):
        node.metadata["own"] = share
    node.metadata["host_size"] = comm.place.host_size
    files.write_new(directory / NODE, json.dumps(node.to_json()).encode(), durable=False)
    hosts, absent = ([node], "") if alone else _hosts(comm, run, number, node, settings)
    if comm.place.rank != 0 and not alone:
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
    if comm.place.rank != 0:
        return [node], ""
    deadline_s = time.monotonic() + settings.queue_timeout
    while (absent := _absent(comm, found := _nodes(run, number))) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return found, absent


def _nodes(run: RunDirectory, number: int) -> list[DataNode]:
    paths = sorted((run.path / str(number)).glob(f"*/{NODE}"))
    return [DataNode.from_json(json.loads(path.read_bytes())) for path in paths]


def _absent(comm: Comm, nodes: Sequence[DataNode]) -> str:
    """Who has not handed in its data yet: hosts, where the launcher says how many there are, else ranks."""
    place = comm.place
    if place.hosts:
        lost = place.hosts - len(nodes)
        return f"{lost} of {place.hosts} hosts did not hand in their data" if lost > 0 else ""
    lost = place.size - sum(max(1, int(node.metadata.get("host_size") or 0)) for node in nodes)
    if place.host_size == 0 or lost <= 0 or shared_key(os.environ) is None:
        return ""  # nobody knows how many there are, all are there, or other hosts are runs of their own
    return f"the hosts of {lost} of {place.size} ranks did not hand in their data"
