"""Which GPU is meant: UUIDs, PCI addresses, Slurm's numbers, MIG instances, mapped onto energy domains.

A hook hears Slurm's own index of a GPU (`gres_common_prep_set_env` of Slurm's gres_common.c writes
`gres_device->index`): its place among the device files of gres.conf, so that N is /dev/nvidiaN, or the N-th of
/dev/dri/renderD128 and up; but under AutoDetect=nvml its place in the order of PCI addresses. The two orders differ on
real machines, and nothing in a hook's environment says which one rules: the site may say it, and where nobody did,
the doubt is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from perun_hpc.backend.sysfile import text
from perun_hpc.data_model import codec

PROC = Path("proc/driver/nvidia/gpus")
FIRST_RENDER_NODE = 128


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One MIG instance: its UUID and how many of the GPU's slices it holds."""

    uuid: str
    slices: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one partition of an AMD GPU, which carries the UUID of the whole.

    `minor` is the number of its device file: N of /dev/nvidiaN or of /dev/dri/renderDN. `slices` is the number of
    slices that can be given out in MIG mode, None out of MIG mode.
    """

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
        return cast("dict[str, Any]", codec.encode(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gpu:
        """Inverse of `to_json`; `codec.MISFITS` where it is none."""
        return codec.decode(cls, data)


@dataclass(frozen=True, slots=True)
class Held:
    """A job's hold on a GPU: the domain, the slices of it (None for the whole device), and the instances these are."""

    domain: str
    slices: int | None = None
    instances: tuple[MigInstance, ...] = field(default=(), compare=False)


_ACTIVITY = "activity-"


def activity_name(uuid: str) -> str:
    """What the id of a MIG instance's activity sensor ends with."""
    return _ACTIVITY + uuid


def instance_of(sensor: str) -> str | None:
    """The MIG instance whose activity a sensor (its id) shows; None for any other sensor."""
    name = sensor.rpartition(":")[2]
    return name[len(_ACTIVITY) :] if name.startswith(_ACTIVITY) else None


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


def render_node(root: Path, pci: str) -> int | None:
    """N of the /dev/dri/renderDN of a PCI device, None where the kernel's driver made none."""
    try:
        names = [one.name for one in (root / "sys/bus/pci/devices" / pci / "drm").iterdir()]
    except OSError:
        return None
    return next((int(name[7:]) for name in names if name.startswith("renderD") and name[7:].isdigit()), None)


def resolve(names: Iterable[str], gpus: Iterable[Gpu], numbers: str = "auto") -> tuple[Held, ...]:
    """What a job holds, from the names in its environment; names that match nothing are left out.

    A name is a UUID (`GPU-...`, or its unambiguous beginning), a MIG UUID (`MIG-...`), a PCI address or Slurm's number;
    `numbers` says what these mean: `device-files`, `pci`, or `auto`, by which they are taken as device files, too.
    """
    everything = list(gpus)
    numbered = _by_pci(everything) if numbers == "pci" else _by_device_file(everything)
    held: dict[str, Held] = {}
    for name in names:
        word = name.strip()
        for gpu in everything:
            instance = next((one for one in gpu.instances if one.uuid == word), None)
            if instance is not None:
                before = held.get(gpu.domain)
                slices = instance.slices + ((before.slices or 0) if before else 0)
                held[gpu.domain] = Held(gpu.domain, slices, (*(before.instances if before else ()), instance))
            elif numbered.get(int(word)) is gpu if word.isdigit() else _names(word, gpu):
                held[gpu.domain] = Held(gpu.domain)
    return tuple(held.values())


def doubtful(names: Iterable[str], gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Those of Slurm's numbers that mean one GPU by the device files and another one by the PCI addresses."""
    everything = list(gpus)
    by_file, by_pci = _by_device_file(everything), _by_pci(everything)
    numbers = [int(name) for name in names if name.strip().isdigit()]
    return tuple(str(one) for one in numbers if by_pci.get(one) not in (None, by_file.get(one)))


def _by_device_file(gpus: list[Gpu]) -> dict[int, Gpu]:
    """GPUs by the number of their device file; render nodes, which count from 128, also by their place among them."""
    minors = {gpu.minor: gpu for gpu in gpus if gpu.minor is not None}
    if minors and min(minors) >= FIRST_RENDER_NODE:
        return {**dict(enumerate(minors[number] for number in sorted(minors))), **minors}
    return minors


def _by_pci(gpus: list[Gpu]) -> dict[int, Gpu]:
    return dict(enumerate(sorted(gpus, key=lambda gpu: gpu.pci)))


def _names(word: str, gpu: Gpu) -> bool:
    if word.startswith("GPU-"):
        return len(word) >= 8 and gpu.uuid.startswith(word)
    return ":" in word and short_pci(word) == gpu.pci
