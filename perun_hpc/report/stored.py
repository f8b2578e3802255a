"""Runs that `perun monitor` stored, as what can be compared: each round is a repeat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.energy.uncertainty import RANDOM, added
from perun_hpc.monitoring.host_energy import HostEnergy
from perun_hpc.report.subjects import Part, Subject

HOST = "host"
"""All that was counted of a run's hosts: one component, since a meter's rest is no part that another run has."""


def of_tree(tree: DataNode) -> list[Subject]:
    """The rounds of a stored run."""
    rounds = list(tree.walk(NodeType.RUN))
    return [_of_round(tree, one, f"{tree.id}:{one.id}" if len(rounds) > 1 else tree.id) for one in rounds]


def _of_round(tree: DataNode, one: DataNode, label: str) -> Subject:
    hosts = [(host, _energy(host)) for host in one.walk(NodeType.NODE)]
    known = [(host, energy) for host, energy in hosts if energy is not None]
    whole_uj = {host.id: round(energy.value * 1e6) for host, energy in known}
    doubts = added(_doubts(host, energy) for host, energy in known)
    runtime_s = one.value(MetricType.RUNTIME) or 0.0
    return Subject(
        label=label,
        name=str(tree.metadata.get("app", "")),
        elapsed_s=runtime_s,
        parts={HOST: Part(sum(whole_uj.values()), doubts)} if known else {},
        nodes_uj=whole_uj,
        nodes=len(hosts),
        cpus=sum(int(host.metadata.get("cpus", 0)) for host, _ in hosts),
        conditions=_conditions(tree, [host for host, _ in hosts]),
        why=_why_not(tree, sum(whole_uj.values()), len(known) < len(hosts), runtime_s),
    )


def _energy(host: DataNode) -> Metric | None:
    found = host.metrics.get(MetricType.ENERGY)
    return found if isinstance(found, Metric) else None


def _doubts(host: DataNode, energy: Metric) -> dict[str, int]:
    """What a host's energy may be wrong by, in uJ: the gains of the counters that it rests on, by backend; the rest of
    the uncertainty errs each time anew."""
    columns = [one.metadata for one in host.walk(NodeType.SENSOR) if "result" in one.metadata]
    sensors = [Sensor.from_json(column["sensor"]) for column in columns]
    results: list[Mapping[str, Any]] = [column["result"] for column in columns]
    gains: dict[str, float] = {}
    for column in HostEnergy(sensors, results, 1).bearing:
        cause = f"gain {sensors[column].backend}"
        gains[cause] = gains.get(cause, 0.0) + (results[column]["base"] or 0) * sensors[column].gain_error
    rest = ((energy.uncertainty or 0.0) * 1e6) ** 2 - sum(uj**2 for uj in gains.values())
    return {**{cause: round(uj) for cause, uj in gains.items()}, RANDOM: math.ceil(math.sqrt(max(0.0, rest)))}


def _why_not(tree: DataNode, energy_uj: int, lacking: bool, runtime_s: float) -> str:
    if tree.metadata.get("status") == "RUNNING":
        return "it still runs"
    if energy_uj <= 0 or not runtime_s:
        return "its energy is not known"
    # What a counter did not show is in the uncertainty, as far as its ceiling is known.
    return "the energy of one of its hosts is not known" if lacking else ""


def _conditions(tree: DataNode, hosts: Sequence[DataNode]) -> dict[str, str]:
    machines = [host.metadata.get("machine") or {} for host in hosts]
    found = {
        "processor": _all(machine.get("processor") for machine in machines),
        "kernel": _all(machine.get("kernel") for machine in machines),
        "Python": _all(machine.get("python") for machine in machines),
        "CPUs": _all(host.metadata.get("cpus") for host in hosts),
        "processes": str(tree.metadata.get("ranks") or ""),
        "figures": _all(energy.provenance for host in hosts if (energy := _energy(host)) is not None),
        "counted": _all(host.metadata.get("includes") for host in hosts),
        "perun": str(tree.metadata.get("perun_version") or ""),
        "status": str(tree.metadata.get("status") or ""),
    }
    return {name: value for name, value in found.items() if value}


def _all(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
