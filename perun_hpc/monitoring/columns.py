"""Which of a host's sensors show its CPUs' utilisation."""

from __future__ import annotations

from collections.abc import Sequence

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity


def counts_cpu_time(sensors: Sequence[Sensor]) -> bool:
    """Whether a counter gives the CPUs' busy time; their utilisation is then taken from it, else from a gauge."""
    return any(s.quantity is Quantity.TIME and s.kind is Kind.COUNTER and s.domain == "cpu" for s in sensors)
