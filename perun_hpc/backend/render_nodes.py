"""Device files /dev/dri/renderDN of a GPU and of its partitions, as the kernel shows them.

An AMD GPU in partitions (MI300) has a render node at its PCI device, which is the first partition's, and further ones
at platform devices amdgpu_xcp.N, which say of no GPU that they are its (`amdgpu_xcp_dev_alloc` of the kernel's
amdgpu_xcp.c). The topology of the compute driver (KFD) says it of those partitions that are in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perun_hpc.backend.sysfile import entries, text

PCI = Path("sys/bus/pci/devices")
XCP = Path("sys/devices/platform")
KFD = Path("sys/class/kfd/kfd/topology/nodes")


def render_node(root: Path, pci: str) -> int | None:
    """N of the /dev/dri/renderDN of a PCI device, None where the kernel's driver made none."""
    return next(_nodes(root / PCI / pci), None)


def render_nodes(root: Path, pci: str, partitions: int) -> tuple[int, ...]:
    """The render nodes of a GPU's partitions, in their order: those of KFD, else the GPU's own and those after it.

    Each GPU's driver makes its own node and then those of the partitions that it could have, before the next GPU's
    does: of those between two GPUs' the first `partitions` are in use.
    """
    in_use = _topology(root).get(pci.rpartition(".")[0], ())
    first = render_node(root, pci)
    if in_use or first is None:
        return tuple(in_use)
    others = sorted(number for device in entries(root / PCI) for number in _nodes(device))
    next_gpu = min((number for number in others if number > first), default=None)
    xcp = [one for one in entries(root / XCP) if one.name.startswith("amdgpu_xcp")]
    behind = sorted(number for device in xcp for number in _nodes(device) if number > first)
    mine = [first, *(number for number in behind if next_gpu is None or number < next_gpu)]
    return tuple(mine[:partitions])


def _topology(root: Path) -> dict[str, list[int]]:
    """Render nodes by PCI address without the function, in the order of KFD's nodes, of which each is a partition.

    `location_id` holds bus, device and function; a partition's number stands in the function, or in the highest bits.
    """
    found: dict[str, list[int]] = {}
    for node in sorted(entries(root / KFD), key=lambda one: (len(one.name), one.name)):
        words = [line.split() for line in (text(node / "properties") or "").splitlines()]
        known = {name: int(value) for name, value in (one for one in words if len(one) == 2) if value.isdigit()}
        if known.get("simd_count") and known.get("drm_render_minor"):
            place = known.get("location_id", 0) & 0xFFFF
            pci = f"{known.get('domain', 0):04x}:{place >> 8:02x}:{place >> 3 & 0x1F:02x}"
            found.setdefault(pci, []).append(known["drm_render_minor"])
    return found


def _nodes(device: Path) -> Iterator[int]:
    for one in entries(device / "drm"):
        if one.name.startswith("renderD") and one.name[7:].isdigit():
            yield int(one.name[7:])
