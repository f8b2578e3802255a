"""What a job's trace shows over time: power by component and by host, and how busy the hosts were.

A trace has up to millions of rows, a picture some hundred columns: every column is the mean over its part of the job's
time, and totals carry the least and the greatest of that part. What was not read is NaN, in the trace as in a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from perun_hpc.data_model.sensor import Kind, Sensor, worst
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import plan
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.store import layout

if TYPE_CHECKING:
    import zarr

Floats = npt.NDArray[np.float64]

COLUMNS = 960
"""Columns of a picture: about as many as a screen has for it."""
FINE = 8
"""Parts of a column that its least and greatest total are found among."""
HOLE = 2.5
"""Readings further apart than so many times their usual distance have a gap between them."""
HELD = 0.5
"""The part of a column that must have been read for it to have a value."""
BLOCK_B = 256 << 20
"""Memory that is read at once."""
_OF_DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, OSError, RuntimeError)
"""What reading a store raises whose shapes, chunks or bytes are others than it says."""
ORDER = ("cpu", "dram", "gpu", "other", "node")
"""Components from the bottom of a stack to its top."""


@dataclass(frozen=True)
class Envelope:
    """A value per column: its mean, and the least and the greatest within; NaN where nothing is known."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class HostCurve:
    """What one host's trace shows: power per column in W, its highest temperature (None: none was read)."""

    node: str
    watts: Floats
    hottest_c: float | None


@dataclass(frozen=True)
class JobCurves:
    """A job over time.

    Attributes
    ----------
    edges_s : where columns begin and end, in seconds since the job's start.
    fine_s : how long the parts are that the least and the greatest of a column are means over.
    components : W by component, all hosts together; they add up. `node` where there is nothing but a node's meter.
    total : W of all components together.
    meter : W of the nodes' meters beside their components, where every host that was read has one; None without.
    reporting : on how many hosts the components were read.
    hosts : in the order of the job's nodes; those without a trace are not there.
    nodes : how many nodes the trace was to be of.
    cpu, gpu : per cent busy; the mean over hosts (all GPUs of one), the least and greatest host. None without.
    memory : bytes in use on its nodes, by whomever; likewise.
    provenance : the worst of the sensors that the power rests on.
    """

    edges_s: Floats
    fine_s: float
    components: dict[str, Floats]
    total: Envelope
    meter: Floats | None
    reporting: npt.NDArray[np.int64]
    hosts: tuple[HostCurve, ...]
    nodes: int
    cpu: Envelope | None
    gpu: Envelope | None
    provenance: str
    memory: Envelope | None = None

    @property
    def energy_uj(self) -> int:
        """What the nodes used in the columns that are known."""
        joules = np.nansum(self.total.mean * np.diff(self.edges_s))
        return round(float(joules) * 1e6)


def read(directory: Path, start_ns: int, end_ns: int, columns: int = COLUMNS) -> JobCurves:
    """The curves of the job whose directory is `directory`, between two moments of CLOCK_REALTIME.

    Raises
    ------
    NotFoundError
        Without a trace, or where it holds no two readings of power, as of a job shorter than its period.
    DataError
        Where it cannot be read.
    """
    from perun_hpc.store.job_store import groups, open_group

    found = [open_group(directory, name) for name in groups(directory)]
    try:
        tracks = [_track(group) for group in found]
        period_ns = min((track.period_ns for track in tracks), default=layout.NS_PER_S)
        grid = _Grid.of(start_ns, end_ns, period_ns, columns)
        made = _Sums(grid)
        for track in tracks:
            track.add_to(made)
        return made.curves()
    except NotFoundError as error:
        apart = f": its rows are {period_ns / 1e9:g} s apart" if found else ""
        raise NotFoundError(f"{directory}: {error}{apart}") from error
    except _OF_DAMAGE as error:
        raise DataError(f"{directory}: the trace cannot be read ({error}); run perun collect --repair") from error


