"""What meters outside the nodes showed, and the energy between two times by them.

`ARCHIVE/CLUSTER/facility/NAME.csv` has this month's readings of one meter, `NAME.YYYY-MM.csv` those of an earlier month
(UTC), with the columns `time` (epoch seconds: the middle of the request by the poller's clock), `kwh` (what the meter
counted since its first file began, a power integrated), `covered_s` (for how much of the time since then that is
known), `reading` (the number as it came, in the meter's ticks) and `since` (a counter's start, as the device says it).
The first two are those of every facility meter. A file begins with the last reading of the one before.
"""

from __future__ import annotations

import glob
import json
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from perun_hpc.data_model import codec
from perun_hpc.errors import DataError
from perun_hpc.inputs import read_regular

MAX_B = 64 << 20
MARGIN_S = 3600
"""A clock that was set back puts readings out of order by so much at most."""
COVERED = 0.95
"""Of a time of which a meter has readings of less, it does not say the energy."""
COARSE = 10
"""A time with fewer readings in it is too coarse for this meter."""
_MONTH = re.compile(r"\.(\d{4}-\d{2})\.csv\Z")


@dataclass(frozen=True)
class Row:
    """One reading, and the sums up to it."""

    time_s: float
    kwh: Decimal
    covered_s: float
    reading: Decimal
    since: str = ""

    @property
    def line(self) -> str:
        """As the file has it."""
        return f"{self.time_s:.3f},{self.kwh:.9f},{self.covered_s:.3f},{self.reading:f},{self.since}\n"


def month_of(time_s: float) -> str:
    """The month (UTC) in whose file a reading lies: `YYYY-MM`."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m}"


def month_file(path: Path, month: str) -> Path:
    """Where an earlier month's readings of the meter with the file `path` lie."""
    return path.with_name(f"{path.stem}.{month}.csv")


def files_of(path: Path, since_s: float | None = None, until_s: float | None = None) -> list[Path]:
    """The files that have a meter's readings of a time, the oldest first; one at least, `path`."""
    months = sorted(
        (match[1], one)
        for one in path.parent.glob(f"{glob.escape(path.stem)}.*.csv")
        if (match := _MONTH.search(one.name)) and one.name == month_file(path, match[1]).name
    )
    first = "" if since_s is None else month_of(since_s)
    last = "9999-99" if until_s is None else month_of(until_s)
    later = next((month for month, _ in months if month > last), last)  # it begins with the last reading before
    earlier = [one for month, one in months if first <= month <= later]
    return [*earlier, path] if path.exists() or not earlier else earlier


def parsed(words: Sequence[str]) -> Row | None:
    """The reading of a line; None where it is none."""
    try:
        time_s, kwh, covered_s, reading, since = words
        row = Row(float(time_s), Decimal(kwh), float(covered_s), Decimal(reading), since)
    except (ValueError, ArithmeticError):
        return None
    return row if row.kwh.is_finite() and row.reading.is_finite() else None


def read_series(path: Path, since_s: float | None = None, until_s: float | None = None) -> list[Row]:
    """A meter's readings of a time (None: for ever) and those beside it, in time order.

    DataError where a file cannot be read.
    """
    rows: dict[float, Row] = {}
    for one in files_of(path, since_s, until_s):
        try:
            with one.open("rb") as file:
                if since_s is not None:
                    _seek(file, since_s - MARGIN_S)
                lines = file.read(MAX_B).splitlines()
        except OSError as error:
            raise DataError(f"{one}: no meter readings ({error.strerror})") from error
        for line in lines:
            row = parsed(line.decode("ascii", "replace").split(","))
            if row is not None:
                rows[row.time_s] = row
                if until_s is not None and row.time_s > until_s + MARGIN_S:
                    break
    return [rows[time_s] for time_s in sorted(rows)]


def _seek(file: BinaryIO, time_s: float) -> None:
    """Go to a line that is not after a time, near it: lines stand in the order of time."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > 4096:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        row = parsed(file.readline().decode("ascii", "replace").strip().split(","))
        low, high = (middle, high) if row is not None and row.time_s < time_s else (low, middle)
    file.seek(low)
    if low:
        file.readline()


@dataclass(frozen=True)
class Metered:
    """What a meter says of a time: energy in J of the part of it that is covered, and how many readings lie in it.

    `tick_j` is how fine the meter counts; where the energy is less than ten of these, or the readings are fewer than
    ten, the time is too coarse for it.
    """

    energy_j: float
    covered: float
    readings: int
    tick_j: float

    @property
    def coarse(self) -> bool:
        """Whether the time is too short for this meter to say anything of it."""
        return self.readings < COARSE or self.energy_j < COARSE * self.tick_j


def between(rows: Sequence[Row], since_s: float, until_s: float, tick_j: float = 0.0) -> Metered:
    """What was counted in [since_s, until_s]; a step that reaches over an edge counts in proportion."""
    times = [row.time_s for row in rows]
    inside = bisect_right(times, until_s) - bisect_left(times, since_s)
    energy_kwh = covered_s = 0.0
    for index in range(max(1, bisect_left(times, since_s)), min(len(rows), bisect_right(times, until_s) + 1)):
        before, after = rows[index - 1], rows[index]
        step_s = after.time_s - before.time_s
        part_s = min(after.time_s, until_s) - max(before.time_s, since_s)
        if step_s > 0 and part_s > 0 and after.covered_s > before.covered_s:
            energy_kwh += float(after.kwh - before.kwh) * part_s / step_s
            covered_s += part_s
    span_s = until_s - since_s
    return Metered(energy_kwh * 3.6e6, min(1.0, covered_s / span_s) if span_s > 0 else 0.0, inside, tick_j)


def tick_j(kind: str, base: float, rows: Sequence[Row]) -> float:
    """How fine a counter counts, in J: the last decimal place that any of its readings has; 0 of a power."""
    if kind == "power":
        return 0.0
    places = [row.reading.as_tuple().exponent for row in rows]
    finest = min((place for place in places if isinstance(place, int)), default=0)
    return base * 10.0 ** min(finest, 0)


# ---------------------------------------------------------------------------------------------------------------- nodes

STATES = "meters.json"
SCOPE_WORDS = {
    "wall": "at the wall", "psu-output": "behind the power supplies", "board": "of the board",
    "unknown": "at an unknown place",
}  # fmt: skip
"""Where in a node's supply a meter measures, in words."""
SCHEMA = "perun.meters/1"


