"""AMD GPUs through AMD SMI (the Python package amdsmi that ROCm brings along).

The energy accumulator counts in steps of `counter_resolution` uJ. Accumulators have been seen frozen or running
backwards, so it is checked against power when it is opened; partitions of one GPU all show the whole GPU's power, so
only the first function of each PCI device is read (the library gives a partition's number as the function).
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.gpus import Gpu, Partition, short_pci
from perun_hpc.backend.render_nodes import render_node, render_nodes
from perun_hpc.backend.sysfile import text
from perun_hpc.data_model.sensor import NONE_NEEDED, Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

if TYPE_CHECKING:
    from fractions import Fraction  # imported where a GPU is: most machines have none

_Told = TypeVar("_Told")
PAUSE_S = 0.5
AGREEMENT = 0.3
"""Largest relative difference between counted and shown power at which the accumulator is trusted."""
LEAST_W = 5
"""Below this power the check says nothing and the accumulator is trusted if it moves at all."""
MAX_UW = 5_000_000_000


SOCKET = "GPU socket"
APU_SOCKET = "APU socket, in which it is not documented what of its CPUs and memory is counted"
APUS = {"0x74a0"}
"""PCI devices that have CPUs and memory in one package with the GPU: Instinct MI300A."""


class AmdGpu:
    """One GPU: energy, power, memory, utilisation, clock, power limit, each call failing alone."""

    def __init__(
        self,
        library: Any,
        handle: Any,
        pci: str,
        uuid: str,
        resolution: Fraction | None,
        power: bool,
        clock: Clock,
        scope: str = SOCKET,
    ) -> None:
        """`resolution` is uJ per step of the accumulator; None leaves the energy out, as not `power` the power."""
        from fractions import Fraction

        self._library = library
        self._handle = handle
        self._clock = clock
        domain = f"gpu-{uuid}"

        def sensor(name: str, quantity: Quantity, kind: Kind, unit: str, scale: Fraction) -> Sensor:
            power = quantity in (Quantity.ENERGY, Quantity.POWER)
            return Sensor(
                id=f"amdsmi:{domain}:{name}",
                host=host_name(),
                backend="amdsmi",
                device=pci,
                domain=domain,
                component="gpu",
                kind=kind,
                quantity=quantity,
                unit=unit,
                scale_num=scale.numerator,
                scale_den=scale.denominator,
                gain_error=0.05 if power else 0.0,
                gain_source="assumed 5 % (k=1); AMD states none" if power else "",
                update_ns=10_000_000,
                max_uw=MAX_UW if power else None,
                scope=scope,
            )

        self._parts: list[tuple[Sensor, Callable[[], Any]]] = [
            (sensor("memory", Quantity.DATA, Kind.GAUGE, "MB", Fraction(2**20)), self._memory),
            (sensor("utilisation", Quantity.UTILISATION, Kind.GAUGE, "%", Fraction(10)), self._utilisation),
        ]
        gfx = sensor("clock-gfx", Quantity.FREQUENCY, Kind.GAUGE, "MHz", Fraction(1000))
        limit = sensor("power-limit", Quantity.POWER_LIMIT, Kind.GAUGE, "uW", Fraction(1))
        self._parts += [
            (one, ask)
            for one, ask in ((gfx, self._clock_mhz), (limit, self._limit_uw))
            if _tried(partial(_whole, ask), library)  # 0: none
        ]
        if power:
            shown = sensor("power", Quantity.POWER, Kind.GAUGE, "W", Fraction(1_000_000))
            self._parts.insert(0, (shown, lambda: power_w(library, handle)))
        if resolution is not None:
            energy = sensor("energy", Quantity.ENERGY, Kind.COUNTER, f"{float(resolution):g} uJ", resolution)
            self._parts.insert(0, (energy, lambda: accumulator(library, handle)[0]))

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Energy (if it is trusted), power, memory, utilisation; clock and power limit where the GPU shows them."""
        return tuple(sensor for sensor, _ in self._parts)

    def read(self) -> tuple[Reading, ...]:
        """Make every call."""
        return tuple(self._one(ask) for _, ask in self._parts)

    def _one(self, ask: Callable[[], Any]) -> Reading:
        try:
            return Reading(int(ask()), self._clock())
        except (self._library.AmdSmiException, ValueError, KeyError) as error:
            return Reading(None, self._clock(), " ".join(str(error).split()) or type(error).__name__)

    def _memory(self) -> Any:
        return self._library.amdsmi_get_gpu_vram_usage(self._handle)["vram_used"]

    def _utilisation(self) -> Any:
        return self._library.amdsmi_get_gpu_activity(self._handle)["gfx_activity"]

    def _clock_mhz(self) -> Any:
        return self._library.amdsmi_get_clock_info(self._handle, self._library.AmdSmiClkType.GFX)["clk"]

    def _limit_uw(self) -> Any:
        return self._library.amdsmi_get_power_cap_info(self._handle)["power_cap"]

    def close(self) -> None:
        """The library is shut down by the reader of all GPUs."""


