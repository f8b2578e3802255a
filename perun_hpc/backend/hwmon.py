"""Power and energy inputs of the kernel's hwmon class: meters of nodes, modules, processors and cards.

A chip is `/sys/class/hwmon/hwmonN`; N is another one after each boot, so sensors are named by what the driver and its
labels say (`chips`), or by the chip's device. `powerN_average` and `powerN_input` are in uW, `energyN_input` in uJ, and
a chip that shows volts (mV) and amperes (mA) of a rail only is multiplied (Documentation/hwmon/sysfs-interface.rst).

What does not answer with a value that can be is named and not read: whoever was next in the choice of sources counts.
"""

from __future__ import annotations

import os
import re
import resource
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.backend import chips
from perun_hpc.backend.base import Clock, Discovery, Reader, host_name, monotonic_ns
from perun_hpc.backend.sysfile import DUMB, HANGS, LOOK, Files, entries, number, open_files, reason, text, unheard
from perun_hpc.data_model.sensor import NONE_NEEDED, Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

HWMON = Path("sys/class/hwmon")
NS_PER_MS = 1_000_000

INPUT = re.compile(r"^(?:power(?P<power>\d+)_(?:average|input)|energy(?P<energy>\d+)_input|curr(?P<curr>\d+)_input)$")
UPDATE_NS = 100_000_000
AVERAGE_NS = 1_000_000_000
"""The interval of an average of which it is not known."""
LONGEST_MS = 3_600_000
"""A longer interval is taken for none: firmware that does not know it answers 0xFFFFFFFF ms."""
OVERSHOOT = 3
"""How many times its own stated limit a device may draw for short."""
ELSEWHERE = "a GPU's, which its vendor's library shows; reading it here could wake the device"
NOT_HERE = f"{NONE_NEEDED}without that library the GPUs are named as missing"
_LIMITS = ("cap_max", "rated_max", "max", "crit")
_ABSURD_UW = 10**12


@dataclass(frozen=True)
class _Chip:
    """One chip: where its files are, its name and its driver's, its device's name, and its place among its driver's."""

    directory: Path
    called: str
    name: str
    driver: str
    device: str
    order: tuple[str, int, str]
    number: int = 0


@dataclass(frozen=True)
class _Input:
    """One input of a chip, its files, and where it belongs.

    Several files make it up: volts and amperes, or the counters of cores. `limit_uw` is what the device states as its
    own.
    """

    chip: _Chip
    stem: str
    files: tuple[Path, ...]
    label: str
    place: chips.Place | None
    limit_uw: int = 0

    @property
    def quantity(self) -> Quantity:
        """Energy or power."""
        return Quantity.ENERGY if self.stem.startswith("energy") else Quantity.POWER

    @property
    def rank(self) -> int:
        """Who comes first where several claim one domain; whoever claims none comes last."""
        return self.place.rank if self.place else 1000

    @property
    def own_place(self) -> chips.Place:
        """That of an input of which nothing is known: a domain unlike any other's, as long as devices have names."""
        domain = chips.slug(f"{self.chip.name} {self.label} {_tag(self.chip.device)}")
        return chips.Place(domain, "other", f"{self.chip.name} {self.label}", chips.NODE_UW)


def discover(
    root: Path = Path("/"),
    clock: Clock = monotonic_ns,
    about: Callable[[str], None] = unheard,
    skip: Collection[str] = (),
) -> Discovery:
    """Find all power and energy inputs below `root`; GPU drivers' chips are left to the GPU backends.

    `about` hears of each chip and input before a file of it is read, and `skip` names those that are not to be: a read
    of a driver's may never come back.
    """
    missing: list[Missing] = []
    answering: list[tuple[_Input, Files]] = []
    for one in _all_inputs(root, missing, about, skip):
        what, component = _what(one), (one.place or one.own_place).component
        if what in skip:
            missing.append(Missing(what, HANGS, LOOK, component))
            continue
        about(what)
        try:
            reader = open_files(_sensor(one, one.place or one.own_place), one.files, clock)
        except OSError as error:
            remedy = "run as root, start the perun agent, or make the file readable by a udev rule"
            missing.append(Missing(what, f"cannot read {one.files[0]}: {reason(error)}", remedy, component))
            continue
        first, reader.cost_ns = _timed(reader, clock)
        if first.ticks is None:
            reader.close()
            remedy = "look at its driver and firmware; what else measures the same counts instead"
            missing.append(Missing(what, f"{DUMB}: {first.error}", remedy, component))
            continue
        answering.append((one, reader))
    places = _places([one for one, _ in answering])
    opened = [(place, one, reader) for place, (one, reader) in zip(places, answering, strict=True)]
    return Discovery(_contained(opened), tuple(missing))


def _all_inputs(
    root: Path, missing: list[Missing], about: Callable[[str], None], skip: Collection[str]
) -> Iterator[_Input]:
    for chip in _chips(root / HWMON, missing):
        if chip.called in skip:
            missing.append(Missing(chip.called, HANGS, LOOK, "node"))
        else:
            about(chip.called)
            yield from list(_inputs(chip, missing))


