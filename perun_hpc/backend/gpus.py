"""Which GPU is meant: UUIDs, PCI addresses, minor numbers, MIG instances, mapped onto energy domains.

Slurm's index of a GPU is the position of its device file, usually the minor number N of /dev/nvidiaN; NVML numbers by
PCI address. The two orders differ on real machines, so nothing here ever uses NVML's index.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.backend.sysfile import text

PROC = Path("proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One MIG instance: its UUID and how many of the GPU's slices it holds."""

    uuid: str
    slices: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `slices` is the number of slices that can be given out in MIG mode, None out of MIG mode."""

    uuid: str
    pci: str
    minor: int | None
    name: str
    slices: int | None = None
    instances: tuple[MigInstance, ...] = ()

    @property
    def domain(self) -> str:
        """Name of its energy domain."""
        return f"gpu-{self.uuid}"

    def to_json(self) -> dict[str, Any]:
        """All attributes as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gpu:
        """Inverse of `to_json`."""
        instances = tuple(MigInstance(**one) for one in data["instances"])
        return cls(data["uuid"], data["pci"], data["minor"], data["name"], data["slices"], instances)


@dataclass(frozen=True, slots=True)
class Held:
    """A job's hold on a GPU: the domain, and the slices of it (None for the whole device)."""

    domain: str
    slices: int | None = None


def from_proc(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """GPUs as NVIDIA's kernel driver lists them, without NVML: UUID, PCI address, minor number."""
    found = []
    try:
        directories = sorted((root / PROC).iterdir())
    except OSError:
        return ()
    for directory in directories:
        fields = {}
        for line in (text(directory / "information") or "").splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
        minor = fields.get("Device Minor", "")
        if fields.get("GPU UUID"):
            number = int(minor) if minor.isdigit() else None
            found.append(Gpu(fields["GPU UUID"], short_pci(directory.name), number, fields.get("Model", "")))
    return tuple(found)


def short_pci(address: str) -> str:
    """`00000000:3B:00.0` and `0000:3b:00.0` alike as `0000:3b:00.0`."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]:0>4}:{rest}"


def resolve(names: Iterable[str], gpus: Iterable[Gpu]) -> tuple[Held, ...]:
    """What a job holds, from the names in its environment; names that match nothing are left out.

    A name is a UUID (`GPU-...`, or its unambiguous beginning), a MIG UUID (`MIG-...`), a PCI address or a minor number.
    """
    everything = list(gpus)
    held: dict[str, Held] = {}
    for name in names:
        word = name.strip()
        for gpu in everything:
            instance = next((one for one in gpu.instances if one.uuid == word), None)
            if instance is not None:
                before = held.get(gpu.domain)
                slices = instance.slices + ((before.slices or 0) if before else 0)
                held[gpu.domain] = Held(gpu.domain, slices)
            elif _names(word, gpu):
                held[gpu.domain] = Held(gpu.domain)
    return tuple(held.values())


def _names(word: str, gpu: Gpu) -> bool:
    if word.isdigit():
        return gpu.minor == int(word)
    if word.startswith("GPU-"):
        return len(word) >= 8 and gpu.uuid.startswith(word)
    return ":" in word and short_pci(word) == gpu.pci
