"""Time stamps that a source gives on the real-time clock, moved onto the monotonic one."""

from __future__ import annotations

import time

from perun_hpc.backend.base import Clock, monotonic_ns
from perun_hpc.data_model.sensor import Reading

STEADY_NS = 1_000_000
"""The real-time clock counts as stepped when it moves by more than this against the monotonic one."""
FROZEN_NS = 60_000_000_000
"""A value whose own time stamp is older than this is frozen."""


class Stamps:
    """Keeps the offset between the clocks while it is steady, so that one time stamp always gives one moment."""

    def __init__(self, clock: Clock = monotonic_ns, real_clock: Clock = time.time_ns) -> None:
        """Both clocks return ns."""
        self._clock = clock
        self._real_clock = real_clock
        self._offset_ns: int | None = None

    def reading(self, ticks: int, stamp_ns: int) -> Reading:
        """The value at its own time, never in the future; a gap when the source stopped renewing it."""
        now = self._clock()
        offset_ns = now - self._real_clock()
        if self._offset_ns is None or abs(offset_ns - self._offset_ns) > STEADY_NS:
            self._offset_ns = offset_ns
        mono_ns = stamp_ns + self._offset_ns
        if now - mono_ns > FROZEN_NS:
            return Reading(None, now, f"frozen: the value is {(now - mono_ns) // 1_000_000_000} s old")
        return Reading(ticks, min(now, mono_ns))


NEAR_NS = 2_000_000_000
"""A time stamp that is no older, and not of the future, is by a clock that agrees with this machine's."""


class RenewedStamps(Stamps):
    """Time stamps of a source that says when it renews its values, by a clock that may be minutes off.

    The clock's error is then unknown, but not how much older one value is than another: the youngest seen so far is
    taken to be as young as can be.
    """

    def __init__(self, clock: Clock = monotonic_ns, real_clock: Clock = time.time_ns) -> None:
        super().__init__(clock, real_clock)
        self._mark: object = None
        self._since_ns: int | None = None
        self._least_ns: int | None = None

    def note(self, mark: object, youngest_ns: int) -> str:
        """Take what changes at each renewal, and its youngest stamp; returns why all is frozen, else nothing."""
        now = self._clock()
        if mark != self._mark or self._since_ns is None:
            self._mark, self._since_ns = mark, now
        lag_ns = self._real_clock() - youngest_ns
        if 0 <= lag_ns <= NEAR_NS:
            self._least_ns = None
        elif self._least_ns is None or lag_ns < self._least_ns or lag_ns - self._least_ns > NEAR_NS:
            self._least_ns = lag_ns
        still_ns = now - self._since_ns
        return f"frozen: not renewed for {still_ns // 1_000_000_000} s" if still_ns > FROZEN_NS else ""

    def reading(self, ticks: int, stamp_ns: int) -> Reading:
        """The value at its own time, never in the future; a gap where it is much older than the youngest."""
        if self._least_ns is None:
            return super().reading(ticks, stamp_ns)
        now, age_ns = self._clock(), self._real_clock() - stamp_ns - self._least_ns
        if age_ns > FROZEN_NS:
            return Reading(None, now, f"frozen: the value is {age_ns // 1_000_000_000} s older than the youngest")
        return Reading(ticks, now - max(0, age_ns))
