"""What the kernel says about this machine: its boot, its CPUs, cores, packages and memory."""

from __future__ import annotations

import re
import resource
from collections.abc import Collection
from pathlib import Path

from perun_hpc.data_model import cpu_list
from perun_hpc.energy.attribute import NodeInput

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


def topology(root: Path, packages: Collection[int]) -> NodeInput:
    """CPUs that are online, their cores and packages, and the memory.

    `packages` are those that counters speak of. Where the kernel calls them otherwise (36 and 2364 on Grace, where
    hwmon says 0 and 1) both are taken in order; where it shows more or fewer of them (a virtual machine hides its
    sockets) nobody knows which CPUs are whose, and there are no packages.
    """
    package_of: dict[int, int] = {}
    core_of: dict[int, int] = {}
    names: dict[str | frozenset[int], int] = {}
    base = root / "sys/devices/system/cpu"
    entries = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    cpus = _online(base) or {int(found[1]) for found in map(_CPU.match, entries) if found and _is_on(base / found[0])}
    for cpu in sorted(cpus):
        place = base / f"cpu{cpu}/topology"
        package = _text(place / "physical_package_id")
        package_of[cpu] = int(package) if package.isascii() and package.isdigit() else 0
        core_of[cpu] = names.setdefault(_core(place, cpu, package_of[cpu]), len(names))
    shown, known = sorted(set(package_of.values())), sorted(set(packages))
    if not set(known) <= set(shown):
        called = dict(zip(shown, known, strict=True)) if len(shown) == len(known) else {}
        package_of = {cpu: called[one] for cpu, one in package_of.items() if one in called}
    return NodeInput(package_of=package_of, core_of=core_of, memory_b=_memory_b(root))


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


def confined(node: NodeInput, cpus: Collection[int] | None, counted: int) -> Collection[int] | None:
    """The CPUs of a job's cpuset; None where it confines the job to none.

    With ConstrainCores=no, Slurm's default, a job's cpuset may be the whole node whatever the job was given. Where
    Slurm counted at least as many CPUs as there are cores it may be the job's: with --threads-per-core=1 it counts a
    thread of each core, and both siblings stand in the cpuset.
    """
    anywhere = cpus is not None and bool(node.core_of) and node.core_of.keys() <= set(cpus)
    return None if anywhere and 0 < counted < len(set(node.core_of.values())) else cpus


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
