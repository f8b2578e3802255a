"""Keeping the spool within its quota: the oldest traces that wait for the archive go, boundary records never."""

from __future__ import annotations

import contextlib
from pathlib import Path

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.spool import size_b
from perun_hpc.files import read_json, remove_tree, write_json
from perun_hpc.store.description import TRACKS
from perun_hpc.store.layout import STORE

WHY = "the spool's quota was exceeded"


def drop_trace(directory: Path) -> int:
    """Delete the trace in a session's directory; returns the bytes that it held."""
    freed_b = 0
    for name in (TRACKS, STORE):
        freed_b += size_b(directory / name)
        with contextlib.suppress(OSError):
            remove_tree(directory / name)
    return freed_b


def drop_waiting(paths: AgentPaths, excess_b: int) -> tuple[list[str], int]:
    """Delete traces of sealed sessions, the oldest first, until that much is free; returns the sessions and the bytes.

    Their boundary records say so. Not to be called while a child ships.
    """
    sealed = [path for path in paths.sessions.glob("*/boundary.json") if (path.parent / TRACKS).is_dir()]
    dropped, freed_b = [], 0
    for path in sorted(sealed, key=lambda one: one.stat().st_mtime_ns):
        if freed_b >= excess_b:
            break
        record = read_json(path)
        if record is None:
            continue
        record["trace"] = {**record["trace"], "stored": False, "why": WHY}
        write_json(path, record, durable=True)
        freed_b += drop_trace(path.parent)
        dropped.append(path.parent.name)
    return dropped, freed_b
