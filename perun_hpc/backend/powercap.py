"""RAPL energy counters of the kernel's powercap class (Intel and AMD).

The tree is `/sys/class/powercap/ZONE/{name,energy_uj,max_energy_range_uj}` with zones `intel-rapl:P` (package),
`intel-rapl:P:S` (its parts), `intel-rapl-mmio:P` (the same package once more, through another door). AMD uses the same
names. `energy_uj` is readable by root alone since Linux 5.10 (CVE-2020-8694).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.sysfile import NumberFiles, number, reason, text
from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Sensor
from perun_hpc.data_model.units import Quantity

POWERCAP = Path("sys/class/powercap")
MARKER = "perun_simulated"
"""A file of this name in the powercap directory marks the tree as simulated."""

UPDATE_NS = 1_000_000
GAIN_ERROR = 0.03
GAIN_SOURCE = "assumed 3 % (k=1); published comparisons with wall meters lie between 1 and 10 %"
FILTERED = "; SGX is on, which adds noise to differences over short times (energy filtering)"
FAMILIES = {
    "package": ("cpu", "CPU package", 1_500_000_000),
    "dram": ("dram", "memory modules", 500_000_000),
    "psys": ("node", "platform", 16_000_000_000),
    "core": ("cpu", "CPU cores", 1_500_000_000),
    "uncore": ("cpu", "integrated graphics", 500_000_000),
}
"""First word of a domain: component, scope, plausibility ceiling in uW where the zone names no limit."""

OVERSHOOT = 3
"""A package may exceed its configured limit for short: the ceiling is this many times the highest limit.

