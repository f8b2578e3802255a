"""When to sample: one absolute schedule on the wall-clock grid (k x period), walked with the monotonic clock.

All nodes tick at the same wall-clock moments without talking, and nothing drifts: the due time of tick k is computed,
never accumulated. The offset between the two clocks is followed while it moves as a disciplined clock does; a step of
the wall clock is recorded and does not disturb the ticks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: The most that a disciplined clock may gain or lose on the monotonic one (adjtimex: 500 ppm slew + 500 ppm frequency).
SLEW_PPM = 1000
#: Reading both clocks one after the other is no better than this: the process may be preempted in between.
CLOCK_NOISE_NS = 50_000_000
#: When what is not due is due (monotonic).
NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment to sample: its index on the grid, when it was due, how late it is, how many before it were lost."""

    index: int
    due_mono_ns: int
    late_ns: int
    skipped: int


class Schedule(NamedTuple):
    """The grid of one period: `index * period_ns` is the wall-clock time of a tick.

    A named tuple, since one is made for every row, and a frozen dataclass takes four times as long.

    `offset_ns` is wall clock minus monotonic clock as the grid uses it, `step_ns` what the wall clock has been stepped
    by since the schedule began (and the grid therefore does not follow), `seen_mono_ns` when the clocks were last
    compared.
    """

    period_ns: int
    offset_ns: int
    next_index: int
    seen_mono_ns: int
    step_ns: int = 0

    @classmethod
    def starting(cls, period_ns: int, mono_ns: int, real_ns: int) -> Schedule:
        """The schedule whose first tick is the next moment of the grid after now."""
        if period_ns <= 0:
            raise ValueError(f"sampling period {period_ns} ns: must be positive")
        return cls(period_ns, real_ns - mono_ns, real_ns // period_ns + 1, mono_ns)

    @property
    def due_mono_ns(self) -> int:
        """Monotonic time of the next tick."""
        return self.next_index * self.period_ns - self.offset_ns

    def observe(self, mono_ns: int, real_ns: int) -> Schedule:
        """Follow a slewed wall clock; note a stepped one and keep the grid where it was."""
        drift_ns = real_ns - mono_ns - self.offset_ns - self.step_ns
        allowed_ns = CLOCK_NOISE_NS + max(0, mono_ns - self.seen_mono_ns) * SLEW_PPM // 1_000_000
        if abs(drift_ns) <= allowed_ns:
            return Schedule(self.period_ns, self.offset_ns + drift_ns, self.next_index, mono_ns, self.step_ns)
        return Schedule(self.period_ns, self.offset_ns, self.next_index, mono_ns, self.step_ns + drift_ns)

    def at(self, period_ns: int) -> Schedule:
        """The same clocks on the grid of another period, from its first moment after the last tick on."""
        last_ns = (self.next_index - 1) * self.period_ns
        return self._replace(period_ns=period_ns, next_index=last_ns // period_ns + 1)

    def take(self, mono_ns: int) -> tuple[Tick | None, Schedule]:
        """The tick that is due now, if one is, and the schedule after it; of several overdue the newest is taken."""
        due_ns = self.due_mono_ns
        if mono_ns < due_ns:
            return None, self
        skipped = (mono_ns - due_ns) // self.period_ns
        index = self.next_index + skipped
        tick = Tick(index, due_ns + skipped * self.period_ns, (mono_ns - due_ns) % self.period_ns, skipped)
        return tick, Schedule(self.period_ns, self.offset_ns, index + 1, self.seen_mono_ns, self.step_ns)
