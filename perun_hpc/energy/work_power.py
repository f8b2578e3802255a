"""What a busy core draws in whose work, learnt from a package's own power while jobs come, go and change.

CPU time knows neither clock nor vectors nor memory: of two jobs that are as busy as each other one may draw twice as
much as the other. But the package's counter sees the sum, and jobs do not keep step: one that starts, ends or waits
moves the sum by what it draws. A Kalman filter over a package's intervals (Kalman, J. Basic Eng. 82, 1960) follows

    power - static = sum_j busy_j (w + d_j + p_j) + waking + offset + drift

w : watts of a busy core on this package; d_j : how far owner j's lie from that; p_j : what moves within its work for a
while; waking : what static power rises by once a package does not sleep; offset : what the stated static power is wrong
by; drift : what heat and air move it by. All are Gaussian and known beforehand as the constants below say, which were
chosen on the simulator's tuning family (docs/method.md). Where jobs do not move against each other nothing is learnt,
and an owner's watts stay those of all with the doubt of that.

Standard library only: the agent has no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
WATTS = (6.0, 6.0)
"""A busy core before anything is known (W), and its spread."""
LEAST_W = 0.5
OWNERS_SPREAD, OWNERS_S = 0.30, 600.0
"""How far the watts of programs lie from each other, relative (k=1), and how long one stays what it is."""
MOVING_SPREAD, MOVING_S = 0.20, 30.0
"""How far those of one program move, and how long they stay where they went."""
WAKING = (0.04, 0.05)
"""Of the static power: what waking adds to it, and its spread."""
AWAKE = 0.1
"""A package of whose cores so many are busy does not sleep; below it, how much of `WAKING` there is is not known."""
ASLEEP = 0.05
DRIFT_OF_WORK, DRIFT_OF_STATIC, DRIFT_S = 0.03, 0.02, 60.0
ANEW_S = 86_400.0
"""After so long what is the package's own may be anything again: its clock, caps and surroundings change."""
NOISE_OF_WORK, NOISE_OF_STATIC, NOISE_W = 0.01, 0.002, 0.3
"""What a second's power is off by beside all of that, relative to work and static power, and in W."""
LEAST_NS = NS_PER_S // 2
"""Intervals shorter than this say more about a counter's edges than about jobs."""
MOST_OWNERS = 40
"""Its cost is the square of the owners that it knows."""
LEAST_PART = 0.2
"""Of the usual watts; nobody's are less."""
MISFIT = 9.0
"""Where the squares of what is not foreseen are so many times what they should be, the model does not fit."""
MOST_MISFIT, MISFIT_INTERVALS, FIRST_MISFITS = 25.0, 60, 5
"""What one interval can count, over how many the mean is taken, and how many good ones stand at the beginning."""
W, WAKE, OFFSET, DRIFT = range(4)
COMMON = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """How an interval's dynamic energy is shared out: weights by owner (W), and each one's doubt.

    `doubts` are standard uncertainties (k=1) of each owner's part, as parts of the whole.
    """

    weights: Mapping[str, float]
    doubts: Mapping[str, float]


