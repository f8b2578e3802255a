"""The energy record: what one run of one job used, as the ledger, the job's directory and every report hold it.

A record is the sum of its boundary records and nothing else. The schema's version stands in every record; fields are
only ever added with a default, so that a record of an older perun stays readable, and keys that this version does not
know are ignored.
"""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from perun_hpc.data_model.codec import MISFITS, decode
from perun_hpc.data_model.sensor import Provenance, worst
from perun_hpc.errors import DataError

SCHEMA = "perun.record/1"
LARGEST = (1 << 63) - 1
"""What a ledger column holds: a larger number is in no record that was ever stored."""
PROVENANCES = tuple(one.value for one in Provenance)
"""From best to worst; a sum carries the worst of its parts."""

CARBON = {
    "co2_location_g": "location-based",
    "co2_market_g": "market-based",
    "co2_upstream_g": "upstream, scope 3",
    "co2_life_cycle_g": "life-cycle, location-based",
    "co2_life_market_g": "life-cycle, market-based",
    "co2_marginal_g": "marginal",
}
"""The figures of CO2 that a footprint may have, and what reports call them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Doubt:
    """What an energy may be wrong by for one cause (k=1), with its sign beside others of that cause.

    What has one cause errs together; what has the cause `random` errs each time anew.
    """

    cause: str
    uj: int


@dataclass(frozen=True)
class Component:
    """The energy of one component (cpu, dram, gpu, other, node), summed over nodes and domains.

    `u_uj` is the standard uncertainty (k=1), all `doubts` together; a record of before has none of these. `static_uj +
    dynamic_uj` are parts of `energy_uj`; so is `idle_uj` (a device held but idle) and `suspended_uj`. `covered_ns` and
    `gap_ns` are summed over the domains.
    """

    component: str
    energy_uj: int
    u_uj: int
    static_uj: int
    dynamic_uj: int
    idle_uj: int
    suspended_uj: int
    modelled_uj: int
    covered_ns: int
    gap_ns: int
    domains: int
    provenance: str
    methods: tuple[str, ...]
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class NodeEnergy:
    """One node's part: `energy_uj` is the job's, `node_uj` what the node's counters counted between the job's edges.

    `revision` and `digest` are the rank of the boundary record behind it; an older perun's record has no digest. `cpus`
    are those that the job had reserved of all that the node has, `node_cpus` (0: not known).
    """

    node: str
    state: str
    why: str | None
    energy_uj: int | None
    u_uj: int
    node_uj: int | None
    start_ns: int
    end_ns: int
    late_ns: int
    coverage: float
    cpu_ns: int | None = None
    cpus: int = 0
    mem_peak_b: int | None = None
    peak_mw: int | None = None
    revision: int = 1
    digest: str = ""
    node_cpus: int = 0


@dataclass(frozen=True)
class Device:
    """One accelerator that the job held; `idle_ns` is None where nobody watched its utilisation.

    While its utilisation was seen for `watched_ns` and the job held it alone it was at work for `busy_ns`;
    `mem_peak_b` is the most of its own memory that was in use then, `clock_khz` its mean clock while it was at work,
    `limit_mw` the mean of its power limit in force. For `braked_ns` it was seen whether something held its clock down:
    its power limit for `capped_ns`, heat or the hardware's own brake for `slowed_ns`.
    """

    node: str
    domain: str
    energy_uj: int | None
    held_ns: int
    idle_ns: int | None
    busy_ns: int = 0
    watched_ns: int = 0
    mem_peak_b: int | None = None
    clock_khz: int | None = None
    limit_mw: int | None = None
    braked_ns: int = 0
    capped_ns: int = 0
    slowed_ns: int = 0


@dataclass(frozen=True)
class Step:
    """One step of the job, with `--perun` or not: `0`, `batch`, `extern`, `interactive`; or `further` for all whose
    numbers are not listed, `steps` of them on the node that had most.

    `tasks` is 0 where nobody said it, `u_uj` the standard uncertainty (k=1; 0 in a record of before), `cpu_ns` the CPU
    time of its cgroups. `why` says what is missing in its energy, of which nodes.
    """

    step_id: str
    tasks: int
    nodes: int
    start_ns: int
    end_ns: int
    energy_uj: int | None = None
    u_uj: int = 0
    cpu_ns: int | None = None
    steps: int = 1
    why: str = ""


@dataclass(frozen=True)
class Rank:
    """One rank of a flagged step; `u_uj` is the standard uncertainty (k=1) of its energy."""

    step_id: str
    rank: int
    node: str
    start_ns: int
    end_ns: int
    energy_uj: int | None = None
    u_uj: int = 0


@dataclass(frozen=True)
class Region:
    """One function or region of one step, summed over its ranks; the extremes are those of single ranks' times.

    `method` says what its energy rests on (`energy/region_energy.py`), of the ranks' the worst; empty in records of
    before. `ran` says when it ran (`data_model/activity.py`), summed over the ranks; empty where that is not known.
    """

    step_id: str
    name: str
    calls: int
    ranks: int
    time_ns: int
    time_min_ns: int
    time_max_ns: int
    energy_uj: int | None
    u_uj: int
    method: str = ""
    ran: tuple[int, ...] = ()


@dataclass(frozen=True)
class Share:
    """The job's energy on one node, domain and local day."""

    node: str
    domain: str
    day: str
    energy_uj: int


