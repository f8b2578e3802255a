"""How busy MIG instances are, as a running DCGM host engine collects it anyway: for GPUs before NVML's GPM (A100, A30).

A client of the engine (library libdcgm, of NVIDIA's package datacenter-gpu-manager). It asks for the latest values
that the engine holds for others, and for no new ones: it watches no field and begins no profiling, which would take the
GPU's performance monitor from users' own tools. A field that nobody watches is a gap.

The structures below are those of dcgm_structs.h, alike from DCGM 2.1.4 to 4.6.0.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.gpus import activity_name
from perun_hpc.backend.stamps import Stamps
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

LIBRARIES = ("libdcgm.so.4", "libdcgm.so.3", "libdcgm.so.2")
FIELDS = (1002, 1001)
"""DCGM_FI_PROF_SM_ACTIVE; else DCGM_FI_PROF_GR_ENGINE_ACTIVE, which dcgm-exporter collects by default."""
GPU_INSTANCE, COMPUTE_INSTANCE = 4, 5
"""DCGM_FE_GPU_I and _GPU_CI."""
PATIENCE_MS = 1000
MOST_ENTITIES = 32 * 14
"""DCGM_MAX_HIERARCHY_INFO."""
UPDATE_NS = 1_000_000_000
"""How often DCGM collects profiling fields where nobody says otherwise."""
ROUNDED_UP = 1.02
"""DCGM shows a little more than 1 now and then; more than this is no share of an instance's time (DCGM issue 152)."""
BLANK = 2.0**47
"""DCGM_FP64_BLANK: this and what is a little more stands for no value."""
NOT_WATCHED = -16
REASONS = {
    -6: "not supported",
    -11: "the host engine did not answer in time",
    -14: "no value yet",
    -15: "the value is stale",
    NOT_WATCHED: "nobody watches field 1002 or 1001 of the MIG instances",
    -17: "no permission",
    -45: "the MIG instance is not there any more",
}
"""Of dcgmReturn_t, what may be wrong with one value."""
MISSING = "activity of MIG instances"


class _Entity(ctypes.Structure):
    _fields_ = [("group", ctypes.c_int), ("id", ctypes.c_uint)]


class _Place(ctypes.Structure):
    """dcgmMigHierarchyInfo_v2."""

    _fields_ = [
        ("entity", _Entity),
        ("parent", _Entity),
        ("gpu", ctypes.c_char * 128),
        ("index", ctypes.c_uint),
        ("instance", ctypes.c_uint),
        ("compute", ctypes.c_uint),
        ("profile", ctypes.c_uint),
        ("slices", ctypes.c_uint),
    ]


class _Hierarchy(ctypes.Structure):
    """dcgmMigHierarchy_v2."""

    _fields_ = [("version", ctypes.c_uint), ("count", ctypes.c_uint), ("places", _Place * MOST_ENTITIES)]


class _Connection(ctypes.Structure):
    """dcgmConnectV2Params_v2."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("lasting", ctypes.c_uint),
        ("timeout_ms", ctypes.c_uint),
        ("unix", ctypes.c_uint),
    ]


class _Content(ctypes.Union):
    _fields_ = [("integer", ctypes.c_int64), ("real", ctypes.c_double), ("blob", ctypes.c_char * 4096)]


class _Value(ctypes.Structure):
    """dcgmFieldValue_v2."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("group", ctypes.c_int),
        ("id", ctypes.c_uint),
        ("field", ctypes.c_ushort),
        ("type", ctypes.c_ushort),
        ("status", ctypes.c_int),
        ("unused", ctypes.c_uint),
        ("stamp_us", ctypes.c_int64),
        ("content", _Content),
    ]


class DcgmError(Exception):
    """What the library refused, in words."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A MIG device: its GPU's UUID, `GI/CI` as NVML numbers them, and DCGM's own number of the GPU instance."""

    gpu: str
    number: str
    entity: int


