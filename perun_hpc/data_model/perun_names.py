"""What perun 1.0.0 calls a sensor or a backend: filters and live callbacks of its users go by these names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity

BACKENDS = {"powercap": "powercap_rapl", "hwmon": "hwmon-grace"}
"""Where perun's id of a backend is another one than ours."""

SHAPES = re.compile(r"\^?(CPU_(USAGE|FREQ)|RAM_USAGE|(NET|DISK)_(READ|WRITE)_BYTES|CUDA:|ROCM:|cpu_|ram_)")
"""How expressions for perun's sensors begin; a machine may lack what they are for."""

_RAILS = {"grace": "grace", "package": "cpu", "sysio": "sysio", "module": "module"}
_CLOCKS = {"clock-sm": "CLOCK_SM", "clock-mem": "CLOCK_MEM"}


def perun_names(sensors: Iterable[Sensor]) -> dict[str, str]:
    """perun's names of those of a host's sensors that it knows, by our ids.

    It numbers NVIDIA's GPUs as NVML does, which is their order here. A GPU's energy counter, which it does not read,
    goes by the name of the power that it does.
    """
    gpus: dict[str, int] = {}
    names = {}
    for sensor in sensors:
        if sensor.backend == "nvml":
            gpus.setdefault(sensor.domain, len(gpus))
        name = _name(sensor, gpus)
        if name is not None:
            names[sensor.id] = name
    return names


def _name(sensor: Sensor, gpus: dict[str, int]) -> str | None:
    part, _, which = sensor.domain.partition("-")
    if sensor.backend == "psutil":
        return _of_psutil(sensor, part, which)
    if sensor.backend == "powercap":
        return {"package": f"cpu_{which}_package-{which}", "dram": f"ram_{which}_dram"}.get(part)
    if sensor.backend == "hwmon" and part in _RAILS and sensor.component != "node":
        return f"{_RAILS[part]}_power_socket_{which}_{_input(sensor.device)}"
    if sensor.backend == "nvml":
        what = _of_gpu(sensor)
        return f"CUDA:{gpus[sensor.domain]}_{what}" if what else None
    if sensor.backend == "amdsmi":
        what = _of_gpu(sensor)
        return f"ROCM:{which}_{what}" if what in ("POWER", "MEM") else None
    return None


def _of_psutil(sensor: Sensor, part: str, which: str) -> str | None:
    if part == "cpu":
        return f"CPU_USAGE_{which}" if which else None
    if part == "memory":
        return "RAM_USAGE"
    if part in ("disk", "net") and sensor.kind is Kind.COUNTER:
        return f"{part.upper()}_{sensor.id.rpartition(':')[2].upper()}_BYTES_{which}"
    return None


def _of_gpu(sensor: Sensor) -> str | None:
    if sensor.quantity in (Quantity.POWER, Quantity.ENERGY):
        return "POWER"
    return "MEM" if sensor.quantity is Quantity.DATA else _CLOCKS.get(sensor.id.rpartition(":")[2])


def _input(device: str) -> str:
    """`hwmon3_power1` of `hwmon3/power1_average`."""
    chip, _, file = device.partition("/")
    return f"{chip}_{file.partition('_')[0]}"
