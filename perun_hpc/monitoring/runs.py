"""Runs as they lie below DATA_OUT: a tree is written, found and read, or put together where its monitor was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc._version import __version__
from perun_hpc.backend.base import host_name
from perun_hpc.config.user import UserSettings, flat, unflat
from perun_hpc.data_model.data import SCHEMA, DataNode, NodeType
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.monitoring.callbacks import warn
from perun_hpc.monitoring.orders import SUMMARY
from perun_hpc.monitoring.results import host_node, multi_run_node, read_summary, run_node
from perun_hpc.monitoring.rundir import LAUNCHES, RUN, RunDirectory, safe

SAMPLING = b"perun_hpc.monitoring.sampling_entry"
"""In the command line of every sampling process."""


def keep(directory: RunDirectory, runs: Sequence[DataNode], metadata: dict[str, Any]) -> tuple[Path, DataNode]:
    """Write a run's tree as `run.json` into its directory; returns the path and the tree."""
    tree = multi_run_node(directory.run_id, runs, metadata)
    path = directory.path / RUN
    files.write_new(path, encode(tree), durable=False)
    return path, tree


def encode(tree: DataNode) -> bytes:
    """A run's tree as the bytes of its `run.json`."""
    return json.dumps({"schema": SCHEMA, **tree.to_json()}, indent=1, ensure_ascii=False).encode()


def read(path: Path) -> DataNode:
    """A tree from a `run.json`, or from a file that the format json wrote.

    Raises
    ------
    NotFoundError, DataError
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return decode(text, path)


def decode(text: bytes, path: Path) -> DataNode:
    """Inverse of `encode`; DataError, which names `path`, if it is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DataError(f"{path}: not of schema {SCHEMA}")
    return DataNode.from_json(data)


def find(data_out: Path, app: str | None, run_id: str | None) -> tuple[Path, DataNode]:
    """Directory and tree of a run, the newest one that fits; one whose monitor was killed is put together from what
    is there, one that cannot be read is passed over with a warning.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    for found in stored(data_out, app, run_id):
        return found
    what = (f"run {run_id}" if run_id else "run") + (f" of {app}" if app else "")
    raise NotFoundError(f"no {what} in {data_out}: check --data-out, or run perun monitor first")


def stored(data_out: Path, app: str | None = None, run_id: str | None = None) -> Iterator[tuple[Path, DataNode]]:
    """Directory and tree of each run that fits, the newest first, read when it is asked for; what cannot be read is
    passed over with a warning."""
    for directory in directories(data_out, app, run_id):
        found = whole(directory)
        if found is not None:
            yield found


def whole(directory: Path) -> tuple[Path, DataNode] | None:
    """A directory with its run's tree; None if there is none, or, with a warning, if it cannot be read."""
    try:
        found = at(directory)
    except DataError as error:
        warn(f"{error}: passed over")
        return None
    return None if found is None else (directory, found)


def directories(data_out: Path, app: str | None = None, run_id: str | None = None) -> list[Path]:
    """The directories of the runs that fit, the newest first."""
    pattern = f"{safe(app) if app else '*'}/{safe(run_id) if run_id else '*'}"
    starts = [path for path in data_out.glob(pattern) if path.is_dir() and path.name != LAUNCHES]
    return sorted(starts, key=lambda path: path.stat().st_ctime_ns, reverse=True)


def at(directory: Path) -> DataNode | None:
    """The tree of the run in a directory; one whose monitor was killed is put together. None if there is none."""
    return read(directory / RUN) if (directory / RUN).exists() else recover(directory)


def recover(directory: Path) -> DataNode | None:
    """The tree of a run that has no `run.json`, from what its sampling processes wrote; None if that is nothing."""
    rounds: dict[str, list[DataNode]] = {}
    config: dict[str, str] = {}
    status = "PERUN_ERROR"
    for path in sorted(directory.glob(f"*/*/{SUMMARY}")):
        if "." in path.parent.name:
            continue  # of a rank, part of its host
        summary = read_summary(path.parent)
        if summary["state"] == "running" and _lives(summary):
            summary["why"], status = "it still runs; these are its sums so far", "RUNNING"
        elif summary["state"] == "running":
            summary["why"] = "perun was killed with the application; these are its last sums"
        config = config or summary.get("config", {})
        host = host_node(path.parent, summary, ())
        host.metadata["state"] = "partial"
        rounds.setdefault(path.parent.parent.name, []).append(host)
    if not rounds:
        return None
    chosen = unflat(config)
    runs = [run_node(number, hosts, chosen) for number, hosts in sorted(rounds.items())]
    return multi_run_node(directory.name, runs, about(directory.parent.name, status, runs, chosen))


def _lives(summary: dict[str, Any]) -> bool:
    """Whether the sampling process that wrote a summary is there; of another host that cannot be seen."""
    if summary["host"] != host_name() or not isinstance(pid := summary.get("pid"), int):
        return False
    try:
        return SAMPLING in Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return False


def about(app: str, status: str, runs: Sequence[DataNode], chosen: UserSettings, **more: Any) -> dict[str, Any]:
    """The metadata of several rounds under one id: what ran, when, how it ended, and the configuration in force."""
    starts = [host.metadata.get("start_real_ns") for run in runs for host in run.walk(NodeType.NODE)]
    first_s = min((start for start in starts if start is not None), default=time.time_ns()) / 1e9
    return {
        "app": app,
        "status": status,
        **more,
        "perun_version": __version__,
        "execution_dt": datetime.fromtimestamp(first_s).astimezone().isoformat(timespec="milliseconds"),
        "n_runs": len(runs),
        **flat(chosen),
    }
