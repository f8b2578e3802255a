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

    `packages` are those that counters speak of. Where the kernel shows fewer (a virtual machine hides its sockets),
    CPUs are dealt out to them in turn.
    """
    package_of: dict[int, int] = {}
    core_of: dict[int, int] = {}
    names: dict[tuple[int, str], int] = {}
    base = root / "sys/devices/system/cpu"
    entries = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    cpus = _online(base) or {int(found[1]) for found in map(_CPU.match, entries) if found}
    for cpu in sorted(cpus):
        package = _text(base / f"cpu{cpu}/topology/physical_package_id")
        core = _text(base / f"cpu{cpu}/topology/core_id")
        package_of[cpu] = int(package) if package.isascii() and package.isdigit() else 0
        core_of[cpu] = names.setdefault((package_of[cpu], core or f"cpu{cpu}"), len(names))
    if not set(packages) <= set(package_of.values()):
        known = sorted(packages)
        package_of = {cpu: known[place % len(known)] for place, cpu in enumerate(sorted(package_of))}
    return NodeInput(package_of=package_of, core_of=core_of, memory_b=_memory_b(root))


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
    online = _text(base / "online")
    try:
        return cpu_list.parse(online) if _LIST.fullmatch(online) else frozenset()
    except ValueError:
        return frozenset()


def joined(former: NodeInput, now: NodeInput) -> NodeInput:
    """The CPUs of both; one that is there no more stands on a core of its own."""
    beyond = 1 + max((*former.core_of.values(), *now.core_of.values()), default=0)
    gone = sorted(former.core_of.keys() - now.core_of.keys())
    return NodeInput(
        package_of={**former.package_of, **now.package_of},
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