Some firmware leaves absurd limits; none is trusted beyond twice the family's default.
"""

_ZONE = re.compile(r"^(?P<type>[a-z][a-z0-9-]*):(?P<path>\d+(?::\d+)*)$")
_PACKAGE = re.compile(r"^package-(\d+)(?:-die-(\d+))?$")
COUNTED_ONCE = "none needed: counted once"
_REMEDY = "run as root, start the perun agent, or grant CAP_DAC_READ_SEARCH"


@dataclass(frozen=True, slots=True)
class _Zone:
    directory: Path
    type: str
    path: tuple[int, ...]
    name: str
    range_uj: int | None
    limit_uw: int | None


def discover(
    root: Path = Path("/"), clock: Clock = monotonic_ns, pause: Callable[[float], None] = time.sleep
) -> Discovery:
    """Find all energy zones below `root`; mirrored and doubly listed ones are reported as missing, once counted."""
    base = root / POWERCAP
    zones = _zones(base)
    if not zones:
        return Discovery(missing=_why_none(root))
    simulated = (base / MARKER).exists()
    filtered = _sgx(root)
    missing: list[Missing] = []
    chosen: dict[str, tuple[Sensor, Path]] = {}
    for zone in zones:
        sensor = _sensor(zone, zones, simulated, filtered)
        file = zone.directory / "energy_uj"
        what = f"{zone.directory.name} ({zone.name})"
        if sensor.id in chosen:
            why = f"the same domain as {chosen[sensor.id][1].parent.name}"
            missing.append(Missing(what, why, COUNTED_ONCE))
            continue
        try:
            os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            missing.append(Missing(what, f"cannot read {file}: {reason(error)}", _REMEDY))
            continue
        chosen[sensor.id] = (sensor, file)
    pairs, mirrored = _without_mirrors(_under_psys(tuple(chosen.values())), clock, pause)
    missing.extend(mirrored)
    if not pairs:
        return Discovery(missing=tuple(missing))
    return Discovery((NumberFiles(pairs, clock),), tuple(missing))


def _zones(base: Path) -> list[_Zone]:
    found = []
    try:
        directories = list(base.iterdir())
    except OSError:
        return []
    for directory in directories:
        match = _ZONE.match(directory.name)
        if match is None or not os.path.lexists(directory / "energy_uj"):
            continue
        limits = [number(directory / f"constraint_{i}_max_power_uw") or 0 for i in range(3)]
        limits += [number(directory / f"constraint_{i}_power_limit_uw") or 0 for i in range(3)]
        path = tuple(int(part) for part in match["path"].split(":"))
        range_uj = number(directory / "max_energy_range_uj")
        found.append(
            _Zone(
                directory,
                match["type"],
                path,
                text(directory / "name") or directory.name,
                range_uj,
                max(limits) or None,
            )
        )
    # The plain door before mmio, whole zones before their parts, numbers as numbers (zone 10 after zone 9).
    return sorted(found, key=lambda zone: ("mmio" in zone.type, zone.type, len(zone.path), zone.path))


def _domain(zone: _Zone, zones: list[_Zone]) -> str:
    package = _PACKAGE.match(zone.name)
    if package:
        return f"package-{_number(package)}"
    if zone.name == "psys":
        first = min(other.path[0] for other in zones if other.name == "psys" and other.type == zone.type)
        return "psys" if zone.path[0] == first else f"psys-{zone.path[0]}"
    holder = _holder(zone, zones)
    number_text = holder if holder is not None else "-".join(str(part) for part in zone.path)
    return f"{zone.name}-{number_text}"


def _number(package: re.Match[str]) -> str:
    return f"{package[1]}-die-{package[2]}" if package[2] else package[1]


def _holder(zone: _Zone, zones: list[_Zone]) -> str | None:
    """Number of the package that lists the zone as its part."""
    for other in zones:
        if other.type == zone.type and other.path == zone.path[:1] and len(zone.path) > 1:
            package = _PACKAGE.match(other.name)
            return _number(package) if package else None
    return None


def _sgx(root: Path) -> bool:
    """Whether SGX is on: processors then add noise to RAPL against side channels (Intel, "RAPL energy filtering")."""
    try:
        with (root / "proc/cpuinfo").open("rb") as file:
            head = file.read(8192)  # the first CPU: the kernel makes the text of all of them slowly
    except OSError:
        return False
    flags = next((line for line in head.splitlines() if line.startswith(b"flags")), b"")
    return b"sgx" in flags.split()


def _sensor(zone: _Zone, zones: list[_Zone], simulated: bool, filtered: bool) -> Sensor:
    domain = _domain(zone, zones)
    family = domain.split("-", 1)[0]
    component, scope, ceiling = FAMILIES.get(family, ("other", zone.name, FAMILIES["package"][2]))
    if zone.limit_uw is not None and family == "package":
        ceiling = min(OVERSHOOT * zone.limit_uw, 2 * ceiling)
    holder = _holder(zone, zones)
    # dram is listed below its package but stands beside it: the package counter does not hold it.
    inside = holder is not None and family != "dram"
    return Sensor(
        id=f"powercap:{domain}:energy",
        host=host_name(),
        backend="powercap",
        device=zone.directory.name,
        domain=domain,
        component=component,
        kind=Kind.COUNTER,
        quantity=Quantity.ENERGY,
        unit="uJ",
        wrap_range=wrap_range(zone.range_uj) if zone.range_uj else None,
        gain_error=GAIN_ERROR,
        gain_source=GAIN_SOURCE + (FILTERED if filtered else ""),
        update_ns=UPDATE_NS,
        max_uw=ceiling,
        scope=scope,
        parent=f"powercap:package-{holder}:energy" if inside else None,
        provenance=Provenance.SIMULATED if simulated else Provenance.MEASURED,
    )


def wrap_range(max_energy_range_uj: int) -> int:
    """Modulus of a counter whose largest value is `max_energy_range_uj`.

    The hardware counts 32 bits of a unit: the largest value is (2^32 - 1) units and the counter restarts one unit later
    (drivers/powercap/intel_rapl_common.c, ENERGY_STATUS_MASK).
    """
    units = 2**32 - 1
    return max_energy_range_uj + max(1, (max_energy_range_uj + units // 2) // units)


def _under_psys(pairs: tuple[tuple[Sensor, Path], ...]) -> tuple[tuple[Sensor, Path], ...]:
    meters = [sensor.id for sensor, _ in pairs if sensor.domain == "psys"]
    if len(meters) != 1:
        return pairs
    inside = ("package", "dram")
    return tuple(
        (
            replace(sensor, parent=meters[0]) if sensor.domain.startswith(inside) and sensor.parent is None else sensor,
            file,
        )
        for sensor, file in pairs
    )


def _without_mirrors(
    pairs: tuple[tuple[Sensor, Path], ...], clock: Clock, pause: Callable[[float], None]
) -> tuple[tuple[tuple[Sensor, Path], ...], list[Missing]]:
    """Drop packages that show another package's counter: equal values, and equal again after they moved."""
    packages = [pair for pair in pairs if pair[0].domain.startswith("package")]
    if len(packages) < 2:
        return pairs, []
    first = _values(packages)
    suspects = {value for value in first.values() if value and list(first.values()).count(value) > 1}
    if not suspects:
        return pairs, []
    for _ in range(20):
        pause(0.01)
        second = _values(packages)
        if any(second[name] != first[name] for name, value in first.items() if value in suspects):
            break
    seen: dict[tuple[int | None, int | None], str] = {}
    dropped: dict[str, str] = {}
    for sensor, file in packages:
        key = (first[sensor.id], second[sensor.id])
        if key[0] in suspects and key[0] != key[1] and key in seen:
            dropped[sensor.id] = f"{file.parent.name} shows the same counter as {seen[key]}"
        else:
            seen.setdefault(key, file.parent.name)
    missing = [Missing(name, why, COUNTED_ONCE) for name, why in dropped.items()]
    kept = tuple(pair for pair in pairs if pair[0].id not in dropped)
    return kept, missing


def _values(pairs: list[tuple[Sensor, Path]]) -> dict[str, int | None]:
    return {sensor.id: number(file) for sensor, file in pairs}


def _why_none(root: Path) -> tuple[Missing, ...]:
    flags = text(root / "proc/cpuinfo") or ""
    if "hypervisor" in flags:
        return (
            Missing(
                "RAPL", "this is a virtual machine and its hypervisor shows no energy counters", "measure on the host"
            ),
        )
    if "GenuineIntel" in flags or "AuthenticAMD" in flags:
        return (
            Missing(
                "RAPL",
                "no powercap zone is present",
                "load the kernel module intel_rapl_msr (Linux 5.8 or newer for AMD)",
            ),
        )
    return ()
