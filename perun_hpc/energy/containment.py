"""Which sensors count, which lie inside others, and which sentence says what the figures include.

A node meter contains everything, psys contains packages and memory, a package its cores, a superchip's module its CPU
and GPUs. Leaves (packages, memory, GPUs) are accounted; a meter adds only what its leaves leave over; a sensor inside a
leaf, or one whose place is unknown, is never added.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.integrate import counter_id

_LEAF_KIND = {"cpu": DomainKind.PACKAGE, "dram": DomainKind.DRAM, "gpu": DomainKind.GPU}
_NAMES = {DomainKind.PACKAGE: "CPU packages", DomainKind.DRAM: "memory", DomainKind.GPU: "GPUs"}
_ESTIMATED = "CPUs as estimated from their utilisation, not measured"
_ORDER = {kind: place for place, kind in enumerate(_NAMES)}
_EXPECTED = {"CPU": "CPU packages", "memory": "memory"}
"""Words of what a node without a meter would have: how it is called where it is not there."""
NO_PLACE = "its place among the others is unknown"
SAME_DOMAIN = "the same domain as"
SILENT = "it has given nothing for a while"
MOST_NAMED = 4
_RAILS = ("module", "grace", "package", "sysio")
_TRUST = ("powercap", "nvml", "amdsmi", "cray_pm", "hwmon", "file", "ipmi", "estimate")
"""Which backend is trusted when two show the same domain."""


@dataclass(frozen=True, slots=True)
class EnergyDomain:
    """One domain that is accounted, and the sensor it rests on (a power gauge must be integrated first).

    `package` is None when the domain spans the node; `leaves` are the names of a meter's parts.
    """

    name: str
    kind: DomainKind
    sensor: Sensor
    package: int | None
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is accounted, and what is left out with the reason."""

    domains: tuple[EnergyDomain, ...]
    left_out: tuple[tuple[Sensor, str], ...]

    @property
    def leaves(self) -> tuple[EnergyDomain, ...]:
        """The domains that are no meters."""
        return tuple(domain for domain in self.domains if domain.kind is not DomainKind.METER)

    @property
    def meters(self) -> tuple[EnergyDomain, ...]:
        """The meters; leaves outside them add to their sum."""
        return tuple(domain for domain in self.domains if domain.kind is DomainKind.METER)

    @property
    def counted(self) -> tuple[EnergyDomain, ...]:
        """The domains that rest on a counter; a gauge must be integrated first."""
        return tuple(domain for domain in self.domains if domain.sensor.kind is Kind.COUNTER)


def energy_counters(sensors: Iterable[Sensor]) -> tuple[Sensor, ...]:
    """The sensors whose readings are edges."""
    return tuple(s for s in sensors if s.kind is Kind.COUNTER and s.quantity is Quantity.ENERGY)


def integrated(sensors: Iterable[Sensor], silent: Collection[str] = ()) -> tuple[Sensor, ...]:
    """The power gauges that energy rests on, for want of a counter; `silent` sensors give nothing."""
    return tuple(domain.sensor for domain in plan(sensors, silent).domains if domain.sensor.kind is Kind.GAUGE)


def spare_meters(sensors: Iterable[Sensor], silent: Collection[str] = ()) -> tuple[Sensor, ...]:
    """The power gauges that stand beside a meter that counts the same, and would count in its place.

    Those that are `silent` are among them: once they answer again they go on from a known reading.
    """
    everything = list(sensors)
    known = {sensor.id for sensor in everything}
    return tuple(
        sensor
        for sensor, why in plan(everything, silent).left_out
        if sensor.kind is Kind.GAUGE and sensor.component == "node" and why.startswith((SAME_DOMAIN, SILENT))
        and counter_id(sensor.id) not in known
    )  # fmt: skip


