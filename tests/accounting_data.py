"""Boundary records and sacct rows as real ones look, for the tests and the benchmark of accounting and reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perun_hpc.data_model.boundary import Boundary, parse_boundary
from perun_hpc.slurm.sacct import SlurmJob

START_S = 1_795_356_000
"""2026-11-22 14:00:00 UTC."""
NS = 1_000_000_000
DAY = "2026-11-22"


def domain(component: str, energy_uj: int | None, **other: Any) -> dict[str, Any]:
    """One domain; covered for 100 s unless given otherwise."""
    known = energy_uj or 0
    return {
        "component": component,
        "scope": component,
        "provenance": "measured",
        "method": "exclusive",
        "node_uj": energy_uj,
        "energy_uj": energy_uj,
        "static_uj": known // 4,
        "dynamic_uj": known - known // 4,
        "idle_uj": 0,
        "suspended_uj": 0,
        "u_uj": abs(known) // 100,
        "covered_ns": 100 * NS,
        "gap_ns": 0,
        "modelled_uj": 0,
        **other,
    }


def boundary(
    job_id: int = 4711,
    node: str = "n1",
    nodelist: str = "n1",
    domains: Mapping[str, dict[str, Any]] | None = None,
    start_s: float = START_S,
    seconds: float = 100,
    shares: Sequence[dict[str, Any]] | None = None,
    **other: Any,
) -> dict[str, Any]:
    """A boundary record as JSON types; every energy falls on `DAY` unless `shares` says otherwise."""
    parts = domains if domains is not None else {"package-0": domain("cpu", 8_000_000_000)}
    made = [{"day": DAY, "domain": name, "energy_uj": d["energy_uj"] or 0} for name, d in sorted(parts.items())]
    return {
        "schema": "perun.boundary/1",
        "revision": 1,
        "cluster": "c",
        "job_id": job_id,
        "restart_count": 0,
        "sluid": None,
        "uid": 2001,
        "gid": 2001,
        "user": "alice",
        "account": "physics",
        "partition": "main",
        "node": node,
        "nodelist": nodelist,
        "num_nodes": 1 if nodelist == node else 2,
        "cpus_on_node": 4,
        "node_cpus": 4,
        "gpus": None,
        "boot_id": "b",
        "state": "closed",
        "why": None,
        "start": {"real_ns": round(start_s * NS), "mono_ns": 0, "late_ns": 0, "from": "hook"},
        "end": {"real_ns": round((start_s + seconds) * NS), "mono_ns": 0, "late_ns": 0, "from": "hook", "exit_code": 0},
        "sensors": [],
        "edges": {},
        "domains": dict(parts),
        "shares": made if shares is None else list(shares),
        "usage": {"cpu_ns": 380 * NS, "mem_peak_b": 3 << 30},
        "steps": [],
        "regions": [],
        "gaps": [],
        "trace": {"stored": False},
        "settings": {},
        "policy_hash": "sha256:0",
        "perun_version": "1.2.3",
        "agent": {"cpu_ns": 0, "rss_b": 0, "pid": 1},
        "simulated": False,
        **other,
    }


def parsed(data: dict[str, Any]) -> Boundary:
    """The same as the collector reads it."""
    return parse_boundary(json.dumps(data).encode(), "test")


def put_incoming(archive: Path, data: dict[str, Any]) -> Path:
    """Ship a boundary record as an agent does."""
    directory = archive / data["cluster"] / "incoming" / f"{data['job_id']}.{data['restart_count']}"
    directory.mkdir(parents=True, exist_ok=True)
    path: Path = directory / f"{data['node']}.json"
    partial = directory / f".{data['node']}.partial"
    partial.write_text(json.dumps(data))
    partial.rename(path)
    return path


def slurm_job(job_id: int = 4711, **other: Any) -> SlurmJob:
    """A finished job as sacct shows it."""
    values: dict[str, Any] = {
        "job_id": job_id,
        "shown_id": str(job_id),
        "name": "stencil",
        "user": "alice",
        "uid": 2001,
        "gid": 2001,
        "account": "physics",
        "partition": "main",
        "qos": "normal",
        "cluster": "c",
        "submit_s": START_S - 5,
        "start_s": START_S,
        "end_s": START_S + 100,
        "suspended_s": 0,
        "state": "COMPLETED",
        "exit_code": 0,
        "exit_signal": 0,
        "nodelist": "n1",
        "num_nodes": 1,
        "cpus": 4,
        "gpus": 0,
        "time_limit_s": 600,
        "cpu_ns": 380 * NS,
        "admin_comment": "",
    }
    return SlurmJob(**{**values, **other})
