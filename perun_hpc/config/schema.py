"""The site policy's fields: one table from which defaults, checks, the JSON Schema and docs/policy.md are derived.

A section is a frozen dataclass. An attribute is the field's name in the file plus the suffix of its unit, so
`sampling: {period: 1 s}` is `settings.sampling.period_ns == 1_000_000_000`. Standard library only.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perun_hpc.config import option
from perun_hpc.config.kinds import (
    Choice,
    Day,
    Flag,
    Key,
    Kind,
    ListOf,
    Lower,
    NodeList,
    Number,
    Regex,
    Table,
    Text,
    duration,
    energy,
    path,
    power,
    size,
)
from perun_hpc.config.option import Option


class Layer(enum.Enum):
    """Who may set a field, from the top down; a value of a later layer is bounded by those before it."""

    SITE = "site"
    PARTITION = "partition"
    NODE = "nodes"
    ACCOUNT = "account"
    USER = "user"


class Bound(enum.Enum):
    """How a layer's value is bounded by the value in force above it."""

    FREE = "any value"
    BETWEEN = "between the same section's _min and _max"
    RISE = "only upwards"
    FALL = "only downwards"
    LESS = "only to a later word of the list"
    SUBSET = "only entries of the list above"


SITE_ONLY = frozenset({Layer.SITE})
NODES = frozenset({Layer.SITE, Layer.NODE})
PARTITIONS = frozenset({Layer.SITE, Layer.PARTITION})
JOBS = frozenset({Layer.SITE, Layer.PARTITION, Layer.NODE, Layer.ACCOUNT})
USERS = JOBS | {Layer.USER}


@dataclass(frozen=True)
class Field(Option):
    """One field of one section, and who may set it."""

    layers: frozenset[Layer]
    bound: Bound

    @property
    def attribute(self) -> str:
        """The name in the compiled policy: with the unit's suffix."""
        return self.name + self.kind.suffix

    @property
    def key(self) -> str:
        """`section.attribute`, as the compiled policy and origins write it."""
        return f"{self.section}.{self.attribute}"


def _item(kind: Kind, default: str, doc: str, layers: frozenset[Layer] = SITE_ONLY, bound: Bound = Bound.FREE) -> Any:
    return option.item(kind, default, doc, layers=layers, bound=bound)


_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.@-]*"
_RULE = "letters, digits and any of _ . @ -, first a letter, a digit or _"
NAME = Text(_PLAIN, "chemistry", rule=_RULE)
ACCOUNT = Lower(_PLAIN, "chemistry", rule=_RULE)
SOURCE = Text(r".*\S.*", "the operator's annual report 2025")
BACKENDS = ("powercap", "hwmon", "cray_pm", "nvml", "amdsmi", "dcgm", "ipmi", "psutil", "file", "estimate")
COMPONENTS = ("cpu", "dram", "gpu", "node", "other", "facility")
ADDRESS = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
"""Host and port."""
USER_OPTIONS = ("off", "notrace", "period")


def _sensor_fits(sensor: Mapping[str, Any]) -> str | None:
    kind, unit = sensor.get("kind"), sensor.get("unit")
    if "driver" in sensor:
        said = next((name for name in ("unit", "pattern", "range_uj") if name in sensor), None)
        if said:
            return f"a driver's sensor has no {said.removesuffix('_uj')}: the kernel says what the number is"
        if sensor.get("component") == "facility":
            return "a facility meter is a file: the collector's host reads it"
    elif "path" in sensor:
        said = next((name for name in ("label", "device") if name in sensor), None)
        if said or not unit:
            return f"a path has no {said}" if said else "'unit' is missing: the unit of the number in the file"
    if kind and unit and unit[-1] != ("J" if kind == "counter" else "W"):
        return f"a {kind} has no unit {unit}: a counter counts uJ, mJ or J, a power is in uW, mW or W"
    if sensor.get("component") == "facility" and kind == "power":
        return "a facility meter is a counter: what its power adds up to between two readings is not known"
    return None


