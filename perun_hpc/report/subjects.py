"""What is compared: a job or a stored run, as its energy by component, its nodes, and the conditions it ran under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perun_hpc.accounting.summing import METER, doubts_of
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.energy.comparison import Run
from perun_hpc.energy.uncertainty import Doubts, added, combined_uj
from perun_hpc.report import quantities as q
from perun_hpc.report.gpu_pace import paces

GPU = "gpu"


@dataclass(frozen=True)
class Part:
    """The energy of one component and what it may be wrong by (k=1), by cause; in uJ."""

    energy_uj: int
    doubts: Doubts


@dataclass(frozen=True)
class Subject:
    """One job or run.

    Attributes
    ----------
    label, name : how it is called, and what ran.
    why : why its energy cannot be compared; empty where it can.
    parts : by component.
    nodes_uj : what each node used.
    nodes, cpus, gpus : how many it had.
    conditions : what else a difference may come from, by name.
    gpu_paces : how fast its GPUs could work (`gpu_pace.paces`).
    """

    label: str
    name: str
    elapsed_s: float
    parts: Mapping[str, Part] = field(default_factory=dict)
    nodes_uj: Mapping[str, int] = field(default_factory=dict)
    nodes: int = 1
    cpus: int = 0
    gpus: int = 0
    conditions: Mapping[str, str] = field(default_factory=dict)
    gpu_paces: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def counts(self, component: str) -> bool:
        """Whether this component's energy is known; that of GPUs which it did not hold is nothing."""
        return component in self.parts or (component == GPU and not self.gpus)

    def run(self, components: Sequence[str]) -> Run:
        """The run over these components."""
        chosen = [self.parts[name] for name in components if name in self.parts]
        whole_uj = sum(part.energy_uj for part in chosen)
        return Run.of(whole_uj, self.elapsed_s, added(part.doubts for part in chosen), self.nodes_uj)

    @property
    def energy_uj(self) -> int:
        """All components."""
        return sum(part.energy_uj for part in self.parts.values())

    @property
    def u_uj(self) -> int:
        """Standard uncertainty (k=1) of that; 0: not known."""
        return combined_uj(added(part.doubts for part in self.parts.values()))


def of_records(records: Sequence[EnergyRecord]) -> Subject:
    """The runs of one piece of work as one: one record, or those of an array's tasks or a het job's components."""
    first = records[0]
    whys = [why for record in records if (why := _why_not(record))]
    many = len(records) > 1
    label = first.display_id.partition("_" if first.array_job_id else "+")[0] if many else first.display_id
    leaves = [leaf for record in records for leaf in _leaves(record)]
    parts: dict[str, Part] = {}
    for name in dict.fromkeys(name for name, _ in leaves):
        mine = [part for one, part in leaves if one == name]
        parts[name] = Part(sum(part.energy_uj for part in mine), added(part.doubts for part in mine))
    nodes: dict[str, int] = {}
    for record in records:
        for node in record.nodes:
            nodes[node.node] = nodes.get(node.node, 0) + (node.energy_uj or 0)
    start_ns = min((record.start_ns for record in records if record.start_ns), default=0)
    return Subject(
        label=label,
        name=first.name,
        elapsed_s=(max(record.end_ns for record in records) - start_ns) / 1e9 if start_ns else 0.0,
        parts=parts,
        nodes_uj=nodes,
        nodes=max(first.num_nodes, len(nodes)) if many else first.num_nodes,
        cpus=sum(record.cpus for record in records),
        gpus=sum(record.gpus for record in records),
        conditions=_conditions(records),
        gpu_paces=paces([device for record in records for device in record.devices]),
        why=whys[0] if whys else "",
    )


def _why_not(record: EnergyRecord) -> str:
    """Why a record's energy says nothing beside another's."""
    if record.energy_uj is None or q.unresolved(record.energy_uj, record.u_uj) or record.energy_uj <= 0:
        return "its energy is not known" if record.status != "running" else "it still runs"
    if record.status != "complete":
        return {"partial": "its energy is a lower bound"}.get(record.status, "it still runs")
    if record.elapsed_s <= 0:
        return "its time is not known"
    return ""


def _leaves(record: EnergyRecord) -> list[tuple[str, Part]]:
    """Its components that are added up; what an older record does not tell by cause is nobody else's error."""
    components = [c for c in record.components if c.component != METER or len(record.components) == 1]
    if not components or sum(c.energy_uj for c in components) != record.energy_uj:
        return [("all", Part(record.energy_uj or 0, {f"all {record.display_id}": record.u_uj}))]
    return [(c.component, Part(c.energy_uj, doubts_of(c))) for c in components]


def _conditions(records: Sequence[EnergyRecord]) -> dict[str, str]:
    first = records[0]
    methods = {method for record in records for part in record.components for method in part.methods}
    per_node = f"{first.cpus / first.num_nodes:g}" if first.num_nodes else ""
    found: dict[str, Any] = {
        "cluster": first.cluster,
        "partition": first.partition,
        "QOS": first.qos,
        "CPUs of a node": per_node,
        "GPUs": str(first.gpus),
        "nodes": "" if not methods else "alone" if methods <= {"exclusive", "holder"} else "shared with others",
        "figures": first.provenance,
        "state": first.state,
        "suspended": q.duration(first.suspended_s) if first.suspended_s else "",
        "perun": first.perun_version,
        "policy": first.policy_hash[:8],
        "tasks": count(len(records), "job"),
    }
    machines: dict[str, set[str]] = {}
    for known in (condition for record in records for condition in record.conditions):
        machines.setdefault(known.name, set()).update(known.values)
    found |= {name: " and ".join(sorted(values)) for name, values in machines.items()}
    return {name: value for name, value in found.items() if value}
