"""The difference of two counter readings: wraps, resets, gaps and doubt handled in one place.

Energy counters wrap; the kernel's times (of CPUs, of cgroups) never do: one that goes backwards is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import sub
from typing import NamedTuple

from perun_hpc.data_model.sensor import GAP, Provenance, Reading, Sensor

NS_PER_S = 1_000_000_000


class Status(StrEnum):
    """How a difference came about."""

    OK = "ok"
    WRAPPED = "wrapped"
    GAP = "gap"
    RESET = "reset"
    AMBIGUOUS = "ambiguous"
    IMPLAUSIBLE = "implausible"


class Difference(NamedTuple):
    """`ticks` counted between two readings; None when it is not known, then `status` and `why` say why.

    `at_least` is a lower bound in ticks that holds even when `ticks` is None (0 when nothing is known). A named tuple,
    as are the other values that come once for each counter and interval: a frozen dataclass takes four times as long.
    """

    ticks: int | None
    status: Status
    elapsed_ns: int
    at_least: int = 0
    why: str = ""


def difference(sensor: Sensor, before: Reading, after: Reading) -> Difference:
    """Ticks of a counter between two readings of one boot.

    A counter that went backwards has wrapped when the distance through its range is plausible, else it was reset.
    With enough time for one more turn below the plausibility ceiling `max_uw` the result is ambiguous: no number.

    Parameters
    ----------
    sensor : the counter: its range, resolution and ceiling.
    before, after : two readings of it, the earlier one first.

    Returns
    -------
    Ticks, or why there are none, with a lower bound.
    """
    elapsed_ns = after.mono_ns - before.mono_ns
    if before.ticks is None or after.ticks is None:
        return Difference(None, Status.GAP, elapsed_ns, why=before.error or after.error or "no reading")
    if elapsed_ns < 0:
        return Difference(None, Status.IMPLAUSIBLE, elapsed_ns, why="the later reading carries the earlier time")
    raw = after.ticks - before.ticks
    ceiling = ceiling_ticks(sensor, elapsed_ns)
    status = Status.OK
    if raw < 0:
        if sensor.wrap_range is None:
            return Difference(None, Status.RESET, elapsed_ns, why="the counter went backwards and never wraps")
        raw += sensor.wrap_range
        status = Status.WRAPPED
        if raw < 0 or (ceiling is not None and raw > ceiling):
            return Difference(
                None, Status.RESET, elapsed_ns, why="the counter went backwards by more than a wrap explains"
            )
    elif ceiling is not None and raw > ceiling:
        return Difference(None, Status.IMPLAUSIBLE, elapsed_ns, why="more energy than the device can take")
    if sensor.wrap_range is not None and ceiling is not None and raw + sensor.wrap_range <= ceiling:
        why = f"time for more than one wrap of {sensor.wrap_range} ticks"
        return Difference(None, Status.AMBIGUOUS, elapsed_ns, at_least=raw, why=why)
    return Difference(raw, status, elapsed_ns, at_least=raw)


def counted_each(
    sensor: Sensor, first: Reading, ticks: Sequence[int], times_ns: Sequence[int]
) -> tuple[list[int], Reading]:
    """What a counter counted up to each of many readings since the one before that is known, of one boot.

    What `difference` does not know is nothing here, and in the next reading's figure.

    Parameters
    ----------
    sensor : the counter.
    first : the reading before; it shows something.
    ticks : of the readings, `GAP` where there is none; not empty.
    times_ns : when each was taken, CLOCK_MONOTONIC, in rising order.

    Returns
    -------
    For each the quantity in base units, and the last reading that is known.
    """
    begun = first.ticks
    if begun is not None and begun <= ticks[0] and times_ns[0] > first.mono_ns:
        steps = list(map(sub, ticks, (begun, *ticks)))
        apart_ns = min(map(sub, times_ns, (first.mono_ns, *times_ns)))
        if goes_on(sensor, min(steps), max(steps), apart_ns, times_ns[-1] - first.mono_ns):
            found = steps if sensor.scale_num == sensor.scale_den else list(map(sensor.base, steps))
            return found, Reading(ticks[-1], times_ns[-1])
    found, before = [], first
    for one, ns in zip(ticks, times_ns, strict=True):
        after = Reading(None if one == GAP else one, ns)
        # A reading that was begun before the one that is known: who reads all at once came in between.
        back = (before.ticks or 0) - one
        stale = back > 0 and (sensor.wrap_range is None or back < sensor.wrap_range // 2)
        change = None if stale else difference(sensor, before, after).ticks
        found.append(0 if change is None else sensor.base(change))
        before = before if change is None else after
    return found, before


def goes_on(sensor: Sensor, least: int, most: int, apart_ns: int, whole_ns: int) -> bool:
    """Whether a counter neither wrapped nor began anew, nor shows too much, in steps of these ticks.

    Parameters
    ----------
    least, most : of the steps.
    apart_ns : of two readings at least.
    whole_ns : from the first reading to the last.
    """
    highest, whole = ceiling_ticks(sensor, apart_ns), ceiling_ticks(sensor, whole_ns)
    sure = sensor.wrap_range is None or whole is None or sensor.wrap_range > whole
    return least >= 0 and sure and (highest is None or most <= highest)


def ceiling_ticks(sensor: Sensor, elapsed_ns: int) -> int | None:
    """Most ticks that `max_uw` allows in the time plus an update interval at each edge.

    Parameters
    ----------
    sensor : whose `max_uw`, scale, resolution and update interval count.
    elapsed_ns : time between the readings.

    Returns
    -------
    Ticks, the sensor's resolution added; None without a ceiling.
    """
    if sensor.max_uw is None:
        return None
    seconds_ns = elapsed_ns + 2 * sensor.update_ns
    return sensor.max_uw * seconds_ns * sensor.scale_den // (sensor.scale_num * NS_PER_S) + sensor.resolution


STILL_NS = NS_PER_S // 10
LEAST_UW = 1_000_000
"""Any package, module, memory or GPU that is on takes a watt."""
LEAST_NODE_UW = 10_000_000
"""Any node or platform of which a meter counts in whole joules takes ten (HPE Cray, Sapphire Rapids)."""
LEAST_STEPS = 10
STILL = "its counter stands still"


def stands_still(sensor: Sensor, first: Reading, last: Reading) -> bool:
    """Whether an energy counter is silent: the least power would have moved it many times, and it is where it was.

    Over less than `STILL_NS`, or too few of the source's own steps and updates, it is not known; nor of a simulated
    one, which takes what its simulator gives it.
    """
    elapsed_ns = last.mono_ns - first.mono_ns
    if sensor.provenance is Provenance.SIMULATED:
        return False
    if first.ticks is None or first.ticks != last.ticks or elapsed_ns < max(STILL_NS, LEAST_STEPS * sensor.update_ns):
        return False
    least_uw = LEAST_NODE_UW if sensor.component == "node" else LEAST_UW
    return least_uw * elapsed_ns // NS_PER_S >= LEAST_STEPS * sensor.base(sensor.resolution)


def what_lacks(sensor: Sensor, first: Reading | None, last: Reading, accounted: bool) -> tuple[str, ...]:
    """Why the energy of an energy counter between two moments is not, or not wholly, known; in words for users.

    `first` is its first reading that showed something (None: none did), `last` the one at the end. `accounted`: figures
    rest on it. Of other counters (a package's cores, say) it is no news that a processor does not move them.
    """
    lacks = []
    if last.ticks is None:
        lacks.append(f"no end reading of {sensor.domain}: {last.error}")
    if first is None or first.ticks is None:
        lacks.append(f"no start reading of {sensor.domain}")
    elif accounted and stands_still(sensor, first, last):
        lacks.append(f"{sensor.domain}: {STILL}")
    return tuple(lacks)


def longest_poll_ns(sensor: Sensor) -> int | None:
    """Longest time between two polls of a counter, a quarter of the shortest time to a wrap; None if it never wraps."""
    if sensor.wrap_range is None or sensor.max_uw is None:
        return None
    range_uj = sensor.base(sensor.wrap_range)
    return range_uj * NS_PER_S // (4 * sensor.max_uw)


@dataclass(frozen=True, slots=True)
class Span:
    """Time that the kernel counted between two looks, in ns; None when it is not known, then `why` says why."""

    ns: int | None
    why: str = ""


def span(before_ns: int | None, after_ns: int | None) -> Span:
    """Time that one of the kernel's clocks counted between two looks.

    Parameters
    ----------
    before_ns, after_ns : what it showed at the two looks; None: it could not be read.

    Returns
    -------
    The time, or why it is not known.
    """
    if after_ns is None:
        return Span(None, "was not read")
    if before_ns is None:
        return Span(None, "was not read before")
    if after_ns < before_ns:
        return Span(None, "went backwards")
    return Span(after_ns - before_ns)


def busy_between(
    before_ns: Mapping[int, int], after_ns: Mapping[int, int], cpus: Iterable[int] = ()
) -> tuple[dict[int, int], dict[int, str]]:
    """Busy time of each CPU between two looks at all of them, and why that of some CPUs is not known.

    A CPU that was not there before came online: what it shows was counted since boot.

    Parameters
    ----------
    before_ns, after_ns : CPU -> busy time that each look found.
    cpus : of which something is to be said when neither look found any.

    Returns
    -------
    CPU -> busy time in ns, and CPU -> why it is not known; no CPU is in both.
    """
    busy: dict[int, int] = {}
    unread: dict[int, str] = {}
    for cpu in before_ns.keys() | after_ns.keys() or cpus:
        counted = span(before_ns.get(cpu), after_ns.get(cpu))
        if counted.ns is not None:
            busy[cpu] = counted.ns
        elif before_ns and after_ns and cpu not in after_ns:
            unread[cpu] = "ended when it went offline"
        elif before_ns and after_ns and cpu not in before_ns:
            unread[cpu] = "is not known, it came online"
        else:
            unread[cpu] = counted.why
    return busy, unread