class AmdSmi:
    """Reader of all GPUs."""

    def __init__(self, library: Any, devices: tuple[AmdGpu, ...], gpus: tuple[Gpu, ...]) -> None:
        """`library` is the initialised amdsmi package; `gpus` names every GPU with its partitions."""
        self.gpus = gpus
        self._library = library
        self._devices = devices
        self._open = True

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors of all GPUs."""
        return tuple(sensor for device in self._devices for sensor in device.sensors)

    def read(self) -> tuple[Reading, ...]:
        """Read one GPU after the other."""
        return tuple(reading for device in self._devices for reading in device.read())

    def close(self) -> None:
        """Shut the library down."""
        if self._open:
            self._open = False
            with contextlib.suppress(self._library.AmdSmiException):
                self._library.amdsmi_shut_down()


def accumulator(library: Any, handle: Any) -> tuple[int, Fraction]:
    """Steps counted, and uJ per step (the library hands a 32-bit float: its decimal text is what is meant)."""
    from fractions import Fraction

    counted = library.amdsmi_get_energy_count(handle)
    steps = counted.get("energy_accumulator", counted.get("power"))
    return int(steps), Fraction(format(counted["counter_resolution"], ".6g"))


def power_w(library: Any, handle: Any) -> int:
    """Socket power in W: the current one where the GPU has it, else the average."""
    info = library.amdsmi_get_power_info(handle)
    for key in ("current_socket_power", "average_socket_power", "socket_power"):
        value = info.get(key)
        if isinstance(value, int) and 0 < value < 65535:
            return value
    raise ValueError("the GPU shows no power")


def discover(
    root: Path = Path("/"), clock: Clock = monotonic_ns, pause: Callable[[float], None] = time.sleep
) -> Discovery:
    """All AMD GPUs of this machine; nothing where its kernel driver is not loaded."""
    if not (root / "dev/kfd").exists():
        return Discovery()
    try:
        # Without its library the package prints on stdout and fails at the first symbol.
        with contextlib.redirect_stdout(io.StringIO()):
            import amdsmi
    except (ImportError, OSError, AttributeError, KeyError) as error:
        return Discovery(
            missing=(Missing("AMD GPUs", f"AMD SMI: {error}", "install amd-smi-lib and its Python package", "gpu"),)
        )
    return open_library(amdsmi, root, clock, pause)


def open_library(library: Any, root: Path, clock: Clock, pause: Callable[[float], None]) -> Discovery:
    """All GPUs that the library shows."""
    try:
        library.amdsmi_init()
        partitions = [
            (handle, short_pci(str(library.amdsmi_get_gpu_device_bdf(handle))))
            for handle in library.amdsmi_get_processor_handles()
        ]
        handles = list(_first_functions(partitions))
        checks = _believed(library, [handle for handle, _ in handles], pause)
        uuids = {_device(pci): str(library.amdsmi_get_gpu_device_uuid(handle)) for handle, pci in handles}
        devices, missing = [], []
        for (handle, pci), (resolution, doubt) in zip(handles, checks):
            power = _tried(partial(power_w, library, handle), library) is not None
            scope = APU_SOCKET if text(root / f"sys/bus/pci/devices/{pci}/device") in APUS else SOCKET
            devices.append(AmdGpu(library, handle, pci, uuids[_device(pci)], resolution, power, clock, scope))
            if doubt and not power:
                what, why = f"energy and power of the AMD GPU {pci}", f"its accumulator: {doubt}, and it shows no power"
                missing.append(Missing(what, why, "a virtual GPU's power is known on its host alone", "gpu"))
            elif doubt:
                missing.append(
                    Missing(f"energy accumulator of {pci}", doubt, f"{NONE_NEEDED}power is integrated instead")
                )
    except library.AmdSmiException as error:
        return Discovery(
            missing=(Missing("AMD GPUs", "AMD SMI: " + " ".join(str(error).split()), "check the amdgpu driver", "gpu"),)
        )
    of_each = [(pci, sum(_device(other) == _device(pci) for _, other in partitions)) for _, pci in handles]
    gpus = tuple(_gpu(root, uuids[_device(pci)], pci, number) for pci, number in of_each)
    return Discovery((AmdSmi(library, tuple(devices), gpus),) if devices else (), tuple(missing))


def _gpu(root: Path, uuid: str, pci: str, number: int) -> Gpu:
    """A GPU whose `number` partitions are equal parts of it; one is none."""
    nodes = render_nodes(root, pci, number)
    if max(number, len(nodes)) <= 1:
        return Gpu(uuid, pci, render_node(root, pci), "AMD GPU")
    named = [nodes[place] if place < len(nodes) else None for place in range(max(number, len(nodes)))]
    parts = tuple(Partition(f"{uuid}/{place}", 1, minor=minor) for place, minor in enumerate(named))
    return Gpu(uuid, pci, render_node(root, pci), "AMD GPU", len(parts), parts)


def _first_functions(partitions: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, str]]:
    seen = set()
    for handle, pci in partitions:
        if _device(pci) not in seen:
            seen.add(_device(pci))
            yield handle, pci


def _device(pci: str) -> str:
    """The address without the function: what all partitions of one GPU share."""
    return pci.rpartition(".")[0]


def _believed(
    library: Any, handles: list[Any], pause: Callable[[float], None]
) -> list[tuple[Fraction | None, str | None]]:
    """Per GPU the step of its accumulator if that agrees with power, else None and why."""
    first = [_sample(library, handle) for handle in handles]
    pause(PAUSE_S)
    last = [_sample(library, handle) for handle in handles]
    results: list[tuple[Fraction | None, str | None]] = []
    for before, after in zip(first, last):
        if before is None or after is None:
            results.append((None, "it cannot be read"))
            continue
        steps, seconds = after[0] - before[0], after[3] - before[3]
        shown_w = (before[2] + after[2]) / 2 if before[2] is not None and after[2] is not None else 0.0
        counted_w = float(steps * after[1]) / 1e6 / seconds if seconds > 0 else 0.0
        if steps < 0:
            results.append((None, "it runs backwards"))
        elif steps == 0 and shown_w >= LEAST_W:
            results.append((None, f"it is frozen at {shown_w:.0f} W"))
        elif steps == 0 and None in (before[2], after[2]):
            results.append((None, "it is frozen"))
        elif shown_w >= LEAST_W and abs(counted_w - shown_w) > AGREEMENT * shown_w:
            results.append((None, f"it counts {counted_w:.0f} W where {shown_w:.0f} W are shown"))
        else:
            results.append((after[1], None))
    return results


def _sample(library: Any, handle: Any) -> tuple[int, Fraction, int | None, float] | None:
    """Steps, uJ per step, power (None where the GPU shows none) and their time in s; None without an accumulator."""
    counted = _tried(lambda: accumulator(library, handle), library)
    when_s = time.monotonic()
    return None if counted is None else (*counted, _tried(lambda: power_w(library, handle), library), when_s)


def _whole(ask: Callable[[], Any]) -> int:
    return int(ask())


def _tried(ask: Callable[[], _Told], library: Any) -> _Told | None:
    """What a call says; None where it fails."""
    try:
        return ask()
    except (library.AmdSmiException, ValueError, KeyError, TypeError):
        return None
