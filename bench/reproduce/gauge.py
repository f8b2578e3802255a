"""A published meter of a whole node's power, as perun describes such a sensor."""

from __future__ import annotations

from typing import Any

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity


def node_power(backend: str, device: str, milliwatts: bool = True, host: str = "published", **more: Any) -> Sensor:
    """A gauge of watts, or milliwatts; `more` as of `Sensor`."""
    return Sensor(
        id=f"{backend}:node:power",
        host=host,
        backend=backend,
        device=device,
        domain="node",
        component="node",
        kind=Kind.GAUGE,
        quantity=Quantity.POWER,
        unit="mW" if milliwatts else "W",
        scale_num=1000 if milliwatts else 1_000_000,
        **more,
    )
