"""What a job holds besides CPUs: GPUs, by the names that Slurm gave them, and memory."""

from __future__ import annotations

from collections.abc import Iterable

from perun_hpc.agent.node import Node
from perun_hpc.agent.session import Session
from perun_hpc.backend.gpus import Gpu, from_proc, resolve
from perun_hpc.energy.attribute import GpuHolding, NodeInput


def gpus_of(node: Node) -> tuple[Gpu, ...]:
    """The node's GPUs: as the vendors' libraries say, else as NVIDIA's kernel driver does."""
    return tuple(gpu for worker in node.workers for gpu in worker.gpus) or from_proc(node.root)


def held(names: str, node: Node) -> dict[str, GpuHolding]:
    """Energy domain -> hold, from a list such as `0,1` or of UUIDs; names that match nothing are left out."""
    found = resolve(names.split(","), gpus_of(node))
    return {one.domain: GpuHolding(part=one.slices or 1) for one in found}


def holders(sessions: Iterable[Session], node: Node) -> dict[str, list[Session]]:
    """Energy domain of a GPU -> the sessions that hold it."""
    found: dict[str, list[Session]] = {}
    for session in sessions:
        if session.job.get("gpus"):
            for domain in held(session.job["gpus"], node):
                found.setdefault(domain, []).append(session)
    return found


def memory_b(session: Session, node: NodeInput) -> int:
    """Memory that the job was given: its cgroup's limit, or without one a part of the node's like that of the CPUs."""
    if 0 < session.memory_b <= node.memory_b:
        return session.memory_b
    cpus = len(session.cpus) or session.cpus_on_node
    return node.memory_b * min(cpus, len(node.core_of)) // max(1, len(node.core_of))
