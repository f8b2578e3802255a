"""Energy counters that are one: zones of the powercap class that show the same register of the hardware.

Linux 6.9 and 6.10 list a package of AMD's once for each die; each zone shows the package's register. Read A, B and A
again: a counter that is the same lies between the two readings, another one does not but by chance, and never three
times while both count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.backend.sysfile import number
from perun_hpc.data_model.sensor import NONE_NEEDED, Missing, Provenance, Reading, Sensor

FAMILIES = ("package", "dram", "psys")
"""Whose counters are added up; the others lie inside these."""
ROUNDS = 3
MOST_ROUNDS = 10
PAUSE_S = 0.01
"""RAPL renews its values every ms."""
ONE_COUNTER = f"{NONE_NEEDED}counted once"
AGAIN = f"{NONE_NEEDED}looked at again when it counts"
"""Of zones that stand still: what they are shows as soon as they count."""

Values = list[int | None]


@dataclass(frozen=True, slots=True)
class Mirror:
    """What is said of a zone that is left out, and the id of the sensor whose counter it shows."""

    missing: Missing
    of: str


def find(pairs: Sequence[tuple[Sensor, Path]], pause: Callable[[float], None]) -> dict[str, Mirror]:
    """Which sensors show another one's counter.

    Parameters
    ----------
    pairs : sensors and their files.
    pause : waits for so many seconds.

    Returns
    -------
    Sensor's id -> what it mirrors.
    """
    families: dict[str, list[tuple[Sensor, Path]]] = defaultdict(list)
    for sensor, file in pairs:
        families[sensor.domain.partition("-")[0]].append((sensor, file))
    found: dict[str, Mirror] = {}
    for family in FAMILIES:
        if len(families[family]) > 1:
            found.update(_among(families[family], pause))
    return found


def name(sensor: Sensor) -> str:
    """Of a zone among what is missing."""
    return f"{sensor.device} ({sensor.domain})"


def left_out(missing: Iterable[Missing]) -> dict[str, str]:
    """The zones that are left out for another one's sake: name -> why."""
    return {one.what: one.why for one in missing if one.remedy in (ONE_COUNTER, AGAIN)}


def look_again(
    sensors: Iterable[Sensor], missing: Iterable[Missing], before: Mapping[str, Reading], now: Mapping[str, Reading]
) -> bool:
    """Whether readings at two moments give reason to read the zones against each other once more.

    Counters that stood still then count now, or two that were taken for two show one value.
    """
    moved = [
        (one.domain.partition("-")[0], now[one.id].ticks)
        for one in sensors
        if one.backend == "powercap" and one.provenance is not Provenance.SIMULATED
        and one.id in before and one.id in now and None not in (before[one.id].ticks, now[one.id].ticks)
        and before[one.id].ticks != now[one.id].ticks
    ]  # fmt: skip
    alike = [one for one in moved if one[0] in FAMILIES]
    return len(set(alike)) < len(alike) or bool(moved and any(one.remedy == AGAIN for one in missing))


def _among(pairs: Sequence[tuple[Sensor, Path]], pause: Callable[[float], None]) -> dict[str, Mirror]:
    begun, again = _twice(pairs)
    places = [(first, second) for first in range(len(pairs)) for second in range(first + 1, len(pairs))]
    suspects = [pair for pair in places if _may_be_one(*pair, begun, again)]
    now = begun
    for rounds in range(1, MOST_ROUNDS):
        if not suspects or (rounds >= ROUNDS and all(now[first] != begun[first] for first, _ in suspects)):
            break
        pause(PAUSE_S)
        now, again = _twice(pairs)
        suspects = [pair for pair in suspects if _may_be_one(*pair, now, again)]
    found: dict[str, Mirror] = {}
    for first, second in suspects:
        (sensor, file), (twin, twins_file) = pairs[second], pairs[first]
        if twin.id in found or sensor.id in found:
            continue
        zone, other = file.parent.name, twins_file.parent.name
        if now[first] != begun[first]:
            why = f"{zone} shows the same counter as {other}"
            found[sensor.id] = Mirror(Missing(name(sensor), why, ONE_COUNTER), twin.id)
        elif _package(sensor) == _package(twin):
            why = f"{zone} stands still at the value of {other}, another die of its package"
            found[sensor.id] = Mirror(Missing(name(sensor), why, AGAIN), twin.id)
    return found


def _twice(pairs: Sequence[tuple[Sensor, Path]]) -> tuple[Values, Values]:
    """All counters twice, in one order: between the two readings of each lie those of all behind it."""
    return [number(file) for _, file in pairs], [number(file) for _, file in pairs]


def _may_be_one(first: int, second: int, before: Values, after: Values) -> bool:
    low, between, high = before[first], before[second], after[first]
    if low is None or between is None or high is None:
        return False
    return high < low or low <= between <= high  # one that wrapped in between says nothing


def _package(sensor: Sensor) -> str:
    return "-".join(sensor.domain.split("-")[:2])