def adding_up(domains: Iterable[EnergyDomain], known: Collection[str]) -> tuple[EnergyDomain, ...]:
    """The domains whose energies are the node's, each joule once; of those whose energy is `known`, by name.

    A meter stands for its leaves; where it is not known they stand for themselves.
    """
    here = [domain for domain in domains if domain.name in known]
    inside = {leaf for domain in here for leaf in domain.leaves}
    return tuple(domain for domain in here if domain.name not in inside)


def plan(sensors: Iterable[Sensor], silent: Collection[str] = ()) -> Plan:
    """Choose the energy domains among all sensors of one node.

    Parameters
    ----------
    sensors : all of them.
    silent : ids of those that have given nothing for a while: they are left out.

    Returns
    -------
    What is accounted, and what is left out with the reason.
    """
    there = [sensor for sensor in sensors if _is_energy(sensor)]
    left_out: list[tuple[Sensor, str]] = [(sensor, SILENT) for sensor in there if sensor.id in silent]
    energy = [sensor for sensor in there if sensor.id not in silent]
    chosen: dict[str, Sensor] = {}
    declared = {(sensor.device, sensor.quantity): sensor.id for sensor in energy if sensor.backend == "file"}
    for sensor in sorted(energy, key=_preference):
        if sensor.backend != "file" and (sensor.device, sensor.quantity) in declared:
            left_out.append((sensor, f"the site calls it {declared[sensor.device, sensor.quantity]}"))
        elif sensor.domain in chosen:
            left_out.append((sensor, f"{SAME_DOMAIN} {chosen[sensor.domain].id}"))
        else:
            chosen[sensor.domain] = sensor
    left_out += _drop_estimates(chosen) + _drop_second_sources(chosen) + _drop_inside_gpu_modules(chosen)
    left_out += _drop_beside_apus(chosen)
    by_id = {sensor.id: sensor for sensor in energy}
    leaves: list[EnergyDomain] = []
    meters: list[Sensor] = []
    for name, sensor in sorted(chosen.items()):
        above = [one for one in _above(sensor, by_id) if one.domain in chosen]
        holder = next((one for one in above if _is_leaf(one)), None)
        if holder is not None:
            left_out.append((sensor, f"contained in {holder.domain}"))
        elif (whole := _absent_package(sensor, by_id)) is not None:
            left_out.append((sensor, f"a part of {whole}, which is not there"))
        elif _is_leaf(sensor):
            leaves.append(EnergyDomain(name, _LEAF_KIND[sensor.component], sensor, package_number(name)))
        elif sensor.component == "node":
            meters.append(sensor)
        elif above:
            left_out.append((sensor, f"contained in {above[0].domain}"))
        else:
            left_out.append((sensor, NO_PLACE))
    outer = [meter for meter in meters if not _inside_another(meter, meters, by_id)]
    left_out += [(meter, "contained in a wider meter") for meter in meters if meter not in outer]
    module_of = _modules(outer, leaves)
    domains = list(leaves)
    for meter in outer:
        inside = tuple(
            leaf.name
            for leaf in leaves
            if _contains(meter, leaf.sensor, by_id) or module_of.get(leaf.name) == meter.domain
        )
        domains.append(EnergyDomain(meter.domain, DomainKind.METER, meter, None, inside))
    return Plan(tuple(domains), tuple(left_out))


def _drop_estimates(chosen: dict[str, Sensor]) -> list[tuple[Sensor, str]]:
    real = any(s.component in ("cpu", "node") and s.provenance is not Provenance.ESTIMATED for s in chosen.values())
    estimates = [s for s in chosen.values() if s.provenance is Provenance.ESTIMATED] if real else []
    for sensor in estimates:
        del chosen[sensor.domain]
    return [(sensor, "an estimate is never mixed with measurements") for sensor in estimates]


def _drop_second_sources(chosen: dict[str, Sensor]) -> list[tuple[Sensor, str]]:
    """Two backends that show the CPUs (or memory) under different names show the same hardware: believe one."""
    dropped = []
    for component in _LEAF_KIND:
        present = {sensor.backend for sensor in chosen.values() if sensor.component == component}
        vendors = present & {"nvml", "amdsmi"}
        trusted = vendors if component == "gpu" and vendors else set(sorted(present, key=_trust)[:1])
        for sensor in [s for s in chosen.values() if s.component == component and s.backend not in trusted]:
            dropped.append((sensor, f"the same hardware as shown by {', '.join(sorted(trusted))}"))
            del chosen[sensor.domain]
    return dropped


