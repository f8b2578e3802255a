"""What the kernel says about this machine: its boot, its CPUs, cores, packages and memory."""

from __future__ import annotations

import binascii
import re
import resource
from collections.abc import Collection, Mapping
from pathlib import Path

from perun_hpc.data_model import cpu_list
from perun_hpc.energy.attribute import NodeInput
from perun_hpc.energy.containment import package_and_die

_CPU = re.compile(r"cpu(\d+)$")
_LIST = re.compile(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", re.ASCII)


MOST_FILES = 16_384
KEPT_FILES = 768
"""Descriptors that are not for ranks: connections, counters, the agent's own files."""


def allow_files() -> int:
    """Raise the limit of open files as far as it goes; returns how many of them are for ranks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(0, soft - KEPT_FILES)


def boot_id(root: Path) -> str:
    """The identity of this boot; empty where the kernel does not say."""
    return _text(root / "proc/sys/kernel/random/boot_id")


def machine_id(root: Path) -> str:
    """What tells machines of one name apart: a checksum of /etc/machine-id; empty where none is."""
    stated = _text(root / "etc/machine-id")
    return f"{binascii.crc32(stated.encode()):08x}" if stated else ""


def topology(root: Path, packages: Collection[int]) -> NodeInput:
    """CPUs that are online, their cores and packages, and the memory.

    `packages` are those that counters speak of (`energy.containment.package_number`). Where the kernel calls them
    otherwise (36 and 2364 on Grace, where hwmon says 0 and 1) both are taken in order; where it shows more or fewer of
    them (a virtual machine hides its sockets) nobody knows which CPUs are whose, and there are no packages.
    """
    place_of: dict[int, tuple[int, int]] = {}
    core_of: dict[int, int] = {}
    names: dict[str | frozenset[int], int] = {}
    base = root / "sys/devices/system/cpu"
    entries = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    cpus = _online(base) or {int(found[1]) for found in map(_CPU.match, entries) if found and _is_on(base / found[0])}
    for cpu in sorted(cpus):
        place = base / f"cpu{cpu}/topology"
        package, die = (_number(place / name) for name in ("physical_package_id", "die_id"))
        place_of[cpu] = package, die
        core_of[cpu] = names.setdefault(_core(place, cpu, package), len(names))
    return NodeInput(package_of=_packages(place_of, packages), core_of=core_of, memory_b=_memory_b(root))


def _packages(place_of: Mapping[int, tuple[int, int]], counted: Collection[int]) -> dict[int, int]:
    """CPU -> the number under which its package, or its die, is counted; none where that is not known of all.

    `place_of` is the kernel's: CPU -> package and die. Intel's multi-die packages (Cascade Lake-AP) have a counter for
    each die. A die that alone is counted of its package stands for the whole: so the kernel lists AMD's packages, whose
    dies all show one register (`backend.mirrors`).
    """
    dies: dict[int, dict[int, int]] = {}
    for number in counted:
        package, die = package_and_die(number)
        dies.setdefault(package, {})[-1 if die is None else die] = number
    shown, known = sorted({package for package, _ in place_of.values()}), sorted(dies)
    called = {package: package for package in shown}
    if not set(known) <= set(shown):
        called = dict(zip(shown, known, strict=True)) if len(shown) == len(known) else {}
    found: dict[int, int] = {}
    for package, name in called.items():
        its = {cpu: die for cpu, (one, die) in place_of.items() if one == package}
        found |= _dies(its, dies.get(name, {}), name)
    return found if len(found) == len(place_of) else {}


def _dies(die_of: Mapping[int, int], counted: Mapping[int, int], package: int) -> dict[int, int]:
    """CPU of one package -> the number of its counter; none where its dies are not those that are counted."""
    if len(counted) < 2:
        return dict.fromkeys(die_of, next(iter(counted.values()), package))
    shown, known = sorted(set(die_of.values())), sorted(counted)
    if shown == known:
        return {cpu: counted[die] for cpu, die in die_of.items()}
    called = dict(zip(shown, known, strict=True)) if len(shown) == len(known) else {}
    return {cpu: counted[called[die]] for cpu, die in die_of.items() if die in called}


def _number(path: Path) -> int:
    """What a file of the topology says; 0 where it says nothing, as the kernel says -1 of what it does not know."""
    said = _text(path)
    return int(said) if said.isascii() and said.isdigit() else 0


def _core(place: Path, cpu: int, package: int) -> str | frozenset[int]:
    """What tells a CPU's core from others: the CPUs that share it.

    `core_id` is a number within a die, a cluster of cores or a NUMA node, as the architecture has it: on an SG2042
    every cluster begins at 0 again, on Opterons each of a package's two nodes. Linux 5.3 brought `core_cpus_list`.
    """
    for name in ("core_cpus_list", "thread_siblings_list"):
        siblings = _cpus(_text(place / name))
        if cpu in siblings:
            return siblings
    core = _text(place / "core_id")
    return f"{package} {_text(place / 'die_id')} {_text(place / 'cluster_id')} {core}" if core else f"cpu{cpu}"


def confined(
    node: NodeInput, cpus: Collection[int] | None, counted: int, beside: bool = False
) -> Collection[int] | None:
    """The CPUs of a job's cpuset; None where it confines the job to none.

    With ConstrainCores=no, Slurm's default, a job's cpuset may be the whole node whatever the job was given. Where
    Slurm counted at least as many CPUs as there are cores it may be the job's: with --threads-per-core=1 it counts a
    thread of each core, and both siblings stand in the cpuset. It is not the job's where another one runs `beside` it,
    unless Slurm counted every CPU, as of jobs that share all of them (OverSubscribe).
    """
    if cpus is None or not node.core_of or not node.core_of.keys() <= set(cpus) or counted <= 0:
        return cpus
    least = len(node.core_of) if beside else len(set(node.core_of.values()))
    return None if counted < least else cpus


def kind(root: Path, node: NodeInput) -> str:
    """What machine this is, as far as its static power goes: its processor and how many of what; cut to 200."""
    model = ""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "cpu", "CPU implementer", "CPU part"):
            model = f"{model} {value.strip()}".strip()
        elif not name.strip() and model:
            break  # the next CPU
    return f"{model[:150]}, {len(node.core_of)} CPUs, {len(set(node.package_of.values()))} packages"


def _online(base: Path) -> frozenset[int]:
    """The CPUs that the kernel says are online; none where it says nothing that can be."""
    return _cpus(_text(base / "online"))


def _is_on(directory: Path) -> bool:
    """Whether a CPU is online, by its own directory; the first one often cannot be switched off, and has no file."""
    return _text(directory / "online") != "0"


def _cpus(text: str) -> frozenset[int]:
    """CPUs as the kernel lists them; none where that is no list."""
    try:
        return cpu_list.parse(text) if _LIST.fullmatch(text) else frozenset()
    except ValueError:
        return frozenset()


def joined(former: NodeInput, now: NodeInput) -> NodeInput:
    """The CPUs of both; one that is there no more stands on a core of its own."""
    beyond = 1 + max((*former.core_of.values(), *now.core_of.values()), default=0)
    gone = sorted(former.core_of.keys() - now.core_of.keys())
    return NodeInput(
        package_of={**former.package_of, **now.package_of} if former.package_of and now.package_of else {},
        core_of={**{cpu: beyond + place for place, cpu in enumerate(gone)}, **now.core_of},
        memory_b=now.memory_b,
    )


def _memory_b(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            size_kb = line.split()[1:2]
            return int(size_kb[0]) * 1024 if size_kb and size_kb[0].isdigit() else 0
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return ""
