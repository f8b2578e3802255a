"""Rows in memory: raw ticks become stored values, column by column, in the chunks that are not in a shard yet."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perun_hpc.data_model.sensor import GAP, Kind, Reading, Sensor
from perun_hpc.energy.counters import Status, difference
from perun_hpc.store import layout
from perun_hpc.store.journal import Journal, Row
from perun_hpc.store.layout import Array, Form


@dataclass
class Chunk:
    """The rows of one inner chunk, as arrays of stored values, one per channel.

    `rows` of them are in it, `published` of these in a shard; `journal` has them until that is durable.
    """

    number: int
    parts: list[list[array[int]]]
    offsets: array[int]
    journal: Journal | None = None
    rows: int = 0
    published: int = 0


class Columns:
    """The columns of one track; each goes on from the row before."""

    def __init__(self, sensors: Sequence[Sensor], parts: Sequence[Array], period_ns: int) -> None:
        self.length = layout.chunk_rows(period_ns)
        self._parts = parts
        self._period_ns = period_ns
        self._columns = {c: Column(sensors[c], part.form) for part in parts for c in part.columns}

    def empty(self, number: int) -> Chunk:
        """A chunk without rows."""

        def column(form: Form) -> array[int]:
            return array(layout.typecode(form.dtype), [layout.fill(form.dtype)]) * self.length

        parts = [[column(part.form) for _ in part.channels] for part in self._parts]
        return Chunk(number, parts, column(layout.OFFSET_FORM))

    def put(self, chunk: Chunk, rows: Sequence[Row]) -> None:
        """Put rows of one chunk, in order, into its columns."""
        ticks, offsets, *columns = zip(*rows, strict=True)
        places = [tick % self.length for tick in ticks]
        times_ns = [tick * self._period_ns for tick in ticks]
        _put(chunk.offsets, places, offsets)
        for part, targets in zip(self._parts, chunk.parts, strict=True):
            for column, target in zip(part.columns, targets, strict=True):
                _put(target, places, self._columns[column].values(columns[column], times_ns))
        chunk.rows += len(rows)

    @property
    def steps(self) -> dict[str, int]:
        """As `NodeStore`'s."""
        return {one.sensor.id: one.divisor for one in self._columns.values() if one.is_base and one.divisor > 1}

    def put_columns(
        self,
        chunk: Chunk,
        ticks: array[int],
        offsets: array[int],
        columns: Sequence[array[int]],
        rising: Sequence[bool],
        divided: Sequence[array[int] | None],
    ) -> None:
        """The same of rows that are given column by column, as `NodeStore.extend` is."""
        places = [tick % self.length for tick in ticks]
        times_ns = [tick * self._period_ns for tick in ticks]
        _put(chunk.offsets, places, offsets)
        for part, targets in zip(self._parts, chunk.parts, strict=True):
            for place, target in zip(part.columns, targets, strict=True):
                column, values = self._columns[place], columns[place]
                risen = column.risen(values, divided[place], times_ns) if rising[place] else None
                _put(target, places, risen or column.values(tuple(values), times_ns))
        chunk.rows += len(ticks)

    def state(self) -> list[list[int | None]]:
        """What each counter must remember, for `restore`."""
        return [[c.last, c.last_ns, c.added] for _, c in sorted(self._columns.items())]

    def restore(self, state: Any) -> None:
        """Go on from `state`; TypeError or ValueError where it is none."""
        for (_, column), kept in zip(sorted(self._columns.items()), state, strict=True):
            column.last, column.last_ns, column.added = kept


class Column:
    """Turns a sensor's raw ticks into stored values; a counter is unwrapped, a reset one goes on from where it was."""

    def __init__(self, sensor: Sensor, form: Form) -> None:
        self.sensor = sensor
        self.last: int | None = None
        self.last_ns = 0
        self.added = 0
        self._counts = sensor.kind is Kind.COUNTER
        self._low, self._high = layout.limits(form.dtype)
        self._fill = layout.fill(form.dtype)
        self.divisor = form.divisor
        self.is_base = sensor.scale_num == sensor.scale_den == 1
        self._as_it_is = self.is_base and form.divisor == 1

    def values(self, ticks: Sequence[int], times_ns: Sequence[int]) -> Sequence[int]:
        """The values to store for several rows (`GAP`: none), all at once where nothing is amiss."""
        ordered = sorted(ticks)
        if len(ticks) > 3 and ordered[0] != GAP:
            low, high = self._stored(ordered[0] + self.added), self._stored(ordered[-1] + self.added)
            rises = tuple(ordered) == ticks and (self.last is None or self.last <= ticks[0])
            if self._low <= low <= high <= self._high and (rises or not self._counts):
                if self._counts:
                    self.last, self.last_ns = ticks[-1], times_ns[-1]
                if self._as_it_is and not self.added:
                    return ticks
                return [self._stored(one + self.added) for one in ticks]
        return [self._fill if one == GAP else self.value(one, ns) for one, ns in zip(ticks, times_ns, strict=True)]

    def risen(self, ticks: array[int], divided: array[int] | None, times_ns: Sequence[int]) -> Sequence[int] | None:
        """The same of ticks of which none falls; None where each has to be looked at."""
        first, last = ticks[0] + self.added, ticks[-1] + self.added
        if not self._counts or (self.last is not None and ticks[0] < self.last):
            return None
        if not self._low <= self._stored(first) <= self._stored(last) <= self._high:
            return None
        self.last, self.last_ns = ticks[-1], times_ns[-1]
        if self._as_it_is and not self.added:
            return ticks
        if divided is not None and self.is_base and not self.added:
            return divided
        return [self._stored(one + self.added) for one in ticks]

    def value(self, ticks: int, now_ns: int) -> int:
        """The value to store; the fill value where the type cannot hold it."""
        if self._counts:
            if self.last is not None and ticks < self.last:
                before, after = Reading(self.last, self.last_ns), Reading(ticks, now_ns)
                turned = difference(self.sensor, before, after).status is not Status.RESET
                self.added += (self.sensor.wrap_range or 0) if turned else self.last - ticks
            self.last, self.last_ns = ticks, now_ns
            ticks += self.added
        value = self._stored(ticks)
        return value if self._low <= value <= self._high else self._fill

    def _stored(self, ticks: int) -> int:
        return self.sensor.base(ticks) // self.divisor


def written(values: Sequence[int | None]) -> Sequence[int]:
    """The values of a row as the journal holds them: a gap is `GAP`, and so is what no 64 bits hold."""
    try:
        if not values or GAP < min(values) <= max(values) < -GAP:  # type: ignore[type-var, operator]
            return values  # type: ignore[return-value]
    except TypeError:  # None is neither less nor more
        pass
    return [GAP if value is None or not GAP < value < -GAP else value for value in values]


def _put(target: array[int], places: Sequence[int], values: Sequence[int]) -> None:
    """Write values to places in rising order."""
    if places[-1] - places[0] == len(places) - 1:
        if isinstance(values, array) and values.itemsize == target.itemsize:  # all are in the target's limits
            values = values.tobytes()
        target[places[0] : places[-1] + 1] = array(target.typecode, values)
    else:
        for place, value in zip(places, values, strict=True):
            target[place] = value
