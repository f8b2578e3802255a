"""NVIDIA GPUs through NVML (package nvidia-ml-py, module pynvml).

Per GPU one call of `nvmlDeviceGetFieldValues` reads the total energy (field 83, mJ since the driver was loaded), the
average power (185) and the instant power (186), each with its own time stamp and return code. A GPU that shows none of
these (before Volta; a driver before 530 shows no power so) is asked for its energy and power by the older calls, and
what shows neither is named. GPUs are named by UUID: NVML's index, Slurm's index and the device's minor number may all
differ. No process list is ever asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.chips import GPU_UW, MODULE_UW
from perun_hpc.backend.gpus import Gpu, Partition, activity_name, from_proc, short_pci
from perun_hpc.backend.nvml_activity import UPDATE_NS, Activity
from perun_hpc.backend.nvml_library import Library, outdated, text
from perun_hpc.backend.stamps import Stamps
from perun_hpc.data_model.sensor import NOT_DUE, Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

NS_PER_US = 1000
USAGE_NS = 1_000_000_000
"""`nvmlDeviceGetPowerUsage` shows the mean of a second from Ampere on (but for GA100), says NVIDIA's nvml.h."""
GPU_SCOPE, MODULE_SCOPE = 0, 1
"""NVML_POWER_SCOPE_GPU and _MODULE of nvml.h."""
SLOW_US = 500.0
"""A call that takes longer than this at start is made only every `SLOW_EVERY`th read."""
SLOW_EVERY = 10
TRIALS = 3
PART_TIME = ("A100", "H100")
SAMPLED_NS = 100_000_000
"""Of these the sensor sees a quarter of each 100 ms and takes it for the whole (arXiv 2312.02741)."""
AVERAGE_NS = 1_000_000_000
"""Field 185 is the mean of the last second (nvml.h, NVML_FI_DEV_POWER_AVERAGE: Ampere but GA100, and newer)."""
WANTED_BACK_NS = 5_000_000_000
"""How often a GPU is asked whether an administrator, or its driver, wants all clients of it gone."""
RESETS = (1, 4, 6)
"""Values of NVML_FI_DEV_GET_GPU_RECOVERY_ACTION that ask for a reset: NVML_GPU_RECOVERY_ACTION_GPU_RESET,
_DRAIN_AND_RESET, _BUS_RESET (nvml.h; drivers from 555 on show it)."""
GAIN_ERROR = 0.05
LIBRARY = "libnvidia-ml.so.1"
GAIN_SOURCE = (
    "NVIDIA states +/-5 % for power; arXiv 2312.02741 finds the sensor active 25 % of the time on A100 and H100"
)


@dataclass(frozen=True, slots=True)
class _Call:
    """One NVML call and the sensors that it fills."""

    sensors: tuple[Sensor, ...]
    ask: Callable[[], Sequence[Reading]]


