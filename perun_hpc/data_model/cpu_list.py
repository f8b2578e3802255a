"""CPUs as the kernel lists them: `0-3,8`."""

from __future__ import annotations

from collections.abc import Iterable

MOST_CPUS = 1 << 16
"""Kernels are built for 8192 at most."""


def parse(text: str) -> frozenset[int]:
    """CPUs of a list such as `0-3,8,10-11`; ValueError where it is none."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            if int(last or first) >= MOST_CPUS:
                raise ValueError(f"no CPU has the number {last or first}")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def text(cpus: Iterable[int]) -> str:
    """Inverse of `parse`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
