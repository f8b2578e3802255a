"""The boundary record `perun.boundary/1`: what one node says about one job run; the ledger rests on it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from perun_hpc._version import __version__
from perun_hpc.agent.base.account import DomainAccount, Pace
from perun_hpc.agent.base.session import LATE_NS, Edge, Session
from perun_hpc.agent.measure.holdings import names_of
from perun_hpc.agent.measure.learning import Figure
from perun_hpc.agent.outbox.regions import error_of
from perun_hpc.agent.outbox.step_rows import steps_of
from perun_hpc.data_model import codec
from perun_hpc.data_model.sensor import Provenance, Sensor
from perun_hpc.energy.uncertainty import combined_uj

SCHEMA = "perun.boundary/1"


@dataclass(frozen=True)
class Cost:
    """What the agent itself used while the job ran."""

    cpu_ns: int
    rss_b: int
    pid: int
    uid: int


def boundary_record(
    session: Session,
    end: Edge,
    sensors: Sequence[Sensor],
    node: str,
    node_cpus: int,
    cost: Cost,
    doubts: Mapping[str, Mapping[str, int]],
    static: Mapping[str, Figure],
    scope: str,
    conditions: Mapping[str, str] | None = None,
    edges_uj: int = 0,
    machine_id: str = "",
) -> dict[str, Any]:
    """Build the record of a session that has ended.

    `sensors` are those that the session has edges of; `doubts` is what each domain's energy may be wrong by, by cause,
    `static` its static power; `scope` says what the node's figures include, `conditions` clocks, caps and the like of
    the machine, `edges_uj` what the readings at a step's edges may be wrong by, `machine_id` which machine of this name
    it is. Regions are added when it is shipped.
    """
    job, key = session.job, session.key
    named = {sensor.id: sensor for sensor in sensors}
    record = {
        "schema": SCHEMA,
        "revision": 1,
        "cluster": job.get("cluster", ""),
        "job_id": key.job_id,
        "restart_count": key.restart_count,
        "sluid": job.get("sluid"),
        "uid": session.uid,
        "gid": int(job.get("gid", "-1")),
        "user": job.get("user"),
        "account": job.get("account"),
        "partition": job.get("partition"),
        "het_job_id": job.get("het_job_id"),
        "het_offset": job.get("het_offset"),
        "node": node,
        "nodelist": job.get("nodelist") or node,
        "num_nodes": int(job.get("num_nodes") or 1),
        "cpus_on_node": session.cpus_on_node or len(session.cpus),
        "node_cpus": node_cpus,
        "gpus": ",".join(names_of(job)) or None,
        "boot_id": session.boot_id,
        "machine_id": machine_id,
        "state": "partial" if session.why else "closed",
        "why": "; ".join(session.why) or None,
        "start": _edge(session.start),
        "end": {**_edge(end), **session.exit},
        "sensors": [sensor.to_json() for sensor in sensors],
        "edges": {
            one: {
                "start": _reading(session.edges_start.get(one)),
                "end": _reading(session.edges_end.get(one)),
            }
            for one in named
        },
        "domains": {
            name: _domain(account, end.mono_ns - session.start.mono_ns, doubts.get(name, {}))
            for name, account in sorted(session.domains.items())
        },
        "scope": scope,
        "static": {name: figure.to_json() for name, figure in sorted(static.items())},
        "shares": [
            {"day": day, "domain": domain, "energy_uj": energy_uj}
            for day, domains in sorted(session.shares.items())
            for domain, energy_uj in sorted(domains.items())
        ],
        "conditions": dict(conditions or {}),
        "usage": {
            "cpu_ns": session.counted_ns,
            "mem_peak_b": session.mem_peak_b,
            "suspended_ns": session.suspended_ns,
            **({} if session.peak_mw is None else {"peak_mw": session.peak_mw}),
        },
        "flagged": bool(session.steps),
        "steps": [],
        "regions": [],
        "notes": _notes(session, static),
        "checks": session.checks,
        "gaps": [codec.encode(gap) for gap in session.gaps],
        "trace": session.trace or {"stored": False},
        "settings": session.settings,
        "policy_hash": session.policy_hash,
        "perun_version": __version__,
        "agent": asdict(cost),
        "simulated": any(sensor.provenance is Provenance.SIMULATED for sensor in sensors),
    }
    record["steps"] = steps_of(session, end, error_of(record), edges_uj)
    return record


def _notes(session: Session, static: Mapping[str, Figure]) -> list[str]:
    """What the job's user asked for and did not get, and what is not sure, though its energy may be whole."""
    asked = session.flag is not None and "off" not in session.flag.split(",")
    without = ["submitted with --perun, but no rank registered on this node"] if asked and not session.steps else []
    cut = [f"{count} {what}" for what, count in session.left_out.items()]
    late_ns = session.start.late_ns
    late = f"its first {late_ns / 1e9:.1f} s are not in its energy: the agent heard of it only then"
    guessed = sorted(
        name
        for name, account in session.domains.items()
        if account.component in ("cpu", "dram") and account.modelled_uj and name in static
        if static[name].source == "unknown"
    )
    half = (
        [f"static power of {', '.join(guessed)} is not known: half of the least power seen is taken"] if guessed else []
    )
    doubts = [*([session.doubt] if session.doubt else []), *session.assumed]
    return [*([late] if late_ns > LATE_NS else []), *half, *without, *doubts, *cut]


def _edge(edge: Edge) -> dict[str, Any]:
    return {"real_ns": edge.real_ns, "mono_ns": edge.mono_ns, "late_ns": edge.late_ns, "from": edge.source}


def _reading(reading: Sequence[int | None] | None) -> dict[str, int | None] | None:
    return None if reading is None else {"ticks": reading[0], "mono_ns": reading[1]}


def _domain(account: DomainAccount, duration_ns: int, doubts: Mapping[str, int]) -> dict[str, Any]:
    measured = account.covered_ns > 0
    return {
        **{key: value for key, value in vars(account).items() if key not in _INSIDE},
        **account.pace(),
        "node_uj": account.node_uj if measured else None,
        "energy_uj": account.energy_uj if measured else None,
        "u_uj": combined_uj(doubts),
        "doubts": {cause: uj for cause, uj in sorted(doubts.items()) if uj},
        "gap_ns": max(0, duration_ns - account.covered_ns) + account.gap_ns,
    }


_INSIDE = frozenset(
    ("static_doubt_uj", "sharing_doubt_uj", "others_doubt_uj", "peak_uw", "before_uw", "parted_ns", "method_uj")
) | {one.name for one in fields(Pace)}
"""What `doubts`, `method` and the figures of `pace` are made of."""
