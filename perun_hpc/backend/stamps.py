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