class Engine:
    """A connection to a host engine; DcgmError names what it refuses."""

    def __init__(self, library: ctypes.CDLL, address: str) -> None:
        """Connect to `HOST:PORT` or to a socket's path."""
        self._library, self._handle = library, ctypes.c_size_t()
        library.errorString.restype = ctypes.c_char_p
        self._call("dcgmInit")
        options = _Connection(_version(_Connection, 2), 0, PATIENCE_MS, address.startswith("/"))
        try:
            self._call("dcgmConnect_v2", address.encode(), ctypes.byref(options), ctypes.byref(self._handle))
        except DcgmError:
            library.dcgmShutdown()
            raise

    def instances(self) -> list[Instance]:
        """The MIG devices of all GPUs."""
        found = _Hierarchy(version=_version(_Hierarchy, 2))
        self._call("dcgmGetGpuInstanceHierarchy", self._handle, ctypes.byref(found))
        return [
            Instance(one.gpu.decode("ascii", "replace"), f"{one.instance}/{one.compute}", one.parent.id)
            for one in found.places[: min(found.count, MOST_ENTITIES)]
            if one.entity.group == COMPUTE_INSTANCE and one.parent.group == GPU_INSTANCE
        ]

    def latest(self, entities: Sequence[int]) -> dict[tuple[int, int], _Value]:
        """What the engine holds of each GPU instance, by (entity, field)."""
        asked = (_Entity * len(entities))(*(_Entity(GPU_INSTANCE, one) for one in entities))
        fields = (ctypes.c_ushort * len(FIELDS))(*FIELDS)
        values = (_Value * (len(entities) * len(FIELDS)))()
        for value in values:
            value.version = _version(_Value, 2)
        self._call("dcgmEntitiesGetLatestValues", self._handle, asked, len(asked), fields, len(fields), 0, values)
        return {(value.id, value.field): value for value in values if value.group == GPU_INSTANCE}

    def close(self) -> None:
        """Leave the engine."""
        self._library.dcgmDisconnect(self._handle)
        self._library.dcgmShutdown()

    def _call(self, name: str, *given: Any) -> None:
        code = getattr(self._library, name)(*given)
        if code:
            raise DcgmError(f"{name}: {(self._library.errorString(code) or b'').decode('ascii', 'replace') or code}")


class Dcgm:
    """Reader of the activity of all MIG devices, in thousandths of the GPU instance's time."""

    def __init__(
        self,
        engine: Engine,
        instances: Sequence[Instance],
        clock: Clock = monotonic_ns,
        real_clock: Clock = time.time_ns,
    ) -> None:
        self._engine, self._instances, self._clock = engine, tuple(instances), clock
        self._stamps = Stamps(clock, real_clock)
        self._sensors = tuple(_sensor(one) for one in instances)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """One per MIG device."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """The latest of what the engine holds. DcgmError: it is gone, and this connection with it."""
        values = self._engine.latest(sorted({one.entity for one in self._instances}))
        return tuple(self._one(values, one.entity) for one in self._instances)

    def _one(self, values: Mapping[tuple[int, int], _Value], entity: int) -> Reading:
        """The first field that is known; else why the first one that somebody watches is not."""
        why = REASONS[NOT_WATCHED]
        for value in (values[entity, field] for field in FIELDS if (entity, field) in values):
            wrong = _wrong(value)
            if not wrong:
                return self._stamps.reading(round(1000 * min(value.content.real, 1.0)), value.stamp_us * 1000)
            if why == REASONS[NOT_WATCHED]:
                why = wrong
        return Reading(None, self._clock(), why)

    def close(self) -> None:
        """Leave the engine."""
        self._engine.close()


def _wrong(value: _Value) -> str:
    """Why a value shows no share of the time; empty where it does."""
    if value.status:
        return REASONS.get(value.status, f"DCGM's error {value.status}")
    share = value.content.real
    if share >= BLANK:
        return REASONS[-14]
    return "" if 0 <= share <= ROUNDED_UP else f"{share:.3g} is no share of an instance's time"


def discover(
    root: Path = Path("/"),
    address: str = "127.0.0.1:5555",
    load: Callable[[str], ctypes.CDLL] = ctypes.CDLL,
    clock: Clock = monotonic_ns,
) -> Discovery:
    """The MIG devices that the host engine at `address` knows (`HOST:PORT`, a socket's path); `root` says nothing."""
    library = None
    for name in LIBRARIES:
        try:
            library = load(name)
            break
        except OSError:
            continue
    if library is None:
        return _missing(f"none of {', '.join(LIBRARIES)} is installed", "install datacenter-gpu-manager")
    try:
        engine = Engine(library, address)
    except DcgmError as error:
        return _missing(f"no host engine at {address}: {error}", "see sensors.dcgm in docs/sites.md")
    try:
        instances = engine.instances()
    except DcgmError as error:
        engine.close()
        return _missing(f"the host engine at {address}: {error}", "look at its log")
    if not instances:
        engine.close()
        return Discovery()
    return Discovery((Dcgm(engine, instances, clock),))


def _missing(why: str, remedy: str) -> Discovery:
    return Discovery(missing=(Missing(MISSING, why, remedy, "gpu"),))


def _sensor(one: Instance) -> Sensor:
    return Sensor(
        id=f"dcgm:gpu-{one.gpu}:{activity_name(one.number)}",
        host=host_name(),
        backend="dcgm",
        device=one.number,
        domain=f"gpu-{one.gpu}",
        component="gpu",
        kind=Kind.GAUGE,
        quantity=Quantity.UTILISATION,
        unit="0.1 %",
        update_ns=UPDATE_NS,
        scope=f"busy SMs of the MIG instance {one.number} of {one.gpu}, by DCGM",
    )


def _version(structure: type[ctypes.Structure], number: int) -> int:
    """MAKE_DCGM_VERSION."""
    return ctypes.sizeof(structure) | number << 24
