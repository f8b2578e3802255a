"""Power and energy inputs of the kernel's hwmon class: Grace's power sensors, and any other chip's.

NVIDIA Grace (driver acpi_power_meter) shows `power1_average` in uW, averaged over `power1_average_interval` ms, and
names its rail in `power1_oem_info`: "Module Power Socket 0", "Grace Power Socket 0", "CPU Power Socket 0",
"SysIO Power Socket 0". The Grace rail contains the CPU and SysIO rails, the module contains Grace and its GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, Reader, host_name, monotonic_ns
from perun_hpc.backend.sysfile import NumberFiles, number, reason, text
from perun_hpc.data_model.sensor import Kind, Missing, Sensor
from perun_hpc.data_model.units import Quantity

HWMON = Path("sys/class/hwmon")
NS_PER_MS = 1_000_000

_GRACE = re.compile(r"^(?P<rail>Module|Grace|CPU|SysIO) Power Socket (?P<socket>\d+)$", re.IGNORECASE)
INPUT = re.compile(r"^(?:power(?P<power>\d+)_(?:average|input)|energy(?P<energy>\d+)_input)$")
_RAILS = {
    # rail: domain, component, the rail that contains it, scope
    "module": ("module", "node", None, "superchip module: Grace, its memory and its GPU"),
    "grace": ("grace", "cpu", "module", "Grace: CPU cores, SysIO and memory"),
    "cpu": ("package", "cpu", "grace", "Grace CPU cores"),
    "sysio": ("sysio", "other", "grace", "Grace SoC and IO"),
}
_MAX_UW = {"module": 1_500_000_000, "grace": 800_000_000, "cpu": 800_000_000, "sysio": 300_000_000}
_GPU_DRIVERS = {"amdgpu", "nvidia", "nouveau", "i915", "xe"}


def discover(root: Path = Path("/"), clock: Clock = monotonic_ns) -> Discovery:
    """Find all power and energy inputs below `root`; GPU drivers' chips are left to the GPU backends."""
    readers: list[Reader] = []
    missing: list[Missing] = []
    rails: dict[str, str] = {}
    for sensor, file in sorted(_inputs(root / HWMON), key=lambda pair: (pair[0].domain, pair[0].id)):
        try:
            readers.append(NumberFiles(((sensor, file),), clock))
        except OSError as error:
            what = f"{file.parent.name}/{file.name} ({sensor.scope})"
            remedy = "run as root, start the perun agent, or make the file readable by a udev rule"
            missing.append(Missing(what, f"cannot read {file}: {reason(error)}", remedy))
            continue
        rails[sensor.domain] = sensor.id
    opened = tuple(_contained(reader, rails) for reader in readers)
    return Discovery(opened, tuple(missing))


def _contained(reader: Reader, rails: dict[str, str]) -> Reader:
    assert isinstance(reader, NumberFiles)
    return reader.relabelled(tuple(replace(sensor, parent=_parent(sensor, rails)) for sensor in reader.sensors))


def _parent(sensor: Sensor, rails: dict[str, str]) -> str | None:
    """Id of the nearest rail that contains this one and could be opened."""
    family, _, socket = sensor.domain.partition("-")
    holder = next((above for domain, _, above, _ in _RAILS.values() if domain == family), None)
    while holder is not None and socket:
        found = rails.get(f"{_RAILS[holder][0]}-{socket}")
        if found is not None:
            return found
        holder = _RAILS[holder][2]
    return None


def _inputs(base: Path) -> Iterator[tuple[Sensor, Path]]:
    try:
        chips = sorted(base.iterdir(), key=lambda chip: (len(chip.name), chip.name))
    except OSError:
        return
    for chip in chips:
        # Older drivers keep their files below device/.
        for directory in (chip, chip / "device"):
            name = text(directory / "name") or text(chip / "name") or chip.name
            if name in _GPU_DRIVERS or not directory.is_dir():
                continue
            files = {file.name: match for file in directory.iterdir() if (match := INPUT.match(file.name))}
            for file_name, match in sorted(files.items()):
                averaged = file_name.endswith("_average")
                if not averaged and f"power{match['power']}_average" in files:
                    continue
                yield _sensor(chip, directory, name, file_name, match), directory / file_name


def _sensor(chip: Path, directory: Path, name: str, file_name: str, match: re.Match[str]) -> Sensor:
    is_energy = match["energy"] is not None
    stem = f"energy{match['energy']}" if is_energy else f"power{match['power']}"
    label = text(directory / f"{stem}_oem_info") or text(directory / f"{stem}_label") or stem
    grace = _GRACE.match(label)
    interval_ms = number(directory / f"{stem}_average_interval")
    quantity = Quantity.ENERGY if is_energy else Quantity.POWER
    domain, component, scope, ceiling = f"{name}-{_slug(label)}", "other", f"{name} {label}", 4_000_000_000
    if grace:
        family, component, _, scope = _RAILS[grace["rail"].lower()]
        domain = f"{family}-{grace['socket']}"
        ceiling = _MAX_UW[grace["rail"].lower()]
    elif name == "power_meter":
        # ACPI 4.0 power meters measure the whole machine.
        domain, component, scope = "node", "node", "node, by its ACPI power meter"
    return Sensor(
        id=f"hwmon:{domain}:{quantity}",
        host=host_name(),
        backend="hwmon",
        device=f"{chip.name}/{file_name}",
        domain=domain,
        component=component,
        kind=Kind.COUNTER if is_energy else Kind.GAUGE,
        quantity=quantity,
        unit="uJ" if is_energy else "uW",
        gain_error=0.03,
        gain_source="assumed 3 % (k=1); the driver states none",
        update_ns=(interval_ms or 100) * NS_PER_MS,
        max_uw=ceiling,
        scope=scope,
    )


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
