"""What a job holds besides CPUs: GPUs, by the names that Slurm gave them, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.sources.node import Node
from perun_hpc.backend.gpus import Gpu, MigInstance, doubtful, from_proc, resolve
from perun_hpc.energy.attribute import GpuHolding, NodeInput


def gpus_of(node: Node) -> tuple[Gpu, ...]:
    """The node's GPUs: as the vendors' libraries say, else as NVIDIA's kernel driver does."""
    return tuple(gpu for worker in node.workers for gpu in worker.gpus) or from_proc(node.root)


def held(names: str, node: Node, activity: Mapping[str, int] | None = None) -> dict[str, GpuHolding]:
    """Energy domain -> hold, from a list such as `0,1` or of UUIDs; names that match nothing are left out.

    `activity` is that of MIG instances, as far as it is known.
    """
    found = resolve(names.split(","), gpus_of(node), node.choice.gpu_numbers)
    return {
        one.domain: GpuHolding(part=one.slices or 1, activity=_activity(one.instances, activity or {})) for one in found
    }


def _activity(instances: Sequence[MigInstance], known: Mapping[str, int]) -> int | None:
    """Mean activity of a job's instances on one GPU, by their slices; None where that of one of them is not known."""
    slices = sum(one.slices for one in instances)
    if not slices or any(one.uuid not in known for one in instances):
        return None
    return sum(known[one.uuid] * one.slices for one in instances) // slices


def doubts(names: str, node: Node) -> str:
    """Why it is not sure which GPUs the job held; empty where it is."""
    words = doubtful(names.split(","), gpus_of(node)) if node.choice.gpu_numbers == "auto" else ()
    if not words:
        return ""
    return (
        f"GPU {','.join(words)} taken by its device file: by its PCI address it would be another one; "
        "sensors.gpu_numbers of the policy says which holds here"
    )


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
