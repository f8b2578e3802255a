"""Regions of a job's ranks: what they called, how long, and their part of the job's energy on this node.

Read when the job has ended, in the child that ships: what ranks handed over comes from a user and is checked here.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from perun_hpc.agent.measure.curve import Curve
from perun_hpc.data_model import rank_data
from perun_hpc.data_model.wording import count
from perun_hpc.energy.regions import Marked, Spans, by_region
from perun_hpc.errors import DataError

CURVE = "curve.bin"
NUMBERS = ("step_id", "rank", "calls", "time_ns", "energy_uj", "u_uj")
"""What a record says of a region besides its name."""
MAX_REGIONS = 1000
"""Regions of one rank that a record keeps: those that took longest."""
MAX_RECORD = 20_000
"""Regions of all ranks that a record keeps."""
MAX_RECORD_B = 2 << 20
"""Their bytes in the record: what the collector reads takes some ten times that of its memory."""


@dataclass(frozen=True)
class Handed:
    """What one rank handed over: whose it is, when the rank lived (monotonic), how many ranks its step had here."""

    step_id: int
    rank: int
    start_ns: int
    end_ns: int
    ranks: int


def handed_over(directory: Path, record: Mapping[str, Any]) -> Iterator[tuple[Handed, Path]]:
    """What the ranks of a sealed session left, and where it lies."""
    for step in record["steps"]:
        for run in step["ranks"]:
            path = directory / "ranks" / f"{step['step_id']}-{run['rank']}.rank"
            if path.exists():
                until_ns = run["end_mono_ns"] or record["end"]["mono_ns"]
                yield Handed(step["step_id"], run["rank"], run["start_mono_ns"], until_ns, len(step["ranks"])), path


def of_session(directory: Path, record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The regions of all ranks of a sealed session, and what could not be read; `parsing` does it elsewhere."""
    opened = ((handed, path.open("rb")) for handed, path in handed_over(directory, record))
    return of_ranks(Curve.read(directory / CURVE), opened)


def of_ranks(curve: Curve, handed_over: Iterable[tuple[Handed, BinaryIO]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The regions of ranks, and what could not be read; the files are closed.

    A rank's region gets an equal part, by the step's ranks on this node, of what the job used while it ran.
    """
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for handed, file in handed_over:
        who = f"step {handed.step_id} rank {handed.rank}"
        try:
            with file:
                rank = rank_data.parse(_mapped(file))
        except DataError as error:
            problems.append(f"{who}: {error}")
            continue
        rows = [
            _row(handed, rank.names[region], marked, curve)
            for region, marked in by_region(rank.calls, len(rank.names), handed.start_ns, handed.end_ns).items()
        ]
        rows.sort(key=lambda row: -row["time_ns"])
        if len(rows) > MAX_REGIONS:
            problems.append(f"{who}: {count(len(rows) - MAX_REGIONS, 'region')} left out")
        found += rows[:MAX_REGIONS]
    kept = _bounded(found)
    if len(found) > len(kept):
        left_out = count(len(found) - len(kept), "region")
        problems.append(f"{left_out} left out: a node reports {MAX_RECORD} of a job, {MAX_RECORD_B >> 20} MiB of them")
    return kept, problems


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
    """The record's steps, each with the energy that the job used on this node while the step's ranks ran."""
    curve = Curve.read(directory / CURVE)
    steps = []
    for step in record["steps"]:
        ends = [run["end_mono_ns"] or record["end"]["mono_ns"] for run in step["ranks"]]
        energy_uj = u_uj = None
        if ends and curve.known:
            energy_uj, u_uj = curve.over([(min(run["start_mono_ns"] for run in step["ranks"]), max(ends))])
        steps.append({**step, "energy_uj": energy_uj, "u_uj": u_uj})
    return steps


def _row(handed: Handed, name: str, marked: Marked[Spans], curve: Curve) -> dict[str, Any]:
    energy_uj, u_uj = curve.over(marked.spans)
    return {
        "step_id": handed.step_id,
        "rank": handed.rank,
        "name": name,
        "calls": marked.calls,
        "time_ns": marked.spans.time_ns,
        "energy_uj": energy_uj // handed.ranks,
        "u_uj": -(-u_uj // handed.ranks),
    }
