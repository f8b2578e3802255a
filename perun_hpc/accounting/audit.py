"""Proving that the ledger closes: what the nodes' counters counted is what jobs, idle and system were given.

Bookkeeping, not accuracy: a ledger that closes to the microjoule may still rest on a counter that is 2 % off.
Four comparisons, each between two things that were written independently of each other:

1. node ledger, line by line: the shares of an interval sum to the counter's difference;
2. node ledger and records: what a node gave to a job is what the job's record holds, per domain and day, both ways;
3. raw edge readings in the boundary records: the ticks between a job's edges are the node ledger's total between them;
4. sacct and records: every job that ran has one record, and no record is of a job unknown to sacct.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from perun_hpc.accounting.ledger import Key
from perun_hpc.archive import kept
from perun_hpc.archive.aside import entries
from perun_hpc.archive.meter_readings import files_of
from perun_hpc.archive.places import REFUSED, Archive, Run
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError
from perun_hpc.inputs import read_text
from perun_hpc.slurm.sacct import CLOCK_S, SlurmJob, by_id, is_one_of, nodes_of, pair_runs

GROWING_S = 180
"""So long after a file was changed half a line at its end may get its rest: a node delivers once a minute."""
MAX_METER_B = 64 << 20
"""A reading every five minutes, for eighteen years."""
MOST_UNKNOWN = 0.01
"""Of a time of which a meter has no readings for a larger part its sum says nothing."""
ROUNDED_S = 0.01
_REST = "columns beyond the first line's"
_OWNER = re.compile(r"job:([0-9]+)(?:\.([0-9]+))?\Z")
OTHERS = ("idle", "system", "unknown", "unobserved")


@dataclass(frozen=True)
class Finding:
    """Something that does not close: where, what, and by how much (uJ) where that can be said."""

    where: str
    what: str
    off_uj: int | None = None


@dataclass
class Account:
    """One node's domain on one day: what the counter counted, how much of it no sensor measured, and who got it."""

    total_uj: int = 0
    jobs_uj: int = 0
    others_uj: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OTHERS, 0))
    gap_ns: int = 0
    intervals: int = 0
    estimated_uj: int = 0


@dataclass(frozen=True)
class Interval:
    """One closed interval of one domain, on the clock of that boot."""

    t0_ns: int
    t1_ns: int
    total_uj: int | None


@dataclass(frozen=True)
class NodeBooks:
    """What the node ledgers say: accounts per node, day and domain, what each job got, the intervals by their start."""

    accounts: Mapping[Key, Account]
    given: Mapping[tuple[Key, tuple[int, int]], int]
    intervals: Mapping[tuple[str, str], Mapping[int, Interval]]
    findings: Sequence[Finding]


def read_books(files: Iterable[Path], lengths: Mapping[Path, int] | None = None) -> NodeBooks:
    """Read node ledger files (`nodes/NODE/DAY.jsonl`) and check every line; a torn one is a finding.

    Half a line that is still on its way is none. Of a file in `lengths` only so many bytes are read.
    """
    accounts: dict[Key, Account] = {}
    given: dict[tuple[Key, tuple[int, int]], int] = {}
    intervals: dict[tuple[str, str], dict[int, Interval]] = {}
    findings: list[Finding] = []
    for path in sorted(files):
        node, day = path.parent.name, path.stem
        for number, line in read_lines(path, findings, (lengths or {}).get(path)):
            where = f"{node} {day} {line['domain']}"
            key = (node, day, str(line["domain"]))
            account = accounts.setdefault(key, Account())
            interval = Interval(int(line["t0_ns"]), int(line["t1_ns"]), line["total_uj"])
            intervals.setdefault((node, key[2]), {})[interval.t0_ns] = interval
            account.intervals += 1
            if interval.total_uj is None:
                account.gap_ns += interval.t1_ns - interval.t0_ns
                continue
            account.total_uj += interval.total_uj
            account.estimated_uj += interval.total_uj if line.get("estimated") is True else 0
            off_uj = interval.total_uj - sum(line["shares"].values())
            if off_uj:
                findings.append(Finding(where, f"line {number}: shares do not sum to the counter's difference", off_uj))
            for owner, energy_uj in line["shares"].items():
                job = _job(owner)
                if job is not None:
                    account.jobs_uj += energy_uj
                    given[key, job] = given.get((key, job), 0) + energy_uj
                else:
                    account.others_uj[owner if owner in OTHERS else "unknown"] += energy_uj
    return NodeBooks(accounts, given, intervals, findings)


