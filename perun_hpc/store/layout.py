"""Every name, type, chunk, codec and attribute of a job store. Pure: no file is touched here.

A *track* is what one kind of node records at one rate: a Zarr group with one array per physical quantity, dimensions
(node, channel, time). The track of the first node that arrives, at the job's own period, is the group `samples`; other
hardware lies in groups `hw-SIGNATURE`, other rates in groups `rate-PERIOD` beside it. The root holds no array: groups
whose times differ must not lie below one another, since in a tree of xarray's a group inherits the times above it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from perun_hpc.data_model import codec
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import DataError

VERSION = 2
"""Layout of what is begun now. In version 1 the main track was the root group; stores that began so go on so."""
SCHEMA = "perun.trace/"
"""What a plan's schema begins with; the layout's version follows."""
MAIN = "samples"
"""Group of a job's main track."""
NS_PER_S = 1_000_000_000
CHUNKS_PER_SHARD = 144
"""A shard's index of 144 entries takes 2308 bytes: less than a page, so that it is replaced in one write."""
EARLY_NS = 3600 * NS_PER_S
"""Nodes whose clocks or prologs are up to this much ahead of the first one still fall into the store."""

NODES_PER_BLOCK = 16
"""Nodes in a chunk after recoding."""

STORE = "job.zarr"
PLAN = "layout.json"
MARKS = "nodes"
APART = "apart"
"""Directory of a job's for the parts of nodes that only a newer version can put into its store, a directory each."""
OTHER_KIND = "not of this kind"
"""Status, within a track, of a node with other hardware."""

TABLES = ("steps", "ranks", "regions")
RECODED = "recoded.json"
THINNED = "thinned.json"
ASIDE = "aside"