class NvmlGpu:
    """Reader of one GPU. A lost GPU is a gap in all its sensors; slow calls are made less often than fast ones.

    Between two calls of a slow source its sensors are gaps with the reason `not due`.
    """

    def __init__(
        self,
        library: Any,
        gpu: Gpu,
        handle: Any,
        scope: int,
        clock: Clock = monotonic_ns,
        real_clock: Clock = time.time_ns,
    ) -> None:
        """Find out by trying which calls the GPU supports, and time them; `scope` is NVML's power scope."""
        self._stamps = Stamps(clock, real_clock)
        self.gpu = gpu
        self._scope = scope
        self._library = library
        self._handle = handle
        self._clock = clock
        self._turn = 0
        self._activity: Activity | None = None
        self._refused: list[str] = []
        self.cost_us: dict[str, float] = {}
        self._calls = [call for call in self._candidates() if call is not None]
        self._every = [self._period(call) for call in self._calls]

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """What this GPU supports."""
        return tuple(sensor for call in self._calls for sensor in call.sensors)

    def read(self) -> tuple[Reading, ...]:
        """Make every call that is due."""
        readings: list[Reading] = []
        for call, every in zip(self._calls, self._every):
            if self._turn % every:
                readings += [Reading(None, self._clock(), NOT_DUE)] * len(call.sensors)
            else:
                readings += self._try(call)
        self._turn += 1
        return tuple(readings)

    def _try(self, call: _Call) -> Sequence[Reading]:
        try:
            return call.ask()
        except self._library.NVMLError as error:
            return [Reading(None, self._clock(), str(error))] * len(call.sensors)

    def _period(self, call: _Call) -> int:
        costs = []
        for _ in range(TRIALS):
            start_ns = time.perf_counter_ns()
            self._try(call)
            costs.append((time.perf_counter_ns() - start_ns) / NS_PER_US)
        cost_us = sorted(costs)[TRIALS // 2]
        self.cost_us[call.sensors[0].id] = cost_us
        # What energy rests on is always due: an edge reading must never be skipped.
        rests_on = Quantity.ENERGY if any(one.quantity is Quantity.ENERGY for one in self.sensors) else Quantity.POWER
        holds_energy = any(sensor.quantity is rests_on for sensor in call.sensors)
        # So is that of activity, which has a pace of its own.
        paced = self._activity is not None and call.ask == self._activity.ask
        return 1 if holds_energy or paced or cost_us <= SLOW_US else SLOW_EVERY

    def _candidates(self) -> list[_Call | None]:
        library, handle = self._library, self._handle

        def gauge(name: str, quantity: Quantity, unit: str, scale: int, ask: Callable[[], Any]) -> _Call | None:
            sensor = self._sensor(name, quantity, Kind.GAUGE, unit, scale_num=scale)
            return self._supported((sensor,), lambda: [Reading(int(ask()), self._clock())])

        def clock(kind: int) -> Callable[[], Any]:
            return lambda: library.nvmlDeviceGetClockInfo(handle, kind)

        def celsius() -> Any:
            return library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)

        def flags(function: str) -> _Call | None:
            return gauge("throttle", Quantity.FLAGS, "bits", 1, lambda: getattr(library, function)(handle))

        return [
            *self._power_calls(),
            gauge("memory", Quantity.DATA, "B", 1, lambda: library.nvmlDeviceGetMemoryInfo(handle).used),
            self._utilisation_call(),
            gauge("clock-sm", Quantity.FREQUENCY, "MHz", 1000, clock(library.NVML_CLOCK_SM)),
            gauge(
                "power-limit", Quantity.POWER_LIMIT, "mW", 1000, lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle)
            ),
            gauge("clock-mem", Quantity.FREQUENCY, "MHz", 1000, clock(library.NVML_CLOCK_MEM)),
            gauge("temperature", Quantity.TEMPERATURE, "C", 1000, celsius),
            flags("nvmlDeviceGetCurrentClocksEventReasons") or flags("nvmlDeviceGetCurrentClocksThrottleReasons"),
            self._activity_call(),
        ]

    def _activity_call(self) -> _Call | None:
        """How active each MIG instance is, where the device shows it."""
        library, gpu = self._library, self.gpu
        try:
            if not gpu.slices or not library.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                return None
            found = [(one, int(library.nvmlDeviceGetGpuInstanceId(handle))) for one, handle in self._instances()]
        except library.NVMLError:  # a library before GPM
            return None
        if not found:
            return None
        sensors = tuple(
            replace(
                self._sensor(activity_name(one.uuid), Quantity.UTILISATION, Kind.GAUGE, "0.1 %"),
                scope=f"busy SMs of {one.uuid}, {one.slices} of {gpu.slices} slices",
            )
            for one, _ in found
        )
        self._activity = Activity(library, self._handle, [number for _, number in found], self._clock)
        return _Call(sensors, self._activity.ask)

    def _instances(self) -> Iterator[tuple[Partition, Any]]:
        known = {one.uuid: one for one in self.gpu.partitions}
        for uuid, handle in _mig_handles(self._library, self._handle, self.gpu.slices or 0):
            if uuid in known:
                yield known[uuid], handle

    def wanted_back(self) -> str:
        """Why all clients of this GPU should let go of it; empty where nobody says so, or the driver does not tell."""
        library = self._library
        with contextlib.suppress(library.NVMLError):
            if library.nvmlDeviceQueryDrainState(library.nvmlDeviceGetPciInfo(self._handle)):
                return f"{self.gpu.pci} is being drained (nvidia-smi drain)"
        field = getattr(library, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        with contextlib.suppress(library.NVMLError):
            if field is not None:
                (value,) = library.nvmlDeviceGetFieldValues(self._handle, [(field, 0)])
                if value.nvmlReturn == library.NVML_SUCCESS and value.value.uiVal in RESETS:
                    return f"the driver asks for a reset of {self.gpu.pci}"
        return ""

    def close(self) -> None:
        """Give back what the library holds for this GPU."""
        if self._activity is not None:
            self._activity.close()

    def _supported(self, sensors: tuple[Sensor, ...], ask: Callable[[], Sequence[Reading]]) -> _Call | None:
        try:
            ask()
        except self._library.NVMLError as error:
            if sensors[0].quantity in (Quantity.ENERGY, Quantity.POWER):
                self._refused.append(f"{sensors[0].quantity}: {error}")
            return None
        return _Call(sensors, ask)

    def _power_calls(self) -> list[_Call | None]:
        """Energy and power: by fields in one call, and by the older calls what those do not show; tried once."""
        fields = self._field_call()
        shown = {sensor.quantity for sensor in fields.sensors} if fields else set()
        calls = [fields]
        if Quantity.ENERGY not in shown:
            calls.append(self._old_call("energy", self._library.nvmlDeviceGetTotalEnergyConsumption))
        if Quantity.POWER not in shown:
            calls.append(self._old_call("power-usage", self._library.nvmlDeviceGetPowerUsage))
        return calls

    def _field_call(self) -> _Call | None:
        """Energy, average and instant power in one call; which of them exist is found out once."""
        library = self._library
        if not library.knows_fields:
            return None
        wanted = (
            (library.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, "energy", Quantity.ENERGY, Kind.COUNTER, "mJ"),
            (library.NVML_FI_DEV_POWER_AVERAGE, "power-average", Quantity.POWER, Kind.GAUGE, "mW"),
            (library.NVML_FI_DEV_POWER_INSTANT, "power", Quantity.POWER, Kind.GAUGE, "mW"),
        )
        try:
            first = library.nvmlDeviceGetFieldValues(self._handle, [(field, self._scope) for field, *_ in wanted])
        except library.NVMLError as error:
            self._refused.append(f"fields: {error}")
            return None
        present = [one for one, value in zip(wanted, first) if value.nvmlReturn == library.NVML_SUCCESS]
        fields = [(field, self._scope) for field, *_ in present]
        sensors = tuple(
            self._sensor(name, quantity, kind, unit, scale_num=1000, max_uw=self._max_uw())
            for _, name, quantity, kind, unit in present
        )
        if not sensors:
            return None
        return _Call(
            sensors, lambda: [self._field(value) for value in library.nvmlDeviceGetFieldValues(self._handle, fields)]
        )

    def _old_call(self, name: str, ask: Callable[[Any], Any]) -> _Call | None:
        """Energy, or power, by a call of its own."""
        most_uw = self._max_uw()
        if name == "energy":
            sensor = self._sensor(name, Quantity.ENERGY, Kind.COUNTER, "mJ", scale_num=1000, max_uw=most_uw)
        else:
            sensor = self._sensor(name, Quantity.POWER, Kind.GAUGE, "mW", scale_num=1000, max_uw=most_uw)
            sensor = replace(sensor, update_ns=USAGE_NS)
        return self._supported((sensor,), lambda: [Reading(int(ask(self._handle)), self._clock())])

    @property
    def shows_nothing(self) -> str:
        """Why neither energy nor power of this GPU is known; empty where one of them is."""
        powers = (Quantity.ENERGY, Quantity.POWER)
        return "" if any(one.quantity in powers for one in self.sensors) else "; ".join(dict.fromkeys(self._refused))

    def _field(self, value: Any) -> Reading:
        """One field; its time stamp is in us of the real-time clock, so it is moved onto the monotonic one."""
        now = self._clock()
        if value.nvmlReturn != self._library.NVML_SUCCESS:
            return Reading(None, now, str(self._library.NVMLError(value.nvmlReturn)))
        library = self._library
        unsigned_int = value.valueType == library.NVML_VALUE_TYPE_UNSIGNED_INT
        ticks = int(value.value.uiVal if unsigned_int else value.value.ullVal)
        return self._stamps.reading(ticks, int(value.timestamp) * NS_PER_US)

    def _utilisation_call(self) -> _Call | None:
        library, handle = self._library, self._handle
        sensors = tuple(
            self._sensor(name, Quantity.UTILISATION, Kind.GAUGE, "%", scale_num=10)
            for name in ("utilisation", "memory-utilisation")
        )

        def ask() -> list[Reading]:
            rates = library.nvmlDeviceGetUtilizationRates(handle)
            now = self._clock()
            return [Reading(int(rates.gpu), now), Reading(int(rates.memory), now)]

        return self._supported(sensors, ask)

    def _max_uw(self) -> int:
        """Twice the highest limit that can be set, since spikes exceed it; 5 kW where the driver does not say.

        The limit is the GPU's: a module's reading has its CPU and memory in it, too.
        """
        least_uw = MODULE_UW if self._scope == MODULE_SCOPE else 0
        try:
            _, highest_mw = self._library.nvmlDeviceGetPowerManagementLimitConstraints(self._handle)
        except self._library.NVMLError:
            highest_mw = 0
        return max(least_uw, 2 * int(highest_mw) * 1000 or GPU_UW)

    def _sensor(self, name: str, quantity: Quantity, kind: Kind, unit: str, **more: Any) -> Sensor:
        gpu = self.gpu
        shared = f", shared by {gpu.slices} MIG slices" if gpu.slices else ""
        module = self._scope == MODULE_SCOPE
        power = quantity in (Quantity.ENERGY, Quantity.POWER)
        sensor = Sensor(
            id=f"nvml:{gpu.domain}:{name}",
            lag_ns=AVERAGE_NS // 2 if name == "power-average" else 0,
            sampled_ns=SAMPLED_NS if power and any(one in gpu.name for one in PART_TIME) else 0,
            host=host_name(),
            backend="nvml",
            device=gpu.pci,
            domain=gpu.domain,
            component="gpu",
            kind=kind,
            quantity=quantity,
            unit=unit,
            update_ns=UPDATE_NS,
            gain_error=GAIN_ERROR if power else 0.0,
            gain_source=GAIN_SOURCE if power else "",
            scope=f"{'module: GPU, its CPU and memory' if module and power else 'GPU'} ({gpu.name}{shared})",
        )
        return replace(sensor, **more)


class Nvml:
    """Reader of all GPUs; closing it shuts NVML down, so that a GPU can be reset."""

    def __init__(self, library: Any, devices: tuple[NvmlGpu, ...], clock: Clock = monotonic_ns) -> None:
        """`library` is the initialised pynvml module."""
        self._library = library
        self._clock = clock
        self._asked_ns: int | None = None
        self._wanted_back = ""
        self._devices = devices
        self._open = True
        self._sensors = tuple(sensor for device in devices for sensor in device.sensors)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors of all GPUs."""
        return self._sensors

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs, for mapping what Slurm calls them."""
        return tuple(device.gpu for device in self._devices)

    @property
    def wanted_back(self) -> str:
        """Why NVML should be shut down as soon as no job needs it, as of the last look; empty where nobody says so.

        NVML lets go of all GPUs together: one that is wanted back is enough.
        """
        now_ns = self._clock()
        if self._asked_ns is None or now_ns - self._asked_ns >= WANTED_BACK_NS:
            self._asked_ns = now_ns
            self._wanted_back = next((why for device in self._devices if (why := device.wanted_back())), "")
        return self._wanted_back

    def read(self) -> tuple[Reading, ...]:
        """Read one GPU after the other."""
        return tuple(reading for device in self._devices for reading in device.read())

    def close(self) -> None:
        """Shut NVML down."""
        if self._open:
            self._open = False
            for device in self._devices:
                device.close()
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()


def discover(
    root: Path = Path("/"), clock: Clock = monotonic_ns, pause: Callable[[float], None] = time.sleep
) -> Discovery:
    """All GPUs that NVML shows, which are always this machine's; `root` only says whether there should be any."""
    try:
        ctypes.CDLL(LIBRARY)  # most machines have none, and importing pynvml costs ten times as much
    except OSError as error:
        return _absent(root, f"NVML does not start: {error}", f"install the driver's {LIBRARY}")
    try:
        import pynvml
    except ImportError:
        return _absent(root, "the Python package nvidia-ml-py is not installed", "pip install nvidia-ml-py")
    except SyntaxError as error:  # nvidia-ml-py was Python 2's before version 10
        return _absent(
            root, f"the Python module {error.filename} is of an old nvidia-ml-py", "pip install -U nvidia-ml-py"
        )
    library = Library(pynvml)
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return _absent(root, f"NVML does not start: {error}", f"install the driver's {LIBRARY}")
    devices, lost = [], list(outdated(pynvml))
    for index in range(library.nvmlDeviceGetCount()):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            gpu = _describe(library, handle)
            device = NvmlGpu(library, gpu, handle, _scope(library, handle, pause), clock)
        except library.NVMLError as error:
            what = f"NVIDIA GPU number {index} of NVML"
            lost.append(Missing(what, str(error), "drain the node and reset the GPU", "gpu"))
            continue
        if device.shows_nothing:
            what = f"energy and power of {gpu.uuid} ({gpu.name}, {gpu.pci})"
            lost.append(Missing(what, f"NVML shows neither: {device.shows_nothing}", _NOTHING, "gpu"))
        devices.append(device)
    if not devices:
        library.nvmlShutdown()
        return Discovery(missing=tuple(lost))
    return Discovery((Nvml(library, tuple(devices), clock),), tuple(lost))


_NOTHING = (
    "a virtual GPU's power is known on its host alone; elsewhere a newer driver may show it; what a node meter (IPMI, "
    "hwmon) counts of it stands under `other`"
)


def _absent(root: Path, why: str, remedy: str) -> Discovery:
    """Why NVML shows nothing; silent where the machine has no NVIDIA GPU."""
    expected = from_proc(root) or (root / "dev/nvidiactl").exists()
    return Discovery(missing=(Missing("NVIDIA GPUs", why, remedy, "gpu"),) if expected else ())


def _describe(library: Any, handle: Any) -> Gpu:
    uuid, name = text(library.nvmlDeviceGetUUID(handle)), text(library.nvmlDeviceGetName(handle))
    pci = short_pci(text(library.nvmlDeviceGetPciInfo(handle).busId))
    try:
        minor: int | None = int(library.nvmlDeviceGetMinorNumber(handle))
    except library.NVMLError:
        minor = None
    try:
        in_mig_mode = library.nvmlDeviceGetMigMode(handle)[0] == library.NVML_DEVICE_MIG_ENABLE
    except library.NVMLError:
        in_mig_mode = False
    if not in_mig_mode:
        return Gpu(uuid, pci, minor, name)
    most = int(library.nvmlDeviceGetMaxMigDeviceCount(handle))
    return Gpu(uuid, pci, minor, name, most, tuple(_partitions(library, handle, most)))


def _mig_handles(library: Any, handle: Any, most: int) -> Iterator[tuple[str, Any]]:
    """UUID and handle of every MIG instance there is."""
    for index in range(most):
        with contextlib.suppress(library.NVMLError):
            instance = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            yield text(library.nvmlDeviceGetUUID(instance)), instance


def _partitions(library: Any, handle: Any, most: int) -> Iterator[Partition]:
    """The MIG instances; of GPU instances that compute instances share each holds its own slices."""
    for uuid, instance in _mig_handles(library, handle, most):
        with contextlib.suppress(library.NVMLError):
            has = library.nvmlDeviceGetAttributes(instance)
            slices = int(has.computeInstanceSliceCount or has.gpuInstanceSliceCount)
            yield Partition(uuid, slices, _number(library, instance))


def _number(library: Any, instance: Any) -> str:
    """`GI/CI` of a MIG device; empty where the driver does not say."""
    try:
        gpu, compute = library.nvmlDeviceGetGpuInstanceId(instance), library.nvmlDeviceGetComputeInstanceId(instance)
    except library.NVMLError:
        return ""
    return f"{int(gpu)}/{int(compute)}"


def _scope(library: Any, handle: Any, pause: Callable[[float], None]) -> int:
    """Whether the energy counter is the GPU's or, on a superchip, its module's: the scope whose power fits it better.

    Only devices that show power in both scopes are asked: their counter is watched for half a second.
    """
    if not library.knows_fields:
        return GPU_SCOPE
    gpu, module = GPU_SCOPE, MODULE_SCOPE
    instant, energy = library.NVML_FI_DEV_POWER_INSTANT, library.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
    try:
        first = library.nvmlDeviceGetFieldValues(handle, [(instant, gpu), (instant, module), (energy, gpu)])
    except library.NVMLError:
        return gpu
    if any(value.nvmlReturn != library.NVML_SUCCESS for value in first):
        return gpu
    pause(0.5)
    (last,) = library.nvmlDeviceGetFieldValues(handle, [(energy, gpu)])
    elapsed_us = last.timestamp - first[2].timestamp
    if last.nvmlReturn != library.NVML_SUCCESS or elapsed_us <= 0:
        return gpu
    counted_mw = (last.value.ullVal - first[2].value.ullVal) * 1_000_000 / elapsed_us
    off_gpu, off_module = (abs(counted_mw - value.value.uiVal) for value in first[:2])
    return module if off_module < off_gpu else gpu
