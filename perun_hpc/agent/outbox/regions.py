"""Regions of a job's ranks: what they called, how long, and their part of the job's energy on this node.

Read when the job has ended, in the child that ships: what ranks handed over comes from a user and is checked here.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from perun_hpc.agent.base.paths import RANKS
from perun_hpc.agent.measure.curve import Curve
from perun_hpc.data_model import activity, rank_data
from perun_hpc.data_model.wording import count
from perun_hpc.energy.regions import Limits, Marked, Spans, by_region, union
from perun_hpc.energy.uncertainty import NS_PER_S, RANDOM, STATIC_ERROR, added, combined_uj
from perun_hpc.errors import DataError

CURVE = "curve.bin"
NUMBERS = ("step_id", "rank", "calls", "time_ns", "energy_uj", "u_uj")
"""What a record says of a region besides its name."""
UNSEEN = "no cgroup shows what it used, and the job's power over time is not known"
UNSEEN_BESIDE = "no cgroup shows what it used, and other steps ran meanwhile"
RANK_ERROR, UNEVEN = 0.12, 0.15
"""How far the watts behind a rank's CPU time lie from those of the others, relative, k=1: of ranks that worked alike,
and at most so much more, by squares, of ranks whose CPU times differ: they did not do the same. docs/method.md has
more."""
MAX_SHOWN = 8
"""Regions of one rank of which a record says when they ran: those that took longest."""
MAX_REGIONS = 1000
"""Regions of one rank that a record keeps: those that took longest."""
MAX_RECORD = 20_000
"""Regions of all ranks that a record keeps."""
MAX_CONTRASTS = 2_000_000
"""Calls and readings that estimates of a job's regions look at, together; later regions have their bounds alone."""
MAX_RECORD_B = 2 << 20
"""Their bytes in the record: what the collector reads takes some ten times that of its memory."""


@dataclass(frozen=True)
class Handed:
    """What one rank handed over: whose it is, when the rank lived (monotonic), how many ranks its step had here.

    Of the job's energy on this node `error` is the relative standard uncertainty, `static` the static part, and
    `static_error` what that may be wrong by, as a part of the energy; `floor_uw`, `ceiling_uw` and `age_ns` are the
    limits of its power and of its readings. `clock_ns` is what the monotonic clock lacks to the wall clock, `width_ns`
    how long the stretches are in which it is said when regions ran (0: it is not).
    """

    step_id: int
    rank: int
    start_ns: int
    end_ns: int
    ranks: int
    error: float = 0.0
    static: float = 0.0
    static_error: float = 0.0
    floor_uw: int = 0
    ceiling_uw: int | None = None
    age_ns: float = 0.0
    clock_ns: int = 0
    width_ns: int = 0

    @property
    def limits(self) -> Limits:
        """Of power and readings."""
        return Limits(self.floor_uw, self.ceiling_uw, self.age_ns)


def error_of(record: Mapping[str, Any]) -> float:
    """Relative standard uncertainty (k=1) of what a job used on this node at any time: of what errs together.

    Edges and gaps are not in it; they are those of the times that are asked for.
    """
    parts = [one for one in record.get("domains", {}).values() if one["energy_uj"] is not None]
    energy_uj = sum(one["energy_uj"] for one in parts)
    doubts = added(one.get("doubts") or {one["component"]: one["u_uj"]} for one in parts)
    return (
        combined_uj({cause: uj for cause, uj in doubts.items() if cause != RANDOM}) / energy_uj
        if energy_uj > 0
        else 0.0
    )


def static_of(record: Mapping[str, Any]) -> tuple[float, float]:
    """The static part of what a job used on this node, and its standard uncertainty (k=1), as parts of all."""
    parts = {name: one for name, one in record.get("domains", {}).items() if one["energy_uj"] is not None}
    energy_uj = sum(one["energy_uj"] for one in parts.values())
    if energy_uj <= 0:
        return 0.0, 0.0
    source = {name: figure["from"] for name, figure in record.get("static", {}).items()}
    error_uj = sum(STATIC_ERROR.get(source.get(name, ""), 0.0) * one["static_uj"] for name, one in parts.items())
    static = sum(one["static_uj"] for one in parts.values()) / energy_uj
    return min(1.0, max(0.0, static)), error_uj / energy_uj


