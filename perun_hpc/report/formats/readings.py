"""The readings of a run, fetched from its traces and hung into its tree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.data_model.data import DataNode, NodeType, RawData
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.errors import DataError
from perun_hpc.monitoring.results import read_summary, round_of
from perun_hpc.monitoring.rundir import of_ranks


@dataclass(frozen=True)
class Series:
    """One sensor's readings in one round: ns since the run's first reading, values in the sensor's base unit, None
    for a gap.

    Counters count from the first reading on.
    """

    round: str
    host: str
    group: str
    sensor: Sensor
    raw: RawData


def series(tree: DataNode, directory: Path) -> Iterator[Series]:
    """All readings of a run: those that hang in its tree, else those of its traces in `directory`; hosts that have
    neither are left out."""
    from perun_hpc.monitoring import trace

    for run in tree.walk(NodeType.RUN):
        for host in run.walk(NodeType.NODE):
            if any(node.raw_data is not None for node in host.walk(NodeType.SENSOR)):
                yield from _held(run, host)
                continue
            groups = {name: group.id for group in host.walk(NodeType.DEVICE_GROUP) for name in group.nodes}
            own = directory / round_of(run) / host.id
            for part in (own, *of_ranks(own)):
                try:
                    summary = read_summary(part)
                except DataError:
                    continue
                sensors = [Sensor.from_json(sensor) for sensor in summary["sensors"]]
                times, values = trace.read(part, summary, sensors)
                since = tuple(int(t) for t in times - times[0]) if len(times) else ()
                for sensor, row in zip(sensors, values, strict=True):
                    numbers = tuple(None if math.isnan(value) else int(value) for value in row)
                    raw = RawData(since, numbers, sensor.base_unit)
                    yield Series(run.id, host.id, groups.get(sensor.id, ""), sensor, raw)


def _held(run: DataNode, host: DataNode) -> Iterator[Series]:
    for group in host.walk(NodeType.DEVICE_GROUP):
        for node in group.nodes.values():
            if node.raw_data is not None:
                sensor = Sensor.from_json(node.metadata["sensor"])
                yield Series(run.id, host.id, group.id, sensor, node.raw_data)


def with_raw_data(tree: DataNode, directory: Path) -> DataNode:
    """The tree with `raw_data` at every sensor; a copy."""
    copy = DataNode.from_json(tree.to_json())
    found = {(one.round, one.host, one.sensor.id): one.raw for one in series(tree, directory)}
    for run in copy.walk(NodeType.RUN):
        for host in run.walk(NodeType.NODE):
            for group in host.nodes.values():
                for name, node in group.nodes.items():
                    group.nodes[name] = replace(node, raw_data=found.get((run.id, host.id, name)))
    return copy
