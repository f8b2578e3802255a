"""Regions of a job's ranks: what they called, how long, and their part of the job's energy on this node.

Read when the job has ended, in the child that ships: what ranks handed over comes from a user and is checked here.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.agent.curve import Curve
from perun_hpc.agent.session import plain
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError

SCHEMA = "perun.rank-data/1"
MAX_HEAD_B = 1024 * 1024
MAX_REGIONS = 1000
"""Regions of one rank that a record keeps: those that took longest."""
MAX_RECORD = 20_000
"""Regions of all ranks that a record keeps."""


@dataclass(frozen=True)
class RankCalls:
    """The calls of one rank: names of regions, and rows of (region, start_ns, end_ns), flat."""

    head: Mapping[str, Any]
    names: tuple[str, ...]
    calls: array[int]


def parse(data: bytes) -> RankCalls:
    """Read rank data (`perun.rank-data/1`); DataError says what is wrong with it."""
    line, newline, body = data.partition(b"\n")
    if not newline or len(line) > MAX_HEAD_B:
        raise DataError("rank data: no header")
    try:
        head = json.loads(line)
        if head["schema"] != SCHEMA:
            raise DataError(f"rank data: not of schema {SCHEMA}")
        names = tuple(plain(str(name), 256) for name in head["regions"])
        table = head["tables"][0]
        if table["name"] != "calls" or table["columns"] != ["region", "start_ns", "end_ns"]:
            raise DataError("rank data: the first table must be the calls")
        rows = table["rows"]
        if not isinstance(rows, int):
            raise DataError("rank data: the number of rows is none")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DataError(f"rank data: damaged header ({type(error).__name__})") from error
    whole = len(body) // 24
    calls = array("q")
    calls.frombytes(body[: 24 * (whole if rows < 0 else min(rows, whole))])
    if sys.byteorder == "big":
        calls.byteswap()
    if rows < 0:
        used = next((at for at in range(1, len(calls), 3) if calls[at] == 0), len(calls) + 1)
        del calls[used - 1 :]
    return RankCalls(head, names, calls)


def by_region(rank: RankCalls, start_ns: int, end_ns: int) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Region -> number of calls, and the disjoint stretches of time that they cover; all inside the rank's life."""
    spans: dict[int, list[tuple[int, int]]] = {}
    counts: dict[int, int] = {}
    calls = rank.calls
    for at in range(0, len(calls) - 2, 3):
        region, begin, end = calls[at], calls[at + 1], calls[at + 2]
        if not 0 <= region < len(rank.names):
            continue
        end = end_ns if end == 0 else abs(end)
        begin, end = max(begin, start_ns), min(end, end_ns)
        counts[region] = counts.get(region, 0) + 1
        if end > begin:
            spans.setdefault(region, []).append((begin, end))
    return {region: (count, union(spans.get(region, []))) for region, count in counts.items()}


def union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint stretches that cover the same time."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def of_session(directory: Path, record: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The regions of all ranks of a sealed session, and what could not be read.

    A rank's region gets an equal part, by the step's ranks on this node, of what the job used while it ran.
    """
    curve = Curve.read(directory / "curve.bin")
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for step in record["steps"]:
        for run in step["ranks"]:
            path = directory / "ranks" / f"{step['step_id']}-{run['rank']}.rank"
            if not path.exists():
                continue
            try:
                rank = parse(path.read_bytes())
            except DataError as error:
                problems.append(f"step {step['step_id']} rank {run['rank']}: {error}")
                continue
            until_ns = run["end_mono_ns"] or record["end"]["mono_ns"]
            rows = [
                _row(step["step_id"], run["rank"], rank.names[region], count, spans, curve, len(step["ranks"]))
                for region, (count, spans) in by_region(rank, run["start_mono_ns"], until_ns).items()
            ]
            rows.sort(key=lambda row: -row["time_ns"])
            if len(rows) > MAX_REGIONS:
                problems.append(
                    f"step {step['step_id']} rank {run['rank']}: {count(len(rows) - MAX_REGIONS, 'region')} left out"
                )
            found += rows[:MAX_REGIONS]
    if len(found) > MAX_RECORD:
        problems.append(f"{count(len(found) - MAX_RECORD, 'region')} left out")
    return found[:MAX_RECORD], problems


def with_energies(directory: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's steps, each with the energy that the job used on this node while the step's ranks ran."""
    curve = Curve.read(directory / "curve.bin")
    steps = []
    for step in record["steps"]:
        ends = [run["end_mono_ns"] or record["end"]["mono_ns"] for run in step["ranks"]]
        energy_uj = u_uj = None
        if ends and curve.known:
            energy_uj, u_uj = curve.over([(min(run["start_mono_ns"] for run in step["ranks"]), max(ends))])
        steps.append({**step, "energy_uj": energy_uj, "u_uj": u_uj})
    return steps


def _row(
    step_id: int, rank: int, name: str, calls: int, spans: list[tuple[int, int]], curve: Curve, ranks: int
) -> dict[str, Any]:
    energy_uj, u_uj = curve.over(spans)
    return {
        "step_id": step_id,
        "rank": rank,
        "name": name,
        "calls": calls,
        "time_ns": sum(end - begin for begin, end in spans),
        "energy_uj": energy_uj // ranks,
        "u_uj": -(-u_uj // ranks),
    }
