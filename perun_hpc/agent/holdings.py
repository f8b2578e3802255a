"""Which GPUs a job holds, by the names that Slurm gave them."""

from __future__ import annotations

from perun_hpc.agent.node import Node
from perun_hpc.backend.gpus import Gpu, from_proc, resolve
from perun_hpc.energy.attribute import GpuHolding


def gpus_of(node: Node) -> tuple[Gpu, ...]:
    """The node's GPUs: as the vendors' libraries say, else as NVIDIA's kernel driver does."""
    return tuple(gpu for worker in node.workers for gpu in worker.gpus) or from_proc(node.root)


def held(names: str, node: Node) -> dict[str, GpuHolding]:
    """Energy domain -> hold, from a list such as `0,1` or of UUIDs; names that match nothing are left out."""
    found = resolve(names.split(","), gpus_of(node))
    return {one.domain: GpuHolding(part=one.slices or 1) for one in found}
