"""The difference of two counter readings: wraps, resets, gaps and doubt handled in one place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from perun_hpc.data_model.sensor import Reading, Sensor

NS_PER_S = 1_000_000_000


class Status(StrEnum):
    """How a difference came about."""

    OK = "ok"
    WRAPPED = "wrapped"
    GAP = "gap"
    RESET = "reset"
    AMBIGUOUS = "ambiguous"
    IMPLAUSIBLE = "implausible"


@dataclass(frozen=True, slots=True)
class Difference:
    """`ticks` counted between two readings; None when it is not known, then `status` and `why` say why.

    `at_least` is a lower bound in ticks that holds even when `ticks` is None (0 when nothing is known).
    """

    ticks: int | None
    status: Status
    elapsed_ns: int
    at_least: int = 0
    why: str = ""


def difference(sensor: Sensor, before: Reading, after: Reading, *, same_boot: bool = True) -> Difference:
    """Ticks of a counter between two readings.

    A counter that went backwards has wrapped when the distance through its range is plausible, else it was reset.
    With enough time for one more turn below the plausibility ceiling `max_uw` the result is ambiguous: no number.
    """
    elapsed_ns = after.mono_ns - before.mono_ns
    if before.ticks is None or after.ticks is None:
        return Difference(None, Status.GAP, elapsed_ns, why=before.error or after.error or "no reading")
    if not same_boot:
        return Difference(None, Status.RESET, elapsed_ns, why="the node was booted in between")
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


def ceiling_ticks(sensor: Sensor, elapsed_ns: int) -> int | None:
    """Most ticks that `max_uw` allows in the time plus an update interval at each edge; None without a ceiling."""
    if sensor.max_uw is None:
        return None
    seconds_ns = elapsed_ns + 2 * sensor.update_ns
    return sensor.max_uw * seconds_ns * sensor.scale_den // (sensor.scale_num * NS_PER_S) + sensor.resolution


def longest_poll_ns(sensor: Sensor) -> int | None:
    """Longest time between two polls of a counter, a quarter of the shortest time to a wrap; None if it never wraps."""
    if sensor.wrap_range is None or sensor.max_uw is None:
        return None
    range_uj = sensor.base(sensor.wrap_range)
    return range_uj * NS_PER_S // (4 * sensor.max_uw)