def compare_shares(
    books: NodeBooks, held: Mapping[tuple[Key, tuple[int, int]], int], open_jobs: set[tuple[int, int]]
) -> list[Finding]:
    """Compare what nodes gave to jobs with what the records hold; jobs of `open_jobs` have not ended yet.

    Only nodes and days with a node ledger are compared, so that records of a time before it are no finding.
    """
    covered = {(node, day) for node, day, _ in books.accounts}
    findings = []
    for at in sorted({*books.given, *held}):
        (node, day, domain), job = at
        if (node, day) not in covered or job in open_jobs:
            continue
        off_uj = books.given.get(at, 0) - held.get(at, 0)
        if off_uj:
            whose = f"job {job[0]}.{job[1]}"
            what = f"{whose} has no record" if at not in held else f"{whose}: node ledger and record differ"
            findings.append(Finding(f"{node} {day} {domain}", what, off_uj))
    return findings


def find_holes(books: NodeBooks) -> list[Finding]:
    """Find times of one boot between a domain's intervals for which there is no line at all, not even of a gap."""
    findings = []
    for (node, domain), intervals in sorted(books.intervals.items()):
        ordered = list(intervals.values())
        for before, after in zip(ordered, ordered[1:], strict=False):
            # A clock that went back is another boot: what a counter did in between cannot be known.
            if after.t0_ns > before.t1_ns:
                hole_s = (after.t0_ns - before.t1_ns) / 1e9
                findings.append(Finding(f"{node} {domain}", f"nothing was counted for {hole_s:.1f} s"))
    return findings


def compare_edges(books: NodeBooks, boundaries: Iterable[Mapping[str, Any]]) -> tuple[int, list[Finding]]:
    """Compare raw edge readings with the node ledger's intervals between them; returns how many were compared.

    Each interval is rounded down to whole microjoules once, so a counter in other units may differ by one per interval.
    """
    compared, findings = 0, []
    for record in boundaries:
        whose = f"job {record.get('job_id')}.{record.get('restart_count')}"
        try:
            for domain, off_uj in _edges_off(books, record):
                compared += 1
                if off_uj:
                    what = f"{whose}: ticks between its edges and node ledger differ"
                    findings.append(Finding(f"{record['node']} {domain}", what, off_uj))
        except (KeyError, TypeError, AttributeError, ArithmeticError):
            what = f"{whose}: the readings at its edges cannot be read"
            findings.append(Finding(str(record.get("node")), what))
    return compared, findings


