"""What a meter beside nodes counted and what the nodes' sensors did in the same times, from the archive alone.

Node ledgers have times since boot. A boundary record has both clocks at its edges, which are edges of the ledger's
intervals, too: through them the intervals of that boot are laid on the calendar.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from perun_hpc.accounting.audit import MeterRow, meter_rows, not_covered_s, read_lines
from perun_hpc.accounting.evidence import component_named
from perun_hpc.archive import kept
from perun_hpc.archive.meter_readings import files_of
from perun_hpc.archive.places import BOUNDARIES, Archive
from perun_hpc.energy.calibration import Row
from perun_hpc.errors import DataError, NotFoundError

COVERED = 0.999
"""A row counts where so much of its time has readings of every counter of its nodes."""
COMPONENTS = ("cpu", "dram", "gpu")
NO_READING = "the meter has no reading of a part of it"
NS = 1_000_000_000
UJ_PER_KWH = 3.6e12
Floats = npt.NDArray[np.float64]
Anchors = Mapping[int, int]
"""Moments of one node on both clocks: since boot -> CLOCK_REALTIME, ns."""


@dataclass(frozen=True)
class Meter:
    """Files of readings, whose sum is meant (two cords, say), and the nodes that they feed, all and nothing else."""

    paths: tuple[Path, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """The rows of some meters, from when to when (epoch seconds), and how many times were left out, by reason.

    `settings` are how the nodes' CPUs were set in these days, as far as they said it.
    """

    rows: Sequence[Row]
    first_s: float
    last_s: float
    left_out: Mapping[str, int]
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Counted:
    """One counter of a node: its energy (uJ) and covered time (s) up to each moment (epoch s), in straight lines."""

    component: str
    at_s: Floats
    energy_uj: Floats
    covered_s: Floats


def rows_beside(
    archive: Archive, meters: Iterable[Meter], days: tuple[str, str], period_s: float, together: frozenset[str]
) -> Beside:
    """Return the rows of meters whose nodes are of one type.

    Parameters
    ----------
    archive : where the nodes' ledgers lie.
    meters : the meters with their nodes.
    days : the first and the last day (`YYYY-MM-DD`).
    period_s : the least time of a row.
    together : components whose powers are added, to be fitted as one.

    Raises
    ------
    NotFoundError, DataError
        Where a node has no ledger or no record in these days; where a file is none of a meter's readings.
    """
    rows: list[tuple[float, float, Row]] = []
    settings: set[str] = set()
    gave_nothing, went_back = "a counter gave nothing for a part of it", "the meter went back"
    left_out = dict.fromkeys((gave_nothing, went_back, NO_READING), 0)
    for meter in meters:
        readings = _readings(meter.paths)
        counted = {node: _counted(archive, node, days, settings) for node in meter.nodes}
        at, unknown_s = 0, 0.0
        for number, (time_s, kwh, _) in enumerate(readings):
            before_s, before, _ = readings[at]
            unknown_s += not_covered_s(readings[max(0, number - 1)], readings[number])
            if time_s - before_s < period_s:
                continue
            at, lacks, unknown_s = number, unknown_s > (1 - COVERED) * (time_s - before_s), 0.0
            if lacks:
                left_out[NO_READING] += 1
                continue
            wall_w = (kwh - before) * UJ_PER_KWH / 1e6 / (time_s - before_s)
            if wall_w < 0:
                left_out[went_back] += 1
                continue
            powers = _powers(counted, before_s, time_s)
            if powers is None:
                left_out[gave_nothing] += 1
                continue
            rows.append((before_s, time_s, Row(len(meter.nodes), wall_w, _joined(powers, together))))
    rows.sort(key=lambda one: one[0])
    first_s, last_s = (rows[0][0], max(row[1] for row in rows)) if rows else (0.0, 0.0)
    return Beside(
        [row for _, _, row in rows],
        first_s,
        last_s,
        {why: n for why, n in left_out.items() if n},
        tuple(sorted(settings)),
    )


def _readings(paths: Sequence[Path]) -> list[MeterRow]:
    """The sum of several meters at the times of the first one's readings; of one as it stands."""
    first, *others = [sorted({row for one in files_of(path) for row in meter_rows(one)}) for path in paths]
    for other in others:
        at = np.array([row[0] for row in other])
        known = [row[2] if row[2] is not None else row[0] for row in other]
        inside = [row for row in first if len(at) and at[0] <= row[0] <= at[-1]]
        when = np.array([row[0] for row in inside])
        kwh = np.interp(when, at, [row[1] for row in other]) if inside else when
        lost_s = when - np.interp(when, at, known) if inside else when
        first = [
            (row[0], row[1] + float(more), (row[2] if row[2] is not None else row[0]) - float(lost))
            for row, more, lost in zip(inside, kwh, lost_s, strict=True)
        ]
    return first