@dataclass(frozen=True)
class Condition:
    """What energies may depend on beside the work, such as a limit of the clock: its values on the job's nodes."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """The relative standard uncertainty (k=1) of one figure of a footprint: of the energy, the PUE and the factor."""

    of: str
    u: float


@dataclass(frozen=True)
class Embodied:
    """What a job's part of its nodes writes off of their making: an estimate, a part of no other figure.

    In grams of CO2 equivalent, between `low_g` and `high_g`, of so many nodes; `without`: of so many of the job's nodes
    the site states nothing, or no record came. `sources` name who states it.
    """

    grams: float
    low_g: float
    high_g: float
    nodes: int
    without: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Footprint:
    """What the energy means outside the machine; `facility_uj` is the energy times PUE, `sources` name every factor.

    CO2 in grams (`energy/footprint.py`), none ever added to another: location- and market-based are scope 2, upstream
    is scope 3, category 3, life-cycle has both in one. (An older record has a life-cycle factor's figure under
    location- or market-based; its `sources` say so.) A `lower_bound` where the energy was not measured at the wall or
    no PUE is stated. A figure is in `bounds` where its factors state their uncertainty. Where a factor could not be
    read all values are None, and `sources` say why; where there are none, `embodied` is all that the site states.
    """

    facility_uj: int | None
    co2_location_g: float | None
    co2_market_g: float | None
    cost: float | None
    currency: str
    lower_bound: bool
    sources: tuple[str, ...]
    co2_upstream_g: float | None = None
    co2_life_cycle_g: float | None = None
    co2_life_market_g: float | None = None
    co2_marginal_g: float | None = None
    bounds: tuple[Spread, ...] = ()
    embodied: Embodied | None = None

    @property
    def known(self) -> bool:
        """Whether it says anything of CO2, cost or cooling."""
        return any(getattr(self, name) is not None for name in ("facility_uj", "cost", *CARBON))

    def times(self, factor: float) -> Footprint:
        """The same factors' figures of `factor` times the energy."""
        known = {name: getattr(self, name) for name in ("cost", *CARBON)}
        scaled: dict[str, Any] = {name: None if value is None else value * factor for name, value in known.items()}
        facility_uj = None if self.facility_uj is None else round(self.facility_uj * factor)
        return replace(self, facility_uj=facility_uj, **scaled)


@dataclass(frozen=True)
class EnergyRecord:
    """One run of one job; unique on (cluster, job_id, submit_s, restart_count, sluid).

    `status` is `complete`, `partial` (a node is missing or a boundary record has a hole) or `missing` (nobody reported;
    then `energy_uj` is None, never 0); `pending`, `running` or `awaited` while nothing is final. `provenance` is the
    worst of the parts; `estimated_uj` is of nodes on which no sensor measured. `inputs` identifies the boundary records
    that were summed: other inputs make another `revision`. Times are CLOCK_REALTIME nanoseconds. `mem_asked_b` is what
    Slurm gave out on all nodes together.
    """

    schema: str
    revision: int
    cluster: str
    job_id: int
    restart_count: int
    submit_s: int | None
    status: str
    provenance: str
    energy_uj: int | None
    u_uj: int
    start_ns: int
    end_ns: int
    inputs: str
    sluid: str | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    het_job_id: int | None = None
    het_offset: int | None = None
    name: str = ""
    uid: int | None = None
    gid: int | None = None
    user: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    nodelist: str = ""
    num_nodes: int = 0
    cpus: int = 0
    gpus: int = 0
    state: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    suspended_s: int = 0
    time_limit_s: int | None = None
    cpu_ns: int | None = None
    mem_peak_b: int | None = None
    coverage: float = 0.0
    static_uj: int = 0
    dynamic_uj: int = 0
    idle_uj: int = 0
    suspended_uj: int = 0
    modelled_uj: int = 0
    estimated_uj: int = 0
    wasted_uj: int = 0
    power_mean_mw: int | None = None
    power_peak_mw: int | None = None
    gpu_held_s: int = 0
    gpu_idle_s: int | None = None
    missing: tuple[str, ...] = ()
    missing_nodes: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    nodes: tuple[NodeEnergy, ...] = ()
    devices: tuple[Device, ...] = ()
    steps: tuple[Step, ...] = ()
    ranks: tuple[Rank, ...] = ()
    regions: tuple[Region, ...] = ()
    shares: tuple[Share, ...] = ()
    footprint: Footprint | None = None
    policy_hash: str = ""
    perun_version: str = ""
    trace_bytes: int = 0
    simulated: bool = False
    notes: tuple[str, ...] = ()
    agent_cpu_ns: int | None = None
    agent_rss_b: int | None = None
    mem_asked_b: int | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def elapsed_s(self) -> float:
        """Wall time between the job's edges in seconds; 0 for a job that never started."""
        return (self.end_ns - self.start_ns) / 1e9 if self.start_ns else 0.0

    @property
    def display_id(self) -> str:
        """The id as Slurm's users write it: `4711`, `4711_3` or `4711+1`."""
        if self.array_job_id is not None and self.array_task_id is not None:
            return f"{self.array_job_id}_{self.array_task_id}"
        if self.het_job_id is not None and self.het_offset is not None:
            return f"{self.het_job_id}+{self.het_offset}"
        return str(self.job_id)


