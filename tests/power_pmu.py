"""A node whose power PMU is the kernel's own clock of a CPU: a real perf group, beside powercap files of the test's.

The PMU's directory names the type of software events and their event 0, which counts the ns of a CPU's clock, so that
`perf_event_open` makes a group as RAPL's would be. No RAPL is needed, and nothing of perun is replaced.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from pathlib import Path

from perun_hpc.backend.power_pmu import PMU, Group

NAMES = {"pkg": "package-0", "cores": "core", "ram": "dram", "gpu": "uncore", "psys": "psys"}
"""Event -> name of its zone."""
SCALE = "1e-6"
"""J per ns: as much as a kilowatt."""
ENABLE, DISABLE, WHOLE = 0x2400, 0x2401, 1


def zones(root: Path, names: Mapping[str, str], range_uj: int = 262_143_328_850) -> dict[str, Path]:
    """Powercap zones (directory -> name); the file of each one's counter, by the name."""
    files = {}
    for zone, name in names.items():
        directory = root / "sys/class/powercap" / zone
        directory.mkdir(parents=True)
        (directory / "name").write_text(name)
        (directory / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (directory / "energy_uj").write_text("1000000\n".ljust(24, "\n"))
        files[name] = directory / "energy_uj"
    return files


def pmu(root: Path, events: Mapping[str, str], cpumask: str = "0", kind: str = "1", scale: str = SCALE) -> None:
    """The PMU with its events (name -> what its file says), on CPUs of packages with their own numbers."""
    base = root / PMU
    (base / "events").mkdir(parents=True)
    (base / "type").write_text(f"{kind}\n")
    (base / "cpumask").write_text(f"{cpumask}\n")
    for name, said in events.items():
        (base / f"events/energy-{name}").write_text(f"{said}\n")
        (base / f"events/energy-{name}.scale").write_text(f"{scale}\n")
        (base / f"events/energy-{name}.unit").write_text("Joules\n")
    for cpu in cpumask.split(","):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True, exist_ok=True)
        (topology / "physical_package_id").write_text(f"{cpu}\n")
        (topology / "die_id").write_text("0\n")


def put(file: Path, uj: int) -> None:
    """Write a counter in place, as long as before."""
    with file.open("r+") as out:
        out.write(f"{uj}\n".ljust(24, "\n"))


def go_on(group: Group, seconds: float = 0.005) -> list[int]:
    """Let a group count for so long and then stand still; what it has counted, in uJ."""
    fcntl.ioctl(group.fds[0], ENABLE, WHOLE)
    time.sleep(seconds)
    fcntl.ioctl(group.fds[0], DISABLE, WHOLE)
    return group.read()
