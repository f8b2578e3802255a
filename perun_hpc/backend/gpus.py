"""Which GPU is meant: UUIDs, PCI addresses, Slurm's numbers, MIG instances, mapped onto energy domains.

A hook hears two lists of the job's GPUs, of the same devices in the same order (`gres_common_prep_set_env` of Slurm's
gres_common.c, 22.05 to 26.05). SLURM_JOB_GPUS holds Slurm's own index (`gres_device->index`): its place among the
device files of gres.conf, so that N is /dev/nvidiaN, or the N-th of /dev/dri/renderD128 and up; but under
AutoDetect=nvml its place in the order of PCI addresses. The two orders differ on real machines, and nothing in a hook's
environment says which one rules: the site may say it, and where nobody did, the doubt is named. CUDA_VISIBLE_DEVICES
and the other vendors' variables hold UUIDs instead, where slurmd knows them: of MIG instances under AutoDetect=nvml,
and from Slurm 25.11 on of whole GPUs. Slurm counts MIG instances as devices of their own: there an index says little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from perun_hpc.backend.sysfile import text
from perun_hpc.data_model import codec

PROC = Path("proc/driver/nvidia/gpus")
FIRST_RENDER_NODE = 128
CAPPED = 0x4
"""Of a GPU's throttle reasons: its power limit (SwPowerCap of nvml.h, whose bits these are)."""
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""Heat (SwThermalSlowdown, HwThermalSlowdown) and the hardware's own brake (HwSlowdown, HwPowerBrakeSlowdown)."""
LEAST = 8
"""Fewer characters of a UUID name nothing."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a GPU that is given out by itself: an NVIDIA MIG instance, or a partition of an AMD GPU.

    `slices` is how many of the GPU's it holds. `number` is `GI/CI`, the numbers of a MIG device's instances: before the
    driver R470 it had no other name than `MIG-GPU-uuid/GI/CI`. `minor` is the number of a device file of its own.
    """

    uuid: str
    slices: int
    number: str = ""
    minor: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `minor` is the number of its device file: N of /dev/nvidiaN or of /dev/dri/renderDN.

    `slices` is how many slices can be given out where it is partitioned, None where it is not. `within` is the domain
    that its energy is counted in, where that is not one of its own.
    """

    uuid: str
    pci: str
    minor: int | None
    name: str
    slices: int | None = None
    partitions: tuple[Partition, ...] = ()
    within: str = ""

    @property
    def domain(self) -> str:
        """Name of its energy domain."""
        return self.within or f"gpu-{self.uuid}"

    def to_json(self) -> dict[str, Any]:
        """All attributes as JSON values."""
        return cast("dict[str, Any]", codec.encode(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gpu:
        """Inverse of `to_json`; `codec.MISFITS` where it is none."""
        return codec.decode(cls, data)


@dataclass(frozen=True, slots=True)
class Held:
    """A job's hold on a GPU: the domain, the slices of it (None for the whole device), and the partitions these are."""

    domain: str
    slices: int | None = None
    partitions: tuple[Partition, ...] = field(default=(), compare=False)


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


def said(numbers: str, names: str) -> list[str]:
    """One word for each of a job's devices, from Slurm's list of numbers and the vendor's of the same devices.

    The vendor's name counts where it is one; there it may be the number, too, or the list may be missing.
    """
    by_number, by_name = _words(numbers), _words(names)
    if len(by_number) == len(by_name):
        return [number if name.isdigit() else name for number, name in zip(by_number, by_name)]
    named = [name for name in by_name if not name.isdigit()]
    return named or by_number or by_name


def understood(numbers: str, names: str, gpus: Iterable[Gpu]) -> tuple[list[str], dict[str, str]]:
    """As `said`, with the number of each device whose name is of a kind that no library gives; and those names.

    ROCm's runtime calls a GPU `GPU-` and 16 digits, AMD SMI by an UUID: a name of ROCR_VISIBLE_DEVICES says nothing
    then. A name of the libraries' own kind that they do not know is a device's that is not there; a MIG instance's is
    never a number's.
    """
    devices, words = list(gpus), said(numbers, names)
    by_number = _words(numbers)
    kinds = {_kind(gpu.uuid) for gpu in devices}
    taken: dict[str, str] = {}
    for place, word in enumerate(words):
        strange = not word.isdigit() and ":" not in word and not word.startswith("MIG-") and _kind(word) not in kinds
        if strange and devices and len(by_number) == len(words) and not resolve([word], devices):
            taken[word] = by_number[place]
    return [taken.get(word, word) for word in words], taken