def _drop_inside_gpu_modules(chosen: dict[str, Sensor]) -> list[tuple[Sensor, str]]:
    """Where NVML's energy is the superchip module's, the node's CPUs and memory are inside, whoever shows them."""
    gpus = [s for s in chosen.values() if s.component == "gpu" and s.scope.startswith("module")]
    inside = [
        s
        for s in (chosen.values() if gpus else ())
        if s.component in ("cpu", "dram") or (s.backend == "hwmon" and s.domain.split("-")[0] in _RAILS)
    ]
    for sensor in inside:
        del chosen[sensor.domain]
    return [(sensor, f"contained in {gpus[0].domain}, whose energy is its module's") for sensor in inside]


def _drop_beside_apus(chosen: dict[str, Sensor]) -> list[tuple[Sensor, str]]:
    """What an APU's GPU meter and that of its CPUs have in common is documented nowhere: they are never added."""
    apus = any(s.component == "gpu" and s.scope.startswith("APU") for s in chosen.values())
    beside = [s for s in (chosen.values() if apus else ()) if s.component in ("cpu", "dram")]
    for sensor in beside:
        del chosen[sensor.domain]
    return [(sensor, NO_PLACE) for sensor in beside]


def _modules(meters: list[Sensor], leaves: list[EnergyDomain]) -> dict[str, str]:
    """GPU domain -> superchip module: in the order of PCI addresses, equally many GPUs to each module."""
    modules = sorted(meter.domain for meter in meters if meter.domain.startswith("module-"))
    gpus = sorted((leaf for leaf in leaves if leaf.kind is DomainKind.GPU), key=lambda leaf: leaf.sensor.device)
    if not modules or len(gpus) % len(modules):
        return {}
    each = len(gpus) // len(modules)
    return {gpu.name: modules[number // each] for number, gpu in enumerate(gpus)}


_DIE = 1 << 32


def package_number(domain: str) -> int | None:
    """The CPUs that a domain belongs to: 1 of `package-1`, `dram-1` and `grace-1`; None for other domains.

    Of a package's die (`package-1-die-0`, `dram-1-die-0`) it is a number beyond those of packages: `package_and_die`.
    """
    found = _PACKAGE.fullmatch(domain)
    if found is None:
        return None
    return int(found["package"]) + (_DIE * (int(found["die"]) + 1) if found["die"] else 0)


def package_and_die(number: int) -> tuple[int, int | None]:
    """What a `package_number` is made of; None where it is a whole package's."""
    die, package = divmod(number, _DIE)
    return package, die - 1 if die else None


_PACKAGE = re.compile(r"(?:package|dram|grace)-(?P<package>[0-9]{1,9})(?:-die-(?P<die>[0-9]{1,6})|-.*)?")


def _absent_package(sensor: Sensor, by_id: Mapping[str, Sensor]) -> str | None:
    """The package that is not read while a part of it is (its cores): a part never stands for the whole."""
    if sensor.parent is None or sensor.parent in by_id or package_number(sensor.domain) is not None:
        return None
    whole = sensor.parent.split(":")[1]
    return whole if package_number(whole) is not None else None


def _is_energy(sensor: Sensor) -> bool:
    counter = sensor.kind is Kind.COUNTER and sensor.quantity is Quantity.ENERGY
    return counter or (sensor.kind is Kind.GAUGE and sensor.quantity is Quantity.POWER)


def _preference(sensor: Sensor) -> tuple[bool, bool, int, str]:
    estimated = sensor.provenance is Provenance.ESTIMATED
    return estimated, sensor.kind is not Kind.COUNTER, _trust(sensor.backend), sensor.id


def _trust(backend: str) -> int:
    return _TRUST.index(backend) if backend in _TRUST else len(_TRUST)


def _is_leaf(sensor: Sensor) -> bool:
    return sensor.component in _LEAF_KIND


def _above(sensor: Sensor, by_id: Mapping[str, Sensor]) -> list[Sensor]:
    found: list[Sensor] = []
    parent = sensor.parent
    while parent is not None and parent in by_id and by_id[parent] not in found:
        found.append(by_id[parent])
        parent = by_id[parent].parent
    return found


def _contains(meter: Sensor, leaf: Sensor, by_id: Mapping[str, Sensor]) -> bool:
    """A node's own meter contains all; any other what names it as an ancestor (by domain: energy and power alike)."""
    return meter.domain == "node" or meter.domain in {one.domain for one in _above(leaf, by_id)}


def _inside_another(meter: Sensor, meters: list[Sensor], by_id: Mapping[str, Sensor]) -> bool:
    return any(other is not meter and _contains(other, meter, by_id) for other in meters)


def scope_sentence(plan: Plan, missing: Iterable[Missing] = ()) -> str:
    """One sentence: what this node's figures include and what they leave out.

    Parameters
    ----------
    plan : what is accounted and what is left out.
    missing : what cannot be read.

    Returns
    -------
    The sentence.
    """
    return f"{_scope(plan)}{_not_counted(plan, missing)}."


def _scope(plan: Plan) -> str:
    if not plan.domains:
        return "This node has no energy figures: no sensor and no estimate is available"
    sensors = [domain.sensor for domain in plan.domains]
    if all(sensor.provenance is Provenance.ESTIMATED for sensor in sensors):
        return (
            "Figures are estimated from CPU utilisation, not measured; memory, GPUs, power supply losses, fans, disks, "
            "network and cooling are left out"
        )
    names = list(dict.fromkeys(_included(domain) for domain in sorted(plan.leaves, key=lambda one: _ORDER[one.kind])))
    names += list(dict.fromkeys(f"what the meter adds ({meter.sensor.scope})" for meter in plan.meters))
    simulated = (
        "Figures are simulated; they" if any(s.provenance is Provenance.SIMULATED for s in sensors) else "Figures"
    )
    if any(meter.name == "node" for meter in plan.meters):
        return f"{simulated} include {', '.join(names)}; cooling and network outside the node are left out"
    said = " ".join(names)
    absent = [] if plan.meters else [name for word, name in _EXPECTED.items() if word not in said]
    absent += ["power supply losses", "fans", "disks", "network", "cooling"]
    return f"{simulated} include {', '.join(names)}; {', '.join(absent)} are left out (no node meter)"


def _included(leaf: EnergyDomain) -> str:
    if leaf.sensor.provenance is Provenance.ESTIMATED:
        return _ESTIMATED
    if leaf.kind is DomainKind.GPU and leaf.sensor.scope.startswith("module"):
        return "superchip modules (GPUs with their CPUs and memory)"
    if leaf.sensor.scope.startswith("APU"):
        return "APU sockets (what of their CPUs and memory is in these is not documented)"
    if "of an APU" in leaf.sensor.scope:
        return "CPU packages of APUs (what of their GPUs and memory is in these is not documented)"
    if leaf.name.startswith("grace-"):
        return "Grace CPUs with their memory"
    return _NAMES[leaf.kind]


def _not_counted(plan: Plan, missing: Iterable[Missing]) -> str:
    """What else uses energy here and is named; a node's meter has it, whoever reads the parts."""
    if any(meter.name == "node" for meter in plan.meters):
        return ""
    unplaced = dict.fromkeys(sensor.scope for sensor, why in plan.left_out if why == NO_PLACE)
    unread = dict.fromkeys(one.what for one in missing if one.component not in ("", "other"))
    return _some("nobody knows where they belong", list(unplaced)) + _some("not read", list(unread))


def _some(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; {what}: {', '.join(names[:MOST_NAMED])}{rest}" if names else ""
