"""Reading boundary records: the agents' evidence, checked field by field before anything is summed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from perun_hpc.config.hostlist import expand
from perun_hpc.errors import DataError

SCHEMA = "perun.boundary/1"
LIMIT = 1 << 62
"""Greater numbers are no energies in uJ and no times in ns, and no database takes them."""


@dataclass(frozen=True)
class Domain:
    """One energy domain of one node as the agent accounted it; energies in uJ, None where nothing was measured."""

    name: str
    component: str
    provenance: str
    method: str
    node_uj: int | None
    energy_uj: int | None
    static_uj: int
    dynamic_uj: int
    idle_uj: int
    suspended_uj: int
    modelled_uj: int
    u_uj: int
    covered_ns: int
    gap_ns: int
    idle_ns: int | None


@dataclass(frozen=True)
class Boundary:
    """One node's boundary record.

    `late_ns` and `end_late_ns` are how long after the hooks the edge readings were taken. `expected` are the nodes of
    the job, `raw` keeps the free parts (usage, steps, regions, trace), `digest` identifies the content.
    """

    cluster: str
    job_id: int
    restart_count: int
    node: str
    revision: int
    state: str
    why: str | None
    num_nodes: int
    nodelist: str
    expected: tuple[str, ...]
    start_ns: int
    end_ns: int
    late_ns: int
    end_late_ns: int
    simulated: bool
    domains: tuple[Domain, ...]
    shares: tuple[tuple[str, str, int], ...]
    digest: str
    raw: Mapping[str, Any]

    @property
    def rank(self) -> tuple[int, str]:
        """Of two records of one node the one with the greater rank counts; one that began without its job's start has
        none (revision 0): it never replaces another."""
        start = self.raw.get("start") or {}
        return (0 if start.get("from") == "epilog" else self.revision, self.digest[:16])


def parse_boundary(text: bytes, source: str) -> Boundary:
    """Parse one boundary record.

    Parameters
    ----------
    text
        The file's content.
    source
        Where it came from, for the error.

    Raises
    ------
    DataError
        When it is not JSON, of another version, a field is missing, or its shares do not sum to its energies.
    """
    try:
        data = _storable(json.loads(text))
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema is {data.get('schema')!r}, not {SCHEMA}")
        _check_parts(data)
        record = _boundary(data, sha256(text).hexdigest())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: damaged boundary record ({error}): see the node's agent log") from error
    return record


def read_boundary(path: Path) -> Boundary:
    """Read and parse one boundary record; `DataError` as in `parse_boundary`."""
    return parse_boundary(path.read_bytes(), str(path))


def _boundary(data: dict[str, Any], digest: str) -> Boundary:
    domains = tuple(_domain(name, d) for name, d in sorted(data["domains"].items()))
    shares = tuple((str(s["domain"]), str(s["day"]), _whole(s["energy_uj"])) for s in data["shares"])
    sums: dict[str, int] = {}
    for name, _, energy_uj in shares:
        sums[name] = sums.get(name, 0) + energy_uj
    for domain in domains:
        if sums.get(domain.name, 0) != (domain.energy_uj or 0):
            raise ValueError(f"shares of {domain.name} sum to {sums.get(domain.name, 0)} uJ, not {domain.energy_uj} uJ")
    late_ns = _whole(data["start"].get("late_ns") or 0)
    # The readings' moments less their delay: when prolog and epilog ran, also where an agent heard of it late.
    start_ns = _whole(data["start"]["real_ns"]) - late_ns
    end_late_ns = _whole(data["end"].get("late_ns") or 0)
    end_ns = _whole(data["end"]["real_ns"]) - end_late_ns
    return Boundary(
        cluster=str(data["cluster"]),
        job_id=_whole(data["job_id"]),
        restart_count=_whole(data["restart_count"]),
        node=str(data["node"]),
        revision=_whole(data.get("revision", 1)),
        state=str(data["state"]),
        why=data.get("why"),
        num_nodes=_whole(data.get("num_nodes") or 1),
        nodelist=str(data.get("nodelist") or data["node"]),
        expected=expand(str(data.get("nodelist") or data["node"])),
        start_ns=start_ns,
        end_ns=max(start_ns, end_ns),
        late_ns=late_ns,
        end_late_ns=end_late_ns,
        simulated=bool(data.get("simulated")),
        domains=domains,
        shares=shares,
        digest=digest,
        raw=data,
    )


def _domain(name: str, data: dict[str, Any]) -> Domain:
    def part(key: str) -> int:
        return _whole(data.get(key) or 0)

    def maybe(key: str) -> int | None:
        return None if data.get(key) is None else _whole(data[key])

    return Domain(
        name=name,
        component=str(data["component"]),
        provenance=str(data["provenance"]),
        method=str(data["method"]),
        node_uj=maybe("node_uj"),
        energy_uj=maybe("energy_uj"),
        static_uj=part("static_uj"),
        dynamic_uj=part("dynamic_uj"),
        idle_uj=part("idle_uj"),
        suspended_uj=part("suspended_uj"),
        modelled_uj=part("modelled_uj"),
        u_uj=part("u_uj"),
        covered_ns=part("covered_ns"),
        gap_ns=part("gap_ns"),
        idle_ns=maybe("idle_ns"),
    )


def _storable(value: Any) -> Any:
    """Return a JSON value whose texts every database takes: users choose names that are no UTF-8, or hold a NUL."""
    if isinstance(value, str):
        return value if value.isprintable() else value.encode("utf-8", "replace").decode().replace("\0", "?")
    if isinstance(value, list):
        return [_storable(entry) for entry in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(entry) for key, entry in value.items()}
    return value


def _check_parts(data: dict[str, Any]) -> None:
    """Check what stays in `raw` and is summed later."""
    _check_numbers(data, "uid", "gid", "het_job_id", "het_offset", "cpus_on_node")
    _check_numbers(data.get("usage") or {}, "cpu_ns", "mem_peak_b", "peak_mw", "suspended_ns")
    _check_numbers(data.get("trace") or {}, "bytes")
    _check_numbers(data.get("agent") or {}, "cpu_ns", "rss_b")
    for notes in (data.get("notes"), (data.get("settings") or {}).get("notes")):
        if not isinstance(notes, list | None):
            raise TypeError("the notes are no list")
    for step in data.get("steps") or ():
        _check_numbers(step, "step_id", "tasks", "nodes", "start_ns", "end_ns", "energy_uj")
        for rank in step.get("ranks") or ():
            _check_numbers(rank, "rank", "start_ns", "end_ns", "energy_uj")
    for region in data.get("regions") or ():
        _check_numbers(region, "step_id", "rank", "calls", "time_ns", "energy_uj", "u_uj")
        if not isinstance(region["name"], str):
            raise TypeError("a region's name is no text")
    for part in (*(data.get("steps") or ()), *(data.get("regions") or ())):
        _whole(part["step_id"])


def _check_numbers(part: Any, *keys: str) -> None:
    for key in keys:
        if part.get(key) not in (None, ""):
            _whole(part[key])


def _whole(value: Any) -> int:
    """Return `value` as an integer; hook values arrive as text, a float or a boolean is an error."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"expected an integer, got {str(value)[:40]!r}")
    number = int(value)
    if not -LIMIT < number < LIMIT:
        raise ValueError(f"{str(value)[:40]} is out of range")
    return number