Json = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How one quantity is stored: array name, integer type, and what one step of it is in `units`.

    `divisor`: base units (`data_model.units.BASE_UNIT`) per step; readings of gauges are rounded down to it.
    """

    name: str
    dtype: str
    units: str
    scale: float
    long_name: str
    divisor: int = 1


FORMS: dict[tuple[Quantity, Kind], Form] = {
    (Quantity.ENERGY, Kind.COUNTER): Form("energy", "int64", "J", 1e-6, "energy counter, unwrapped"),
    (Quantity.ENERGY, Kind.GAUGE): Form("energy_spent", "int64", "J", 1e-6, "energy of the last interval"),
    (Quantity.POWER, Kind.COUNTER): Form("power_sum", "int64", "W", 1e-6, "sum of power readings, unwrapped"),
    (Quantity.POWER, Kind.GAUGE): Form("power", "uint32", "W", 1e-3, "power", divisor=1000),
    (Quantity.DATA, Kind.COUNTER): Form("traffic", "int64", "B", 1, "bytes moved, unwrapped"),
    (Quantity.DATA, Kind.GAUGE): Form("memory", "int64", "B", 1, "bytes in use"),
    (Quantity.TIME, Kind.COUNTER): Form("busy_time", "int64", "s", 1e-9, "time counter, unwrapped"),
    (Quantity.TIME, Kind.GAUGE): Form("duration", "int64", "s", 1e-9, "duration"),
    (Quantity.UTILISATION, Kind.COUNTER): Form("utilisation_sum", "int64", "%", 0.1, "sum of utilisations, unwrapped"),
    (Quantity.UTILISATION, Kind.GAUGE): Form("utilisation", "uint16", "%", 0.1, "utilisation"),
    (Quantity.FREQUENCY, Kind.COUNTER): Form("cycles", "int64", "1", 1, "cycles, unwrapped"),
    (Quantity.FREQUENCY, Kind.GAUGE): Form("frequency", "uint32", "Hz", 1e3, "clock frequency"),
    (Quantity.TEMPERATURE, Kind.COUNTER): Form("temperature_sum", "int64", "degC", 1e-3, "sum of temperatures"),
    (Quantity.TEMPERATURE, Kind.GAUGE): Form("temperature", "int32", "degC", 1e-3, "temperature"),
    (Quantity.COUNT, Kind.COUNTER): Form("events", "int64", "1", 1, "events, unwrapped"),
    (Quantity.COUNT, Kind.GAUGE): Form("count", "int64", "1", 1, "count"),
    (Quantity.FLAGS, Kind.COUNTER): Form("flag_events", "int64", "1", 1, "events, unwrapped"),
    (Quantity.FLAGS, Kind.GAUGE): Form("flags", "int64", "1", 1, "bit field"),
    (Quantity.POWER_LIMIT, Kind.COUNTER): Form("power_limit_sum", "int64", "W", 1e-6, "sum of power limits, unwrapped"),
    (Quantity.POWER_LIMIT, Kind.GAUGE): Form("power_limit", "uint32", "W", 1e-3, "power limit in force", divisor=1000),
}

OFFSET = "sample_time_offset"
OFFSET_FORM = Form(OFFSET, "int32", "s", 1e-6, "moment of the sample after its tick")

_TYPES = {"int64": ("q", 8), "uint32": ("I", 4), "int32": ("i", 4), "uint16": ("H", 2), "uint64": ("Q", 8)}


def typecode(dtype: str) -> str:
    """The `struct` and `array` code of a stored type."""
    return _TYPES[dtype][0]


def itemsize(dtype: str) -> int:
    """Bytes of a stored type."""
    return _TYPES[dtype][1]


def fill(dtype: str) -> int:
    """The value that means "missing": the least of a signed type, the greatest of an unsigned one."""
    bits = 8 * itemsize(dtype)
    return (1 << bits) - 1 if dtype.startswith("u") else -(1 << (bits - 1))


def limits(dtype: str) -> tuple[int, int]:
    """Least and greatest value that can be stored; the fill value lies outside."""
    bits = 8 * itemsize(dtype)
    return (0, (1 << bits) - 2) if dtype.startswith("u") else (1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1)


def checked_period_ns(value: object) -> int:
    """What a file says is a period (ValueError: none that can be): a shorter one would make chunks of any size."""
    if type(value) is not int or not SHORTEST_NS <= value <= LONGEST_NS:
        raise ValueError(f"a period of {value!r} ns")
    return value


def chunk_rows(period_ns: int) -> int:
    """Ticks in an inner chunk: a minute, at least 600."""
    return max(600, -(-60 * NS_PER_S // period_ns))


def shard_rows(period_ns: int) -> int:
    """Ticks in a shard file: a day at one second."""
    return CHUNKS_PER_SHARD * chunk_rows(period_ns)


def origin_tick(period_ns: int, start_ns: int) -> int:
    """Tick of the first column: where the shard, on the epoch's grid, begins that holds the start less `EARLY_NS`."""
    rows = shard_rows(period_ns)
    return (start_ns - EARLY_NS) // period_ns // rows * rows


@dataclass(frozen=True)
class Channel:
    """One row of an array: its name there and the sensor behind it."""

    name: str
    sensor: Sensor


@dataclass(frozen=True)
class Array:
    """One quantity of a track: how it is stored, and its channels in order."""

    form: Form
    channels: tuple[Channel, ...]
    columns: tuple[int, ...]
    """Position of each channel's sensor in the list that the track was made of."""


SHORTEST_NS, LONGEST_NS = 100_000, 24 * 3600 * NS_PER_S
"""Between these are the periods of tracks."""


def energy_step_uj(period_ns: int) -> int:
    """Step of stored energy that resolves 1 mW from tick to tick: 1 uJ at 1 ms, 1 mJ at 1 s and slower.

    A counter's lowest digits are noise that does not compress: with steps of 1 mJ a trace at 1 s takes a fifth less.
    """
    return max(step for step in (1, 10, 100, 1000) if step == 1 or step * 1_000_000 <= period_ns)


def with_energy_step(form: Form, step_uj: int) -> Form:
    """The form of an energy array whose steps are `step_uj` wide (ValueError: no step); other forms as they are."""
    if type(step_uj) is not int or step_uj < 1:
        raise ValueError(f"energies in steps of {step_uj!r} uJ")
    if not form.name.startswith("energy"):
        return form
    return replace(form, divisor=step_uj, scale=step_uj / 1_000_000)


