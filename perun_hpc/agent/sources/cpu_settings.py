"""How a node's CPUs are set: governor, limit of the clock, limits of their power; looked at every few seconds.

A job's `--cpu-freq`, a power manager or an administrator may change them at any time, and what idles takes another
power then. Source: Linux, Documentation/admin-guide/pm/cpufreq.rst and Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

LONGEST = 150
"""Letters of a value."""
LOOKED_AT = 16
"""Groups of CPUs, and packages, that are looked at: a node may have hundreds, and the agent has jobs that wait."""
EVERY_NS = 5_000_000_000
EARLY_NS = 500_000_000
"""Who comes so much before is not sent away: the next one may be as late again."""
GOVERNOR, CLOCK, CAP, SHORT_CAP = "governor", "clock limit", "power cap", "short-term power cap"
_HEAD_B = 4096


_Files: TypeAlias = dict[str, list[Path]]
_UNITS = {CLOCK: (1e6, "GHz"), CAP: (1e6, "W"), SHORT_CAP: (1e6, "W")}
_DIRECTORIES = "sys/devices/system/cpu/cpufreq", "sys/class/powercap"


def _files(root: Path) -> _Files:
    """The files that there are, by what they show.

    The caps are those of RAPL's packages: the first constraint is the long-term one, the second the short-term one.
    """
    frequencies, powercap = (root / name for name in _DIRECTORIES)
    policies = sorted(frequencies.glob("policy*"))[:LOOKED_AT]
    zones = sorted(powercap.glob("*:*"))
    packages = list(islice((zone for zone in zones if text_of(zone / "name").startswith("package")), LOOKED_AT))
    wanted = {
        GOVERNOR: [one / "scaling_governor" for one in policies],
        CLOCK: [one / "scaling_max_freq" for one in policies],
        CAP: [zone / "constraint_0_power_limit_uw" for zone in packages],
        SHORT_CAP: [zone / "constraint_1_power_limit_uw" for zone in packages],
    }
    return {name: [path for path in paths if path.exists()] for name, paths in wanted.items()}


def _shown(files: _Files) -> dict[str, str]:
    found = {
        name: joined(scaled(one, *_UNITS[name]) if name in _UNITS else one for one in map(text_of, paths))
        for name, paths in files.items()
    }
    return {name: value[:LONGEST] for name, value in found.items() if value}


@dataclass
class CpuSettings:
    """What was seen last of a host's; `idle_key` names what static power depends on: the governor and the caps.

    `now` is name -> value; several values of one name are joined.
    """

    root: Path
    now: Mapping[str, str] = field(default_factory=dict)
    _due_ns: int = 0
    _names: list[list[str]] = field(default_factory=list)
    _files: _Files = field(default_factory=dict)

    def look(self, mono_ns: int) -> bool:
        """Look again, at most every few seconds; True where something is set otherwise than before."""
        if mono_ns < self._due_ns:
            return False
        self._due_ns = mono_ns + EVERY_NS - EARLY_NS
        names = [_listed(self.root / name) for name in _DIRECTORIES]
        if names != self._names:
            self._names, self._files = names, _files(self.root)
        before, self.now = self.now, _shown(self._files)
        return self.now != before

    @property
    def idle_key(self) -> str:
        """One word of it; empty where the kernel shows none."""
        return " ".join(self.now[name].replace(" ", "") for name in (GOVERNOR, CAP, SHORT_CAP) if name in self.now)


def scaled(text: str, by: float, unit: str) -> str:
    """A whole number in another unit, with four digits; empty where the text is none."""
    return f"{int(text) / by:.4g} {unit}" if text.isascii() and text.isdigit() and len(text) < 18 else ""


def joined(values: Iterable[str]) -> str:
    """The values that there are, each once."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def _listed(directory: Path) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        return [one.name for one in entries]
    return []


def text_of(path: Path) -> str:
    """The beginning of a file of the kernel's; empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, _HEAD_B).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)