class WorkPower:
    """The filter of one package of so many `cores`.

    State and covariance hold the `COMMON` figures and then two of each owner, in W.

    Attributes
    ----------
    misfit : mean square of what was not foreseen, against what it should be; 1 where the model fits.
    """

    def __init__(self, cores: int) -> None:
        self._cores = max(1, cores)
        self._start(-1.0, -1.0, 0.0)

    def _start(self, static_w: float, static_error: float, cores: float) -> None:
        """Know nothing but static power, while so many cores are busy."""
        self._static_w, self._static_error = static_w, static_error
        self._work_w = WATTS[0] * cores
        self._owners: list[str] = []
        self._away_s: dict[str, float] = {}
        self._x = [WATTS[0], WAKING[0] * static_w, 0.0, 0.0]
        spreads = (WATTS[1], WAKING[1] * static_w, static_error * static_w, self._drift_w(static_w))
        self._c = [[one**2 if at == place else 0.0 for at in range(COMMON)] for place, one in enumerate(spreads)]
        self._first = [one**2 for one in spreads[:DRIFT]]
        self.misfit, self._fits = 1.0, FIRST_MISFITS

    @property
    def watts(self) -> float:
        """Of a busy core on this package, W."""
        return max(self._x[W], LEAST_W)

    def take(
        self, duration_ns: int, total_uj: int, static_uw: int, static_error: float, busy_ns: Mapping[str, float]
    ) -> Parts | None:
        """Learn from an interval, and say how its dynamic energy is shared out; None: by core time.

        Parameters
        ----------
        duration_ns, total_uj : its length, and the package's energy.
        static_uw, static_error : static power as it is stated, and its relative standard uncertainty.
        busy_ns : core time by owner, second threads at their weight.

        Returns
        -------
        The parts of the owners that worked.

        Raises
        ------
        ArithmeticError
            when the filter has come to numbers that cannot be; it is of no use any more.
        """
        if duration_ns <= 0:
            return None
        seconds, static_w = duration_ns / NS_PER_S, static_uw / 1e6
        busy = {owner: ns / duration_ns for owner, ns in busy_ns.items() if ns >= 1}
        self._begin(static_w, static_error, busy)
        if not self._meet(seconds, busy):
            return None
        self._pass(seconds, busy)
        if duration_ns >= LEAST_NS:
            self._observe(seconds, total_uj / 1e6 / seconds - static_w, busy)
        return self._parts(busy) if busy and self.misfit < MISFIT else None

    # Who is there.

    def _begin(self, static_w: float, static_error: float, busy: Mapping[str, float]) -> None:
        """Static power may be stated for the first time, or by more than it may be wrong by, or from another source,
        otherwise than before: then what was learnt beside that is worth nothing.
        """
        change_w = static_w - self._static_w
        if static_error == self._static_error and abs(change_w) <= static_error * self._static_w:
            self._x[OFFSET] -= change_w
            self._static_w = static_w
        else:
            self._start(static_w, static_error, sum(busy.values()))

    def _meet(self, seconds: float, busy: Mapping[str, float]) -> bool:
        """Give owners that are new a place, and forget those that are long gone; False: they are too many."""
        self._away_s = {owner: self._away_s.get(owner, 0.0) + seconds for owner in self._owners if owner not in busy}
        too_many = max(0, len(busy.keys() | self._away_s.keys()) - MOST_OWNERS)
        longest = sorted(self._away_s, key=lambda owner: -self._away_s[owner])
        for place, owner in enumerate(longest):
            if place < too_many or self._away_s[owner] > OWNERS_S:
                self._drop(owner)
        if len(busy) > MOST_OWNERS:
            return False
        for owner in busy:
            if owner not in self._owners:
                self._owners.append(owner)
                for spread in (OWNERS_SPREAD, MOVING_SPREAD):
                    self._x.append(0.0)
                    for row in self._c:
                        row.append(0.0)
                    self._c.append([0.0] * len(self._x))
                    self._c[-1][-1] = (spread * self.watts) ** 2
        return True

    def _drop(self, owner: str) -> None:
        at = self._place(owner)
        del self._c[at : at + 2]
        for row in (self._x, *self._c):
            del row[at : at + 2]
        self._owners.remove(owner)
        del self._away_s[owner]

    def _place(self, owner: str) -> int:
        return COMMON + 2 * self._owners.index(owner)

    # Time goes on.

    def _pass(self, seconds: float, busy: Mapping[str, float]) -> None:
        """What moves forgets where it was."""
        self._work_w += (self.watts * sum(busy.values()) - self._work_w) * min(1.0, seconds / DRIFT_S)
        for at, first in enumerate(self._first):
            self._c[at][at] = max(self._c[at][at], min(first, self._c[at][at] + first * seconds / ANEW_S))
        self._forget(DRIFT, math.exp(-seconds / DRIFT_S), self._drift_w(self._static_w))
        stays, keeps = math.exp(-seconds / OWNERS_S), math.exp(-seconds / MOVING_S)
        for at in range(COMMON, len(self._x), 2):
            self._forget(at, stays, OWNERS_SPREAD * self.watts)
            self._forget(at + 1, keeps, MOVING_SPREAD * self.watts)

    def _drift_w(self, static_w: float) -> float:
        return math.hypot(DRIFT_OF_WORK * self._work_w, DRIFT_OF_STATIC * static_w)

    def _forget(self, at: int, keep: float, spread_w: float) -> None:
        """A figure goes back to 0, and its doubt to `spread_w`, but for what is kept."""
        self._x[at] *= keep
        for row in self._c:
            row[at] *= keep
        self._c[at] = [one * keep for one in self._c[at]]
        self._c[at][at] += spread_w**2 * (1 - keep**2)

    # What the package draws.

    def _observe(self, seconds: float, dynamic_w: float, busy: Mapping[str, float]) -> None:
        """It drew so much above its static power."""
        whole, awake = sum(busy.values()), AWAKE * self._cores
        slopes = [0.0] * len(self._x)
        slopes[W], slopes[WAKE], slopes[OFFSET], slopes[DRIFT] = whole, min(1.0, whole / awake), 1.0, 1.0
        for owner, cores in busy.items():
            at = self._place(owner)
            slopes[at] = slopes[at + 1] = cores
        noise = (NOISE_OF_WORK * self._work_w) ** 2 + (NOISE_OF_STATIC * self._static_w) ** 2 + NOISE_W**2
        variance = noise / seconds + ((ASLEEP * self._static_w) ** 2 if whole < awake else 0.0)
        moved = [_dot(row, slopes) for row in self._c]
        variance += _dot(moved, slopes)
        off = dynamic_w - _dot(self._x, slopes)
        if not 0 < variance < math.inf or not math.isfinite(off):
            raise ArithmeticError("the filter of a package's watts came to numbers that cannot be")
        self._fits = min(self._fits + 1, MISFIT_INTERVALS)
        self.misfit += (min(off * off / variance, MOST_MISFIT) - self.misfit) / self._fits
        self._x = [one + by * off / variance for one, by in zip(self._x, moved, strict=True)]
        for place, (row, by) in enumerate(zip(self._c, moved, strict=True)):
            factor = by / variance
            if factor:
                self._c[place] = [a - factor * b for a, b in zip(row, moved, strict=True)]

    def _parts(self, busy: Mapping[str, float]) -> Parts:
        least_w = LEAST_PART * self.watts
        places = {owner: (W, self._place(owner), self._place(owner) + 1) for owner in busy}
        weights = {
            owner: cores * max(least_w, sum(self._x[at] for at in places[owner])) for owner, cores in busy.items()
        }
        whole = sum(weights.values())
        every = [0.0] * len(self._x)
        for owner, cores in busy.items():
            for at in places[owner]:
                every[at] += cores
        with_all = [_dot(row, every) for row in self._c]
        all_with_all = _dot(with_all, every)
        doubts = {}
        for owner, cores in busy.items():
            q = weights[owner] / whole
            own = cores * cores * sum(self._c[a][b] for a in places[owner] for b in places[owner])
            shared = cores * sum(with_all[at] for at in places[owner])
            square = max(0.0, own - 2 * q * shared + q * q * all_with_all) / whole**2
            doubts[owner] = math.sqrt(square * max(1.0, self.misfit))
        return Parts(weights, doubts)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True) if b)
