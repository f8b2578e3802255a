"""RAPL energy counters of the kernel's powercap class (Intel and AMD).

The tree is `/sys/class/powercap/ZONE/{name,energy_uj,max_energy_range_uj}` with zones `intel-rapl:P` (package),
`intel-rapl:P:S` (its parts), `intel-rapl-mmio:P` (the same package once more, through another door). AMD uses the same
names. `energy_uj` is readable by root alone since Linux 5.10 (CVE-2020-8694).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.backend import mirrors, rapl_gain, zone_power
from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.sysfile import HANGS, LOOK, NumberFiles, entries, number, reason, text, unheard
from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Sensor
from perun_hpc.data_model.units import Quantity

POWERCAP = zone_power.POWERCAP
MARKER = "perun_simulated"
"""A file of this name in the powercap directory marks the tree as simulated."""

UPDATE_NS = 1_000_000
MEMORY_OFFSET_UW = 1_200_000
"""RAPL of memory is off by a constant power that differs between systems, by a watt or so (Desrochers, Paradis and
Weaver, MEMSYS 2016: worst where memory idles); which, nobody can say without an instrument."""
FAMILIES = {
    "package": ("cpu", "CPU package", 1_500_000_000),
    "dram": ("dram", "memory modules", 500_000_000),
    "psys": ("node", "platform", 16_000_000_000),
    "core": ("cpu", "CPU cores", 1_500_000_000),
    "uncore": ("cpu", "integrated graphics", 500_000_000),
}
"""First word of a domain: component, scope, plausibility ceiling in uW where the zone names no limit."""

APU_PACKAGE = "CPU package of an APU, in which it is not documented what of its GPU and memory is counted"
OVERSHOOT = 3
"""A package may exceed its configured limit for short: the ceiling is this many times the highest limit.

Some firmware leaves absurd limits; none is trusted beyond twice the family's default.
"""

_ZONE = re.compile(r"^(?P<type>[a-z][a-z0-9-]*):(?P<path>[0-9a-f]+(?::[0-9a-f]+)*)$")
"""The kernel numbers zones in hexadecimal (`%s:%x`, drivers/powercap/powercap_sys.c): after `:9` comes `:a`."""
_PACKAGE = re.compile(r"^package-(\d+)(?:-die-(\d+))?$")
_PSYS = re.compile(r"^psys(?:-(\d+))?$")
_REMEDY = "run as root, start the perun agent, or grant CAP_DAC_READ_SEARCH"


@dataclass(frozen=True, slots=True)
class _Zone:
    directory: Path
    type: str
    path: tuple[int, ...]
    name: str
    range_uj: int | None
    limit_uw: int | None

    @property
    def package(self) -> str | None:
        """Number of the package that it is, with its die's: `0`, `0-die-1`; None for any other zone."""
        found = _PACKAGE.match(self.name)
        return None if found is None else f"{found[1]}-die-{found[2]}" if found[2] else found[1]


def discover(
    root: Path = Path("/"),
    clock: Clock = monotonic_ns,
    pause: Callable[[float], None] = time.sleep,
    about: Callable[[str], None] = unheard,
    skip: Collection[str] = (),
) -> Discovery:
    """Find all energy zones below `root`; mirrored and doubly listed ones are reported as missing, once counted.

    `about` hears of each zone before a file of it is read, and `skip` names those that are not to be: a read may never
    come back (registers behind a bus or a mailbox).
    """
    base = root / POWERCAP
    zones, missing = _zones(base, about, skip)
    powers = zone_power.discover(root, clock, about, skip)
    missing += powers.missing
    if not zones:
        return Discovery(powers.readers, (*missing, *(() if powers.readers else _why_none(root))))
    simulated = (base / MARKER).exists()
    cpu = _first_cpu(root)
    if b"hypervisor" in cpu and not simulated and _stand_at_zero(zones, pause):
        why = "this is a virtual machine, and the counters that it shows stand at 0: its hypervisor passes none through"
        lost = (Missing(f"{one.directory.name} ({one.name})", why, _ON_THE_HOST, "cpu") for one in zones)
        return Discovery(powers.readers, (*missing, *lost))
    gain = rapl_gain.gain(cpu)
    domains = _domains(zones)
    chosen: dict[str, tuple[Sensor, Path]] = {}
    for zone in zones:
        sensor = _sensor(zone, zones, domains[zone.directory], simulated, gain)
        if b"MI300A" in cpu and zone.package is not None:
            sensor = replace(sensor, scope=APU_PACKAGE)
        file = zone.directory / "energy_uj"
        what = f"{zone.directory.name} ({zone.name})"
        if sensor.id in chosen:
            why = f"the same domain as {chosen[sensor.id][1].parent.name}"
            missing.append(Missing(what, why, mirrors.ONE_COUNTER))
            continue
        try:
            os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            missing.append(Missing(what, f"cannot read {file}: {reason(error)}", _REMEDY, sensor.component))
            continue
        chosen[sensor.id] = (sensor, file)
    same = mirrors.find(tuple(chosen.values()), pause)
    missing += [one.missing for one in same.values()]
    pairs = _under_psys(_kept(chosen, same))
    counters = (NumberFiles(pairs, clock),) if pairs else ()
    return Discovery((*counters, *powers.readers), tuple(missing))