@dataclass(frozen=True)
class Meter:
    """One meter, as the poller says of it in `facility/meters.json`.

    `kind` is a `power` or the counter of an `energy`, `base` how many W or J one of its readings' unit is, `by` which
    protocol it is read (`redfish` or `snmp`); `lag_s` is how old its readings were at discovery, where the device says
    that, `read_s` when it was read last (epoch seconds), `problem` what is wrong with it since `since_s`.
    """

    node: str
    kind: str
    scope: str
    period_s: float
    lag_s: float | None = None
    base: float = 1.0
    by: str = ""
    device: str = ""
    read_s: float | None = None
    problem: str = ""
    since_s: float = 0.0
    basis: str = ""


@dataclass(frozen=True)
class States:
    """All meters by their series' names, as of `time_s` (epoch seconds)."""

    time_s: float
    meters: Mapping[str, Meter]


def read_states(directory: Path) -> States | None:
    """What the poller said last of its meters; None where there is no poller. DataError where that cannot be read."""
    path = directory / STATES
    try:
        data = json.loads(read_regular(path, MAX_B))
        return States(float(data["time_s"]), codec.decode(dict[str, Meter], data["meters"]))
    except FileNotFoundError:
        return None
    except (OSError, *codec.MISFITS) as error:
        raise DataError(f"{path}: cannot be read ({error}): see perun-meters.service") from error


@dataclass(frozen=True)
class NodeMetered:
    """What the meters of one protocol say of one node and time: all of its outlets together, or nothing.

    `energy_uj`, of the time that is covered, is None where `why` says why; `scope` is where in its supply they measure,
    `period_s` how often they are read, `lag_s` how old the oldest readings were, where all say that. `covered` and
    `readings` are of the meter that has the least.
    """

    node: str
    by: str
    meters: tuple[str, ...]
    kind: str
    scope: str
    period_s: float
    lag_s: float | None
    energy_uj: int | None
    covered: float
    readings: int
    why: str = ""


def of_node(
    directory: Path, node: str, by: str, meters: Mapping[str, Meter], since_s: float, until_s: float
) -> NodeMetered:
    """What a node's meters (by their names, of one protocol) say of a time (epoch seconds).

    Counters, which miss nothing between two readings, before powers, where they are fine enough.
    """
    chosen: NodeMetered | None = None
    for kind in ("energy", "power"):
        of_kind = {name: meter for name, meter in meters.items() if meter.kind == kind}
        if of_kind and (chosen is None or chosen.energy_uj is None):
            found = _sum(directory, node, by, of_kind, since_s, until_s)
            if chosen is None or found.energy_uj is not None or chosen.why != TOO_COARSE:
                chosen = found
    assert chosen is not None
    return chosen


TOO_COARSE = "too coarse"


def _sum(
    directory: Path, node: str, by: str, meters: Mapping[str, Meter], since_s: float, until_s: float
) -> NodeMetered:
    seen: dict[str, Metered | str] = {}
    for name, meter in sorted(meters.items()):
        try:
            rows = read_series(directory / f"{name}.csv", since_s, until_s)
            seen[name] = between(rows, since_s, until_s, tick_j(meter.kind, meter.base, rows))
        except DataError:
            seen[name] = f"{name} has no readings"
    known = [one for one in seen.values() if isinstance(one, Metered)]
    whys = [one for one in seen.values() if isinstance(one, str)]
    whys += [
        f"{name} has readings of {one.covered:.0%} of that time"
        for name, one in seen.items()
        if isinstance(one, Metered) and one.covered < COVERED
    ]
    total = Metered(
        sum(one.energy_j for one in known),
        min((one.covered for one in known), default=0.0),
        min((one.readings for one in known), default=0),
        max((one.tick_j for one in known), default=0.0),
    )
    why = TOO_COARSE if total.coarse and not (whys and total.readings >= COARSE) else "; ".join(whys)
    first = next(iter(meters.values()))
    lags = [one.lag_s for one in meters.values()]
    return NodeMetered(
        node=node,
        by=by,
        meters=tuple(seen),
        kind=first.kind,
        scope=first.scope if len({one.scope for one in meters.values()}) == 1 else "unknown",
        period_s=max(one.period_s for one in meters.values()),
        lag_s=None if None in lags else max(lag for lag in lags if lag is not None),
        energy_uj=None if why else round(total.energy_j * 1e6),
        covered=total.covered,
        readings=total.readings,
        why=why,
    )


def by_node(meters: Mapping[str, Meter], nodes: Iterable[str]) -> dict[tuple[str, str], dict[str, Meter]]:
    """The meters of these nodes, by node and protocol."""
    wanted = set(nodes)
    found: dict[tuple[str, str], dict[str, Meter]] = {}
    for name, meter in meters.items():
        if meter.node and meter.node in wanted:
            found.setdefault((meter.node, meter.by), {})[name] = meter
    return found
