"""What the policy says of the node's sensors: which count, which the site declares, how much a package draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perun_hpc.backend.catalog import wanted
from perun_hpc.data_model.sensor import Sensor

if TYPE_CHECKING:
    from perun_hpc.config.resolve import JobSettings

OWN = "procstat"
"""The backend that attribution itself needs; no policy takes it away."""


@dataclass(frozen=True)
class Choice:
    """The node's part of `sensors` and `energy.package_max`; by default everything that was found counts as it is.

    `package_max_uw` is the highest power of one CPU package, None where the hardware's own figure stands; `gpu_numbers`
    what Slurm's numbers of GPUs mean (`backend.gpus`).
    """

    backends: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()
    package_max_uw: int | None = None
    gpu_numbers: str = "auto"

    @classmethod
    def of(cls, settings: JobSettings) -> Choice:
        """From the settings of the node."""
        declared, most = settings.sensors, settings.energy.package_max_uw
        most_uw = most if isinstance(most, int) else None
        return cls(declared.backends, declared.include, declared.exclude, declared.files, most_uw, declared.gpu_numbers)

    def sensors(self, found: Iterable[Sensor]) -> tuple[Sensor, ...]:
        """Those of the sensors that count, with the site's ceiling on CPU packages."""
        return tuple(self._bounded(sensor) for sensor in found if self.takes(sensor))

    def takes(self, sensor: Sensor) -> bool:
        """Whether the sensor counts; expressions match at the start of its id."""
        if sensor.backend == OWN:
            return True
        if self.backends and sensor.backend not in self.backends:
            return False
        return wanted(sensor.id, self.include, self.exclude)

    def _bounded(self, sensor: Sensor) -> Sensor:
        package = sensor.component == "cpu" and sensor.domain.startswith("package-") and sensor.max_uw is not None
        return replace(sensor, max_uw=self.package_max_uw) if package and self.package_max_uw else sensor
