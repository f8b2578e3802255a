"""Finding a node's power and energy in a management controller's tree, by rules that hold whoever made it.

In this order: what the site says; the environment metrics of the node's chassis (the sensor behind them where it is
named); the one power control that is of the whole chassis; what a known vendor has instead; the sum of the power
supplies' inputs. A chassis is the node's by its link to the node's system, never by its place in a list. Powers are
never summed but those of supplies.
Where two candidates of one rank remain nothing is chosen.
Source: DMTF DSP2046 (Redfish Resource and Schema Guide), and captures of controllers (docs/meters.md).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perun_hpc.errors import ConfigError
from perun_hpc.meters.inventory import Bmc, Pin
from perun_hpc.meters.numbers import moment, number, pointed

Get = Callable[[str], Mapping[str, Any] | None]
"""A document by its URI; None where there is none that can be read."""

PARTS = frozenset({
    "Component", "Module", "Card", "Cartridge", "Zone", "StorageEnclosure", "Expansion", "IPBasedDrive", "Drawer",
    "Sidecar", "HeatExchanger", "CoolingLoop", "ImmersionTank", "PowerStrip", "Rack", "RackGroup", "Row", "Pod",
    "Facility",
})  # fmt: skip
"""Chassis types of what is less than a node, or more."""
_PART_NAME = re.compile(
    r"\b(cpu|processor|memory|mem|dimm|gpu|accelerator|fan|drive|disk|storage|pcie|soc|nic)\b", re.I
)
_PART_CONTEXTS = frozenset({
    "CPU", "CPUSubsystem", "CPUDevice", "GPU", "GPUDevice", "GPUSubsystem", "Memory", "MemorySubsystem",
    "MemoryDevice", "Accelerator", "ASIC", "FPGA", "Fan", "StorageDevice", "StorageSubsystem", "NetworkingDevice",
    "VoltageRegulator", "PowerSupply", "PowerSupplyBay",
})  # fmt: skip
_HSC = re.compile(r"HSC|hot.?swap", re.I)
MOST_MEMBERS = 500
NEAR = 0.03
"""So far may two numbers of one controller be apart and still be of one power."""
_DELL = "/redfish/v1/Managers/iDRAC.Embedded.1/Oem/Dell/DellAttributes/System.Embedded.1"
KNOWN_OEM = (
    ("Dell", _DELL, "/Attributes/ServerPwrMon.1.AccumulativePower", "Wh",
     "/Attributes/ServerPwrMon.1.CumulativePowerStartTime"),
)  # fmt: skip
"""Counters of energy that vendors put beside the standard: manufacturer, URI, property, unit, since when."""
OEM_POWERS = (
    ("Fujitsu", "/Oem/ts_fujitsu/ChassisPowerConsumption/CurrentPowerConsumptionW"),
)  # fmt: skip
"""The whole chassis' power in its Power document, of vendors that leave its PowerControl without one."""
SELDOM = 10
"""A vendor's document is long, and its counter coarse: it is read in every tenth round."""


class RefusedError(ConfigError):
    """Nothing was chosen: there is none, or more than one; the text says what was seen, and the remedy."""


