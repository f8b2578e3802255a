"""What a job holds besides CPUs: GPUs, by the names that Slurm gave them, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.sources.node import Node
from perun_hpc.backend import accelerators
from perun_hpc.backend.gpus import Gpu, Partition, doubtful, from_proc, resolve, said, understood, unknown
from perun_hpc.energy.attribute import GpuHolding, NodeInput


def gpus_of(node: Node) -> tuple[Gpu, ...]:
    """The node's GPUs: as the vendors' libraries say, else as NVIDIA's kernel driver does; in what counts them."""
    named = tuple(gpu for worker in node.workers for gpu in worker.gpus) or from_proc(node.root)
    if not node.accelerators:
        return named
    return accelerators.behind(node.accelerators, named or accelerators.of_amdgpu(node.root), node.root)


def names_of(job: Mapping[str, str]) -> list[str]:
    """One word for each GPU that Slurm gave to a job; empty where it gave none."""
    return said(*_lists(job))


def _lists(job: Mapping[str, str]) -> tuple[str, str]:
    """Slurm's numbers of the job's GPUs, and the vendor's names of them."""
    return job.get("gpus", ""), job.get("gpu_names", "")


def held(job: Mapping[str, str], node: Node, activity: Mapping[str, int] | None = None) -> dict[str, GpuHolding]:
    """Energy domain -> hold, from what Slurm said of a job; names that match nothing are left out.

    `activity` is that of MIG instances, as far as it is known. A GPU in partitions that is held whole is all of them.
    """
    if not any(_lists(job)) or not names_of(job):
        return {}
    gpus = gpus_of(node)
    whole = {gpu.domain: gpu.slices or 1 for gpu in gpus}
    names, _ = understood(*_lists(job), gpus)
    return {
        one.domain: GpuHolding(part=one.slices or whole[one.domain], activity=_activity(one.partitions, activity or {}))
        for one in resolve(names, gpus, node.choice.gpu_numbers)
    }


def held_whole(job: Mapping[str, str], node: Node) -> frozenset[str]:
    """Energy domains of the GPUs of which a job holds all there is."""
    whole = {gpu.domain: gpu.slices or 1 for gpu in gpus_of(node)}
    return frozenset(name for name, one in held(job, node).items() if one.part == whole[name])


def _activity(partitions: Sequence[Partition], known: Mapping[str, int]) -> int | None:
    """Mean activity of a job's MIG instances on one GPU, by their slices; None where that of one is not known."""
    slices = sum(one.slices for one in partitions)
    if not slices or any(one.uuid not in known for one in partitions):
        return None
    return sum(known[one.uuid] * one.slices for one in partitions) // slices


def doubts(job: Mapping[str, str], node: Node) -> str:
    """Why it is not sure which GPUs the job held; empty where it is."""
    gpus = gpus_of(node)
    names, by_number = understood(*_lists(job), gpus)
    nobodys = unknown(names, gpus)
    why = [f"GPU {','.join(nobodys)} is none that can be read here: its energy is not the job's"] if nobodys else []
    why += [
        f"GPU {name} taken by Slurm's number {number}: no library here names GPUs so"
        for name, number in by_number.items()
    ]
    words = doubtful(names, gpus) if node.choice.gpu_numbers == "auto" else ()
    if words and any(gpu.partitions for gpu in gpus):
        why.append(
            f"GPU {','.join(words)} taken by its place in the order of AutoDetect: Slurm gave no name of its partition"
        )
    elif words:
        why.append(
            f"GPU {','.join(words)} taken by its device file: by its PCI address it would be another one; "
            "sensors.gpu_numbers of the policy says which holds here"
        )
    return "; ".join(why)


def holders(sessions: Iterable[Session], node: Node) -> dict[str, list[Session]]:
    """Energy domain of a GPU -> the sessions that hold it."""
    found: dict[str, list[Session]] = {}
    for session in sessions:
        for domain in held(session.job, node):
            found.setdefault(domain, []).append(session)
    return found


def memory_b(session: Session, node: NodeInput) -> int:
    """Memory that the job was given: its cgroup's limit, or without one a part of the node's like that of the CPUs."""
    if 0 < session.memory_b <= node.memory_b:
        return session.memory_b
    cpus = len(session.cpus) or session.cpus_on_node
    return node.memory_b * min(cpus, len(node.core_of)) // max(1, len(node.core_of))