def known(record: EnergyRecord, name: str) -> Any:
    """A field of a record for a table whose cells are empty where nothing is known; there it is never 0.

    Parameters
    ----------
    record : whose field.
    name : the field's.

    Returns
    -------
    Its value. None for an uncertainty of 0, which says that none is known, and for the parts of an energy that is not.
    """
    value = getattr(record, name)
    if name == "u_uj":
        return value or None
    return None if name.endswith("_uj") and record.energy_uj is None else value


def worst_provenance(words: list[str]) -> str:
    """Return the worst of `words`; an unknown word counts as `estimated`, nothing at all as `measured`."""
    return worst(w if w in PROVENANCES else "estimated" for w in words).value


def to_json(record: EnergyRecord, indent: int | None = None, shares: bool = True) -> str:
    """The record as one JSON object.

    Parameters
    ----------
    record : what is written.
    indent : of the text; None: on one line.
    shares : False leaves the list of shares empty.

    Returns
    -------
    The text; `from_json` reads it.
    """
    separators = (",", ":") if indent is None else None
    # The parts are dataclasses without slots: their `vars` are their fields, in order.
    value = record if shares else {**vars(record), "shares": ()}
    return json.dumps(value, default=vars, indent=indent, separators=separators)


def from_dict(
    data: object, source: str = "record", remedy: str = "restore it or run perun collect --repair"
) -> EnergyRecord:
    """Build a record from plain JSON types.

    Parameters
    ----------
    data : what a JSON parser gave.
    source : what messages call it.
    remedy : what they say helps where it is damaged.

    Returns
    -------
    The record.

    Raises
    ------
    DataError
        When it is no energy record, of another major version, or a field has the wrong type; names `source`.


    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        got = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{source}: not an energy record this version reads ({SCHEMA}), but {got!r}: upgrade perun")
    try:
        return decode(EnergyRecord, data)
    except MISFITS as error:
        raise DataError(f"{source}: damaged energy record ({error}): {remedy}") from error


def from_json(text: str | bytes, source: str = "record") -> EnergyRecord:
    """Parse a record.

    Parameters
    ----------
    text : one JSON object.
    source : what messages call it.

    Returns
    -------
    The record.

    Raises
    ------
    DataError
        As `from_dict`, and for a number that no ledger ever held.
    """
    try:
        data = json.loads(text, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON ({error}): restore it or run perun collect --repair") from error
    return from_dict(data, source)


def _number(digits: str) -> int:
    number = int(digits)
    if not -LARGEST <= number <= LARGEST:
        raise ValueError("a number has more than 64 bits")
    return number


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a record."""
    definitions: dict[str, Any] = {}
    _schema_of(EnergyRecord, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "$ref": "#/$defs/EnergyRecord",
        "$defs": definitions,
    }


def _schema_of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if is_dataclass(hint):
        cls: Any = hint
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}
            hints = get_type_hints(cls)
            definitions[cls.__name__] = {
                "type": "object",
                "description": (cls.__doc__ or "").split("\n")[0],
                "properties": {f.name: _schema_of(hints[f.name], definitions) for f in fields(cls)},
                "required": [f.name for f in fields(cls) if f.default is MISSING],
            }
        return {"$ref": f"#/$defs/{cls.__name__}"}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _schema_of(get_args(hint)[0], definitions)}
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(a for a in get_args(hint) if a is not type(None))
        return {"anyOf": [_schema_of(inner, definitions), {"type": "null"}]}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[hint]}