@dataclass(frozen=True)
class _Grid:
    """Columns of equal length, and `fine` parts of each."""

    start_ns: int
    edges_s: Floats
    fine_edges_s: Floats

    @classmethod
    def of(cls, start_ns: int, end_ns: int, period_ns: int, columns: int) -> _Grid:
        length_s = max(end_ns - start_ns, period_ns) / 1e9
        rows = max(1, round(length_s * 1e9 / period_ns))
        columns = min(columns, rows)
        fine = min(FINE, -(-rows // columns)) if rows > columns else 1
        made = np.linspace(0.0, length_s, columns * fine + 1)
        return cls(start_ns, made[::fine], made)

    @property
    def columns(self) -> int:
        return len(self.edges_s) - 1

    @property
    def fine(self) -> int:
        return (len(self.fine_edges_s) - 1) // self.columns

    def coarse(self, fine: Floats) -> Floats:
        """Means over columns of what is known by their parts."""
        return mean(fine.reshape(self.columns, self.fine), 1)


class _Sums:
    """The sums over hosts as they are read, one host after the other."""

    def __init__(self, grid: _Grid) -> None:
        self.grid = grid
        self.hosts: dict[str, HostCurve] = {}
        self.nodes = 0
        self.order: list[str] = []
        self._parts: dict[str, Floats] = {}
        self._fine = np.zeros(len(grid.fine_edges_s) - 1)
        self._known = np.zeros(len(grid.fine_edges_s) - 1, dtype=np.int64)
        self._meter = np.zeros(len(grid.fine_edges_s) - 1)
        self._metered = np.zeros(len(grid.fine_edges_s) - 1, dtype=np.int64)
        self._busy: dict[str, list[Floats]] = {"cpu": [], "gpu": [], "memory": []}
        self._provenances: set[str] = set()

    def add(self, node: str, parts: dict[str, Floats], busy: dict[str, Floats], hottest_c: float | None) -> None:
        """Take in a host: the power of its components by parts of columns, its utilisations and memory by columns."""
        meter = parts.pop("node") if "node" in parts and len(parts) > 1 else None
        if meter is not None:
            self._meter += np.nan_to_num(meter)
            self._metered += ~np.isnan(meter)
        if parts:
            whole = sum(parts.values(), np.zeros_like(self._fine))
            known = ~np.isnan(whole)
            for component, watts in parts.items():
                now = np.where(known, watts, 0.0)
                self._parts[component] = self._parts[component] + now if component in self._parts else now
            self._fine += np.where(known, whole, 0.0)
            self._known += known
            watts = self.grid.coarse(whole)
            if node in self.hosts:
                watts = np.where(np.isnan(self.hosts[node].watts), watts, self.hosts[node].watts)
            self.hosts[node] = HostCurve(node, watts, hottest_c)
        for name, values in busy.items():
            self._busy[name].append(values)

    def rests_on(self, sensors: Sequence[Sensor]) -> None:
        """Note the sensors that power rests on."""
        self._provenances |= {one.provenance for one in sensors}

    def curves(self) -> JobCurves:
        """All of it."""
        grid = self.grid
        known = self._known > 0
        if not known.any():
            raise NotFoundError("the trace holds no two readings of power")
        fine = np.where(known, self._fine, np.nan)
        by_column = fine.reshape(grid.columns, grid.fine)
        components = {
            name: grid.coarse(np.where(known, self._parts[name], np.nan)) for name in ORDER if name in self._parts
        }
        meter = grid.coarse(np.where(known & (self._metered >= self._known), self._meter, np.nan))
        return JobCurves(
            edges_s=grid.edges_s,
            fine_s=float(grid.fine_edges_s[1]),
            components=components,
            total=Envelope(mean(by_column, 1), least(by_column, 1), greatest(by_column, 1)),
            meter=None if np.isnan(meter).all() else meter,
            reporting=np.rint(self._known.reshape(grid.columns, grid.fine).mean(axis=1)).astype(np.int64),
            hosts=tuple(self.hosts[node] for node in self.order if node in self.hosts),
            nodes=self.nodes,
            cpu=_across(self._busy["cpu"]),
            gpu=_across(self._busy["gpu"]),
            provenance=worst(self._provenances).value,
            memory=_across(self._busy["memory"]),
        )


@dataclass(frozen=True)
class _Track:
    """One group of the store: its sensors, by array and channel."""

    group: zarr.Group
    period_ns: int
    origin: int
    start: int
    stop: int
    sensors: dict[str, tuple[Sensor, ...]]
    divisors: dict[str, int]

    def add_to(self, sums: _Sums) -> None:
        """Read all hosts of the group."""
        names = [str(name) for name in self._whole("node")]
        statuses = [str(status) for status in self._whole("node_status")]
        sums.order += [name for name in names if name not in sums.order]
        sums.nodes = max(sums.nodes, len(names))
        bearing = _bearing([one for array in self.sensors.values() for one in array])
        sums.rests_on(list(bearing.values()))
        widest = 8 * max((len(array) for array in self.sensors.values()), default=1) * max(1, self.stop - self.start)
        block = max(1, min(layout.NODES_PER_BLOCK, BLOCK_B // widest))
        for first in range(0, len(names), block):
            rows = [number for number in range(first, min(first + block, len(names)))
                    if statuses[number] != layout.OTHER_KIND]  # fmt: skip
            if rows:
                self._add_block(sums, names, slice(rows[0], rows[-1] + 1), bearing)

    def _add_block(self, sums: _Sums, names: list[str], rows: slice, bearing: dict[str, Sensor]) -> None:
        offsets = self._part(layout.OFFSET, rows)
        wanted = [name for name in self.sensors if name in ("energy", "power", "utilisation", "temperature", "memory")]
        values = {name: self._part(name, rows) for name in wanted}
        ticks = (self.origin + self.start + np.arange(self.stop - self.start)) * self.period_ns - sums.grid.start_ns
        for number in range(rows.stop - rows.start):
            here = offsets[number] != layout.fill(layout.OFFSET_FORM.dtype)
            if not here.any():
                continue
            when_s = (ticks[here] + offsets[number][here].astype(np.int64) * 1000) / 1e9
            parts: dict[str, Floats] = {}
            busy: dict[str, list[Floats]] = {}
            hottest: list[float] = []
            for name, stored in values.items():
                missing = layout.fill(str(stored.dtype))
                for channel, sensor in enumerate(self.sensors[name]):
                    taken = stored[number, channel][here]
                    known = taken != missing
                    if not known.any():
                        continue
                    readings = taken[known].astype(np.float64) * self.divisors[name]
                    if name == "temperature":
                        hottest.append(float(readings.max()) / 1e3)
                    elif name == "memory":
                        if sensor.component == "dram" and name not in busy:  # GPUs have memory, too
                            held = power(when_s[known], readings, sums.grid.edges_s, counts=False)
                            busy[name] = [held]
                    elif name == "utilisation":
                        kind = "cpu" if sensor.domain == "cpu" else sensor.component
                        if kind in ("cpu", "gpu") and (kind == "gpu" or sensor.domain == "cpu"):
                            busy.setdefault(kind, []).append(trailing(when_s[known], readings / 10, sums.grid.edges_s))
                    elif sensor.id in bearing:
                        component = sensor.component if sensor.component in ORDER else "other"
                        counts = sensor.kind is Kind.COUNTER
                        watts = power(when_s[known], readings / 1e6, sums.grid.fine_edges_s, counts)
                        parts[component] = parts[component] + watts if component in parts else watts
            means = {kind: mean(np.stack(rows_), 0) for kind, rows_ in busy.items()}
            sums.add(names[rows.start + number], parts, means, max(hottest, default=None))

    def _whole(self, name: str) -> Any:
        return self.group[name][:]  # type: ignore[index]

    def _part(self, name: str, rows: slice) -> Any:
        return np.asarray(self.group[name][rows, ..., self.start : self.stop])  # type: ignore[index, union-attr]


def _track(group: zarr.Group) -> _Track:
    about: dict[str, Any] = dict(group.attrs)
    described = about["perun_track"]
    sensors = {
        name: tuple([_sensor(name, channel) for channel in channels])
        for name, channels in described["channels"].items()
    }
    divisors = {name: int(step) for name, step in described["steps"].items()}
    start, stop = int(about.get("time_start", 0)), int(about.get("time_stop", 0))
    return _Track(
        group, int(described["period_ns"]), int(described["origin_tick"]), start, stop, sensors, divisors,
    )  # fmt: skip


def _sensor(array: str, channel: dict[str, Any]) -> Sensor:
    name = channel["channel"]
    return Sensor.from_json({**channel, "id": f"{array}:{name}", "domain": name, "host": "", "device": ""})


def _bearing(sensors: Sequence[Sensor]) -> dict[str, Sensor]:
    """The sensors that a host's power is the sum of, and its meters, by id."""
    domains = plan(one for one in sensors if one.quantity in (Quantity.ENERGY, Quantity.POWER)).domains
    meters = [domain for domain in domains if domain.kind is DomainKind.METER]
    leaves = [domain for domain in domains if domain.kind is not DomainKind.METER]
    return {domain.sensor.id: domain.sensor for domain in (*leaves, *meters)}


def power(when_s: Floats, values: Floats, edges_s: Floats, counts: bool) -> Floats:
    """The mean power in W between each two of `edges_s`, NaN where less than half of that was read.

    Parameters
    ----------
    when_s, values : readings: J of a counter that only grows (`counts`), or W of a gauge.
    edges_s : between which moments.
    counts : whether they are a counter's.
    """
    if len(when_s) < 2:
        return np.full(len(edges_s) - 1, np.nan)
    apart = np.diff(when_s)
    good = apart > 0
    if good.any():
        good &= apart <= HOLE * np.median(apart[good])
    joules = np.diff(values) if counts else (values[1:] + values[:-1]) / 2 * apart
    energy = np.concatenate(([0.0], np.cumsum(np.where(good, joules, 0.0))))
    held = np.concatenate(([0.0], np.cumsum(np.where(good, apart, 0.0))))
    spent = np.diff(np.interp(edges_s, when_s, energy))
    covered = np.diff(np.interp(edges_s, when_s, held))
    enough = covered >= HELD * np.diff(edges_s)
    return np.where(enough, spent / np.where(covered > 0, covered, 1.0), np.nan)


def trailing(when_s: Floats, values: Floats, edges_s: Floats) -> Floats:
    """The mean between each two of `edges_s` of a gauge whose readings are each of the time since the one before.

    So it is with utilisations: what is read at the end of a second says how busy that second was. NaN where less than
    half of a column was read.
    """
    since = np.concatenate(([0.0], np.cumsum(values[1:] * np.diff(when_s))))
    return power(when_s, since, edges_s, counts=True)


def _across(rows: list[Floats]) -> Envelope | None:
    if not rows:
        return None
    together = np.stack(rows)
    return Envelope(mean(together, 0), least(together, 0), greatest(together, 0))


def mean(values: Floats, axis: int) -> Floats:
    """The mean of what is known; NaN of nothing, without numpy's warning."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan), dtype=np.float64)


def least(values: Floats, axis: int) -> Floats:
    """The least of what is known; NaN of nothing."""
    found = np.where(np.isnan(values), np.inf, values).min(axis=axis)
    return np.where(np.isinf(found), np.nan, found)


def greatest(values: Floats, axis: int) -> Floats:
    """The greatest of what is known; NaN of nothing."""
    return -least(-values, axis)
