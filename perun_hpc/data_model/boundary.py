"""Reading boundary records: the agents' evidence, checked field by field before anything is summed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from perun_hpc.data_model.job import CUT_OFF
from perun_hpc.data_model.trimmed import without
from perun_hpc.errors import DataError
from perun_hpc.slurm.hostlist import expand

SCHEMA = "perun.boundary/1"
MAX_READ_B = 4 << 20
"""What is read of a record: as Python's objects it may take thirty times as much. A node's own bounds are below."""
EXTRAS = (b"regions", b"steps")
"""What a record does without, in this order, where it is longer: never what energies rest on."""
MAX_NOTES, MAX_NOTE = 20, 300
"""Notes of a record, or of the sum of several, and letters of each."""
MAX_DOUBTS, MAX_CAUSE = 20, 100
"""Causes of doubt of a domain that are read, and letters of each."""
LIMIT = 1 << 62
"""Greater numbers are no energies in uJ and no times in ns, and no database takes them."""


@dataclass(frozen=True)
class Domain:
    """One energy domain of one node as the agent accounted it; energies in uJ, None where nothing was measured.

    `doubts` is what the energy may be wrong by: cause -> standard uncertainty (k=1) in uJ, with its sign beside others
    of that cause. Records before them have `u_uj` alone: then a component's errors are taken for one cause.
    """

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
    doubts: Mapping[str, int]
    busy_ns: int = 0
    watched_ns: int = 0
    mem_peak_b: int | None = None
    clock_khz: int | None = None
    limit_mw: int | None = None
    braked_ns: int = 0
    capped_ns: int = 0
    slowed_ns: int = 0


@dataclass(frozen=True)
class Boundary:
    """One node's boundary record.

    `late_ns` and `end_late_ns` are how long after the hooks the edge readings were taken. `expected` are the nodes of
    the job, `raw` keeps the parts without a fixed form (usage, steps, regions, trace), `digest` identifies the content,
    `size_b` says how many bytes were read.
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
    size_b: int
    raw: Mapping[str, Any]

    @property
    def rank(self) -> tuple[int, str]:
        """Of two records of one node the one with the greater rank counts; one that began without its job's start, or
        ended without its end, has none (revision 0): it never replaces another."""
        start, end = self.raw.get("start") or {}, self.raw.get("end") or {}
        half = start.get("from") == "epilog" or end.get("from") == CUT_OFF
        return (0 if half else self.revision, self.digest[:16])


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
        data = json.loads(text)
        if not _plain(text):
            data = _storable(data)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema is {data.get('schema')!r}, not {SCHEMA}")
        _check_parts(data)
        record = _boundary(data, sha256(text).hexdigest(), len(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: damaged boundary record ({error}): see the node's agent log") from error
    return record


def read_boundary(path: Path) -> Boundary:
    """Read and parse one boundary record; `DataError` as in `parse_boundary`.

    One longer than `MAX_READ_B` is read without its regions, then without its steps, and says so in its notes.
    """
    with path.open("rb") as file:
        return read_open(file, str(path))


def read_open(file: BufferedReader | BytesIO, source: str) -> Boundary:
    """As `read_boundary`, of an open file that can seek; `source` is where it is from, for errors."""
    text = file.read(MAX_READ_B + 1)
    if len(text) <= MAX_READ_B:
        return parse_boundary(text, source)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    size_b = file.tell()
    for number in range(1, len(EXTRAS) + 1):
        file.seek(0)
        try:
            text = without(file, EXTRAS[:number], MAX_READ_B)
        except ValueError as error:
            why = error
            continue
        record = parse_boundary(text, source)
        named = " and ".join(key.decode() for key in EXTRAS[:number])
        note = f"{named} left out: the node's record has {size_b} bytes, {MAX_READ_B} are read"
        raw = {**record.raw, "notes": [*(record.raw.get("notes") or ()), note]}
        return replace(record, digest=digest, raw=raw)
    raise DataError(f"{source}: damaged boundary record ({why}): see the node's agent log")


def lean(record: Boundary, extras: bool = True, steps: bool = True) -> Boundary:
    """What is summed of a record, and without `extras` no regions, ranks and commands, without `steps` no steps.

    It says what was left out.
    """
    raw = {key: value for key, value in record.raw.items() if key not in _NOT_SUMMED}
    notes = list(raw.get("notes") or ())
    # Of very many the last one stays: it says what was not read.
    notes = [str(note)[:MAX_NOTE] for note in (*notes[: MAX_NOTES - 1], *notes[MAX_NOTES - 1 :][-1:])]
    if not extras and (raw.get("regions") or raw.get("steps")):
        raw["regions"] = []
        raw["steps"] = [{key: step.get(key) for key in (*_OF_A_STEP, "why")} for step in raw.get("steps") or ()]
        notes.append("regions and ranks left out: the job's records are too long together")
    if not steps and raw.get("steps"):
        raw["steps"] = []
        notes.append("steps left out: the nodes of the job have too many together")
    raw["notes"] = notes
    return replace(record, raw=raw)


_NOT_SUMMED = frozenset(("sensors", "edges", "checks", "static", "gaps", "domains", "shares"))
_OF_A_STEP = ("step_id", "steps", "tasks", "nodes", "start_ns", "end_ns", "cpu_ns", "energy_uj", "u_uj")


def _boundary(data: dict[str, Any], digest: str, size_b: int) -> Boundary:
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
        size_b=size_b,
        raw=data,
    )


def _domain(name: str, data: dict[str, Any]) -> Domain:
    def part(key: str) -> int:
        return _whole(data.get(key) or 0)

    def maybe(key: str) -> int | None:
        return None if data.get(key) is None else _whole(data[key])

    said = data["doubts"] if "doubts" in data else {str(data["component"]): part("u_uj")}
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
        doubts={str(cause)[:MAX_CAUSE]: _whole(uj) for cause, uj in list(said.items())[:MAX_DOUBTS]},
        busy_ns=part("busy_ns"),
        watched_ns=part("watched_ns"),
        mem_peak_b=maybe("mem_peak_b"),
        clock_khz=maybe("clock_khz"),
        limit_mw=maybe("limit_mw"),
        braked_ns=part("braked_ns"),
        capped_ns=part("capped_ns"),
        slowed_ns=part("slowed_ns"),
    )