def _joined(powers: Mapping[str, float], together: frozenset[str]) -> dict[str, float]:
    if not together <= powers.keys():
        return dict(powers)
    rest = {name: watts for name, watts in powers.items() if name not in together}
    return {**rest, "+".join(sorted(together)): sum(powers[name] for name in together)} if together else rest


def _powers(counted: Mapping[str, Sequence[_Counted]], begin_s: float, end_s: float) -> dict[str, float] | None:
    """Return the mean power of each component in W, summed over nodes; None where a counter does not cover the time."""
    found: dict[str, float] = {}
    span = np.array([begin_s, end_s])
    for counters in counted.values():
        for one in counters:
            covered = float(np.diff(np.interp(span, one.at_s, one.covered_s))[0])
            if covered < COVERED * (end_s - begin_s):
                return None
            energy_uj = float(np.diff(np.interp(span, one.at_s, one.energy_uj))[0])
            found[one.component] = found.get(one.component, 0.0) + energy_uj / 1e6 / (end_s - begin_s)
    return found


def _counted(archive: Archive, node: str, days: tuple[str, str], settings: set[str]) -> list[_Counted]:
    paths = [
        path for path in archive.node_ledgers() if path.parent.name == node and days[0] <= path.stem <= days[1]
    ]  # fmt: skip
    if not paths:
        raise NotFoundError(f"no node ledger of {node} from {days[0]} to {days[1]}: name other days or nodes")
    anchors = _anchors(archive, node)
    placed: dict[str, list[tuple[float, float, int | None]]] = {}
    for boot in _boots(paths, settings):
        offsets = [anchors[ns] - ns for t0_ns, t1_ns, _, _ in boot for ns in (t0_ns, t1_ns) if ns in anchors]
        if offsets:
            offset_ns = median(offsets)
            for t0_ns, t1_ns, domain, energy_uj in boot:
                placed.setdefault(domain, []).append(
                    ((t0_ns + offset_ns) / NS, (t1_ns + offset_ns) / NS, energy_uj)
                )  # fmt: skip
    counters = [
        _line(component, sorted(intervals))
        for domain, intervals in placed.items()
        if (component := component_named(domain)) in COMPONENTS
    ]
    if not counters:
        raise DataError(f"{node}: no record of a job in these days, or no CPU, DRAM or GPU counter: name other days")
    return counters


def _line(component: str, intervals: Sequence[tuple[float, float, int | None]]) -> _Counted:
    begins, ends, energies = zip(*intervals, strict=True)
    known = np.array([energy_uj is not None for energy_uj in energies])
    uj = np.array([float(energy_uj or 0) for energy_uj in energies])
    seconds = np.where(known, np.array(ends) - np.array(begins), 0.0)
    at = np.column_stack([begins, ends]).ravel()
    return _Counted(component, at, _steps(uj), _steps(seconds))


def _steps(amounts: Floats) -> Floats:
    """Return the sum before and after each interval, in turn."""
    after = np.cumsum(amounts)
    return np.column_stack([after - amounts, after]).ravel()


def _anchors(archive: Archive, node: str) -> dict[int, int]:
    found = {}
    for run in kept.each_run(archive):
        try:
            record = json.loads(kept.read(archive, run, f"{BOUNDARIES}/{node}.json"))
            for edge in (record["start"], record["end"]):
                found[int(edge["mono_ns"])] = int(edge["real_ns"])
        except (OSError, DataError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _boots(paths: Iterable[Path], settings: set[str]) -> list[list[tuple[int, int, str, int | None]]]:
    """Return the intervals of a node's ledgers, those of one boot in a list: a clock that goes back is another's.

    How the CPUs were set joins `settings`.
    """
    boots: list[list[tuple[int, int, str, int | None]]] = [[]]
    last_ns: dict[str, int] = {}
    for path in sorted(paths):
        for _, line in read_lines(path, []):
            said = line.get("cpu_settings")
            if isinstance(said, dict):
                settings.add(", ".join(f"{name} {value}" for name, value in said.items()))
            if line["t0_ns"] < last_ns.get(line["domain"], line["t0_ns"]):
                boots.append([])
                last_ns.clear()
            last_ns[line["domain"]] = line["t1_ns"]
            boots[-1].append((line["t0_ns"], line["t1_ns"], line["domain"], line["total_uj"]))
    return boots