def arrays(sensors: Sequence[Sensor], step_uj: int = 1) -> tuple[Array, ...]:
    """The arrays that hold these sensors; channel names name no device, so that equal nodes have equal arrays.

    `step_uj` is the step of energies.

    >>> arrays([package_energy, dram_energy])[0].channels  # doctest: +SKIP
    (Channel('package-0', ...), Channel('dram-0', ...))
    """
    grouped: dict[Form, list[int]] = {}
    for position, sensor in enumerate(sensors):
        form = with_energy_step(FORMS[sensor.quantity, sensor.kind], step_uj)
        grouped.setdefault(form, []).append(position)
    gpus = list(dict.fromkeys(sensor.domain for sensor in sensors if sensor.domain.startswith("gpu-")))
    result = []
    for form in sorted(grouped, key=lambda form: form.name):
        columns = grouped[form]
        names = _channel_names([sensors[column] for column in columns], gpus)
        channels = tuple(Channel(name, sensors[column]) for name, column in zip(names, columns, strict=True))
        result.append(Array(form, channels, tuple(columns)))
    return tuple(result)


def _channel_names(sensors: list[Sensor], gpus: list[str]) -> list[str]:
    domains = [f"gpu-{gpus.index(s.domain)}" if s.domain in gpus else s.domain for s in sensors]
    longer = [f"{sensor.backend}:{domain}" for sensor, domain in zip(sensors, domains, strict=True)]
    names: list[str] = []
    for domain, long in zip(domains, longer, strict=True):
        name = domain if domains.count(domain) == 1 else long
        count = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{count}" if count else name)
    return names


def signature(parts: Sequence[Array]) -> str:
    """Eight hexadecimal digits that equal nodes share: array names, types and channel names, no device, no host."""
    names = [
        [part.form.name, part.form.dtype, part.form.divisor, [channel.name for channel in part.channels]]
        for part in parts
    ]
    return f"{zlib.crc32(json.dumps(names).encode()):08x}"  # hashlib brings OpenSSL, which costs the agent 2 MB


def period_label(period_ns: int) -> str:
    """A period as a name: `10ms`, `1s`, `1h`."""
    for size, unit in (
        (3600 * NS_PER_S, "h"),
        (60 * NS_PER_S, "min"),
        (NS_PER_S, "s"),
        (1_000_000, "ms"),
        (1000, "us"),
    ):
        if period_ns % size == 0:
            return f"{period_ns // size}{unit}"
    return f"{period_ns}ns"


_NODES = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*\n)*")
"""Names of nodes, one a line: thousands are checked at once."""


def main_group(version: int) -> str:
    """Group of the main track in a store of that layout, "" for the root."""
    return MAIN if version > 1 else ""


def is_track(attributes: Json) -> bool:
    """Whether a group with these attributes holds samples."""
    return "perun_track" in attributes


class OtherLayoutError(DataError):
    """A plan of a layout that this version of perun does not know."""