@dataclass(frozen=True)
class Found:
    """What is to be read of one node, and what a reviewer should know besides."""

    pins: tuple[Pin, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    place: str
    watts: float
    basis: str
    scope: str = "unknown"
    sensor: Mapping[str, Any] | None = None
    sensor_uri: str = ""


def find(bmc: Bmc, get: Get, now_s: float | None = None) -> Found:
    """Choose what to read of a node's controller. RefusedError where that is not clear."""
    tree = _Tree(get)
    notes: list[str] = []
    system, chassis = _node(bmc, tree, notes)
    firmware, firmware_at = _firmware(tree, system)
    fixed = Pin(
        name=f"{bmc.node}-power", node=bmc.node, device=bmc.host, kind="power", scope="unknown", read=(), unit="W",
        on=system, firmware=firmware, firmware_at=firmware_at,
    )  # fmt: skip
    power, chosen = _power(bmc, tree, fixed, system, chassis, notes)
    energy = _energy(bmc, tree, power, system, chosen, notes, time.time() if now_s is None else now_s)
    return Found((power, *energy), tuple(notes))


class _Tree:
    """Documents, each asked for once."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._kept: dict[str, Mapping[str, Any]] = {}

    def at(self, uri: Any) -> Mapping[str, Any]:
        if not isinstance(uri, str) or not uri.startswith("/redfish/"):
            return {}
        uri = uri.partition("#")[0]
        if uri not in self._kept:
            self._kept[uri] = self._get(uri) or {}
        return self._kept[uri]

    def members(self, uri: Any) -> list[str]:
        """The URIs of a collection's members, over its pages."""
        found: list[str] = []
        while uri and len(found) < MOST_MEMBERS:
            page = self.at(uri)
            found += _links(page.get("Members"))
            after = page.get("Members@odata.nextLink")
            uri = after if after != uri else None
        return found


def _links(entries: Any) -> list[str]:
    entries = entries if isinstance(entries, list) else [entries]
    uris = (entry.get("@odata.id") for entry in entries if isinstance(entry, Mapping))
    return [uri.rstrip("/") for uri in uris if isinstance(uri, str)]


def _link(document: Mapping[str, Any], name: str) -> str:
    return next(iter(_links(document.get(name))), "")


def _node(bmc: Bmc, tree: _Tree, notes: list[str]) -> tuple[str, list[str]]:
    """The node's own system, and the chassis that are of it alone and of no part of it."""
    root = tree.at("/redfish/v1") or tree.at("/redfish/v1/")
    systems, everything = tree.members(_link(root, "Systems")), tree.members(_link(root, "Chassis"))
    if not systems or not everything:
        raise RefusedError(f"{bmc.host}: it shows {'no chassis' if systems else 'no system'}: see its Redfish settings")
    linked = {uri: _links(pointed(tree.at(uri), "/Links/ComputerSystems")) for uri in everything}
    for system in systems:  # some link the other way alone
        for uri in _links(pointed(tree.at(system), "/Links/Chassis")):
            if uri in linked and not linked[uri]:
                linked[uri] = [system]
    whole = [uri for uri in everything if tree.at(uri).get("ChassisType") not in PARTS]
    hosts = [system for system in systems if len(systems) == 1 or any(system in linked[uri] for uri in whole)]
    if bmc.system:
        if bmc.system not in systems:
            raise RefusedError(f"{bmc.host}: no {bmc.system} there, but {_listed(systems)}: correct `system`")
        own = bmc.system
    elif len(hosts) == 1:
        own = hosts[0]
    else:
        which = _listed(hosts or systems)
        raise RefusedError(f"{bmc.host}: which of {which} is {bmc.node}? Say it by `system` in meters.yaml")
    chassis = [uri for uri in whole if own in linked[uri]]
    if not chassis and len(whole) == 1 and not linked[whole[0]]:
        chassis = whole
        notes.append(f"{bmc.node}: nothing links {own} and {whole[0]}, the one chassis that there is")
    for uri in list(chassis):
        others = [one for one in linked[uri] if one != own and one in hosts]
        if others:
            chassis.remove(uri)
            notes.append(f"{bmc.node}: {uri} feeds {_listed(others)} as well: it is no meter of this node")
    return own, chassis


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _firmware(tree: _Tree, system: str) -> tuple[str, str]:
    """What the controller's firmware is, and where that stands."""
    for uri in [*_links(pointed(tree.at(system), "/Links/ManagedBy")), *tree.members("/redfish/v1/Managers")]:
        version = tree.at(uri).get("FirmwareVersion")
        if isinstance(version, str) and version:
            return version[:80], f"{uri}#/FirmwareVersion"
    version = (tree.at("/redfish/v1") or tree.at("/redfish/v1/")).get("RedfishVersion")
    return (version[:80], "/redfish/v1/#/RedfishVersion") if isinstance(version, str) else ("", "")


# ---------------------------------------------------------------------------------------------------------------- power


def _power(
    bmc: Bmc, tree: _Tree, pin: Pin, system: str, chassis: list[str], notes: list[str]
) -> tuple[Pin, _Candidate | None]:
    if bmc.power is not None:
        fixed = bmc.power
        if fixed.unit not in ("W", "kW") or any(number(_read(tree, place)) is None for place in fixed.read):
            raise RefusedError(f"{bmc.host}: `power` in meters.yaml: no number of watts there: correct it")
        return replace(pin, read=fixed.read, unit=fixed.unit, scope=fixed.scope, basis=f"site: {fixed.source}"), None
    for rank in (_metrics, _controls, _oem_powers, _supplies):
        candidates = {c.place: c for uri in chassis for c in rank(tree, uri, system, notes, bmc.node)}
        if len(candidates) > 1:
            seen = _listed([f"{c.place} ({c.watts:g} W)" for c in candidates.values()])
            raise RefusedError(f"{bmc.host}: {seen} could each be {bmc.node}: say which by `power` in meters.yaml")
        for found in candidates.values():
            scope, how = found.scope, found.basis
            if scope == "unknown":
                scope, why = _scope(tree, chassis, found)
                how += why
            read = tuple(found.place.split(" + "))
            stamp_s = moment((found.sensor or {}).get("ReadingTime"))
            age_s = None if stamp_s is None else time.time() - stamp_s
            lag_s = age_s if age_s is not None and 0 <= age_s < 600 else None
            return replace(pin, read=read, scope=scope, basis=how, lag_s=lag_s), found
    where = f"its chassis ({_listed(chassis)}) show" if chassis else "no chassis is linked to it, which shows"
    said = "".join(f"; {note}" for note in notes)
    raise RefusedError(f"{bmc.host}: no power of {bmc.node}: {where} none{said}: name one by `power` in meters.yaml")


def _read(tree: _Tree, place: str) -> Any:
    uri, _, pointer = place.partition("#")
    return pointed(tree.at(uri), pointer)


def _watts(value: Any, what: str, notes: list[str], node: str) -> float | None:
    watts = number(value)
    if watts == 0:
        notes.append(f"{node}: {what} shows 0 W: no sensor stands behind that (or the node is off: switch it on)")
        return None
    return watts


def _metrics(tree: _Tree, chassis: str, system: str, notes: list[str], node: str) -> Iterator[_Candidate]:
    """The chassis' environment metrics (EnvironmentMetrics.PowerWatts); read where they have it from, if that is W."""
    uri = _link(tree.at(chassis), "EnvironmentMetrics")
    power = tree.at(uri).get("PowerWatts")
    if not isinstance(power, Mapping):
        return
    watts = _watts(power.get("Reading"), uri, notes, node)
    if watts is None:
        return
    source = power.get("DataSourceUri")
    sensor = tree.at(source)
    kind = sensor.get("ReadingType", "Power"), sensor.get("ReadingUnits", "W")
    if sensor and kind != ("Power", "W"):
        notes.append(f"{node}: {uri} names {source} as its source, which is {kind[0]} in {kind[1]}: not taken")
        return
    own = number(sensor.get("Reading"))
    basis = f"EnvironmentMetrics of {chassis}, which is linked to {system}"
    if own and isinstance(source, str):
        yield _Candidate(f"{source}#/Reading", own, f"{basis}; their source", sensor=sensor, sensor_uri=source)
    else:
        yield _Candidate(f"{uri}#/PowerWatts/Reading", watts, basis)


def _controls(tree: _Tree, chassis: str, system: str, notes: list[str], node: str) -> Iterator[_Candidate]:
    """The one power control of the whole chassis (Power.PowerControl); those of parts are left out, never summed."""
    uri = _link(tree.at(chassis), "Power")
    listed = tree.at(uri).get("PowerControl")
    entries = listed if isinstance(listed, list) else []
    whole: list[_Candidate] = []
    parts: list[_Candidate] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            continue
        place = f"{uri}#/PowerControl/{index}/PowerConsumedWatts"
        watts = _watts(entry.get("PowerConsumedWatts"), place, notes, node)
        if watts is None:
            continue
        found = _Candidate(place, watts, f"the one PowerControl of {chassis}, which is linked to {system}")
        if entry.get("PhysicalContext") in _PART_CONTEXTS or _PART_NAME.search(str(entry.get("Name", ""))):
            parts.append(found)
        else:
            whole.append(found)
    if len(whole) > 1:
        related = [c for c in whole if {chassis, system} & set(_links(_entry(tree, c).get("RelatedItem")))]
        whole = related if len(related) == 1 else whole
    for part in parts:
        notes.append(f"{node}: {part.place} ({part.watts:g} W) is of a part: not summed")
    most_w = max((part.watts for part in parts), default=0)
    for found in whole:
        if found.watts < most_w * (1 - NEAR):
            notes.append(f"{node}: {found.place} ({found.watts:g} W) is less than a part of it takes: not taken")
        else:
            yield found


def _oem_powers(tree: _Tree, chassis: str, system: str, notes: list[str], node: str) -> Iterator[_Candidate]:
    """What a vendor puts beside the standard."""
    uri = _link(tree.at(chassis), "Power")
    for vendor, pointer in OEM_POWERS:
        place = f"{uri}#{pointer}"
        watts = _watts(_read(tree, place), place, notes, node)
        if watts is not None:
            yield _Candidate(place, watts, f"{vendor}'s own property of {chassis}, which is linked to {system}")


def _entry(tree: _Tree, found: _Candidate) -> Mapping[str, Any]:
    entry = _read(tree, found.place.rpartition("/")[0])
    return entry if isinstance(entry, Mapping) else {}


def _feeds(tree: _Tree, chassis: str) -> Iterator[tuple[str, float | None, str, float | None]]:
    """Of each supply: where its input and output stand, in W (Power.PowerSupplies, or PowerSubsystem's metrics)."""
    uri = _link(tree.at(chassis), "Power")
    supplies = tree.at(uri).get("PowerSupplies")
    for index, one in enumerate(supplies if isinstance(supplies, list) else []):
        if isinstance(one, Mapping) and pointed(one, "/Status/State") != "Absent":
            outputs = ("PowerOutputWatts", "LastPowerOutputWatts")
            output = next((key for key in outputs if number(one.get(key)) is not None), "")  # 0: it stands by
            at = f"{uri}#/PowerSupplies/{index}/"
            yield at + "PowerInputWatts", number(one.get("PowerInputWatts")), at + output, number(one.get(output))
    if supplies:
        return
    for member in tree.members(_link(tree.at(_link(tree.at(chassis), "PowerSubsystem")), "PowerSupplies")):
        if pointed(tree.at(member), "/Status/State") == "Absent":
            continue
        metrics = _link(tree.at(member), "Metrics")
        both = [f"{metrics}#/{name}/Reading" for name in ("InputPowerWatts", "OutputPowerWatts")]
        yield both[0], number(_read(tree, both[0])), both[1], number(_read(tree, both[1]))


def _supplies(tree: _Tree, chassis: str, system: str, notes: list[str], node: str) -> Iterator[_Candidate]:
    """The sum of the supplies' inputs, where each says its output as well: some show their rating there."""
    feeds = list(_feeds(tree, chassis))
    if not feeds or not any(watts for _, watts, _, _ in feeds):
        return
    for place, watts, _, out in feeds:
        if watts is None or out is None or not out <= watts <= 2 * out + 50:
            into, beside = ("nothing" if one is None else f"{one:g} W" for one in (watts, out))
            notes.append(
                f"{node}: {place}: {into} beside an output of {beside} is no input: the supplies are not taken"
            )
            return
    total_w = sum(watts or 0 for _, watts, _, _ in feeds)
    places = " + ".join(place for place, _, _, _ in feeds)
    yield _Candidate(places, total_w, f"sum of the inputs of {chassis}'s power supplies", "wall")


def _scope(tree: _Tree, chassis: list[str], found: _Candidate) -> tuple[str, str]:
    """Where in the supply the chosen power is measured, and how that is known."""
    sensor = found.sensor or {}
    if sensor.get("PhysicalContext") == "SystemBoard":
        return "board", "; its PhysicalContext is SystemBoard"
    if _HSC.search(found.sensor_uri):
        return "board", "; by its name of the hot-swap controllers, behind the power supplies"
    if (
        sensor.get("PhysicalContext") in ("PowerSupply", "PowerSupplyBay")
        and sensor.get("ElectricalContext") == "Line1"
    ):
        return "wall", "; its PhysicalContext is the power supplies' line"
    feeds = [feed for uri in chassis for feed in _feeds(tree, uri)]
    for scope, column, what in (("psu-output", 3, "outputs"), ("wall", 1, "inputs")):
        sides = [number(feed[column]) for feed in feeds]
        if sides and None not in sides and abs(sum(s or 0 for s in sides) - found.watts) <= NEAR * found.watts:
            return scope, f"; the sum of the power supplies' {what} ({sum(s or 0 for s in sides):g} W) is the same"
    return "unknown", "; nothing says on which side of the power supplies"


# --------------------------------------------------------------------------------------------------------------- energy


def _energy(
    bmc: Bmc, tree: _Tree, power: Pin, system: str, chosen: _Candidate | None, notes: list[str], now_s: float
) -> tuple[Pin, ...]:
    """The counter of the node's energy: none in most controllers, never one of a part."""
    pin = replace(power, name=f"{bmc.node}-energy", kind="energy", on="", lag_s=None, unit="kWh")
    if bmc.energy is not None:
        fixed = bmc.energy
        if fixed.unit in ("W", "kW") or any(number(_read(tree, place)) is None for place in fixed.read):
            raise RefusedError(f"{bmc.host}: `energy` in meters.yaml: no number of joules there: correct it")
        return (replace(pin, read=fixed.read, unit=fixed.unit, scope=fixed.scope, basis=f"site: {fixed.source}"),)
    for place, unit, since, every, basis in _counters(tree, system, chosen):
        count = number(_read(tree, place))
        if not count:
            continue
        made = replace(pin, read=(place,), unit=unit, since=since, every=every, basis=basis)
        began_s = moment(_read(tree, since)) if since else None
        watts = None if chosen is None else chosen.watts
        if began_s is not None and watts and began_s < now_s:
            mean_w = count * float(made.base) / (now_s - began_s)
            if not watts / 50 <= mean_w <= watts * 5:
                notes.append(
                    f"{bmc.node}: {place} would mean {mean_w:.3g} W since it began, beside {watts:g} W now: not taken"
                )
                continue
        return (made,)
    return ()


def _counters(tree: _Tree, system: str, chosen: _Candidate | None) -> Iterator[tuple[str, str, str, int, str]]:
    """Place, unit, place of its start, in which rounds to read it, and where that is known from."""
    if chosen is not None and chosen.sensor is not None and "LifetimeReading" in chosen.sensor:
        uri = chosen.sensor_uri
        since = f"{uri}#/LifetimeStartDateTime" if "LifetimeStartDateTime" in chosen.sensor else ""
        yield f"{uri}#/LifetimeReading", "kWh", since, 1, "LifetimeReading of the power's own sensor, in kWh"
    if chosen is not None and chosen.basis.startswith("EnvironmentMetrics of "):
        uri = _link(tree.at(chosen.basis.split()[2].rstrip(",")), "EnvironmentMetrics")
        for name, unit in (("EnergyJoules", "J"), ("EnergykWh", "kWh")):
            yield f"{uri}#/{name}/Reading", unit, "", 1, f"{name} beside the power"
    if chosen is not None and "#/PowerControl/" in chosen.place:
        uri, _, pointer = chosen.place.partition("#")
        for path, name in _named(_entry(tree, chosen), re.compile(r"Accumulated?EnergyJoules|EnergyJoules", re.I)):
            yield f"{uri}#{pointer.rpartition('/')[0]}{path}", "J", "", 1, f"the vendor's {name} beside the power"
    maker = str(tree.at(system).get("Manufacturer", ""))
    for vendor, uri, pointer, unit, since in KNOWN_OEM:
        if maker.startswith(vendor):
            yield f"{uri}#{pointer}", unit, f"{uri}#{since}", SELDOM, f"{vendor}'s {pointer.rpartition('/')[2]}"


def _named(document: Any, name: re.Pattern[str], path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if not isinstance(document, Mapping) or depth > 5:
        return
    for key, value in document.items():
        at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if name.fullmatch(key) and number(value):
            yield at, key
        yield from _named(value, name, at, depth + 1)