def _stand_at_zero(zones: list[_Zone], pause: Callable[[float], None]) -> bool:
    """Whether no zone has ever counted: a processor's registers are renewed every ms, and 0 once in 2^32 values."""
    first = [number(zone.directory / "energy_uj") for zone in zones]
    if any(first) or None in first:
        return False
    pause(mirrors.PAUSE_S)
    return not any(number(zone.directory / "energy_uj") for zone in zones)


def _zones(base: Path, about: Callable[[str], None], skip: Collection[str]) -> tuple[list[_Zone], list[Missing]]:
    found: list[_Zone] = []
    unknown: list[Missing] = []
    for directory in entries(base):
        if not os.path.lexists(directory / "energy_uj"):
            continue
        match = _ZONE.match(directory.name)
        if match is None:
            unknown.append(Missing(directory.name, "its name is none of a zone", "report this as a fault of perun"))
            continue
        stuck = [one for one in skip if f"{directory.name}:".startswith(f"{one}:")]
        if stuck:  # a part without what it is a part of would be taken for a package
            why = HANGS if directory.name in stuck else f"it is a part of {stuck[0]}, a read of which did not come back"
            unknown.append(Missing(directory.name, why, LOOK, "cpu"))
            continue
        about(directory.name)
        number(directory / "energy_uj")
        limits = [number(directory / f"constraint_{i}_max_power_uw") or 0 for i in range(3)]
        limits += [number(directory / f"constraint_{i}_power_limit_uw") or 0 for i in range(3)]
        path = tuple(int(part, 16) for part in match["path"].split(":"))
        range_uj = number(directory / "max_energy_range_uj")
        name = text(directory / "name") or directory.name.replace(":", "-")
        found.append(_Zone(directory, match["type"], path, name, range_uj, max(limits) or None))
    # The plain door before mmio, whole zones before their parts, numbers as numbers (zone 10 after zone 9).
    return sorted(found, key=lambda zone: ("mmio" in zone.type, zone.type, len(zone.path), zone.path)), unknown


def _domains(zones: list[_Zone]) -> dict[Path, str]:
    """Directory -> domain of each zone."""
    platforms = _platforms(zones)
    found = {}
    for zone in zones:
        holder = _holder(zone, zones)
        numbers = holder if holder is not None else "-".join(str(part) for part in zone.path)
        if zone.package is not None:
            found[zone.directory] = f"package-{zone.package}"
        else:
            found[zone.directory] = platforms.get(zone.directory) or f"{zone.name}-{numbers}"
    return found


def _platforms(zones: list[_Zone]) -> dict[Path, str]:
    """Directory -> domain of each platform (psys): `psys` the only one, `psys-1` that of package 1, with its parts.

    The kernel registers a platform right behind its package and calls the first one `psys`, as old ones call all
    (drivers/powercap/intel_rapl_common.c). One whose package is not known is `psys-of-ZONE`.
    """
    found: dict[Path, str] = {}
    for kind in dict.fromkeys(zone.type for zone in zones):
        before, packages = "", set[str]()
        named: list[tuple[_Zone, str]] = []
        for zone in (one for one in zones if one.type == kind and len(one.path) == 1):
            match = _PSYS.match(zone.name)
            if match:
                named.append((zone, match[1] or before))
            elif zone.package is not None:
                before = zone.package.partition("-")[0]
                packages.add(before)
        if len(named) == 1 and named[0][0].name == "psys":
            found[named[0][0].directory] = "psys"
            continue
        taken = [package for _, package in named]
        for zone, package in named:
            sure = package in packages and taken.count(package) == 1
            number_text = package if sure else f"of-{'-'.join(f'{part:x}' for part in zone.path)}"
            found[zone.directory] = f"psys-{number_text}"
    return found


