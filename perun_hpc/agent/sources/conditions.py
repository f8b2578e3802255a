"""Under which conditions jobs run on this machine, as far as energies depend on it: processor, kernel, clocks, caps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perun_hpc.agent.sources.cpu_settings import LONGEST, text_of


def conditions(root: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of what the kernel shows; `settings` is how the CPUs are set (`CpuSettings.now`)."""
    found = {
        "processor": _processor(text_of(root / "proc/cpuinfo")),
        "kernel": text_of(root / "proc/sys/kernel/osrelease"),
        **settings,
        "boost": _boost(root / "sys/devices/system/cpu"),
    }
    return {name: value[:LONGEST] for name, value in found.items() if value}


def _processor(text: str) -> str:
    fields = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    return " ".join(
        value.strip()
        for name, _, value in fields
        if name.strip() in ("model name", "cpu", "CPU implementer", "CPU part")
    )


def _boost(cpu: Path) -> str:
    """Whether clocks above the nominal one are allowed: by the driver's own file, else Intel's, of the reverse."""
    boost, no_turbo = text_of(cpu / "cpufreq/boost"), text_of(cpu / "intel_pstate/no_turbo")
    return {"1": "on", "0": "off"}.get(boost) or {"0": "on", "1": "off"}.get(no_turbo, "")
