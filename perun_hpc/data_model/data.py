"""The tree of results of monitored runs: application, runs, hosts, groups of devices, sensors, each with its metrics.

    APP > MULTI_RUN > RUN > NODE > DEVICE_GROUP > SENSOR

Plain values that turn into JSON and back without loss; nothing here measures or computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from perun_hpc.data_model import codec
from perun_hpc.errors import DataError

SCHEMA = "perun.run/1"


class NodeType(StrEnum):
    """The levels of the tree."""

    APP = "app"
    MULTI_RUN = "multi_run"
    RUN = "run"
    NODE = "node"
    DEVICE_GROUP = "device_group"
    SENSOR = "sensor"


class DeviceType(StrEnum):
    """What a group of devices is."""

    RACK = "rack"
    NODE = "node"
    SOCKET = "socket"
    CPU = "cpu"
    SYSIO = "sysio"
    GPU = "gpu"
    RAM = "ram"
    DISK = "disk"
    NET = "net"
    FAN = "fan"
    OTHER = "other"


class MetricType(StrEnum):
    """What a metric measures."""

    RUNTIME = "runtime"
    POWER = "power"
    ENERGY = "energy"
    CPU_POWER = "cpu_power"
    CPU_ENERGY = "cpu_energy"
    GPU_POWER = "gpu_power"
    GPU_ENERGY = "gpu_energy"
    DRAM_POWER = "dram_power"
    DRAM_ENERGY = "dram_energy"
    OTHER_POWER = "other_power"
    OTHER_ENERGY = "other_energy"
    CPU_UTIL = "cpu_util"
    GPU_UTIL = "gpu_util"
    OTHER_UTIL = "other_util"
    DRAM_MEM = "dram_mem"
    GPU_MEM = "gpu_mem"
    OTHER_MEM = "other_memory"
    NET_READ = "net_read"
    NET_WRITE = "net_write"
    DISK_READ = "disk_read"
    DISK_WRITE = "disk_write"
    CPU_CLOCK = "cpu_clock"
    GPU_CLOCK = "gpu_clock"
    N_RUNS = "n_runs"
    MONEY = "money"
    CO2 = "co2"


UNITS: dict[str, str] = {
    "energy": "J",
    "power": "W",
    "util": "%",
    "mem": "B",
    "memory": "B",
    "clock": "Hz",
    "read": "B/s",
    "write": "B/s",
}


def unit_of(metric: MetricType) -> str:
    """The unit that a metric's value is in: J, W, s, %, B, B/s, Hz, g (CO2) or none."""
    if metric is MetricType.RUNTIME:
        return "s"
    if metric is MetricType.CO2:
        return "g"
    return UNITS.get(metric.rpartition("_")[2], "")


class Aggregate(StrEnum):
    """How a metric of a parent follows from its children."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"


AggregateType = Aggregate
"""perun 1.0's name of it."""


@dataclass(frozen=True)
class MetricMetaData:
    """What a metric's figures are in: `value * mag` is in `unit`; as perun 1.0 tells it."""

    unit: str
    mag: float = 1.0
    dtype: str = "float64"
    min: float = -math.inf
    max: float = math.inf
    fill: float = math.nan


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes
    ----------
    value : in `unit_of(type)`.
    uncertainty : standard uncertainty (k=1) in the same unit; None when nothing is known of it.
    provenance : measured, modelled, estimated or simulated.
    low, high : bounds, where only bounds are certain.
    method : of a region's energy or power, what it rests on: counted, estimated or bounded.
    """

    type: MetricType
    value: float
    agg: Aggregate = Aggregate.SUM
    uncertainty: float | None = None
    provenance: str = "measured"
    low: float | None = None
    high: float | None = None
    method: str | None = None

    @property
    def metric_md(self) -> MetricMetaData:
        """What the value is in."""
        return MetricMetaData(unit_of(self.type))

    @property
    def at_most(self) -> bool:
        """Whether its bound (k=2) exceeds its value: only its upper end is known."""
        return self.uncertainty is not None and self.value < 2 * self.uncertainty


@dataclass(frozen=True)
class Stats:
    """A metric over several runs; same unit as the metric."""

    type: MetricType
    sum: float
    mean: float
    std: float
    max: float
    min: float

    @classmethod
    def of(cls, kind: MetricType, values: Sequence[float]) -> Stats:
        """Of several values.

        Parameters
        ----------
        kind : what they are.
        values : one or more, in the metric's unit.

        Returns
        -------
        Their statistics; the deviation is that of a sample, 0 of a single one.
        """
        total, number = math.fsum(values), len(values)
        mean = total / number
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1)) if number > 1 else 0.0
        return cls(kind, total, mean, std, max(values), min(values))

    @property
    def value(self) -> float:
        """The mean: what stands for all runs where one figure is wanted, as a metric's value does."""
        return self.mean

    @property
    def metric_md(self) -> MetricMetaData:
        """What the figures are in."""
        return MetricMetaData(unit_of(self.type))


@dataclass(frozen=True)
class RawData:
    """A sensor's readings: `mono_ns` since the run's start, `values` in `unit` (raw counts times `scale`), None for a
    gap."""

    mono_ns: tuple[int, ...]
    values: tuple[int | None, ...]
    unit: str
    scale: float = 1.0