SITE_SENSOR = Table(
    {
        "name": Key(NAME, "the sensor's name in stores and reports", required=True),
        "path": Key(path(), "the file that holds one number"),
        "driver": Key(SOURCE, "instead of a path: the name of a hwmon chip's driver, or of a powercap control type"),
        "label": Key(SOURCE, "with driver: what the driver calls the input; `power1` where it gives no label"),
        "device": Key(
            SOURCE, "with driver: the chip's device (`ACPI000D:01`), where several have one driver and label"
        ),
        "kind": Key(Choice(("counter", "power")), "a counter of energy, or an instantaneous power", required=True),
        "unit": Key(Choice(("uJ", "mJ", "J", "uW", "mW", "W")), "with path: the unit of the number in the file"),
        "component": Key(Choice(COMPONENTS), "what the sensor measures", required=True),
        "range": Key(energy(), "where a counter wraps; never, where it is left out"),
        "pattern": Key(Regex(groups=1), "what finds the number (first group) in a file with more text"),
    },
    one_of=("path", "driver"),
    fit=_sensor_fits,
)


def _factor(unit: Mapping[str, Key], **more: Key) -> Table:
    return Table(
        {
            **unit,
            "source": Key(SOURCE, "who says so; a factor without it is refused", required=True),
            "date": Key(Day(), "the day it was published or read", required=True),
            **more,
        },
        one_of=tuple(unit),
    )


def _rises(model: Mapping[str, Any]) -> str | None:
    idle_uw, full_uw = model.get("idle"), model.get("full")
    if isinstance(idle_uw, int) and isinstance(full_uw, int) and not 0 < idle_uw <= full_uw:
        return "idle must be above 0 W and full at least as much"
    return None


NODE_MODEL = Table(
    {
        "idle": Key(power(), "what all CPUs of the node take together when idle", required=True),
        "full": Key(power(), "and when all are busy", required=True),
        "error": Key(Number(0.01, 1), "relative standard uncertainty (k=1) of it", required=True),
        "source": Key(SOURCE, "who says so, or how it was measured; a model without it is refused", required=True),
    },
    fit=_rises,
)


_SLOPE = Number(0, 10, above=True)
WALL_MODEL = Table(
    {
        "static": Key(power(), "what a node draws at the wall while its sensors show nothing", required=True),
        "cpu": Key(_SLOPE, "what a watt of its CPUs takes at the wall; 1, where it is left out"),
        "dram": Key(_SLOPE, "the same of memory"),
        "gpu": Key(_SLOPE, "the same of GPUs"),
        "error": Key(Number(0.001, 1), "relative standard uncertainty (k=1) of it", required=True),
        "source": Key(SOURCE, "how it was measured; a model without it is refused", required=True),
        "date": Key(Day(), "the day of it", required=True),
    }
)


_SERIES = Key(path(), "a CSV file with the columns `time` (UTC, ISO 8601: from then on) and `value`")
_STAGE = Key(
    Choice(("operational", "life-cycle")),
    "operational: of generating it, which is scope 2; life-cycle: with scope 3, category 3, and no figure of either",
    required=True,
)
_KIND = Key(Choice(("average", "marginal")), "of all that is generated, or of what a kWh more would add")
_LOSSES = Key(Choice(("included", "excluded")), "the grid's losses, which belong to scope 3, category 3")
_U = Key(Number(0, 1), "relative standard uncertainty (k=1) that the source states; bounds include it")
_CARBON = {"g_per_kwh": Key(Number(0, 5000), "grams of CO2 equivalent per kWh"), "series": _SERIES}
_REGION = Key(SOURCE, "the grid's or the cloud's region that it is of, where partitions differ")
_DAY = r"\d{4}-\d{2}-\d{2}"
_PERIOD = Text(rf"\d{{4}}|{_DAY}/{_DAY}", "2025", rule="a year, or first and last day: 2025-04-01/2026-03-31")


@dataclass(frozen=True)
class Monitor:
    """Which jobs are measured, and what their users may choose."""

    jobs: str = _item(
        Choice(("all", "opt-out", "opt-in", "none")),
        "all",
        "all: every job; opt-out: all but those submitted with --perun=off; opt-in: those submitted with --perun",
        JOBS,
        Bound.LESS,
    )
    partitions: tuple[str, ...] = _item(ListOf(NAME), "[]", "measure only these partitions; empty: all")
    accounts: tuple[str, ...] = _item(ListOf(ACCOUNT), "[]", "measure only these accounts; empty: all")
    canaries: str = _item(NodeList(), "", "measure on these nodes only, to try perun or an upgrade; empty: on all")
    user_options: tuple[str, ...] = _item(
        ListOf(Choice(USER_OPTIONS)),
        "[]",
        "what users may say: --perun=off (with jobs: opt-out), --perun=notrace, --perun=period=TIME",
        JOBS,
        Bound.SUBSET,
    )