@dataclass(frozen=True)
class Plan:
    """What all nodes of a job run agree on: written once, by whoever is first, as `layout.json` beside the store.

    Attributes
    ----------
    cluster, job_id, restart_count : the job run.
    nodes : all nodes of the job; a node's position here is its index in every array.
    start_ns : the first writer's start of the job; every track's origin follows from it.
    period_ns : the job's own period; the first track with it is the main one.
    layout : version of the layout, see `VERSION`.
    """

    cluster: str
    job_id: str
    restart_count: int
    nodes: tuple[str, ...]
    start_ns: int
    period_ns: int
    simulated: bool = False
    layout: int = VERSION

    def __post_init__(self) -> None:
        lines = "".join([f"{node}\n" for node in self.nodes])
        if lines.count("\n") != len(self.nodes) or not _NODES.fullmatch(lines):
            raise DataError(f"job {self.job_id}: a node's name holds more than letters, digits, '.', '_' and '-'")

    def to_json(self) -> bytes:
        """The bytes of `layout.json`."""
        value = codec.encode(self)
        return json.dumps({"schema": f"{SCHEMA}{value.pop('layout')}", **value}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Plan:
        """Inverse of `to_json`; DataError names the file `where`, OtherLayoutError if it is a newer version's."""
        try:
            value = json.loads(data)
            known = {f"{SCHEMA}{version}": version for version in range(1, VERSION + 1)}
            schema = value.pop("schema")
            version = known.get(schema)
            if version is None:
                newer = re.fullmatch(rf"{re.escape(SCHEMA)}[1-9]\d{{0,8}}", schema)
                kind = OtherLayoutError if newer else DataError
                raise kind(f"{where}: written by another version of perun ({', '.join(known)} are known here)")
            plan = codec.decode(cls, {**value, "layout": version})
            if not (0 <= plan.start_ns < 1 << 62 and 0 < plan.period_ns < 1 << 62):
                raise ValueError("a time out of range")
            return plan
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{where}: damaged: {error}") from error

    @property
    def main(self) -> str:
        """Group of the main track."""
        return main_group(self.layout)

    @property
    def attributes(self) -> Json:
        """What every group of the store says of the job."""
        return {
            "Conventions": "CF-1.11",
            "perun_layout": self.layout,
            "perun_plan": {key: value for key, value in self.__dict__.items() if key != "nodes"},
            "cluster": self.cluster,
            "job_id": self.job_id,
            "restart_count": self.restart_count,
            "simulated": self.simulated,
        }

    def groups(self, period_ns: int, track_signature: str) -> tuple[str, ...]:
        """The two groups that a track may be, "" for the root: the first one unless other hardware has taken it."""
        if period_ns == self.period_ns:
            return self.main, f"hw-{track_signature}"
        name = f"rate-{period_label(period_ns)}"
        return name, f"{name}-{track_signature}"


def chunk_key(*numbers: int) -> str:
    """File name of a chunk in its array's directory."""
    return ".".join(["c", *map(str, numbers)])


_KEY = re.compile(r"(?:c\.)?(\d+)\.(?:(\d+)\.)?(\d+)\Z")


def block_key(*numbers: int) -> str:
    """File name of a chunk of a recoded array: other names, so that both encodings can lie side by side."""
    return ".".join(map(str, numbers))


def parse_chunk_key(name: str) -> tuple[int, int] | None:
    """Node (or node block) and time block of a file in a data array; None for other files."""
    match = _KEY.match(name)
    return (int(match[1]), int(match[3])) if match else None


MARK_LOST = "its mark was lost"
"""Why a repair, not the node, says that a part is partial: whatever the node says itself counts instead."""
SHORT = "the job was short"
"""Why most jobs without a trace have none: nothing was lost."""

# Marks: an empty file per node and track in `nodes/`; its name says all that merging needs, one listing reads all.


class Mark(NamedTuple):
    """What a node says of its part: first and last tick with a row (-1: none), and why if it is not complete."""

    node: str
    group: str
    state: str
    """running, complete or partial"""
    first: int
    last: int
    why: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        why = re.sub(r"[^a-z0-9]+", "-", self.why.lower())[:60].strip("-")
        return f"{self.prefix}{self.state}~{self.first}~{self.last}~{why}"

    @property
    def prefix(self) -> str:
        """What the names of this node's marks for this track begin with."""
        return f"{self.node}~{self.group}~"

    @classmethod
    def parse(cls, name: str) -> Mark | None:
        """Inverse of `name`; None for other files."""
        parts = name.split("~")
        if len(parts) != 6:
            return None
        try:
            first, last = int(parts[3]), int(parts[4])
        except ValueError:
            return None
        return cls(parts[0], parts[1], parts[2], first, last, parts[5] and parts[5].replace("-", " "))


# Zarr v3 documents.

_BYTES: Json = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC: Json = {"name": "crc32c"}


def _blosc(size: int) -> Json:
    return {
        "name": "blosc",
        "configuration": {"typesize": size, "cname": "zlib", "clevel": 6, "shuffle": "shuffle", "blocksize": 0},
    }


def _array(shape: list[int], chunks: list[int], dtype: str, codecs: list[Json], dims: list[str], **other: Any) -> Json:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": other.get("fill_value", 0),
        "codecs": codecs,
        "dimension_names": dims,
        "attributes": other.get("attributes", {}),
    }