def _kind(name: str) -> tuple[str, int]:
    """What names of one kind have in common: how they begin, and how many parts they have."""
    first, *others = name.split("-")
    return first if first in ("GPU", "MIG") else "", len(others)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def resolve(names: Iterable[str], gpus: Iterable[Gpu], numbers: str = "auto") -> tuple[Held, ...]:
    """What a job holds, from the names in its environment; names that match nothing are left out.

    A name is a UUID (`GPU-...`, `MIG-...`, or an unambiguous beginning), `MIG-GPU-uuid/GI/CI`, a PCI address or Slurm's
    number; `numbers` says what these mean: `device-files`, `pci`, or `auto`, by which they are taken as device files,
    too. MIG instances have no device file of their own: among them a number is a place in Slurm's list of devices.
    """
    devices = _devices(gpus)
    numbered = _by_number(devices, numbers)
    held: dict[str, Held] = {}
    for name in names:
        word = name.strip()
        device = numbered.get(int(word)) if word.isdigit() else _named(devices, word)
        if device is None:
            continue
        gpu, partition = device
        before = held.get(gpu.domain)
        if partition is None:
            held[gpu.domain] = Held(gpu.domain)
        elif before is None or (before.slices is not None and partition not in before.partitions):
            others = before.partitions if before else ()
            held[gpu.domain] = Held(gpu.domain, sum(one.slices for one in (*others, partition)), (*others, partition))
    return tuple(held.values())


def doubtful(names: Iterable[str], gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Those of Slurm's numbers of which it is not sure which device they mean.

    They mean one device by the device files and another one by the PCI addresses, or a place in Slurm's list alone.
    """
    devices = _devices(gpus)
    numbers = [int(name) for name in names if name.strip().isdigit()]
    by_file, by_pci = _by_number(devices, "device-files"), _by_number(devices, "pci")
    listed = _only_listed(devices)
    return tuple(str(one) for one in numbers if one in by_pci and (listed or by_pci[one] != by_file.get(one)))


def unknown(names: Iterable[str], gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Those of the names that match no device."""
    everything = list(gpus)
    return tuple(name for name in names if not resolve([name], everything))


_Device: TypeAlias = "tuple[Gpu, Partition | None]"
"""What is given out: a GPU, or a partition of it."""


def _devices(gpus: Iterable[Gpu]) -> list[_Device]:
    found: list[_Device] = []
    for gpu in gpus:
        found += [(gpu, one) for one in gpu.partitions] or [(gpu, None)]
    return found


def _minor(device: _Device) -> int | None:
    gpu, partition = device
    return gpu.minor if partition is None else partition.minor


def _only_listed(devices: Iterable[_Device]) -> bool:
    """Whether there are partitions without a device file of their own."""
    return any(partition is not None and partition.minor is None for _, partition in devices)


def _by_number(devices: list[_Device], numbers: str) -> dict[int, _Device]:
    """Devices by Slurm's number; render nodes, which count from 128, also by their place among them."""
    if _only_listed(devices):
        return dict(enumerate(_as_slurm_lists(devices)))
    if numbers == "pci":
        return dict(enumerate(sorted(devices, key=lambda one: one[0].pci)))
    minors = {minor: one for one in devices if (minor := _minor(one)) is not None}
    if minors and min(minors) >= FIRST_RENDER_NODE:
        return {**dict(enumerate(minors[number] for number in sorted(minors))), **minors}
    return minors


def _as_slurm_lists(devices: list[_Device]) -> list[_Device]:
    """In the order of AutoDetect=nvml: whole GPUs by PCI address, then MIG instances by their GPU's device file.

    `_merge_system_gres_conf` of gres_gpu.c sorts by links, which instances have none of, and before that by file.
    """
    whole = sorted((one for one in devices if one[1] is None), key=lambda one: one[0].pci)
    parts = [one for one in devices if one[1] is not None]
    return whole + sorted(parts, key=lambda one: (one[0].minor is None, one[0].minor or 0, one[0].pci))


def _named(devices: list[_Device], word: str) -> _Device | None:
    """The device of that name; None where there is none, or a beginning fits several."""
    found: list[_Device]
    if word.startswith("MIG-GPU-") and word.count("/") == 2:
        uuid, _, number = word[len("MIG-") :].partition("/")
        found = [one for one in devices if one[1] and one[1].number == number and one[0].uuid.startswith(uuid)]
    elif word.startswith("MIG-"):
        found = _called(word, ((one[1].uuid, one) for one in devices if one[1] is not None))
    elif word.startswith("GPU-"):
        found = _called(word, {gpu.uuid: (gpu.uuid, (gpu, None)) for gpu, _ in devices}.values())
    else:
        at = {gpu.domain: gpu for gpu, _ in devices if ":" in word and short_pci(word) == gpu.pci}
        found = [(gpu, None) for gpu in at.values()]
    return found[0] if len(found) == 1 else None


def _called(word: str, named: Iterable[tuple[str, _Device]]) -> list[_Device]:
    """The devices of that UUID, else those whose UUID begins so."""
    everything = list(named)
    whole = [device for uuid, device in everything if uuid == word]
    return whole or [device for uuid, device in everything if len(word) >= LEAST and uuid.startswith(word)]