def _what(one: _Input) -> str:
    return f"{one.chip.called}/{one.files[0].name} ({one.own_place.scope})"


def called(root: Path, driver: str, label: str, device: str, quantity: Quantity) -> list[tuple[str, tuple[Path, ...]]]:
    """The inputs that a driver calls so, each as the name of its place and its files (several are multiplied).

    Parameters
    ----------
    root : below which /sys is.
    driver : of the chip, or its name.
    label : the driver's; the input's stem (`power1`) where it gives none.
    device : the chip's; empty for any.
    quantity : energy or power.

    Returns
    -------
    Device and files of each that fits.
    """
    return [
        (_device(one), one.files)
        for chip in _chips(root / HWMON, [])
        for one in _inputs(chip, [])
        if driver in (chip.name, chip.driver)
        and one.label == label
        and one.quantity is quantity
        and device in ("", chip.device)
    ]


def _device(one: _Input) -> str:
    return f"{one.chip.called}/{one.files[0].name}" + (f" of {one.chip.device}" if one.chip.device else "")


def _timed(reader: Files, clock: Clock) -> tuple[Reading, int]:
    """One reading, and how long it took in ns; that of a second one where this process had to wait for a processor."""
    waits, start_ns = _waits(), clock()
    (reading,) = reader.read()
    cost_ns = clock() - start_ns
    if cost_ns > NS_PER_MS and _waits() != waits:
        start_ns = clock()
        reader.read()
        cost_ns = min(cost_ns, clock() - start_ns)
    return reading, cost_ns


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _chips(base: Path, missing: list[Missing]) -> list[_Chip]:
    """All chips in the order of their devices, numbered among those of one driver; one that cannot be listed is named.

    Older drivers keep their files below device/.
    """
    found: list[_Chip] = []
    for path in entries(base):
        device = path / "device"
        where = _link(device)
        driver = Path(_link(device / "driver")).name
        order = (*_order(where), path.name.zfill(12))
        for one in (path, device):
            try:
                inputs = any(INPUT.match(file.name) for file in one.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                missing.append(Missing(path.name, f"{one} cannot be listed: {reason(error)}", "look at its driver"))
                break
            name = text(one / "name") or text(path / "name") or path.name
            if inputs and chips.elsewhere(name):
                missing.append(Missing(f"{path.name} ({name})", ELSEWHERE, NOT_HERE))
            elif inputs:
                found.append(_Chip(one, path.name, name, driver, _stable(where), order))
    counted: Counter[str] = Counter()
    chosen = []
    for chip in sorted(found, key=lambda chip: chip.order):
        chosen.append(replace(chip, number=counted[chip.name]))
        counted[chip.name] += 1
    return chosen


def _link(path: Path) -> str:
    """Where a symbolic link leads in the end; empty where there is none."""
    try:
        return os.path.realpath(path) if path.is_symlink() else ""
    except OSError:
        return ""


_I2C = re.compile(r"i2c-\d+|\d+-(?P<address>[0-9a-f]{4})")
_HID = re.compile(r"[0-9A-F]{4}:[0-9A-F]{4}:[0-9A-F]{4}\.[0-9A-F]{4}")


def _stable(device: str) -> str:
    """The name of a device that it has after the next boot, too, from its path.

    The kernel numbers I2C buses and HID devices as they come: the one's chip is called by the bus' device and its
    address, the other by its port.
    """
    *parents, name = device.split("/")
    chip = _I2C.fullmatch(name)
    if chip and chip["address"]:
        bus = next((one for one in reversed(parents) if not _I2C.fullmatch(one)), "")
        return f"{bus}-{chip['address']}"
    return parents[-1] if _HID.fullmatch(name) and parents else name


def _order(device: str) -> tuple[str, int]:
    """Devices in the order of their paths, `amd.2` before `amd.10`."""
    head, _, tail = device.rpartition(".")
    return (head, int(tail)) if tail.isascii() and tail.isdigit() else (device, 0)


def _tag(device: str) -> str:
    """What tells a device from others of its kind; nothing for the first of those that ACPI numbers."""
    return "" if device.endswith(":00") else device


def _inputs(chip: _Chip, missing: list[Missing]) -> Iterable[_Input]:
    try:
        names = {file.name for file in chip.directory.iterdir()}
    except OSError as error:
        missing.append(Missing(chip.called, f"cannot be listed: {reason(error)}", "look at its driver"))
        return
    cores = _cores(chip, names)
    if cores:
        place = chips.place((chip.name, chip.driver), "Core Energy", chip.number, chip.device or chip.called)
        yield _Input(chip, "energy", cores, "Core Energy", place)
    for name in sorted(names):
        match = INPUT.match(name)
        if match is None or chip.directory / name in cores:
            continue
        ((kind, channel),) = ((kind, channel) for kind, channel in match.groupdict().items() if channel)
        files: tuple[Path, ...] = (chip.directory / name,)
        if kind == "curr":
            if chip.name != "ina3221" or f"in{channel}_input" not in names or f"power{channel}_input" in names:
                continue
            kind, files = "in", (*files, chip.directory / f"in{channel}_input")
        elif name.endswith("_input") and f"{kind}{channel}_average" in names:
            continue
        yield _input(chip, f"{kind}{channel}", files)


_CORE = re.compile(r"Core Energy \d+")


def _cores(chip: _Chip, names: Iterable[str]) -> tuple[Path, ...]:
    """The counters of a processor of which each core has one and nothing has the sum (Ampere's altra_hwmon)."""
    found = [name for name in names if chip.name == "altra_hwmon" and name.startswith("energy") and INPUT.match(name)]
    labels = {name: text(chip.directory / name.replace("_input", "_label")) or "" for name in found}
    return tuple(chip.directory / name for name in sorted(found) if _CORE.fullmatch(labels[name]))


def _input(chip: _Chip, stem: str, files: tuple[Path, ...]) -> _Input:
    names = (text(chip.directory / f"{stem}_{one}") for one in ("oem_info", "label"))
    label = next((one for one in names if one), stem)
    limits = [number(chip.directory / f"{stem}_{one}") or 0 for one in _LIMITS] if stem.startswith("power") else []
    place = chips.place((chip.name, chip.driver), label, chip.number, chip.device or chip.called)
    if number(chip.directory / f"{stem}_is_battery"):
        place = None
    return _Input(chip, stem, files, label, place, max((one for one in limits if one < _ABSURD_UW), default=0))


def _places(inputs: list[_Input]) -> list[chips.Place]:
    """Where each of the inputs belongs, no two in one domain with one quantity.

    Several chips of one driver that claim one domain are several parts of nobody knows what (two ACPI meters: a power
    supply each, or one in the other), and none of them gets it. Of several drivers the first of the table does.
    """
    claims = Counter((one.place.domain, one.quantity, one.chip.name) for one in inputs if one.place)
    taken: set[tuple[str, Quantity]] = set()
    found: dict[int, chips.Place] = {}
    for nth, one in sorted(enumerate(inputs), key=lambda pair: pair[1].rank):
        place = one.place
        if place is None:
            place = one.own_place
        elif (several := claims[place.domain, one.quantity, one.chip.name]) > 1:
            place = replace(one.own_place, scope=f"{place.scope}, one of {several}")
        elif (place.domain, one.quantity) in taken:
            place = replace(one.own_place, scope=f"{place.scope}, another one")
        again = 1
        while (place.domain, one.quantity) in taken:
            again += 1
            place = replace(place, domain=f"{one.own_place.domain}-{again}")
        taken.add((place.domain, one.quantity))
        found[nth] = place
    return [found[nth] for nth in range(len(inputs))]


_Opened = tuple[chips.Place, _Input, Files]


def _contained(opened: list[_Opened]) -> tuple[Reader, ...]:
    """The readers in the order of their domains, each sensor below the nearest that contains it and could be opened."""
    ids = {place.domain: f"hwmon:{place.domain}:{one.quantity}" for place, one, _ in opened}
    families = [(one.chip.called, place.inside, one.quantity) for place, one, _ in opened]
    parts, seen = Counter(families), Counter[object]()
    done = []
    for (place, one, reader), family in zip(opened, families, strict=True):
        holders = _holders(place, sorted(ids), seen[family], parts[family])
        seen[family] += 1
        parent = next((ids[domain] for domain in holders if domain in ids), None)
        done.append(reader.relabelled((replace(_sensor(one, place), parent=parent),)))
    return tuple(sorted(done, key=lambda reader: (reader.sensors[0].domain, reader.sensors[0].id)))


def _holders(place: chips.Place, domains: list[str], nth: int, of: int) -> list[str]:
    """The domains that may contain a place; of `package-*` the one that has the nth of so many cores.

    The drivers number cores through, one package after the other.
    """
    found: list[str] = []
    for domain in place.inside:
        some = [name for name in domains if name.startswith(domain[:-1])] if domain.endswith("*") else [domain]
        found += some[nth * len(some) // of :][:1]
    return found


def _sensor(one: _Input, place: chips.Place) -> Sensor:
    is_energy = one.quantity is Quantity.ENERGY
    interval_ms = number(one.chip.directory / f"{one.stem}_average_interval") or 0
    averaged = one.files[0].name.endswith("_average")
    unknown_ns = AVERAGE_NS if averaged else UPDATE_NS
    update_ns = interval_ms * NS_PER_MS if 0 < interval_ms <= LONGEST_MS else unknown_ns
    return Sensor(
        id=f"hwmon:{place.domain}:{one.quantity}",
        host=host_name(),
        backend="hwmon",
        device=_device(one),
        domain=place.domain,
        component=place.component,
        kind=Kind.COUNTER if is_energy else Kind.GAUGE,
        quantity=one.quantity,
        unit="uJ" if is_energy else "uW",
        gain_error=0.03,
        gain_source="assumed 3 % (k=1); the driver states none",
        update_ns=update_ns,
        lag_ns=update_ns if averaged else 0,
        max_uw=max(place.max_uw, OVERSHOOT * one.limit_uw),
        scope=place.scope,
    )
