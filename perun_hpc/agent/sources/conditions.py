"""Under which conditions jobs run on this machine, as far as energies depend on it: processor, kernel, clocks, caps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LONGEST = 150
"""Letters of a value."""
LOOKED_AT = 16
"""Groups of CPUs whose clocks are looked at: a node may have hundreds, and the agent has jobs that wait."""
_HEAD_B = 4096
"""What is read of a file: /proc/cpuinfo asks every CPU for its clock, one after the other."""


def conditions(root: Path) -> dict[str, str]:
    """Name -> value of what the kernel shows; several values of one name are joined."""
    cpu, powercap = root / "sys/devices/system/cpu", root / "sys/class/powercap"
    policies = sorted((cpu / "cpufreq").glob("policy*"))[:LOOKED_AT]
    found = {
        "processor": _processor(_text(root / "proc/cpuinfo")),
        "kernel": _text(root / "proc/sys/kernel/osrelease"),
        "governor": _all(_text(one / "scaling_governor") for one in policies),
        "clock limit": _all(_scaled(_text(one / "scaling_max_freq"), 1e6, "GHz") for one in policies),
        "boost": _boost(cpu),
        "power cap": _all(
            _scaled(_text(zone / "constraint_0_power_limit_uw"), 1e6, "W")
            for zone in sorted(powercap.glob("*:*"))
            if _text(zone / "name").startswith("package")
        ),
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
    boost, no_turbo = _text(cpu / "cpufreq/boost"), _text(cpu / "intel_pstate/no_turbo")
    return {"1": "on", "0": "off"}.get(boost) or {"0": "on", "1": "off"}.get(no_turbo, "")


def _scaled(text: str, by: float, unit: str) -> str:
    return f"{int(text) / by:.4g} {unit}" if text.isascii() and text.isdigit() and len(text) < 18 else ""


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _text(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_HEAD_B).decode("ascii", "replace").strip()
    except OSError:
        return ""