@dataclass(frozen=True)
class Sampling:
    """How often sensors are stored; counters are read as often as they need besides."""

    period_ns: int = _item(
        duration("1 ms", "1 h"), "1 s", "time between two rows of readings in a trace", USERS, Bound.BETWEEN
    )
    period_min_ns: int = _item(
        duration("1 ms", "1 h"),
        "100 ms",
        "the shortest period that a partition, an account or a user may set",
        JOBS,
        Bound.RISE,
    )
    period_max_ns: int = _item(duration("1 ms", "1 h"), "60 s", "the longest", JOBS, Bound.FALL)
    interval_ns: int = _item(
        duration("100 ms", "1 min"), "10 s", "at least this often energy is shared out among jobs", NODES
    )


@dataclass(frozen=True)
class Sensors:
    """Which sensors the node's agent reads."""

    backends: tuple[str, ...] = _item(
        ListOf(Choice(BACKENDS)), "[]", "only these backends; empty: all that the node has", NODES
    )
    include: tuple[str, ...] = _item(
        ListOf(Regex()), "[]", "only sensors whose id one of these matches; empty: all", NODES
    )
    exclude: tuple[str, ...] = _item(ListOf(Regex()), "[]", "no sensors whose id one of these matches", NODES)
    files: tuple[Mapping[str, Any], ...] = _item(
        ListOf(SITE_SENSOR), "[]", "sensors that the site declares: a number in a file each", NODES
    )
    gpu_release: str = _item(
        Choice(("on-command", "when-idle")),
        "on-command",
        "when the vendor library lets go of the GPUs, so that they can be reset: `perun agent release-gpus`, or idle",
        NODES,
    )
    gpu_numbers: str = _item(
        Choice(("auto", "device-files", "pci")),
        "auto",
        "what Slurm's number of a GPU counts: device files, or PCI addresses (AutoDetect); auto: files, doubt is noted",
        NODES,
    )
    dcgm: str = _item(
        Text(f"/.+|{ADDRESS}", "/run/nv-hostengine.sock", True, "a socket's path, or HOST:PORT"),
        "",
        "a DCGM host engine that collects how active MIG instances are, for GPUs whose NVML does not show it (A100)",
        NODES,
    )
    power_pmu: str = _item(
        Choice(("off", "when-cheaper")),
        "off",
        "whether one read of a perf group stands in for powercap's files, where it agrees with them and costs less",
        NODES,
    )


@dataclass(frozen=True)
class Energy:
    """What the attribution must know of a node type."""

    package_static_uw: int | str = _item(
        power("auto"), "auto", "power of one idle CPU package; auto: learnt from idle times of the node", NODES
    )
    package_max_uw: int | str = _item(
        power("auto"),
        "auto",
        "highest power of one CPU package, also Grace's and Cray's: bounds gaps and counter wraps, more is no reading; "
        "auto: from the hardware",
        NODES,
    )
    dram_max_uw: int | str = _item(power("auto"), "auto", "the same of one package's memory", NODES)
    gpu_max_uw: int | str = _item(power("auto"), "auto", "the same of one accelerator", NODES)
    module_max_uw: int | str = _item(power("auto"), "auto", "the same of one superchip's module", NODES)
    node_max_uw: int | str = _item(power("auto"), "auto", "the same of the node, by whatever meter (psys too)", NODES)
    gpu_idle_uw: int | str = _item(power("auto"), "auto", "power of one idle GPU; auto: learnt", NODES)
    estimate: bool = _item(
        Flag(),
        "true",
        "true: a node without any sensor of its CPUs gets an estimate, marked as one; false: no energy",
        NODES,
    )
    estimate_model: Mapping[str, Any] | None = _item(
        NODE_MODEL,
        "{}",
        "what the estimate rests on for this node type; else 1 W idle and 4 W busy per logical CPU",
        NODES,
    )
    wall_model: Mapping[str, Any] | None = _item(
        WALL_MODEL,
        "{}",
        "what nodes of this type draw at the wall, as `perun calibrate` proposes it, for footprints without a meter",
        NODES,
    )
    kappa: float = _item(Number(0, 1), "0.25", "what a core's second busy thread weighs against its first", NODES)
    package_sharing: str = _item(
        Choice(("cores", "cores+fit")),
        "cores",
        "a shared package's dynamic energy: cores: by CPU time; cores+fit: also by the watts that each job's work "
        "draws, learnt from the package's own power",
        NODES,
    )


