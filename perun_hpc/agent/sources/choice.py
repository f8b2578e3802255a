"""What the policy says of the node's sensors: which count, which the site declares, how much a package draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perun_hpc.backend.catalog import wanted
from perun_hpc.backend.estimate import ASSUMED, Coefficients
from perun_hpc.data_model.sensor import Sensor

if TYPE_CHECKING:
    from perun_hpc.config.resolve import JobSettings
    from perun_hpc.config.schema import Energy

OWN = "procstat"
"""The backend that attribution itself needs; no policy takes it away."""


@dataclass(frozen=True)
class Choice:
    """The node's part of `sensors` and `energy`; by default everything that was found counts as it is.

    `most_uw` holds the highest power of one package, memory, gpu, module or node, where it is not the hardware's own
    figure that stands; `gpu_numbers` what Slurm's numbers of GPUs mean (`backend.gpus`); `estimate` what stands in
    where nothing measures the CPUs, None: nothing; `dcgm` where a DCGM host engine listens, empty: none is asked;
    `power_pmu` whether groups of the power PMU may stand in for powercap's files.
    """

    backends: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()
    most_uw: tuple[tuple[str, int], ...] = ()
    gpu_numbers: str = "auto"
    dcgm: str = ""
    estimate: Coefficients | None = ASSUMED
    power_pmu: bool = False

    @classmethod
    def of(cls, settings: JobSettings) -> Choice:
        """From the settings of the node."""
        declared, energy = settings.sensors, settings.energy
        said = {
            "package": energy.package_max_uw,
            "dram": energy.dram_max_uw,
            "gpu": energy.gpu_max_uw,
            "module": energy.module_max_uw,
            "node": energy.node_max_uw,
        }
        most_uw = tuple((name, most) for name, most in said.items() if isinstance(most, int))
        return cls(
            declared.backends, declared.include, declared.exclude, declared.files, most_uw, declared.gpu_numbers,
            declared.dcgm, _coefficients(energy), declared.power_pmu == "when-cheaper",
        )  # fmt: skip

    def sensors(self, found: Iterable[Sensor]) -> tuple[Sensor, ...]:
        """Those of the sensors that count, with the site's ceilings."""
        return tuple(self._bounded(sensor) for sensor in found if self.takes(sensor))

    def takes(self, sensor: Sensor) -> bool:
        """Whether the sensor counts; expressions match at the start of its id."""
        return sensor.backend == OWN or self.named(sensor.backend, sensor.id)

    def named(self, backend: str, sensor: str) -> bool:
        """Whether a sensor of that backend and id counts."""
        if self.backends and backend not in self.backends:
            return False
        return wanted((sensor,), self.include, self.exclude)

    def _bounded(self, sensor: Sensor) -> Sensor:
        most_uw = dict(self.most_uw).get(_kind(sensor))
        return sensor if most_uw is None or sensor.max_uw is None else replace(sensor, max_uw=most_uw)


def _kind(sensor: Sensor) -> str:
    """Whose ceiling of the policy's the sensor has; empty for none: a core, a rail, an estimate."""
    first = sensor.domain.partition("-")[0]
    if sensor.component == "cpu":
        return "package" if first in ("package", "grace", "cray") else ""
    if sensor.component == "node":
        return "module" if first == "module" else "node"
    return sensor.component if sensor.component in ("dram", "gpu") else ""


def _coefficients(energy: Energy) -> Coefficients | None:
    model = energy.estimate_model
    if not energy.estimate:
        return None
    if not model:
        return ASSUMED
    return Coefficients(model["idle_uw"], model["full_uw"], model["error"], model["source"], whole=True)