def sharding(inner: list[int], size: int) -> list[Json]:
    """The codecs of a data array whose inner chunks have shape `inner` and items of `size` bytes."""
    return [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": inner,
                "codecs": [_BYTES, _blosc(size), _CRC],
                "index_codecs": [_BYTES, _CRC],
                "index_location": "start",
            },
        }
    ]


def _data_array(form: Form, shape: list[int], period_ns: int, dims: list[str], recoded: bool) -> Json:
    block = [NODES_PER_BLOCK if recoded else 1, *shape[1:-1]]
    size = itemsize(form.dtype)
    missing = fill(form.dtype)
    units = {} if form.units == "1" else {"units": form.units}
    scale = {} if form.scale == 1 else {"scale_factor": form.scale}
    document = _array(
        shape,
        [*block, shard_rows(period_ns)],
        form.dtype,
        sharding([*block, chunk_rows(period_ns)], size),
        dims,
        fill_value=missing,
        attributes={"long_name": form.long_name, **units, **scale, "_FillValue": missing},
    )
    if recoded:
        document["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "."}}
    return document


def _strings(count: int, dim: str, long_name: str) -> Json:
    return _array(
        [count],
        [max(1, count)],
        "string",
        [{"name": "vlen-utf8"}],
        [dim],
        fill_value="",
        attributes={"long_name": long_name},
    )


def _times(dim: str, count: int, chunk: int, attributes: Json) -> Json:
    return _array(
        [count],
        [max(1, chunk)],
        "int64",
        [_BYTES, _blosc(8), _CRC],
        [dim],
        fill_value=fill("int64"),
        attributes={"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian", **attributes},
    )


def track_file(group: str) -> str:
    """Name of the file beside the store that describes the track in `group`."""
    return f"track-{group}.json" if group else "track.json"


_GROUP = re.compile(r"(?:samples|hw-[0-9a-f]{8,64}|rate-[1-9]\d{0,18}[a-z]{1,3}(?:-[0-9a-f]{8,64})?)?")
"""Names of groups, see `Plan.groups`: they are directories' names, too."""


@dataclass(frozen=True)
class Track:
    """One group of arrays: a kind of node at one rate, in the store that `plan` describes."""

    plan: Plan
    period_ns: int
    parts: tuple[Array, ...]
    group: str
    """Name of the group in the store, "" for the root of a store of layout 1."""

    @property
    def origin(self) -> int:
        """Tick of column 0."""
        return origin_tick(self.period_ns, self.plan.start_ns)

    def description(self) -> Json:
        """What the group's attributes say so that the track can be made again from them (`Track.from_description`)."""
        channels = {
            part.form.name: [{"channel": channel.name, **_portable(channel)} for channel in part.channels]
            for part in self.parts
        }
        steps = {part.form.name: part.form.divisor for part in self.parts}
        return {
            "group": self.group,
            "steps": steps,
            "period_ns": self.period_ns,
            "origin_tick": self.origin,
            "channels": channels,
        }

    @classmethod
    def from_description(cls, plan: Plan, value: Json, where: str) -> Track:
        """The track whose group has these attributes; DataError names the file `where`."""
        try:
            parts = []
            for name, channels in value["channels"].items():
                form = next(form for form in FORMS.values() if form.name == name)
                form = with_energy_step(form, int(value["steps"][name]))
                made = tuple(Channel(c["channel"], _sensor(c)) for c in channels)
                parts.append(Array(form, made, ()))
            group, period_ns = value["group"], checked_period_ns(value["period_ns"])
            if not _GROUP.fullmatch(group):
                raise ValueError(f"group {group[:80]!r}")
            return cls(plan, period_ns, tuple(parts), group)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise DataError(f"{where}: channels damaged; run perun collect --repair") from error

    @property
    def file(self) -> str:
        """Name of the file beside the store that holds the description."""
        return track_file(self.group)

    def within(self, documents: dict[str, Json]) -> dict[str, Json]:
        """Documents of arrays by their path in the store."""
        return {f"{self.group}/{name}" if self.group else name: document for name, document in documents.items()}

    def shape(self, name: str, columns: int) -> list[int]:
        """Shape of a data array that is `columns` ticks long."""
        channels = [len(part.channels) for part in self.parts if part.form.name == name]
        return [len(self.plan.nodes), *channels, columns]

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms of all data arrays."""
        return (*(part.form for part in self.parts), OFFSET_FORM)

    def documents(self, columns: int, extra: Json | None = None, recoded: bool = False) -> dict[str, Json]:
        """The `zarr.json` of the group (key "") and of its arrays (key: name), `columns` ticks long.

        `extra` are further attributes of the group; `recoded`: in node blocks, under other chunk names.
        """
        nodes = len(self.plan.nodes)
        documents: dict[str, Json] = {}
        for form in self.forms:
            shape = self.shape(form.name, columns)
            dims = ["node", f"{form.name}_channel", "time"] if len(shape) == 3 else ["node", "time"]
            documents[form.name] = _data_array(form, shape, self.period_ns, dims, recoded)
        for part in self.parts:
            dim = f"{part.form.name}_channel"
            documents[dim] = _strings(len(part.channels), dim, f"what {part.form.name} is of")
        documents["node"] = _strings(nodes, "node", "node of the job")
        documents["node_status"] = _strings(nodes, "node", "state of a node's data, and why")
        until = {"long_name": "last tick with data", "_FillValue": fill("int64")}
        documents["node_until"] = _times("node", nodes, nodes, until)
        documents["time"] = _times("time", columns, shard_rows(self.period_ns), {"standard_name": "time", "axis": "T"})
        attributes = {
            **self.plan.attributes,
            "perun_track": self.description(),
            "period_ns": self.period_ns,
            "coordinates": "node_status node_until",
            **(extra or {}),
        }
        documents[""] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return documents


_PORTABLE = tuple(
    field.name for field in fields(Sensor) if field.name not in ("id", "host", "device", "domain", "parent")
)


def _portable(channel: Channel) -> Json:
    """A channel's sensor without what differs between equal nodes: host, device and the identity of a GPU."""
    return {name: getattr(channel.sensor, name) for name in _PORTABLE}


def _sensor(value: Json) -> Sensor:
    name = value["channel"]
    return Sensor.from_json({**value, "id": f"{value['backend']}:{name}", "domain": name, "host": "", "device": ""})


_COLUMN_UNITS: dict[str, Json] = {"_uj": {"units": "J", "scale_factor": 1e-6}, "_b": {"units": "B"}}


def column(name: str, rows: int, dim: str, dtype: str) -> Json:
    """The document of one column of a table (steps, ranks, regions); `dtype` is int64 or string."""
    if dtype == "string":
        return _strings(rows, dim, name)
    units = next((units for end, units in _COLUMN_UNITS.items() if name.endswith(end)), {})
    missing = fill("int64")
    attributes = {"long_name": name, "_FillValue": missing, **units}
    codecs = [_BYTES, _blosc(8), _CRC]
    return _array([rows], [rows], "int64", codecs, [dim], fill_value=missing, attributes=attributes)


def group_document(attributes: Json) -> Json:
    """The `zarr.json` of a group that holds only other groups."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def consolidated(root: Json, documents: dict[str, Json]) -> Json:
    """The root's `zarr.json` with those of everything below it (key: path in the store)."""
    inline = {"kind": "inline", "must_understand": False, "metadata": dict(sorted(documents.items()))}
    return {**root, "consolidated_metadata": inline}
