"""Which of a host's sensors its figures are made of."""

from __future__ import annotations

from collections.abc import Sequence

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity


def top_energy(sensors: Sequence[Sensor]) -> tuple[int, ...]:
    """Columns of the energy counters that together are the host, none counted twice.

    A node meter stands for all; otherwise every counter that no other counter here contains.
    """
    energy = {
        sensor.id: column
        for column, sensor in enumerate(sensors)
        if sensor.quantity is Quantity.ENERGY and sensor.kind is Kind.COUNTER
    }
    meters = [
        column
        for name, column in energy.items()
        if sensors[column].component == "node" and sensors[column].domain == "node"
    ]
    if meters:
        return tuple(meters[:1])
    return tuple(column for column in energy.values() if sensors[column].parent not in energy)


def counts_cpu_time(sensors: Sequence[Sensor]) -> bool:
    """Whether a counter gives the CPUs' busy time; their utilisation is then taken from it, else from a gauge."""
    return any(s.quantity is Quantity.TIME and s.kind is Kind.COUNTER and s.domain == "cpu" for s in sensors)
