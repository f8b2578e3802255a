"""The collector: boundary records in, energy records out. Every sweep may be killed at any line and run again.

The order makes it safe: the ledger's transaction decides what a record is (its revision), then `record.json` is
renamed into place, then the boundary records move from `incoming/` into the job's directory. Whatever a crash leaves
undone still lies in `incoming/` and comes to the same result the next time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perun_hpc.accounting.archive import DAMAGED, RECORD, REFUSED, Archive, Run
from perun_hpc.accounting.boundary import Boundary, read_boundary
from perun_hpc.accounting.ledger import Ledger, Put, Refused
from perun_hpc.accounting.sacct import CLOCK_S, FINAL_STATES, SLACK_S, SlurmJob, match_run, pair_runs
from perun_hpc.accounting.schema import EnergyRecord, Footprint, from_json, to_json
from perun_hpc.accounting.summing import ROUNDED_S, add_slurm, missing_record, sum_boundaries
from perun_hpc.errors import DataError, PerunError, UnavailableError
from perun_hpc.store.files import sync_directory, write_new
from perun_hpc.store.layout import PLAN

log = logging.getLogger(__name__)

LEASE = "collect"
UNREADABLE = "damaged boundary record"
BATCH = 200
"""Job runs in one transaction."""
_SAME_RUN_NS = 60_000_000_000
"""Nodes of one run overlap in time, but for their clocks' differences; a recycled job id does not."""
RENAME_EVERY_S = 3600
RENAME_AFTER_S = 7 * 86400
"""When a finished run gives its bare directory name away: long before job ids recycle, long after late nodes."""
RETRY_S = 3600
"""How long a record that the ledger refused waits until it is offered again."""
IDLE_BATCHES = 3
"""After so many batches of which Slurm can complete nothing, older ones are left to a later sweep."""
_INCOMPLETE_S = 600
"""After this long what slurmdbd has of a job is all that it gets."""


@dataclass(frozen=True)
class Slurm:
    """The two questions that the collector has for Slurm's accounting; both raise `UnavailableError`."""

    jobs: Callable[[Iterable[int]], list[SlurmJob]]
    window: Callable[[int, int], list[SlurmJob]]


@dataclass(frozen=True)
class Closing:
    """What is known of a run when its trace is closed.

    `nodes` are the job's, `deadline_ns` (epoch) is when to stop waiting for missing ones, `records` are the boundary
    records as read, `reasons` say by node why its part is missing.
    """

    nodes: tuple[str, ...]
    deadline_ns: int
    records: tuple[Mapping[str, Any], ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Tools:
    """What the collector calls outside its room.

    finalise : closes the trace (metadata only), given the run's directory and what there is to say of it.
    publish : makes a run's directory readable by the job's owner (directory, uid).
    footprint : what a record's energy means in CO2 and cost, or None.
    expects : whether a job that Slurm knows must have left a record; None: every one.
    clock : epoch seconds.
    """

    clock: Callable[[], float]
    slurm: Slurm | None = None
    finalise: Callable[[Path, Closing], object] | None = None
    publish: Callable[[Path, int], None] | None = None
    footprint: Callable[[EnergyRecord], Footprint | None] | None = None
    expects: Callable[[SlurmJob], bool] | None = None


@dataclass(frozen=True)
class Summary:
    """What one sweep did."""

    stored: int = 0
    unchanged: int = 0
    waiting: int = 0
    missing: int = 0
    completed: int = 0
    damaged: int = 0
    refused: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.stored} records stored", f"{self.waiting} jobs wait for nodes"]
        for count, what in (
            (self.missing, "jobs without any report"),
            (self.completed, "completed from sacct"),
            (self.unchanged, "unchanged"),
            (self.damaged, "damaged boundary records set aside"),
            (self.refused, "refused by the ledger, their evidence waits in incoming/"),
            (self.failed, "failed"),
        ):
            if count:
                parts.append(f"{count} {what}")
        return ", ".join(parts)


