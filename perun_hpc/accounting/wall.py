"""What a job's energy was at the wall where no meter is: by the model of its nodes' type (`perun calibrate`).

E_wall = sum over components of b_c E_c + b0 T r. Of the static part of the node's time T the job has the part r that it
has of what its node's counters counted in that time, as the rest of a node's meter is shared out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perun_hpc.accounting.evidence import component_named
from perun_hpc.data_model.record import EnergyRecord

Model = Mapping[str, Any]
"""`energy.wall_model` of the policy."""


@dataclass(frozen=True)
class WallEnergy:
    """An energy at the wall in uJ, its relative standard uncertainty (k=1), and where the models are from."""

    energy_uj: int
    u: float
    sources: tuple[str, ...]


def at_wall(record: EnergyRecord, model_of: Callable[[str], Model | None]) -> WallEnergy | None:
    """Return a job's energy at the wall by its nodes' models; None where a node has none, or a part is not known.

    `model_of` gives the model of a node, by its name.
    """
    if not record.energy_uj or record.energy_uj < 0 or len(record.nodes) < record.num_nodes:
        return None
    total = error = 0.0
    sources: dict[str, None] = {}
    for node in record.nodes:
        model = model_of(node.node)
        if not model or node.energy_uj is None or not node.node_uj or node.node_uj <= 0:
            return None
        parts = [(component_named(s.domain), s.energy_uj) for s in record.shares if s.node == node.node]
        if any(name not in ("cpu", "dram", "gpu") for name, _ in parts):
            return None
        moving = math.fsum(float(model.get(name, 1.0)) * uj for name, uj in parts)
        held = min(1.0, max(0.0, node.energy_uj / node.node_uj))
        wall = moving + model["static_uw"] * (node.end_ns - node.start_ns) / 1e9 * held
        total += wall
        error += wall * float(model["error"])  # nodes of a type err alike
        sources[f"wall model: {model['source']}, {model['date']}"] = None
    if total <= 0:
        return None
    return WallEnergy(round(total), math.hypot(error / total, record.u_uj / record.energy_uj), tuple(sources))