@dataclass(frozen=True)
class Region:
    """One marked part of the program in one rank: the host's figures while at least one of its calls was running.

    Attributes
    ----------
    calls, raised, open : how often it was called, raised, and was still running when the rank ended.
    time_s : length of the union of its calls, `total_s` their sum (more where calls overlap or recurse).
    mean_s, std_s, max_s : of its calls, how long each took: average, standard deviation, the longest; 0 where none of
        them was inside the run.
    call_energy_j : energy of a call in the mean, in J; None where only an upper end of its energy is known.
    share : its energy as a part of its host's while the program ran; None likewise.
    metrics : of the rank's host, during that union; ranks that share a host share its energy.
    """

    name: str
    host: str
    rank: int
    calls: int
    time_s: float
    total_s: float
    raised: int = 0
    open: int = 0
    metrics: dict[MetricType, Metric] = field(default_factory=dict)
    mean_s: float = 0.0
    std_s: float = 0.0
    max_s: float = 0.0
    call_energy_j: float | None = None
    share: float | None = None

    @property
    def id(self) -> str:
        """Its name."""
        return self.name


@dataclass
class DataNode:
    """One node of the tree."""

    id: str
    type: NodeType
    metadata: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, DataNode] = field(default_factory=dict)
    metrics: dict[MetricType, Metric | Stats] = field(default_factory=dict)
    device_type: DeviceType | None = None
    raw_data: RawData | None = None
    regions: list[Region] = field(default_factory=list)

    def walk(self, kind: NodeType) -> Iterator[DataNode]:
        """All nodes of one type below this one, itself included."""
        if self.type is kind:
            yield self
        for child in self.nodes.values():
            yield from child.walk(kind)

    def value(self, metric: MetricType) -> float | None:
        """A metric's value (for statistics the mean), None if it is not there."""
        found = self.metrics.get(metric)
        if found is None:
            return None
        return found.mean if isinstance(found, Stats) else found.value

    @property
    def deviceType(self) -> DeviceType | None:
        """The type of its devices, of a node of hardware."""
        return self.device_type

    @property
    def processed(self) -> bool:
        """Whether its metrics are there: a tree is made with them."""
        return True

    def toDict(self, include_raw_data: bool = True) -> dict[str, Any]:
        """This node and all below it as JSON values under perun 1.0's keys; regions by host, rank and name."""
        result: dict[str, Any] = {
            "id": self.id,
            "type": self.type,
            "metadata": self.metadata,
            "metrics": {
                kind: {**_plain(one), "metric_md": {"unit": unit_of(kind)}} for kind, one in self.metrics.items()
            },
            "regions": {f"{one.host}/{one.rank}/{one.name}": codec.encode(one) for one in self.regions} or None,
            "deviceType": self.device_type,
            "processed": self.processed,
            "nodes": {name: node.toDict(include_raw_data) for name, node in self.nodes.items()},
        }
        if include_raw_data and self.raw_data is not None:
            result["raw_data"] = codec.encode(self.raw_data)
        return result

    def to_json(self) -> dict[str, Any]:
        """This node and all below it as JSON values."""
        result: dict[str, Any] = {"id": self.id, "type": self.type, "metadata": self.metadata}
        if self.device_type is not None:
            result["device_type"] = self.device_type
        if self.metrics:
            result["metrics"] = {
                name: {"stats": _plain(metric)} if isinstance(metric, Stats) else _plain(metric)
                for name, metric in self.metrics.items()
            }
        if self.raw_data is not None:
            result["raw_data"] = codec.encode(self.raw_data)
        if self.regions:
            result["regions"] = [
                {**codec.encode(region), "metrics": {name: _plain(metric) for name, metric in region.metrics.items()}}
                for region in self.regions
            ]
        if self.nodes:
            result["nodes"] = {name: node.to_json() for name, node in self.nodes.items()}
        return result

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DataNode:
        """Inverse of `to_json`; DataError if it is none."""
        try:
            return _node(data)
        except (*codec.MISFITS, AttributeError, RecursionError) as error:
            name = data.get("id", "?") if isinstance(data, dict) else "?"
            raise DataError(f"result tree of {name!r} is damaged: {error!r}") from error


def _plain(value: Any) -> dict[str, Any]:
    return {key: item for key, item in codec.encode(value).items() if item is not None}


def _metric(data: dict[str, Any]) -> Metric | Stats:
    return codec.decode(Stats, data["stats"]) if "stats" in data else codec.decode(Metric, data)


def _node(data: dict[str, Any]) -> DataNode:
    return DataNode(
        id=data["id"],
        type=NodeType(data["type"]),
        metadata=data.get("metadata", {}),
        nodes={name: _node(child) for name, child in data.get("nodes", {}).items()},
        metrics={MetricType(name): _metric(metric) for name, metric in data.get("metrics", {}).items()},
        device_type=DeviceType(data["device_type"]) if "device_type" in data else None,
        raw_data=codec.decode(RawData, data["raw_data"]) if data.get("raw_data") else None,
        regions=[codec.decode(Region, region) for region in data.get("regions", [])],
    )