@dataclass(frozen=True)
class Agent:
    """The process on every node."""

    service_user: str = _item(NAME, "perun", "the account that ships records; the agent runs as the owner of its spool")
    resident: bool = _item(Flag(), "false", "true: the agent stays; false: it ends `linger` after the last job", NODES)
    linger_ns: int = _item(duration(), "15 min", "how long the agent outlives the last job", NODES)
    nice: int = _item(Number(0, 19, integer=True), "10", "the agent's scheduling priority (nice)", NODES)
    cpu_affinity: str = _item(
        Text(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", "0-1", True), "", "the CPUs it may run on; empty: all", NODES
    )
    memory_cap_b: int = _item(
        size("32 MiB"), "256 MiB", "above this the agent stops, and says so in the records", NODES
    )


@dataclass(frozen=True)
class Hooks:
    """The Prolog and Epilog scripts."""

    deadline_ns: int = _item(duration("50 ms", "5 s"), "500 ms", "how long a hook waits for the agent, at most")


@dataclass(frozen=True)
class Store:
    """Where records and traces live, and how large they may grow."""

    spool_quota_b: int = _item(
        size(), "2 GiB", "above this the oldest traces that wait on a node are dropped, and their records say so", NODES
    )
    archive: str = _item(
        path(), "/var/lib/perun/archive", "the archive's directory, for nodes and collector; see docs/install.md"
    )
    collector: str = _item(
        Text(ADDRESS, "head:6871", True),
        "",
        "where nodes do not share the archive: where `perun collect --daemon` listens for hand-overs (munge, or tls)",
    )
    tls: Mapping[str, Any] | None = _item(
        Table(
            {
                "cert": Key(path(), "this host's certificate, PEM", required=True),
                "key": Key(path(), "its key, PEM without a password, readable for the service user", required=True),
                "ca": Key(path(), "certificates of the CAs that are accepted, PEM, and their revocation lists", True),
            }
        ),
        "{}",
        "hand over by TLS, where no munge runs: files on every node and the collector's host; docs/sites.md",
    )
    write: str = _item(
        Choice(("spool", "archive")),
        "spool",
        "spool: a trace stays on its node until the job's end; archive: it grows in the shared archive meanwhile",
    )
    progress_ns: int | str = _item(
        duration("10 s", "1 h", "never"), "60 s", "how often `perun report` of a running job gets newer figures"
    )
    trace: str = _item(
        Choice(("all", "flagged", "none")),
        "all",
        "whose trace is kept: all jobs', those with a --perun step, or none (records only)",
        JOBS,
        Bound.LESS,
    )
    trace_min_duration_ns: int = _item(
        duration(), "60 s", "a shorter job leaves a record only, unless a step was flagged", JOBS, Bound.RISE
    )
    flush_ns: int = _item(
        duration("1 s", "1 h"), "60 s", "how many of a trace's last rows, as a time, a power loss may take", NODES
    )
    compression: int = _item(
        Number(0, 9, integer=True), "6", "how hard traces are compressed (zlib): 0 not at all, 9 most", JOBS
    )
    recode_after_ns: int | str = _item(
        duration("1 h", None, "never"),
        "never",
        "`perun collect --recode` without a job puts traces older than this into blocks of nodes, which read faster",
    )
    retention_ns: int = _item(duration("1 d"), "400 d", "traces older than this are deleted; records stay", JOBS)
    thin_after_ns: int | str = _item(
        duration("1 d", None, "never"),
        "never",
        "of traces older than this only some readings are kept; energies do not change",
        JOBS,
    )
    thin_to: int = _item(
        Number(2, 1000, integer=True), "10", "of a thinned trace one reading in this many stays, and both ends", JOBS
    )
    archive_quota_b: int | str = _item(
        size("1 MiB", "none"), "none", "where all traces together are larger, the oldest are deleted; records stay"
    )
    pack_after_ns: int | str = _item(
        duration("8 d", None, "never"),
        "30 d",
        "`perun ledger retention` puts older records and evidence of jobs without a trace into few files",
    )


@dataclass(frozen=True)
class Collect:
    """The collector and what it fills."""

    deadline_ns: int = _item(
        duration(), "15 min", "how long to wait for a job's missing nodes before its record is partial"
    )
    sweep_ns: int = _item(duration("1 s"), "60 s", "time between two sweeps of the collector")
    ledger: str = _item(
        Text(r"(sqlite:///|postgresql(\+psycopg)?://)\S+", "sqlite:////var/lib/perun/ledger.db"),
        "sqlite:////var/lib/perun/ledger.db",
        "the ledger's URL: sqlite:////PATH, or postgresql+psycopg://HOST/NAME (passwords belong into ~/.pgpass)",
    )
    processes: int = _item(
        Number(0, 8, integer=True),
        "0",
        "how many processes take what nodes hand over (store.collector); 0: one a core, four at most",
    )
    slurmdbd: str = _item(
        Choice(("off", "fill", "overwrite")),
        "off",
        "write one line into the job's AdminComment: never, only where none stands, or always",
    )
    slurmdbd_arrays: str = _item(
        Choice(("tasks", "sum")),
        "tasks",
        "of an array: a line a task, or one with the sum, on the job that has its id, once all of its tasks have ended",
    )
    slurmdbd_per_s: float = _item(Number(0.01, 1000), "50", "at most this many jobs a second")


def _range_fits(made: Mapping[str, Any]) -> str | None:
    numbers = [made.get(name) for name in ("low", "kg", "high")]
    known = [number for number in numbers if isinstance(number, int | float)]
    return None if known == sorted(known) else "kg must lie between low and high"


EMBODIED = Table(
    {
        "kg": Key(Number(0, above=True), "kg of CO2 equivalent that making one node emitted", required=True),
        "low": Key(Number(0), "the least that it may have been", required=True),
        "high": Key(Number(0), "the most that it may have been", required=True),
        "lifetime": Key(duration("1 d"), "over how long it is written off, as in '1826 d'", required=True),
        "source": Key(SOURCE, "who says so; a figure without it is refused", required=True),
        "date": Key(Day(), "the day it was published or read", required=True),
    },
    fit=_range_fits,
)


@dataclass(frozen=True)
class Footprint:
    """Factors from energy to cost and CO2; without source and date none is accepted."""

    pue: Mapping[str, Any] | None = _item(
        _factor(
            {"value": Key(Number(1, 5), "power usage effectiveness"), "series": _SERIES},
            category=Key(
                Choice(("PUE1", "PUE2", "PUE3")), "where IT energy is metered (ISO/IEC 30134-2): UPS, PDU, IT"
            ),
            period=Key(_PERIOD, "what time it is of; less than twelve months, and a series, make it an interim PUE"),
            u=_U,
        ),
        "{}",
        "multiplies wall energy",
        PARTITIONS,
    )
    carbon_location: Mapping[str, Any] | None = _item(
        _factor(_CARBON, stage=_STAGE, kind=_KIND, losses=_LOSSES, region=_REGION, u=_U),
        "{}",
        "CO2 of the grid's electricity where the site is; operational, average: GHG Protocol scope 2, location-based",
        PARTITIONS,
    )
    carbon_market: Mapping[str, Any] | None = _item(
        _factor(_CARBON, stage=_STAGE, region=_REGION, u=_U),
        "{}",
        "CO2 of the electricity the site has contracts for; operational: GHG Protocol scope 2, market-based",
        PARTITIONS,
    )
    carbon_upstream: Mapping[str, Any] | None = _item(
        _factor(_CARBON, losses=_LOSSES, region=_REGION, u=_U),
        "{}",
        "CO2 of the fuels' way to the power plants, and of the grid's losses: GHG Protocol scope 3, category 3",
        PARTITIONS,
    )
    price: Mapping[str, Any] | None = _item(
        _factor(
            {"per_kwh": Key(Number(0, 1000), "price of a kWh"), "series": _SERIES},
            currency=Key(Text(r"[A-Z]{3}", "EUR"), "ISO 4217", required=True),
        ),
        "{}",
        "what a kWh costs",
    )
    embodied: Mapping[str, Any] | None = _item(
        EMBODIED,
        "{}",
        "CO2 of making such a node: jobs' reports have their part; `perun seal` shares it by reserved node-hours, idle "
        "apart; it is added to nothing",
        NODES,
    )


@dataclass(frozen=True)
class Privacy:
    """Who sees what, beyond a job's owner and root."""

    readers: tuple[str, ...] = _item(ListOf(NAME), "[]", "Unix groups that may read all jobs' records and traces")
    shared_resolution_ns: int = _item(
        duration("10 s", "1 h"),
        "10 s",
        "finest resolution in time that users of a shared node see, live and in traces; the strictest job there counts",
        JOBS,
        Bound.RISE,
    )
    pseudonymise_after_ns: int | str = _item(
        duration("1 d", None, "never"), "never", "users and job names in older records are replaced; sums stay"
    )
    delete_after_ns: int | str = _item(
        duration("1 d", None, "never"), "never", "older records are deleted; their energies stay in the sums"
    )


@dataclass(frozen=True)
class Budget:
    """An account's energy budget: `perun policy budgets` shows it and warns, nothing is enforced."""

    energy_uj: int | str = _item(energy("none"), "none", "how much an account may use per period", JOBS)
    period: str = _item(Choice(("month", "quarter", "year")), "month", "calendar period, local time", JOBS)
    warn_at: float = _item(Number(0, 1), "0.8", "fraction of the budget from which on it warns", JOBS)


@dataclass(frozen=True)
class Metrics:
    """What a monitoring system may read: node figures in a file, the site's over HTTP (`docs/monitoring.md`)."""

    textfile: str = _item(
        path(True),
        "",
        "the directory of node_exporter's text files, local, into which agents write `perun-node.prom`; empty: none",
        NODES,
    )
    slurm: bool = _item(
        Flag(),
        "false",
        "true: agents write what Slurm's own commands show through the plugin `acct_gather_energy/perun`",
        NODES,
    )
    listen: str = _item(
        Text(ADDRESS, "127.0.0.1:9871", True),
        "",
        "where `perun collect --daemon` serves the site's figures, to whoever asks there; empty: nowhere",
    )
    labels: tuple[str, ...] = _item(
        ListOf(Choice(("account", "user", "job"))),
        "[]",
        "who is named in figures: accounts, users, jobs that run; whoever reaches the figures sees these names",
    )


def _meter_fits(made: Mapping[str, Any]) -> str | None:
    if ("nodes" in made) != (made.get("feeds") == "nodes"):
        return "'nodes' says which nodes a meter with `feeds: nodes` feeds, all of them and nothing else"
    return None


METER = Table(
    {
        "meter": Key(NAME, "the name of its file in the archive's `facility`", required=True),
        "feeds": Key(
            Choice(("facility", "nodes", "fabric", "storage", "login", "cooling", "other")),
            "what it feeds, all of it; facility: everything, cooling and losses with it",
            required=True,
        ),
        "nodes": Key(NodeList(), "with feeds: nodes: which, all that it feeds"),
        "u": Key(Number(0, 1), "relative standard uncertainty (k=1) of the meter, by its class", required=True),
        "range": Key(energy(), "where the counter wraps; never, where it is left out"),
    },
    fit=_meter_fits,
)


@dataclass(frozen=True)
class Facility:
    """What meters outside the nodes feed: the site's balance (`perun balance`) is drawn up between them."""

    meters: tuple[Mapping[str, Any], ...] = _item(
        ListOf(METER), "[]", "meters whose readings lie in the archive's `facility`, and what each of them feeds"
    )


SECTIONS: Mapping[str, type[Any]] = {
    "monitor": Monitor,
    "sampling": Sampling,
    "sensors": Sensors,
    "energy": Energy,
    "agent": Agent,
    "hooks": Hooks,
    "store": Store,
    "collect": Collect,
    "footprint": Footprint,
    "facility": Facility,
    "privacy": Privacy,
    "budget": Budget,
    "metrics": Metrics,
}

LAYERS: Mapping[str, Layer] = {
    "partitions": Layer.PARTITION,
    "nodes": Layer.NODE,
    "accounts": Layer.ACCOUNT,
}
"""Top-level keys that hold a mapping from a name to sections of that layer."""


def fields() -> Iterator[Field]:
    """All fields, in the order of the file."""
    for section, cls in SECTIONS.items():
        for item in dataclasses.fields(cls):
            name = item.name.removesuffix(item.metadata["kind"].suffix)
            yield Field(section=section, name=name, default=item.default, **item.metadata)


FIELDS: Mapping[str, Field] = {field.key: field for field in fields()}
"""All fields by `section.attribute`."""
