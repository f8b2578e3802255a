"""Powercap zones that show a power and no energy: `arm-scmi` and `dtpm`.

A zone of `arm-scmi` is a domain of the platform's firmware, which measures its average power; it has the firmware's own
name (drivers/powercap/arm_scmi_powercap.c). A zone of `dtpm` is computed from utilisation and the energy model of a
device (drivers/powercap/dtpm_cpu.c, dtpm_devfreq.c), or adds those of the zones in it: nothing measures it. What either
contains is in no name, so that neither is added to anything; `sensors.files` of the policy gives one its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.backend import chips
from perun_hpc.backend.base import Clock, Discovery, Reader, host_name, monotonic_ns
from perun_hpc.backend.sysfile import DUMB, HANGS, LOOK, NumberFiles, entries, number, reason, text, unheard
from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Sensor
from perun_hpc.data_model.units import Quantity

POWERCAP = Path("sys/class/powercap")
FILE = "power_uw"
MODEL = "dtpm"
UPDATE_NS = 1_000_000_000
OVERSHOOT = 3
_ZONE = re.compile(r"(?P<type>[a-z][a-z0-9-]*)(?P<path>(?::[0-9a-f]+)+)")


@dataclass(frozen=True)
class Zone:
    """A zone's directory, its control type and its own name."""

    directory: Path
    type: str
    name: str

    @property
    def domain(self) -> str:
        """Unlike any other zone's: its number is in it."""
        return chips.slug(f"{self.directory.name} {self.name}")


def zones(base: Path, about: Callable[[str], None] = unheard, skip: Collection[str] = ()) -> Iterator[Zone]:
    """The zones below powercap's directory that show a power and no energy, `about` and `skip` as in `discover`."""
    for directory in entries(base):
        match = _ZONE.fullmatch(directory.name)
        if match and (directory / FILE).exists() and not (directory / "energy_uj").exists():
            if directory.name in skip:
                continue
            about(directory.name)
            yield Zone(directory, match["type"], text(directory / "name") or directory.name)


def discover(
    root: Path = Path("/"),
    clock: Clock = monotonic_ns,
    about: Callable[[str], None] = unheard,
    skip: Collection[str] = (),
) -> Discovery:
    """All of them; one that does not answer is named. `about` hears of each before it is read, but for `skip`."""
    readers: list[Reader] = []
    missing = [
        Missing(one.name, HANGS, LOOK, "other")
        for one in entries(root / POWERCAP)
        if one.name in skip and (one / FILE).exists() and not (one / "energy_uj").exists()
    ]
    for zone in zones(root / POWERCAP, about, skip):
        what = f"{zone.directory.name} ({zone.name})"
        try:
            reader = NumberFiles(((_sensor(zone), zone.directory / FILE),), clock)
        except OSError as error:
            missing.append(
                Missing(what, f"cannot read {zone.directory / FILE}: {reason(error)}", "run as root", "other")
            )
            continue
        (first,) = reader.read()
        if first.ticks is None:
            reader.close()
            missing.append(Missing(what, f"{DUMB}: {first.error}", "look at the firmware", "other"))
            continue
        readers.append(reader)
    return Discovery(tuple(readers), tuple(missing))


def called(root: Path, control_type: str, label: str) -> list[tuple[str, tuple[Path, ...]]]:
    """Device and file of each zone of that control type and name."""
    found = (zone for zone in zones(root / POWERCAP) if (zone.type, zone.name) == (control_type, label))
    return [(f"{zone.directory.name}/{FILE}", (zone.directory / FILE,)) for zone in found]


def _sensor(zone: Zone) -> Sensor:
    computed = zone.type == MODEL
    limit_uw = number(zone.directory / "constraint_0_max_power_uw") or 0
    return Sensor(
        id=f"powercap:{zone.domain}:{Quantity.POWER}",
        host=host_name(),
        backend="powercap",
        device=f"{zone.directory.name}/{FILE}",
        domain=zone.domain,
        component="other",
        kind=Kind.GAUGE,
        quantity=Quantity.POWER,
        unit="uW",
        gain_error=0.5 if computed else 0.05,
        gain_source="assumed 50 % (k=1) for an energy model"
        if computed
        else "assumed 5 % (k=1) for firmware's average",
        update_ns=UPDATE_NS,
        max_uw=min(chips.NODE_UW, max(OVERSHOOT * limit_uw, 10**9)),
        scope=f"{zone.type} {zone.name}" + (", computed by the kernel's energy model" if computed else ""),
        provenance=Provenance.MODELLED if computed else Provenance.MEASURED,
    )
