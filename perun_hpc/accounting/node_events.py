"""What Slurm says of its nodes in a month, which were off and when: asked for, or as it was sealed with the month.

slurmdbd forgets events (PurgeEventAfter), and who verifies a month or draws up its balance elsewhere has no Slurm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.accounting.manifest import place
from perun_hpc.archive.places import Archive
from perun_hpc.errors import DataError
from perun_hpc.files import write_new
from perun_hpc.inputs import read_regular
from perun_hpc.slurm.events import NodeEvent, query_events, query_nodes, states_of

SCHEMA = "perun.node-events/1"
MAX_B = 1 << 30


@dataclass(frozen=True)
class Slurm:
    """Slurm's word: events of nodes, and the nodes that it has by now with their states; `why` it has none."""

    events: Sequence[NodeEvent] = ()
    nodes: Mapping[str, frozenset[str]] | None = None
    why: str = ""


def ask(since_s: int, until_s: int, cluster: str | None) -> Slurm:
    """Ask Slurm for the events between two epoch times, and its nodes; `UnavailableError` where it has no answer."""
    return Slurm(query_events(since_s, until_s, cluster), query_nodes(cluster))


def file_of(archive: Archive, month: str) -> Path:
    """Return where a sealed month has what Slurm said."""
    return place(archive, month) / "slurm.json"


def write(archive: Archive, month: str, said: Slurm) -> Path:
    """Write what Slurm said beside a month's manifest; returns where."""
    value = {
        "schema": SCHEMA,
        "events": [
            {"node": one.node, "start_s": one.start_s, "end_s": one.end_s, "state": _text(one.states)}
            for one in said.events
        ],
        "nodes": {name: _text(states) for name, states in sorted((said.nodes or {}).items())},
    }
    path = file_of(archive, month)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    write_new(path, (json.dumps(value, indent=1) + "\n").encode())
    return path


def read(archive: Archive, month: str) -> Slurm | None:
    """Return what Slurm said when a month was sealed; None: it was sealed without. `DataError` of a damaged file."""
    path = file_of(archive, month)
    try:
        value = json.loads(read_regular(path, MAX_B))
        if value["schema"] != SCHEMA:
            raise ValueError("of another version of perun")
        events = [
            NodeEvent(
                str(one["node"]),
                int(one["start_s"]),
                None if one["end_s"] is None else int(one["end_s"]),
                states_of(one["state"]),
            )
            for one in value["events"]
        ]
        return Slurm(events, {str(name): states_of(state) for name, state in value["nodes"].items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: what Slurm said of nodes cannot be read ({error}): take the sealed copy") from error


def _text(states: frozenset[str]) -> str:
    return "+".join(sorted(states))