def limits_of(record: Mapping[str, Any]) -> Limits:
    """What the job's power on this node cannot leave, and how old its readings may be.

    Never less than its static power less twice what that may be wrong by; never more than its sensors' ceilings, where
    each has one.
    """
    parts = {name: one for name, one in record.get("domains", {}).items() if one["energy_uj"]}
    energy_uj, covered_ns = sum(one["energy_uj"] for one in parts.values()), record["end"]["mono_ns"]
    covered_ns -= record.get("start", {}).get("mono_ns", covered_ns)
    if energy_uj <= 0 or covered_ns <= 0:
        return Limits()
    sensors = {one["domain"]: one for one in record.get("sensors", ())}
    known = [sensors.get(name, {}) for name in parts]
    static, error = static_of(record)
    ceilings = [one.get("max_uw") for one in known]
    ages = (
        one["energy_uj"] * (sensor.get("update_ns", 0) + sensor.get("lag_ns", 0) // 4)
        for one, sensor in zip(parts.values(), known)
    )
    return Limits(
        max(0, round((static - 2 * error) * energy_uj * NS_PER_S / covered_ns)),
        None if None in ceilings else sum(ceilings),
        sum(ages) / energy_uj,
    )


def handed_over(directory: Path, record: Mapping[str, Any]) -> Iterator[tuple[Handed, Path]]:
    """What the ranks of a sealed session left, and where it lies."""
    if not any(step["ranks"] for step in record["steps"]):
        return
    limits = limits_of(record)
    error, (static, static_error) = error_of(record), static_of(record)
    start = record.get("start") or {}
    clock_ns = width_ns = 0
    if "real_ns" in start and "mono_ns" in start:
        clock_ns = start["real_ns"] - start["mono_ns"]
        width_ns = activity.width_ns(record["end"]["mono_ns"] - start["mono_ns"])
    for step in record["steps"]:
        for run in step["ranks"]:
            path = directory / RANKS / f"{step['step_id']}-{run['rank']}.rank"
            if path.exists():
                until_ns = run["end_mono_ns"] or record["end"]["mono_ns"]
                lived = run["start_mono_ns"], until_ns
                yield (
                    Handed(
                        step["step_id"],
                        run["rank"],
                        *lived,
                        len(step["ranks"]),
                        error,
                        static,
                        static_error,
                        limits.floor_uw,
                        limits.ceiling_uw,
                        limits.age_ns,
                        clock_ns,
                        width_ns,
                    ),
                    path,
                )


class Found(NamedTuple):
    """The regions of ranks, what could not be read, and of each rank (step, rank) its own CPU time in ns."""

    rows: list[dict[str, Any]]
    problems: list[str]
    cpu_ns: dict[tuple[int, int], int]


def of_session(directory: Path, record: Mapping[str, Any]) -> Found:
    """What the ranks of a sealed session handed over; `parsing` does it elsewhere."""
    opened = ((handed, path.open("rb")) for handed, path in handed_over(directory, record))
    return of_ranks(Curve.read(directory / CURVE), opened)


def of_ranks(curve: Curve, handed_over: Iterable[tuple[Handed, BinaryIO]]) -> Found:
    """What ranks handed over; the files are closed.

    A rank's region gets a part of what the job used while it ran: of its static part an equal one, by the step's ranks
    on this node, of the rest that of the ranks' CPU time.
    """
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    parts: dict[int, Parts] = {}
    of_job: dict[int, Handed] = {}
    left = MAX_CONTRASTS
    for handed, file in handed_over:
        who = f"step {handed.step_id} rank {handed.rank}"
        try:
            with file:
                rank = rank_data.parse(_mapped(file))
        except DataError as error:
            problems.append(f"{who}: {error}")
            continue
        of_job[handed.step_id] = handed
        parts.setdefault(handed.step_id, Parts(handed.ranks)).take(handed.rank, _cpu_ns(rank.samples))
        rows: list[dict[str, Any]] = []
        called = by_region(rank.calls, len(rank.names), handed.start_ns, handed.end_ns)
        for region, marked in sorted(called.items(), key=lambda one: -one[1].spans.time_ns):
            left -= curve.looked_at(marked.spans)
            row = _row(handed, rank.names[region], marked, curve, left > 0)
            if handed.width_ns and len(rows) < MAX_SHOWN:
                row["ran"] = activity.of_spans(marked.spans, handed.clock_ns, handed.width_ns)
            rows.append(row)
        if len(rows) > MAX_REGIONS:
            problems.append(f"{who}: {count(len(rows) - MAX_REGIONS, 'region')} left out")
        found += rows[:MAX_REGIONS]
    for row in found:
        _give(row, parts[row["step_id"]], of_job[row["step_id"]])
    kept = _bounded(found)
    if len(found) > len(kept):
        left_out = count(len(found) - len(kept), "region")
        problems.append(f"{left_out} left out: a node reports {MAX_RECORD} of a job, {MAX_RECORD_B >> 20} MiB of them")
    known = {(step_id, rank): ns for step_id, one in parts.items() for rank, ns in one.cpu_ns.items()}
    return Found(kept, problems, known)


def _cpu_ns(samples: Sequence[int]) -> int | None:
    """A rank's own CPU time, of its totals (rows of monotonic ns, CPU ns, bytes) at its start and later."""
    return max(0, samples[-2] - samples[1]) if len(samples) >= 2 * len(rank_data.SAMPLES) else None


def _mapped(file: BinaryIO) -> bytes | mmap.mmap:
    """A file's content, which takes no memory of ours."""
    size_b = os.fstat(file.fileno()).st_size
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size_b else b""


def _bounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a record has space for: those of the regions that took longest, in the order in which they were."""
    left_b, kept = MAX_RECORD_B, set()
    for place in sorted(range(len(rows)), key=lambda place: -rows[place]["time_ns"])[:MAX_RECORD]:
        left_b -= len(json.dumps(rows[place]))
        if left_b < 0:
            break
        kept.add(place)
    return [row for place, row in enumerate(rows) if place in kept]


def with_energies(directory: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's steps; those whose cgroups nobody saw with the energy that the job used on this node while their
    ranks ran, and where others ran meanwhile with the reason why it is not known.
    """
    if all("energy_uj" in step or "why" in step for step in record["steps"]):
        return list(record["steps"])
    curve, error, limits = Curve.read(directory / CURVE), error_of(record), limits_of(record)
    lives = [_life(step, record) for step in record["steps"]]
    steps = []
    for step, life in zip(record["steps"], lives, strict=True):
        known: dict[str, Any] = {}
        if "energy_uj" not in step and "why" not in step:
            beside = sum(one[0] < life[1] and life[0] < one[1] for one in lives) > 1
            known = {"energy_uj": None, "u_uj": None, "why": UNSEEN_BESIDE if beside else UNSEEN}
            if life[1] > life[0] and curve.known and not beside:
                found = curve.over(union(array("q", life)), limits, contrasted=False)
                u_uj = math.ceil(math.hypot(found.u_uj, error * found.uj))
                known = {"energy_uj": round(found.uj), "u_uj": u_uj}
        steps.append({**step, **known})
    return steps


def _life(step: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[int, int]:
    """From when until when a step's ranks ran on this node (monotonic)."""
    ends = [run["end_mono_ns"] or record["end"]["mono_ns"] for run in step["ranks"]]
    return (min(run["start_mono_ns"] for run in step["ranks"]), max(ends)) if ends else (0, 0)


class Parts:
    """The ranks of a step on this node, and what part of an energy there each has.

    One of which no CPU time is known (killed, or no Python) is taken to have used as much as the others.
    """

    def __init__(self, ranks: int) -> None:
        self._number = ranks
        self.cpu_ns: dict[int, int] = {}

    def take(self, rank: int, cpu_ns: int | None) -> None:
        """A rank's own CPU time, once all are taken before the first question."""
        if cpu_ns is not None:
            self.cpu_ns[rank] = cpu_ns

    @cached_property
    def ranks(self) -> int:
        """How many there are."""
        return max(1, self._number, len(self.cpu_ns))

    @cached_property
    def _parts(self) -> dict[int, float]:
        """The part of the step's CPU time here of each rank of which it is known."""
        known_ns = sum(self.cpu_ns.values())
        usual_ns = known_ns / len(self.cpu_ns) if known_ns else 1.0
        return {rank: ns / (usual_ns * self.ranks) for rank, ns in self.cpu_ns.items()} if known_ns else {}

    @cached_property
    def _squares(self) -> float:
        """The sum of the squares of all ranks' parts."""
        return sum(part**2 for part in self._parts.values()) + (self.ranks - len(self._parts)) / self.ranks**2

    @cached_property
    def _error(self) -> float:
        """How far the watts behind a rank's CPU time lie from those of the others."""
        spread = math.sqrt(max(0.0, self.ranks * self._squares - 1))  # of the ranks' CPU times, relative
        return math.hypot(RANK_ERROR, min(spread, UNEVEN))

    def of(self, rank: int, static: float) -> tuple[float, float, float]:
        """The part of a rank where that much is static; what it is wrong by (k=1) for other ranks' watts, and by how
        much it is less than it would be of all static energy.
        """
        worked = self._parts.get(rank, 1 / self.ranks)
        others = math.sqrt((1 - worked) ** 2 + max(0.0, self._squares - worked**2))
        part = static / self.ranks + (1 - static) * worked
        return part, self._error * (1 - static) * worked * others, 1 / self.ranks - worked


def _give(row: dict[str, Any], parts: Parts, of_job: Handed) -> None:
    """Turn a region's row of the whole job into that of its rank; once all ranks are taken."""
    part, of_work, uneven = parts.of(row["rank"], of_job.static)
    whole_uj = row["energy_uj"]
    doubt = math.hypot(of_job.error * part, of_work, of_job.static_error * uneven)
    row["u_uj"] = math.ceil(math.hypot(row["u_uj"] * part, doubt * whole_uj))
    row["energy_uj"] = round(whole_uj * part)


def _row(handed: Handed, name: str, marked: Marked[Spans], curve: Curve, contrasted: bool) -> dict[str, Any]:
    """A region with the energy that the whole job used while it ran."""
    found = curve.over(marked.spans, handed.limits, contrasted, marked.coarse_ns, marked.loose)
    return {
        "step_id": handed.step_id,
        "rank": handed.rank,
        "name": name,
        "calls": marked.calls,
        "time_ns": marked.spans.time_ns,
        "energy_uj": round(found.uj),
        "u_uj": math.ceil(found.u_uj),
        "method": found.method.value,
    }