def _plain(text: bytes) -> bool:
    """Whether every text in a JSON document is plain: ASCII, nothing escaped; JSON has no other control characters."""
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def _storable(value: Any) -> Any:
    """Return a JSON value whose texts every database takes: users choose names that are no UTF-8, or hold a NUL."""
    if isinstance(value, str):
        return value if value.isprintable() else value.encode("utf-8", "replace").decode().replace("\0", "?")
    if isinstance(value, list):  # in place: a second copy of everything would be half of what a sweep takes
        for at, entry in enumerate(value):
            value[at] = _storable(entry)
    elif isinstance(value, dict):
        for key in list(value):
            entry = _storable(value[key])
            named = _storable(key)
            if named != key:
                del value[key]
            value[named] = entry
    return value


def _check_parts(data: dict[str, Any]) -> None:
    """Check what stays in `raw` and is summed later."""
    for name in ("sluid", "why"):
        if not isinstance(data.get(name), str | None):
            raise TypeError(f"{name} is no text")
    _check_numbers(data, "uid", "gid", "het_job_id", "het_offset", "cpus_on_node", "node_cpus")
    _check_numbers(data.get("usage") or {}, "cpu_ns", "mem_peak_b", "peak_mw", "suspended_ns")
    _check_numbers(data.get("trace") or {}, "bytes")
    _check_numbers(data.get("agent") or {}, "cpu_ns", "rss_b")
    for notes in (data.get("notes"), (data.get("settings") or {}).get("notes")):
        if not isinstance(notes, list | None):
            raise TypeError("the notes are no list")
    if not all(isinstance(value, str) for value in (data.get("conditions") or {}).values()):
        raise TypeError("a condition is no text")
    for step in data.get("steps") or ():
        _check_numbers(step, *_OF_A_STEP)
        if not isinstance(step.get("why"), str | None):
            raise TypeError("a step's reason is no text")
        for rank in step.get("ranks") or ():
            _check_numbers(rank, "rank", "start_ns", "end_ns", "energy_uj", "u_uj")
    for region in data.get("regions") or ():
        _check_numbers(region, "step_id", "rank", "calls", "time_ns", "energy_uj", "u_uj")
        if not isinstance(region["name"], str):
            raise TypeError("a region's name is no text")
        if not isinstance(region.get("method", ""), str):
            raise TypeError("a region's method is no text")
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
