"""GPUs behind accelerators that a management controller or a card's own meter counts, not the vendor's library.

Cards that hwmon shows have a PCI address. HPE Cray's `accelN` have no name that Slurm knows: they are taken in the
order of their numbers, the GPUs in that of their PCI addresses, equally many to each: an MI250X is two GPUs to Slurm
and one `accel`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perun_hpc.backend.gpus import Gpu, Partition
from perun_hpc.backend.render_nodes import render_node
from perun_hpc.backend.sysfile import entries
from perun_hpc.data_model.sensor import Sensor

BACKENDS = ("cray_pm", "hwmon")
AMD = Path("sys/bus/pci/drivers/amdgpu")
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


def without_names(sensors: Iterable[Sensor]) -> dict[str, str]:
    """The domains of accelerators that no vendor's library counts, in the order of their numbers; each with its PCI
    address where its sensor says it, else an empty text.
    """
    gpus = [sensor for sensor in sensors if sensor.component == "gpu" and sensor.quantity in ("energy", "power")]
    if any(sensor.backend not in BACKENDS for sensor in gpus):
        return {}
    ids = {sensor.id for sensor in gpus}
    outer = [sensor for sensor in gpus if sensor.parent not in ids]
    addresses = {sensor.domain: (_PCI.findall(sensor.device) or [""])[-1] for sensor in outer}
    return dict(sorted(addresses.items(), key=lambda one: _natural(one[0])))


def of_amdgpu(root: Path) -> tuple[Gpu, ...]:
    """The node's GPUs as AMD's kernel driver lists them, without its library."""
    names = [one.name for one in entries(root / AMD) if _PCI.fullmatch(one.name)]
    return tuple(Gpu(name, name, render_node(root, name), "AMD GPU") for name in names)


def behind(domains: Mapping[str, str], gpus: Iterable[Gpu], root: Path) -> tuple[Gpu, ...]:
    """The accelerators as GPUs that Slurm can mean; empty where it is not known which GPU is in which of them."""
    if domains and all(domains.values()):
        return tuple(Gpu(one, pci, render_node(root, pci), "GPU", within=one) for one, pci in domains.items())
    found = sorted(gpus, key=lambda gpu: gpu.pci)
    if not found:
        return tuple(Gpu(domain, "", number, "", within=domain) for number, domain in enumerate(domains))
    each, rest = divmod(len(found), len(domains))
    if rest:
        return ()
    groups = [found[number * each : (number + 1) * each] for number in range(len(domains))]
    return tuple(_accelerator(domain, group) for domain, group in zip(domains, groups, strict=True))


def _accelerator(domain: str, gpus: Sequence[Gpu]) -> Gpu:
    if len(gpus) == 1:
        return replace(gpus[0], within=domain)
    parts = tuple(Partition(gpu.uuid, 1, minor=gpu.minor) for gpu in gpus)
    return Gpu(domain, gpus[0].pci, None, gpus[0].name, len(gpus), parts, domain)


def _natural(domain: str) -> list[tuple[int, str]]:
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", domain)]