def _holder(zone: _Zone, zones: list[_Zone]) -> str | None:
    """Number of the package that lists the zone as its part."""
    for other in zones:
        if other.type == zone.type and other.path == zone.path[:1] and len(zone.path) > 1:
            return other.package
    return None


def _first_cpu(root: Path) -> bytes:
    """The first CPU's part of /proc/cpuinfo: the kernel makes the text of all of them slowly."""
    try:
        with (root / "proc/cpuinfo").open("rb") as file:
            return file.read(8192).partition(b"\n\n")[0]
    except OSError:
        return b""


def _sensor(zone: _Zone, zones: list[_Zone], domain: str, simulated: bool, gain: tuple[float, str]) -> Sensor:
    family = domain.split("-", 1)[0]
    component, scope, ceiling = FAMILIES.get(family, ("other", zone.name, FAMILIES["package"][2]))
    if domain.startswith("psys-of-"):
        component, scope = "other", "platform of an unknown package"
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
        resolution=_step(zone.range_uj) if zone.range_uj else 1,
        gain_error=gain[0],
        gain_source=gain[1],
        offset_uw=MEMORY_OFFSET_UW if family == "dram" else 0,
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
    return max_energy_range_uj + _step(max_energy_range_uj)


def _step(max_energy_range_uj: int) -> int:
    """The hardware's unit in uJ: 61 or 15 mostly, a whole joule for the platform of Sapphire Rapids."""
    units = 2**32 - 1
    return max(1, (max_energy_range_uj + units // 2) // units)


def _kept(chosen: dict[str, tuple[Sensor, Path]], same: dict[str, mirrors.Mirror]) -> list[tuple[Sensor, Path]]:
    """The zones without those that show another one's counter; their parts are parts of that one."""
    kept = []
    for sensor, file in chosen.values():
        if sensor.parent in same:
            sensor = replace(sensor, parent=same[sensor.parent].of)
        if sensor.id not in same:
            kept.append((sensor, file))
    return kept


def _under_psys(pairs: list[tuple[Sensor, Path]]) -> tuple[tuple[Sensor, Path], ...]:
    """A platform contains its package and that one's memory; the only one contains all."""
    meters = {sensor.domain: sensor.id for sensor, _ in pairs if sensor.component == "node"}
    return tuple(
        (replace(sensor, parent=_platform_of(sensor.domain, meters)), file)
        if sensor.domain.startswith(("package", "dram")) and sensor.parent is None
        else (sensor, file)
        for sensor, file in pairs
    )


def _platform_of(domain: str, meters: dict[str, str]) -> str | None:
    package = domain.split("-")[1]
    return meters.get("psys") or meters.get(f"psys-{package}")


_ON_THE_HOST = "measure on the host; jobs here have an estimate"
_UNMASK = (
    "let the runtime show /sys/devices/virtual/powercap (docker run --security-opt systempaths=unconfined, podman run "
    "--security-opt unmask=/sys/devices/virtual/powercap), or measure outside of the container"
)


def _why_none(root: Path) -> tuple[Missing, ...]:
    """Why there is no zone.

    Container runtimes mask /sys/devices/virtual/powercap by an empty directory (CVE-2020-8694 is why): links to zones
    then lead nowhere. No module that is loaded inside would help.
    """
    if any(one.is_symlink() and not one.exists() for one in entries(root / POWERCAP)):
        why = f"{root / POWERCAP}: its links lead nowhere: the container's runtime hides the energy counters"
        return (Missing("RAPL", why, _UNMASK),)
    flags = text(root / "proc/cpuinfo") or ""
    if "hypervisor" in flags:
        return (Missing("RAPL", "this is a virtual machine and its hypervisor shows no energy counters", _ON_THE_HOST),)
    if "GenuineIntel" in flags or "AuthenticAMD" in flags:
        return (
            Missing(
                "RAPL",
                "no powercap zone is present",
                "load the kernel module intel_rapl_msr (Linux 5.8 or newer for AMD)"
                + (f" on the host; in a container: {_UNMASK}" if _in_container(root) else ""),
            ),
        )
    return ()


def _in_container(root: Path) -> bool:
    """Whether a container's runtime left its mark, as Docker and Podman do."""
    return any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))