def _edges_off(books: NodeBooks, record: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the domain of each counter that can be compared, and by how much it is off (uJ, 0: it fits)."""
    for sensor in record.get("sensors", ()):
        if sensor.get("quantity") != "energy" or sensor.get("kind") != "counter":
            continue
        edges = record["edges"].get(sensor["id"]) or {}
        start, end = edges.get("start"), edges.get("end")
        if not start or not end or start["ticks"] is None or end["ticks"] is None:
            continue
        # The interval is named by the moment of the whole reading, each counter's own moment lies just before it.
        span = (record["start"]["mono_ns"], record["end"]["mono_ns"])
        inside = _between(books, record["node"], sensor["domain"], *span)
        if not inside or any(w.total_uj is None for w in inside):
            continue
        off_uj = _ticks_uj(sensor, start["ticks"], end["ticks"]) - sum(w.total_uj or 0 for w in inside)
        if sensor.get("wrap_range"):
            whole_uj = sensor["wrap_range"] * sensor["scale_num"] // sensor["scale_den"]
            off_uj = (off_uj + whole_uj // 2) % whole_uj - whole_uj // 2
        slack = 0 if sensor["scale_den"] == 1 else len(inside) + 1
        yield sensor["domain"], off_uj if abs(off_uj) > slack else 0


def compare_sacct(
    jobs: Iterable[SlurmJob],
    held: Mapping[int, Sequence[tuple[int, int]]],
    expects: Callable[[SlurmJob], bool] = lambda job: True,
) -> list[Finding]:
    """Compare the jobs that sacct knows with the stored runs (job id -> start and end in epoch seconds).

    A run that the policy leaves out (`expects`) may have no record.
    """
    findings = []
    known = by_id(jobs)
    for job_id, runs in sorted(known.items()):
        spans = held.get(job_id, ())
        pairs = pair_runs(runs, spans, CLOCK_S)
        for index, job in enumerate(runs):
            if job.ended and job.ran and index not in pairs and expects(job):
                findings.append(Finding(f"job {job.shown_id}", "ran according to sacct, but has no record"))
        if len(spans) > len(pairs):
            what = f"has {count(len(spans), 'record')}, but sacct knows {count(len(pairs), 'run')}"
            findings.append(Finding(f"job {runs[0].shown_id}", what))
    for job_id in sorted(held):
        if job_id not in known:
            findings.append(Finding(f"job {job_id}", "has a record, but sacct does not know it"))
    return findings


def compare_nodes(jobs: Iterable[SlurmJob], held: Iterable[tuple[Key, tuple[int, int]]]) -> list[Finding]:
    """Compare the nodes that have a part in jobs' records (`held`) with those that sacct names of these jobs."""
    known = by_id(jobs)
    findings = []
    for job_id, node in sorted({(job_id, node) for (node, _, _), (job_id, _) in held}):
        given = nodes_of(known.get(job_id, ()))
        if given is not None and not is_one_of(node, given):
            what = f"has a part in the record of job {job_id}, which did not run there according to sacct"
            findings.append(Finding(node, what))
    return findings


def refused_records(archive: Archive) -> list[Finding]:
    """Return the job runs whose record the ledger did not take, and why."""
    findings = []
    for run, directory in archive.incoming():
        mark = directory / REFUSED
        if mark.exists():
            why = mark.read_text(encoding="utf-8", errors="replace").strip()
            findings.append(Finding(f"job {run.name}", f"its record is not in the ledger: {why}"))
    return findings


def set_aside(archive: Archive) -> list[Finding]:
    """Return what does not fit the node or job that it names, and why."""
    return [Finding(f"aside/{one.path.name}", f"counted nowhere: {one.why}") for one in entries(archive) if one.holds]


def odd_lines(files: Iterable[Path], first: str, last: str) -> list[Finding]:
    """Return the days (`YYYY-MM-DD`, both included) of which nodes sent lines that contradict earlier ones."""
    findings = []
    for path in sorted(files):
        day = path.name.partition(".")[0]
        if first <= day <= last:
            lines = count(len(path.read_bytes().splitlines()), "line contradicts", "lines contradict")
            what = f"{lines} what the node reported of these times before: kept in {path}, counted nowhere"
            findings.append(Finding(f"{path.parent.name} {day}", what))
    return findings


def compare_meter(counted_uj: int, metered_uj: int, tolerance: float) -> list[Finding]:
    """Compare all nodes' energy with a facility meter's; more than the meter saw, or too little of it, is a finding."""
    if metered_uj <= 0:
        return [Finding("facility meter", "it counted nothing in this time")]
    part = counted_uj / metered_uj
    if 1 - tolerance <= part <= 1 + tolerance:
        return []
    return [Finding("facility meter", f"the nodes' sum is {100 * part:.1f} % of it", counted_uj - metered_uj)]


def beside_meter(name: str, counted_uj: int, metered_uj: int) -> str:
    """Say what a facility meter counted, and what part of it the nodes' own counters did."""
    part = f", of which the nodes' sum is {100 * counted_uj / metered_uj:.1f} %" if metered_uj > 0 else ""
    return f"compared with {name}: {metered_uj / 3.6e12:.3g} kWh{part}"


def read_meter(path: Path, since_s: int, until_s: int, range_uj: int | None = None) -> int:
    """Return what a facility meter counted, in uJ, from CSV with the columns `time` (epoch seconds) and `kwh`.

    The column is a counter that starts anew after `range_uj`; the readings next to the two times count, at most an hour
    away from them. Lines that are no reading (a last line cut short by a full disk, say) are left out.
    """
    rows = sorted(row for one in files_of(path, since_s, until_s) for row in meter_rows(one))
    if len(rows) < 2:
        raise DataError(f"{path}: fewer than two meter readings: nothing to compare")
    first = min(rows, key=lambda r: abs(r[0] - since_s))
    last = min(rows, key=lambda r: abs(r[0] - until_s))
    if abs(first[0] - since_s) > 3600 or abs(last[0] - until_s) > 3600:
        raise DataError(f"{path}: no reading within an hour of the times asked for: choose others")
    total_uj = 0
    between = [row for row in rows if first[0] <= row[0] <= last[0]]
    unknown_s = sum(not_covered_s(before, after) for before, after in zip(between, between[1:], strict=False))
    if unknown_s > MOST_UNKNOWN * (last[0] - first[0]):
        raise DataError(f"{path}: it has no reading for {unknown_s / 3600:.1f} h of that time: choose another one")
    for before, after in zip(between, between[1:], strict=False):
        step_uj = round((after[1] - before[1]) * 3.6e12)
        if step_uj < 0 and range_uj is None:
            when = datetime.fromtimestamp(after[0]).isoformat(timespec="seconds")
            raise DataError(f"{path}: the counter went back at {when}: compare times without that moment")
        total_uj += step_uj if step_uj >= 0 else step_uj + (range_uj or 0)
    return total_uj


MeterRow = tuple[float, float, float | None]
"""Epoch seconds, kWh, and for how many seconds the kWh are known up to then; None: at any time."""


def not_covered_s(before: MeterRow, after: MeterRow) -> float:
    """For how many seconds between two readings nothing is known: a power that was not read, a counter's reset."""
    if before[2] is None or after[2] is None:
        return 0.0
    return max(0.0, after[0] - before[0] - (after[2] - before[2]) - ROUNDED_S)


def meter_rows(path: Path) -> Iterator[MeterRow]:
    """Yield the readings of a facility meter's CSV, as they stand; `DataError` where it is none, or not there."""
    import csv
    import io

    remedy = "columns time (epoch seconds) and kwh are needed"
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, MAX_METER_B), newline=""), restkey=_REST)
        if not {"time", "kwh"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: no meter readings, line 1 names none: {remedy}")
        for row in reader:
            try:
                time_s, kwh = float(row["time"]), float(row["kwh"])
                covered_s = float(row["covered_s"]) if "covered_s" in row else None
            except (TypeError, ValueError):
                continue
            if all(map(math.isfinite, (time_s, kwh, covered_s or 0.0))) and _REST not in row:
                yield time_s, kwh, covered_s
    except FileNotFoundError as error:
        raise DataError(f"{path}: no meter readings, the file is not there: name a CSV file; {remedy}") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: no meter readings ({error}): {remedy}") from error


def boundary_files(archive: Archive, names: Iterable[Run], since_s: int, until_s: int) -> Iterator[Mapping[str, Any]]:
    """Every collected boundary record of runs whose node ended its part in [since, until], once, as JSON types.

    `names` are those under which the runs may lie, all of one job and restart count one after the other. What cannot be
    read is skipped: the collector named it in the job's record.
    """
    for _, its in groupby(names, key=lambda run: (run.job_id, run.restart_count)):
        once = kept.Once(archive)
        for file in (file for run in kept.each_present(archive, its) for file in kept.boundaries(archive, run)):
            if not file.name.endswith(".json"):
                continue
            try:
                data = file.read()
                record = json.loads(data)
                inside = since_s <= record["end"]["real_ns"] // 1_000_000_000 <= until_s
            except (OSError, DataError, ValueError, KeyError, TypeError, RecursionError):
                continue
            if inside and not once.had(file, sha256(data).hexdigest()):
                yield record


def _between(books: NodeBooks, node: str, domain: str, start_ns: int, end_ns: int) -> list[Interval]:
    """Return the intervals that tile [start, end] without a hole; none where they do not."""
    intervals = books.intervals.get((node, domain), {})
    inside = []
    while start_ns < end_ns and start_ns in intervals:
        inside.append(intervals[start_ns])
        start_ns = intervals[start_ns].t1_ns
    return inside if start_ns == end_ns else []


def read_lines(path: Path, findings: list[Finding], length: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of a node ledger's lines, up to `length` bytes; what cannot be read joins `findings`.

    Half a line at the end of a file that has just grown is on its way, and left out.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        findings.append(Finding(f"{path.parent.name} {path.stem}", f"{path} cannot be read: {error.strerror}"))
        return
    read_b = 0
    with file:
        for number, raw in enumerate(file, 1):
            read_b += len(raw)
            if length is not None and read_b > length:
                return
            try:
                line = json.loads(raw)
                numbers = (line["t0_ns"], line["t1_ns"], line["total_uj"] or 0, *line["shares"].values())
                if not isinstance(line["domain"], str) or not all(isinstance(one, int) for one in numbers):
                    raise ValueError("fields are missing")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                if raw.endswith(b"\n") or time.time() - os.fstat(file.fileno()).st_mtime > GROWING_S:
                    findings.append(Finding(f"{path.parent.name} {path.stem}", f"line {number} cannot be read"))
                continue
            yield number, line


def _job(owner: str) -> tuple[int, int] | None:
    match = _OWNER.match(owner)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _ticks_uj(sensor: Mapping[str, Any], start: int, end: int) -> int:
    ticks = end - start
    if sensor.get("wrap_range"):
        ticks %= sensor["wrap_range"]
    return int(ticks * sensor["scale_num"] // sensor["scale_den"])
