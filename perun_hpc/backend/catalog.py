"""The explicit list of backends: each is opened alone, imported only when asked for, and fails alone."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from perun_hpc.backend.base import Discovery
from perun_hpc.data_model.perun_names import BACKENDS as PERUN_BACKENDS
from perun_hpc.data_model.perun_names import SHAPES, perun_names
from perun_hpc.data_model.sensor import Missing, Sensor
from perun_hpc.errors import NotFoundError


class Home(StrEnum):
    """Where a backend may run."""

    INLINE = "inline"
    """In the agent's own process: standard library, kernel files, microseconds."""

    CHILD = "child"
    """In a killable child process: vendor libraries and tools that can hang or need memory."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One entry of the catalog; the module `perun_hpc.backend.<name>` holds `discover(root) -> Discovery`.

    `default` is false for what is opened by name only: `procstat` is the agent's own (psutil shows the same and more),
    `dcgm` is a connection that the policy asks for, `estimate` the last resort.
    """

    name: str
    home: Home
    what: str
    default: bool = True


BACKENDS: tuple[Backend, ...] = (
    Backend("powercap", Home.INLINE, "RAPL energy counters"),
    Backend("hwmon", Home.INLINE, "power and energy inputs of hardware monitors, Grace"),
    Backend("cray_pm", Home.INLINE, "HPE Cray node power counters"),
    Backend("procstat", Home.INLINE, "CPU time and memory of the node", default=False),
    Backend("nvml", Home.CHILD, "NVIDIA GPUs"),
    Backend("amdsmi", Home.CHILD, "AMD GPUs"),
    Backend("ipmi", Home.CHILD, "node power from the BMC (DCMI)"),
    Backend("dcgm", Home.CHILD, "activity of MIG instances, from a running DCGM host engine", default=False),
    Backend("psutil", Home.CHILD, "CPU utilisation, memory, disks, network"),
    Backend("estimate", Home.INLINE, "power estimated from CPU utilisation", default=False),
)
"""All backends that need no settings; `file` is opened with what the site declares."""

_OTHERS_MODULE = re.compile(r"module '(?!perun_hpc)(\w+)[\w.]*' has no attribute")
"""What Python says where a package that others make is older than ours."""
_BY_NAME = {backend.name: backend for backend in BACKENDS}


def named(name: str) -> Backend:
    """The entry of that name; NotFoundError lists the known ones."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise NotFoundError(f"no backend {name!r}: known are {', '.join(_BY_NAME)}") from None


def open_backend(name: str, root: Path = Path("/"), **more: Any) -> Discovery:
    """Import one backend and discover its sensors below `root`; any failure becomes a `Missing`.

    `more` are parameters that its `discover` alone has.
    """
    named(name)
    try:
        module = importlib.import_module(f"perun_hpc.backend.{name}")
        found = module.discover(root, **more)
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        other = _OTHERS_MODULE.search(text) if isinstance(error, AttributeError) else None
        remedy = (
            f"pip install -U {other[1]}: it is of a version without that"
            if other
            else "report this as a fault of perun"
        )
        return Discovery(missing=(Missing(name, text.splitlines()[0], remedy),))
    assert isinstance(found, Discovery)
    return found


@dataclass(frozen=True, slots=True)
class Selection:
    """Which backends and sensors are wanted: regular expressions matched at the start of the name or id, or of what
    perun 1.0.0 calls it."""

    include_backends: tuple[str, ...] = ()
    exclude_backends: tuple[str, ...] = ()
    include_sensors: tuple[str, ...] = ()
    exclude_sensors: tuple[str, ...] = ()

    def backend(self, name: str) -> bool:
        """Whether the backend is wanted."""
        return wanted(_backend_names(name), self.include_backends, self.exclude_backends)

    def sensors(self, found: Sequence[Sensor]) -> frozenset[str]:
        """The ids of those of a host's sensors that are wanted."""
        names = _sensor_names(found)
        return frozenset(
            key for key, known_as in names.items() if wanted(known_as, self.include_sensors, self.exclude_sensors)
        )

    def unmatched(self, found: Sequence[Sensor]) -> str:
        """One line on the expressions that match nothing on a host with these sensors; empty where all do.

        What leaves out a kind of sensor that perun knows may find none here: its default does.
        """
        sensors = list(_sensor_names(found).values())
        backends = [_backend_names(backend.name) for backend in BACKENDS]
        idle = [
            f"{option}: '{pattern}'"
            for option, patterns, known in (
                ("include_backends", self.include_backends, backends),
                ("exclude_backends", self.exclude_backends, backends),
                ("include_sensors", self.include_sensors, sensors),
                ("exclude_sensors", [one for one in self.exclude_sensors if not SHAPES.match(one)], sensors),
            )
            for pattern in patterns
            if not any(re.match(pattern, name) for names in known for name in names)
        ]
        remedy = "perun sensors --all lists the names that there are"
        return f"nothing here matches {', '.join(idle)}: {remedy}" if idle else ""


def _backend_names(name: str) -> tuple[str, ...]:
    return (name, PERUN_BACKENDS[name]) if name in PERUN_BACKENDS else (name,)


def _sensor_names(found: Sequence[Sensor]) -> dict[str, tuple[str, ...]]:
    others = perun_names(found)
    return {one.id: (one.id, others[one.id]) if one.id in others else (one.id,) for one in found}


def wanted(names: Iterable[str], include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether something of these names is chosen by expressions that match at the start of one; without `include` all
    is that none excludes."""
    names, include = tuple(names), tuple(include)
    if include and not any(re.match(pattern, name) for pattern in include for name in names):
        return False
    return not any(re.match(pattern, name) for pattern in exclude for name in names)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What each backend found, in the catalog's order."""

    found: dict[str, Discovery] = field(default_factory=dict)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """All sensors."""
        return tuple(sensor for discovery in self.found.values() for sensor in discovery.sensors)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """All that is known and cannot be read."""
        return tuple(one for discovery in self.found.values() for one in discovery.missing)

    def close(self) -> None:
        """Close all readers."""
        for discovery in self.found.values():
            discovery.close()


def discover_all(
    root: Path = Path("/"),
    names: Iterable[str] | None = None,
    selection: Selection | None = None,
    opened: Callable[[str, Path], Discovery] = open_backend,
) -> Catalog:
    """Open the wanted backends, those of `names` or all default ones; `opened` opens one, here in this process.

    Without any energy or power sensor the `estimate` backend is opened as well, so that a machine is never without a
    figure; its sensors are marked estimated. The agent does not call this: it opens backends one by one.
    """
    selection = selection or Selection()
    asked = [backend.name for backend in BACKENDS if backend.default] if names is None else list(names)
    found = {name: opened(name, root) for name in asked if selection.backend(name)}
    catalog = Catalog(found)
    if names is None and selection.backend("estimate") and not has_power(catalog.sensors):
        found["estimate"] = open_backend("estimate", root)
    return catalog


def has_power(sensors: Iterable[Sensor]) -> bool:
    """Whether any of the sensors measures energy or power of the CPU, the node, or a module or APU with its CPU."""
    return any(
        one.quantity in ("energy", "power")
        and (one.component in ("cpu", "node") or one.scope.startswith(("module", "APU")))
        for one in sensors
    )