@dataclass(frozen=True)
class _Ready:
    run: Run
    files: tuple[Path, ...]
    expected: tuple[str, ...]
    record: EnergyRecord
    boundaries: tuple[Boundary, ...]
    unreadable: tuple[str, ...]


class Collector:
    """Sweeps one cluster's archive into the ledger."""

    def __init__(self, archive: Archive, ledger: Ledger, tools: Tools, deadline_s: float, queue: bool = False) -> None:
        self.archive = archive
        self.ledger = ledger
        self.tools = tools
        self.deadline_s = deadline_s
        self.queue = queue
        self.holder = this_process()

    def sweep(self) -> Summary:
        """Do everything that is due.

        Raises
        ------
        UnavailableError
            When another collector holds the lease, or the ledger does not answer.
        """
        if not self.ledger.acquire(f"{LEASE}:{self.archive.cluster}", self.holder, dead=has_died):
            raise UnavailableError(
                f"another collector works on cluster {self.archive.cluster}: wait for it (its lease ends by itself)"
            )
        try:
            self._open_the_way()
            summary = self._incoming()
            summary = self._compare(summary)
            summary = self._complete(summary)
            self._rename_old()
            return summary
        finally:
            with contextlib.suppress(PerunError):
                self.ledger.release(f"{LEASE}:{self.archive.cluster}", self.holder)

    def _open_the_way(self) -> None:
        """Let users pass, not list, the directories above their jobs' own."""
        for path in (self.archive.base, self.archive.base / "jobs"):
            path.mkdir(mode=0o711, exist_ok=True)
            with contextlib.suppress(PermissionError):
                path.chmod(0o711)

    def _incoming(self) -> Summary:
        summary = Summary()
        batch: list[_Ready] = []
        for run, directory in self.archive.incoming():
            if self._refused_lately(directory):
                summary = replace(summary, refused=summary.refused + 1)
                continue
            try:
                ready, damaged = self._look(run, directory)
            except OSError as error:
                summary = replace(summary, failed=summary.failed + 1, notes=(*summary.notes, f"{directory}: {error}"))
                continue
            summary = replace(summary, damaged=summary.damaged + damaged)
            if ready is None:
                summary = replace(summary, waiting=summary.waiting + 1)
                continue
            batch.append(ready)
            if len(batch) == BATCH:
                summary = self._store(batch, summary)
                batch = []
        return self._store(batch, summary)

    def _look(self, run: Run, directory: Path) -> tuple[_Ready | None, int]:
        """Read a run's boundary records; None while nodes are missing and the deadline has not passed."""
        fresh, damaged = _read_all(directory)
        for path in damaged:
            path.rename(path.with_name(path.name + DAMAGED))
        if not fresh:
            with contextlib.suppress(OSError):
                directory.rmdir()
            return None, len(damaged)
        start_ns, end_ns = min(b.start_ns for b in fresh), max(b.end_ns for b in fresh)
        kept = self.archive.boundaries(run)
        earlier = [
            b for b in _read_all(kept)[0] if b.start_ns <= end_ns + _SAME_RUN_NS and start_ns - _SAME_RUN_NS <= b.end_ns
        ]
        boundaries = [*earlier, *fresh]
        here = {b.node for b in boundaries}
        complete = len(here) >= fresh[0].num_nodes and here.issuperset(fresh[0].expected)
        if not complete and not earlier and self.tools.clock() < end_ns / 1e9 + self.deadline_s:
            return None, len(damaged)
        suffix = f".json{DAMAGED}"
        unreadable = sorted({p.name.removesuffix(suffix) for at in (directory, kept) for p in at.glob(f"*{DAMAGED}")})
        problems = [f"{node}: {UNREADABLE}" for node in unreadable]
        files = tuple(path for path in sorted(directory.iterdir()) if path.suffix in (".json", DAMAGED))
        record = sum_boundaries(boundaries, problems)
        newest = tuple({b.node: b for b in boundaries}.values())
        return _Ready(run, files, fresh[0].expected, record, newest, tuple(unreadable)), len(damaged)

    def _store(self, batch: Sequence[_Ready], summary: Summary) -> Summary:
        if not batch:
            return summary
        lease = f"{LEASE}:{self.archive.cluster}"
        if not self.ledger.acquire(lease, self.holder):
            raise UnavailableError("another collector took over: nothing to do, it goes on with this one's work")
        known = self._ask([ready.run.job_id for ready in batch])
        records = []
        for ready in batch:
            self._finalise(ready)
            records.append(self._finish(ready.record, known.get(ready.run.job_id, [])))
        answers = self.ledger.offer(records, queue=self.queue, lease=(lease, self.holder))
        for ready, answer in zip(batch, answers, strict=True):
            try:
                summary = self._settle(ready, answer, summary)
            except OSError as error:
                notes = (*summary.notes, f"{ready.run.name}: {error}")
                summary = replace(summary, failed=summary.failed + 1, notes=notes)
        return summary

    def _settle(self, ready: _Ready, answer: Put | Refused, summary: Summary) -> Summary:
        """Do with a run's files what the ledger's answer asks for."""
        if isinstance(answer, Refused):
            mark = self.archive.base / "incoming" / ready.run.name / REFUSED
            write_new(mark, (answer.why + "\n").encode(errors="replace"))
            now_s = self.tools.clock()
            os.utime(mark, (now_s, now_s))
            return replace(summary, refused=summary.refused + 1, notes=(*summary.notes, _refusal(answer)))
        self._publish(ready.run, answer.record)
        self._keep(ready)
        return replace(
            summary, stored=summary.stored + answer.changed, unchanged=summary.unchanged + (not answer.changed)
        )

    def _refused_lately(self, directory: Path) -> bool:
        try:
            return self.tools.clock() < (directory / REFUSED).stat().st_mtime + RETRY_S
        except OSError:
            return False

    def _finish(self, record: EnergyRecord, runs: Sequence[SlurmJob]) -> EnergyRecord:
        """Add what Slurm and the policy's factors say."""
        job = self._run_of(record, runs)
        if job is not None:
            record = add_slurm(record, job)
        if self.tools.footprint is not None:
            record = replace(record, footprint=self.tools.footprint(record))
        return record

    def _run_of(self, record: EnergyRecord, runs: Sequence[SlurmJob]) -> SlurmJob | None:
        """Return the run that slurmdbd has all of; one beside the record's times only when no better one can come."""
        late = self.tools.clock() > record.end_ns / 1e9 + _INCOMPLETE_S
        job = match_run(runs, record.start_ns, record.end_ns, SLACK_S if late else ROUNDED_S)
        return job if job is not None and self._settled(job) else None

    def _settled(self, job: SlurmJob) -> bool:
        """Whether slurmdbd has all of a job: its end may arrive there before its name and QOS."""
        if job.state not in FINAL_STATES or job.end_s is None:
            return False
        return job.qos not in ("", "Unknown") or self.tools.clock() > job.end_s + _INCOMPLETE_S

    def _ask(self, job_ids: Sequence[int]) -> dict[int, list[SlurmJob]]:
        """Ask sacct for all of them at once; without an answer the records go in without Slurm's data for now."""
        if self.tools.slurm is None:
            return {}
        try:
            jobs = self.tools.slurm.jobs(job_ids)
        except UnavailableError as error:
            log.warning("%s", error)
            return {}
        found: dict[int, list[SlurmJob]] = {}
        for job in jobs:
            found.setdefault(job.job_id, []).append(job)
        return found

    def _finalise(self, ready: _Ready) -> None:
        """Close the trace; its loss never costs the record."""
        directory = self.archive.job(ready.run)
        if self.tools.finalise is None or not (directory / PLAN).exists():
            return
        try:
            deadline_ns = ready.record.end_ns + int(self.deadline_s * 1e9)
            records = tuple(b.raw for b in ready.boundaries)
            why = reasons(ready.boundaries, ready.unreadable)
            self.tools.finalise(directory, Closing(ready.expected, deadline_ns, records, why))
        except (PerunError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("trace of %s not finalised: %s", ready.run.name, error)

    def _publish(self, run: Run, record: EnergyRecord) -> None:
        directory = self.archive.job(run)
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = directory / RECORD
        write_new(path, (to_json(record, indent=1) + "\n").encode())
        if self.tools.publish is not None and record.uid is not None:
            try:
                self.tools.publish(directory, record.uid)
            except (PerunError, OSError) as error:
                log.warning("%s", error)

    def _keep(self, ready: _Ready) -> None:
        """Move the boundary records out of `incoming/`; a node's newest stays."""
        if not ready.files:
            return
        target = self.archive.boundaries(ready.run)
        target.mkdir(mode=0o700, exist_ok=True)
        for path in ready.files:
            with contextlib.suppress(FileNotFoundError):
                path.replace(target / path.name)
        sync_directory(target)
        with contextlib.suppress(OSError):
            (ready.files[0].parent / REFUSED).unlink(missing_ok=True)
            ready.files[0].parent.rmdir()

    def _compare(self, summary: Summary) -> Summary:
        """Give every run that sacct knows and nobody reported a record that says so."""
        if self.tools.slurm is None:
            return summary
        until_s = int(self.tools.clock() - self.deadline_s)
        since_s = self.ledger.compared_until_s(self.archive.cluster)
        if since_s is None:
            since_s = self.ledger.first_start_s(self.archive.cluster)
        if since_s is None or until_s <= since_s:
            return summary
        try:
            jobs = self.tools.slurm.window(since_s, until_s)
            ended = [j for j in jobs if _ran(j) and (j.end_s or 0) <= until_s]
            stored = self.ledger.spans(self.archive.cluster, [j.job_id for j in ended])
            waiting = {run.job_id for run, _ in self.archive.incoming()}
            # A window shows some runs of a job: only beside all of them it is clear which one a stored run is.
            doubtful = {j.job_id for j in _without_record(ended, stored, ROUNDED_S)} - waiting
            every = self.tools.slurm.jobs(sorted(doubtful)) if doubtful else []
        except UnavailableError as error:
            log.warning("%s", error)
            return replace(summary, notes=(*summary.notes, str(error)))
        answered = {j.job_id for j in every}
        every += [j for j in ended if j.job_id in doubtful - answered]
        absent = [
            j for j in _without_record(every, stored, CLOCK_S) if _ran(j) and since_s <= (j.end_s or 0) <= until_s
        ]
        if self.tools.expects is not None:
            absent = [j for j in absent if self.tools.expects(j)]
        records = [missing_record(j, self.archive.cluster, "no node reported this job") for j in absent]
        puts: list[Put] = []
        for at in range(0, len(records), BATCH):
            taken, summary = self._amend(records[at : at + BATCH], False, summary)
            puts += taken
        self.ledger.set_compared(self.archive.cluster, until_s)
        return replace(summary, missing=summary.missing + len(puts))

    def _amend(self, records: Sequence[EnergyRecord], queue: bool, summary: Summary) -> tuple[list[Put], Summary]:
        """Store and publish records that rest on Slurm's word; what the ledger refuses is noted."""
        lease = (f"{LEASE}:{self.archive.cluster}", self.holder)
        answers = self.ledger.offer(records, queue=queue, lease=lease)
        notes = tuple(_refusal(answer) for answer in answers if isinstance(answer, Refused))
        puts = [answer for answer in answers if isinstance(answer, Put)]
        for put in puts:
            self._publish(Run(put.record.job_id, put.record.restart_count), put.record)
        return puts, replace(summary, notes=(*summary.notes, *notes))

    def _complete(self, summary: Summary) -> Summary:
        """Fetch Slurm's data for records that were stored without."""
        if self.tools.slurm is None:
            return summary
        idle = 0
        for jobs in self.ledger.without_state(self.archive.cluster, BATCH):
            records = self.ledger.load(jobs)
            known = self._ask([r.job_id for r in records])
            finished = []
            for record in records:
                job = self._run_of(record, known.get(record.job_id, []))
                if job is not None:
                    finished.append(add_slurm(record, job))
            if finished:
                puts, summary = self._amend(finished, self.queue, summary)
                summary = replace(summary, completed=summary.completed + sum(put.changed for put in puts))
            idle = 0 if finished else idle + 1
            if idle == IDLE_BATCHES:
                break
        return summary

    def _rename_old(self) -> None:
        """Move finished runs out of the way of recycled job ids; each is looked at once, whatever their number."""
        until_s = int(self.tools.clock()) - RENAME_AFTER_S
        since_s = self.ledger.renamed_until_s(self.archive.cluster)
        if until_s - since_s < RENAME_EVERY_S:
            return
        for job_id, restart_count, end_s in self.ledger.ended_runs(self.archive.cluster, since_s, until_s):
            path = self.archive.job(Run(job_id, restart_count))
            with contextlib.suppress(OSError, DataError):
                record = from_json((path / RECORD).read_bytes(), str(path))
                if record.end_ns // 1_000_000_000 == end_s:  # else a newer run has the name already
                    path.rename(path.with_name(Run(job_id, restart_count, record.submit_s or end_s).name))
        self.ledger.set_renamed(self.archive.cluster, until_s)


def reasons(boundaries: Iterable[Boundary], unreadable: Iterable[str] = ()) -> dict[str, str]:
    """Why nodes have no part in the trace, by node; `unreadable` are those whose record is damaged."""
    why = dict.fromkeys(unreadable, UNREADABLE)
    for boundary in boundaries:
        trace = boundary.raw.get("trace") or {}
        if trace.get("stored"):
            why.pop(boundary.node, None)
        else:
            why[boundary.node] = str(trace.get("why") or "no trace was stored")
    return why


def this_process() -> str:
    """Return what identifies this process among those of all hosts: host, pid, start."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def has_died(holder: str) -> bool:
    """Whether the holder of a lease was a process of this host that is gone."""
    host, _, rest = holder.partition(":")
    pid, _, started = rest.partition(":")
    return host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """Return boot id and start time of a process of this host, empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{boot[:8]}-{stat.rpartition(')')[2].split()[19]}"


def _read_all(directory: Path) -> tuple[list[Boundary], list[Path]]:
    """Read a directory's boundary records; also the paths of those that cannot be read."""
    good: list[Boundary] = []
    damaged: list[Path] = []
    for path in sorted(directory.glob("*.json")):
        try:
            good.append(read_boundary(path))
        except FileNotFoundError:
            continue
        except DataError as error:
            log.warning("%s", error)
            damaged.append(path)
    return good, damaged


def _refusal(answer: Refused) -> str:
    return f"job {answer.record.job_id}.{answer.record.restart_count}: {answer.why}"


def _ran(job: SlurmJob) -> bool:
    """Whether a run has ended, and had nodes for a time."""
    return (
        job.state in FINAL_STATES
        and job.start_s is not None
        and job.end_s is not None
        and job.num_nodes > 0
        and bool(job.nodelist)
    )


def _without_record(jobs: Sequence[SlurmJob], stored: dict[int, list[tuple[int, int]]], slack_s: int) -> list[SlurmJob]:
    """Return the runs that no stored run (job id -> start and end) belongs to."""
    by_id: dict[int, list[SlurmJob]] = {}
    for job in jobs:
        by_id.setdefault(job.job_id, []).append(job)
    absent = []
    for job_id, runs in by_id.items():
        pairs = pair_runs(runs, stored.get(job_id, ()), slack_s)
        absent += [job for index, job in enumerate(runs) if index not in pairs]
    return absent
