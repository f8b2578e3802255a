"""The collector: boundary records in, energy records out. Every sweep may be killed at any line and run again.

The order makes it safe, against a loss of power too: the ledger's transaction decides what records are (their
revisions), then each `record.json` is put into place, then the boundary records move from `incoming/` into the runs'
directories; each of these is on the disk, for a whole batch at once, before the next begins. Whatever a crash leaves
undone still lies in `incoming/` and comes to the same result the next time. Which directory is a run's, `homes`
decides.

On PostgreSQL several collectors share the work: each takes up one part of the job ids after the other, under that
part's lease. The one that leads does besides what concerns the whole cluster, and takes a part's lease for what it
changes there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from binascii import crc32
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from perun_hpc.accounting.evidence import HIDDEN, adds, combine
from perun_hpc.accounting.holders import has_died, this_process
from perun_hpc.accounting.homes import RENAME_AFTER_S, Homes, record_in
from perun_hpc.accounting.identity import likest, of_boundaries, of_record, runs_in
from perun_hpc.accounting.keeping import (
    UNREADABLE,
    keep,
    keep_apart,
    keep_whole,
    kept_names,
    problems,
    put_back,
    put_whole_back,
    read_kept,
    read_records,
    set_aside,
    take,
)
from perun_hpc.accounting.ledger import LeaseLostError, Ledger, Put, Refused
from perun_hpc.accounting.packing import unpack
from perun_hpc.accounting.summing import ROUNDED_S, add_slurm, missing_record, sum_boundaries
from perun_hpc.accounting.turns import BESIDE_S, lease_of, lease_of_part, shards_of
from perun_hpc.archive import aside
from perun_hpc.archive.durable import sync_new
from perun_hpc.archive.learnt import LEARNT, keep_typical
from perun_hpc.archive.packs import files_of
from perun_hpc.archive.places import DAMAGED, RECORD, REFUSED, RUNNING, Archive, Run
from perun_hpc.data_model.boundary import Boundary, read_boundary
from perun_hpc.data_model.record import EnergyRecord, Footprint, to_json
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError, PerunError, UnavailableError
from perun_hpc.files import Replacement, make_directory, write_new
from perun_hpc.slurm.sacct import CLOCK_S, SLACK_S, SlurmJob, by_id, is_one_of, match_run, nodes_of, pair_runs
from perun_hpc.store.adopt import adopt
from perun_hpc.store.layout import APART, PLAN

log = logging.getLogger(__name__)
T = TypeVar("T")

UNREPORTED = "no node reported this job"
BATCH = 200
"""Job runs in one transaction."""
BATCH_B = 4 << 20
"""Bytes of their boundary records, which take some ten times that of memory."""
PACK_S = 10
"""So long one sweep packs records of an older ledger."""
RENAME_EVERY_S = 3600
RETRY_S = 3600
"""How long a record that the ledger refused waits until it is offered again."""
SLICE_S, FIRST_SLICE_S, LEAST_SLICE_S = 86_400, 3600, 60
"""How much time one question to sacct spans at most, and at first; after failures it gets down to the least."""
SLICE_ROWS = 20_000
"""Runs in one answer of sacct's, as far as the answer before says; each takes some 4 kB while they are compared."""
SLOW_S = 30
"""A question that failed after so long is not asked again, for less, before the next sweep: other work waits."""
COMPARE_S = 600
"""So long one sweep compares with sacct; what is left of a long time without slurmdbd is for the next ones."""
COMPLETE_S = 30
"""So long one sweep completes records from sacct though nodes report meanwhile; else as long as it compares."""
SHARE_S = 600
"""So old is what most nodes of a machine have learnt at most."""
LEARN_S = 86_400
"""So long it is asked whether Slurm has learnt of a node that reported a job and was none of its nodes."""
NAMED = 5
"""Nodes of a job that are named where another one is set aside."""
IDLE_BATCHES = 3
"""After so many batches of which Slurm can complete nothing, older ones are left to a later sweep."""
_OF_NODE = re.compile(r"[^@]*\.json\Z")
"""A file of a node's record, of the one run of its name as far as is known."""
_INCOMPLETE_S = 600
"""After this long what slurmdbd has of a job is all that it gets."""


@dataclass(frozen=True)
class Slurm:
    """The two questions that the collector has for Slurm's accounting; both raise `UnavailableError`."""

    jobs: Callable[[Iterable[int]], list[SlurmJob]]
    between: Callable[[int, int], list[SlurmJob]]


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
    """What the collector calls outside this package.

    finalise : closes the trace (metadata only), given the run's directory and what there is to say of it.
    publish : makes a run's directory readable by the job's owner (directory, uid), and what is known of a job that runs
        by these others.
    follow : who may follow jobs that run (ids): job -> user ids.
    footprint : what a record's energy means in CO2 and cost, or None.
    expects : whether a job that Slurm knows must have left a record; None: every one.
    clock : epoch seconds.
    sync : makes new files below a directory durable (directory, files).
    """

    clock: Callable[[], float]
    slurm: Slurm | None = None
    finalise: Callable[[Path, Closing], object] | None = None
    publish: Callable[[Path, int, Iterable[int]], None] | None = None
    follow: Callable[[Iterable[int]], Mapping[int, Iterable[int]]] | None = None
    footprint: Callable[[EnergyRecord], Footprint | None] | None = None
    expects: Callable[[SlurmJob], bool] | None = None
    sync: Callable[[Path, Sequence[Path]], None] = sync_new


@dataclass(frozen=True)
class Summary:
    """What one sweep did."""

    stored: int = 0
    unchanged: int = 0
    waiting: int = 0
    missing: int = 0
    completed: int = 0
    damaged: int = 0
    aside: int = 0
    refused: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{count(self.stored, 'record')} stored",
            count(self.waiting, "job waits for nodes", "jobs wait for nodes"),
        ]
        for number, what in (
            (self.missing, "without any report"),
            (self.completed, "completed from sacct"),
            (self.unchanged, "unchanged"),
            (self.damaged, "damaged, set aside"),
            (self.aside, "of nodes that did not have the job, set aside"),
            (self.refused, "refused by the ledger, their evidence waits in incoming/"),
            (self.failed, "failed"),
        ):
            if number:
                parts.append(f"{number} {what}")
        return ", ".join(parts)


@dataclass(frozen=True)
class _Ready:
    """A run that is due: its name in `incoming/`, its directories so far, and the fresh files with their digests."""

    run: Run
    homes: tuple[Run, ...]
    files: tuple[tuple[Path, str], ...]
    expected: tuple[str, ...]
    record: EnergyRecord
    boundaries: tuple[Boundary, ...]
    unreadable: tuple[str, ...]

    @property
    def size_b(self) -> int:
        """Bytes of the records that were read."""
        return sum(boundary.size_b for boundary in self.boundaries)


@dataclass(frozen=True)
class _Written:
    """A record that was written beside its place."""

    file: Replacement
    record: EnergyRecord


@dataclass(frozen=True)
class Wait:
    """A directory of `incoming/` that was read in vain: its files as they were, until when (epoch) nothing changes.

    `least` is how many files there are at least once its nodes have all reported.
    """

    files: tuple[tuple[str, int, int], ...]
    until_s: float
    jobs: int
    least: int = 0

    def goes_on(self, files: tuple[tuple[str, int, int], ...], now_s: float) -> bool:
        """Whether to read these files would be in vain, too: none are new, or too few of them."""
        return now_s < self.until_s and (
            self.files == files or (len(files) < self.least and all(_OF_NODE.match(name) for name, _, _ in files))
        )


Waits = dict[Path, Wait]
"""What one sweep leaves for the next: what waits for nodes is not read again before there is something new."""


class BusyError(UnavailableError):
    """Another collector works on the cluster."""


class Collector:
    """Sweeps one cluster's archive into the ledger."""

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        tools: Tools,
        deadline_s: float,
        queue: bool = False,
        waits: Waits | None = None,
    ) -> None:
        """`waits` is what the last sweep left, and what this one leaves to the next."""
        self.archive = archive
        self.ledger = ledger
        self.tools = tools
        self.deadline_s = deadline_s
        self.queue = queue
        self.holder = this_process()
        self.shards = shards_of(ledger)
        self.leads = False
        self._lead = self._lease = lease_of(archive.cluster)
        self._waits = {} if waits is None else waits
        self._until_s, self._least = 0.0, 0
        self._homes = self._look_for_homes()

    def _look_for_homes(self) -> Homes:
        return Homes(self.archive, self.tools.clock(), lambda who: unpack(self.archive, who, self.tools.publish))

    def sweep(self) -> Summary:
        """Do everything that is due.

        Raises
        ------
        BusyError
            When another collector holds the lease, or a command that takes what is kept of runs away.
        UnavailableError
            When the ledger does not answer.
        """
        self.leads = self.ledger.acquire(self._lead, self.holder, dead=has_died)
        if not self.leads and self.shards == 1:
            raise BusyError(
                f"another collector works on cluster {self.archive.cluster}, or perun ledger does: wait for it "
                "(its lease ends by itself)"
            )
        try:
            self._unanswered: list[str] = []
            self._homes = self._look_for_homes()
            self._open_the_way()
            summary = self._incoming()
            if self.leads:
                for part in (self._compare, self._complete):
                    summary = _attempted(part, summary)
                self._rename_old()
                self._share_learnt()
                self._pack_older()
            return replace(summary, notes=tuple(dict.fromkeys((*summary.notes, *self._unanswered))))
        finally:
            if self.leads:
                with contextlib.suppress(PerunError):
                    self.ledger.release(self._lead, self.holder)

    def _shard(self, job_id: int) -> int:
        return job_id % self.shards

    def _by_shard(self, ones: Iterable[T], job_id: Callable[[T], int]) -> Iterator[tuple[int, list[T]]]:
        """The parts of the job ids that some are of, and those of each."""

        def shard(one: T) -> int:
            return self._shard(job_id(one))

        return ((part, list(those)) for part, those in groupby(sorted(ones, key=shard), key=shard))

    def _enter(self, shard: int) -> bool:
        """Take a part of the job ids up, unless another collector has it."""
        if self.shards > 1:
            lease = lease_of_part(self.archive.cluster, shard)
            if not self.ledger.acquire(lease, self.holder, dead=has_died):
                return False
            self._lease = lease
            self._homes = self._look_for_homes()  # another one may have renamed something
        return True

    def _leave(self) -> None:
        if self._lease != self._lead:
            with contextlib.suppress(PerunError):
                self.ledger.release(self._lease, self.holder)
            self._lease = self._lead

    @contextlib.contextmanager
    def _holding(self, shard: int) -> Iterator[None]:
        """Have a part of the job ids, as soon as no other collector is at it."""
        while not self._enter(shard):
            self._keep_lease()
            time.sleep(BESIDE_S)
        try:
            yield
        finally:
            self._leave()

    def _pack_older(self) -> None:
        """Pack some of the records that an older version wrote; the next sweeps go on."""
        until_s = self.tools.clock() + PACK_S
        while self.ledger.pack_older() and self.tools.clock() < until_s:
            self._keep_lease()

    def _share_learnt(self) -> None:
        """Bring up to date, every ten minutes, what most nodes of a machine have learnt."""
        path = self.archive.base / LEARNT
        with contextlib.suppress(OSError):
            if not path.exists() or abs(self.tools.clock() - path.stat().st_mtime) >= SHARE_S:
                keep_typical(self.archive.base, write_new)

    def _open_the_way(self) -> None:
        """Let users pass, not list, the directories above their jobs' own."""
        for path in (self.archive.base, self.archive.jobs):
            make_directory(path, 0o711)
            with contextlib.suppress(PermissionError):
                path.chmod(0o711)

    def _incoming(self) -> Summary:
        summary = Summary()
        before = dict(self._waits)
        self._waits.clear()
        if self.leads:
            self._take_back()
        due: dict[int, list[tuple[Run, Path]]] = {self._shard(run.job_id): [] for run, _ in self.archive.taken()}
        left = frozenset(due)
        for run, path in self.archive.incoming():
            due.setdefault(self._shard(run.job_id), []).append((run, path))
        first = crc32(self.holder.encode())
        for shard in sorted(due, key=lambda one: (one - first) % self.shards):  # an order of each collector's own
            if self._enter(shard):
                try:
                    named = sorted({*due[shard], *self._put_back(shard)}) if shard in left else due[shard]
                    summary = self._incoming_of(named, before, summary)
                finally:
                    self._leave()
        return summary

    def _put_back(self, shard: int) -> list[tuple[Run, Path]]:
        """Put back what a collector that died had taken of a part of the job ids; the directories of these runs."""
        taken = [(run, path) for run, path in self.archive.taken() if self._shard(run.job_id) == shard]
        for _, path in taken:
            put_whole_back(path)
        return [(run, self.archive.arrived(run)) for run, _ in taken]

    def _incoming_of(self, named: Sequence[tuple[Run, Path]], before: Waits, summary: Summary) -> Summary:
        """Collect what has come of one part of the job ids, given what was read in vain before."""
        batch: list[_Ready] = []
        size_b = 0
        self._homes.stored = self.ledger.named(self.archive.cluster, [run.job_id for run, _ in named])
        for run, directory in named:
            if self._refused_lately(directory):
                summary = replace(summary, refused=summary.refused + 1)
                continue
            try:
                files = _files(directory)
                wait = before.get(directory)
                if wait is not None and wait.goes_on(files, self.tools.clock()):
                    self._waits[directory] = replace(wait, files=files)
                    summary = replace(summary, waiting=summary.waiting + wait.jobs)
                    continue
                self._until_s, self._least = self.tools.clock() + RETRY_S, 0
                found, waiting, damaged = self._look(run, directory)
                if waiting and not found and not damaged:
                    self._waits[directory] = Wait(files, self._until_s, waiting, self._least if waiting == 1 else 0)
            except OSError as error:
                if not directory.exists():
                    continue  # another collector was there
                summary = replace(summary, failed=summary.failed + 1, notes=(*summary.notes, f"{directory}: {error}"))
                continue
            summary = replace(summary, waiting=summary.waiting + waiting, damaged=summary.damaged + damaged)
            for ready in found:
                # The ledger distinguishes the runs of one name by what it holds: one of them in a transaction.
                full = len(batch) == BATCH or size_b + ready.size_b > BATCH_B
                if full or any(other.run == ready.run for other in batch[-1:]):
                    summary = self._store(batch, summary)
                    batch, size_b = [], 0
                batch.append(ready)
                size_b += ready.size_b
        return self._store(batch, summary)

    def _look(self, name: Run, directory: Path) -> tuple[list[_Ready], int, int]:
        """Read what nodes reported under one name: the runs that are due, how many wait for nodes, damaged records."""
        read, damaged = read_records(directory)
        for path in damaged:
            set_aside(path)
        aside = [(path, "") for path in sorted(directory.glob(f"*{DAMAGED}"))]
        if not read:
            with contextlib.suppress(OSError):
                directory.rmdir()
            return [], 1, len(damaged)
        found, waiting = [], 0
        runs = self._by_home([boundary for _, boundary in read])
        for homes, fresh in runs:
            wanted = {boundary.digest for boundary in fresh}
            files = [(path, boundary.digest) for path, boundary in read if boundary.digest in wanted]
            newest = fresh is runs[-1][1]
            ready = self._due(name, homes, fresh, [*files, *aside] if newest else files)
            if ready is None:
                waiting += 1
            else:
                found.append(ready)
        return found, waiting, len(damaged)

    def _by_home(self, fresh: Sequence[Boundary]) -> list[tuple[tuple[Run, ...], list[Boundary]]]:
        """Return the runs that these records are of, the oldest first, with the directories that they have.

        In this order they are stored: a newer one that needs the name renames an older one's directory.
        """
        found: list[tuple[tuple[Run, ...], list[Boundary]]] = []
        for group in runs_in(fresh):
            homes = tuple(self._homes.find(of_boundaries(group)))
            beside = [members for known, members in found if homes and known == homes]
            if beside:
                beside[0] += group
            else:
                found.append((homes, list(group)))
        return found

    def _due(
        self, name: Run, homes: tuple[Run, ...], fresh: Sequence[Boundary], files: Sequence[tuple[Path, str]]
    ) -> _Ready | None:
        """Sum all that is known of a run; None while nodes are missing and the deadline has not passed."""
        base = self._known(homes)
        who = of_boundaries(fresh)
        whole = who if base is None else who.joined(of_record(base))
        kept = [b for run in homes for b in read_kept(self.archive, run)]
        boundaries = [*(b for b in kept if likest(whole, [of_boundaries([b])])), *fresh]
        here = {b.node for b in boundaries}
        complete = len(here) >= fresh[0].num_nodes and here.issuperset(fresh[0].expected)
        if not complete and not homes and self.tools.clock() < who.end_ns / 1e9 + self.deadline_s:
            self._until_s = min(self._until_s, who.end_ns / 1e9 + self.deadline_s)
            self._least = max(len(fresh[0].expected), fresh[0].num_nodes)
            return None
        names = [path.name for path in self.archive.arrived(name).glob(f"*{DAMAGED}")]
        unreadable = problems([*names, *(one for run in homes for one in kept_names(self.archive, run))], boundaries)
        record = sum_boundaries(boundaries, [f"{node}: {UNREADABLE}" for node in unreadable])
        if base is not None:
            record = combine(base, record)
        newest = tuple({b.node: b for b in sorted(boundaries, key=lambda b: b.rank)}.values())
        return _Ready(name, homes, tuple(files), fresh[0].expected, record, newest, tuple(unreadable))

    def _known(self, homes: Sequence[Run]) -> EnergyRecord | None:
        """Return what the records in a run's directories say together."""
        whole: EnergyRecord | None = None
        for record in (record_in(self.archive, run) for run in homes):
            if record is not None:
                whole = record if whole is None else combine(whole, record)
        return whole

    def _store(self, batch: Sequence[_Ready], summary: Summary) -> Summary:
        """Bring a batch into the ledger, then its records into the runs' directories, then the evidence."""
        if not batch:
            return summary
        lease = self._keep_lease()
        known = self._ask([ready.run.job_id for ready in batch])
        placed: list[tuple[_Ready, Run]] = []
        records = []
        for ready in batch:
            runs = known.get(ready.run.job_id, [])
            try:
                if apart := self._set_aside_strangers(ready, runs):
                    summary = replace(summary, aside=summary.aside + apart, waiting=summary.waiting + 1)
                    continue  # what is left is summed by the next sweep
                record = self._finish(ready.record, runs)
                home = ready.homes[0] if ready.homes else self._home_of(record)
            except OSError as error:
                summary = _failed(summary, ready, error)
                continue
            self._finalise(ready, home)
            placed.append((ready, home))
            records.append(record)
        answers = self.ledger.offer(records, queue=self.queue, lease=lease)
        taken: list[tuple[_Ready, Run, Put, _Written | None]] = []
        for (ready, home), answer in zip(placed, answers, strict=True):
            try:
                if isinstance(answer, Refused):
                    summary = self._refuse(ready, answer, summary)
                else:
                    written = None
                    if not answer.deleted:
                        written = self._write(home, answer.record, found=bool(ready.homes))
                    taken.append((ready, home, answer, written))
            except OSError as error:
                summary = _failed(summary, ready, error)
        gone = self._publish([written for *_, written in taken if written is not None])
        for ready, home, put, written in taken:
            try:
                if written is not None and written.file in gone:
                    raise FileNotFoundError("was packed or deleted meanwhile, the next sweep goes on")
                self._keep(ready, home, None if put.deleted else put.record)
                if not put.deleted:
                    self._gather(ready.homes[1:], home)
            except OSError as error:
                summary = _failed(summary, ready, error)
                continue
            summary = replace(
                summary, stored=summary.stored + put.changed, unchanged=summary.unchanged + (not put.changed)
            )
        return summary

    def _refuse(self, ready: _Ready, answer: Refused, summary: Summary) -> Summary:
        """Leave a note beside evidence whose sum the ledger does not take."""
        mark = self.archive.arrived(ready.run) / REFUSED
        write_new(mark, (answer.why + "\n").encode(errors="replace"))
        now_s = self.tools.clock()
        os.utime(mark, (now_s, now_s))
        return replace(summary, refused=summary.refused + 1, notes=(*summary.notes, _refusal(answer)))

    def _refused_lately(self, directory: Path) -> bool:
        try:
            return self.tools.clock() < (directory / REFUSED).stat().st_mtime + RETRY_S
        except OSError:
            return False

    def _set_aside_strangers(self, ready: _Ready, runs: Sequence[SlurmJob]) -> int:
        """Set aside what nodes reported of a job that Slurm did not give them; returns how many records those are.

        Only where Slurm names a run at that time, which may go on: where it does not, evidence counts.
        """
        given = _nodes_by_slurm(ready.record.start_ns, ready.record.end_ns, runs)
        if given is None:
            return 0
        nodes, apart = {b.digest: b.node for b in ready.boundaries}, 0
        for path, digest in ready.files:
            node = nodes.get(digest, "")
            place = aside.of_record(self.archive, ready.run, node)
            if not node or is_one_of(node, given) or place.allowed:
                continue
            why = (
                f"node {node} reported job {ready.run.name}, which ran on {', '.join(sorted(given)[:NAMED])} "
                f"according to sacct: if it ran there, too: touch {place.path / aside.ALLOWED}"
            )
            log.warning("set aside: %s", why)
            taken = take(path, digest)
            if taken is not None:
                keep_apart(taken, place.begin(why))
                apart += 1
        return apart

    def _take_back(self) -> None:
        """Bring back boundary records that fit by now: an administrator says so, or Slurm does."""
        found: list[tuple[aside.Aside, Path, Boundary]] = []
        for one in aside.entries(self.archive):
            for path in sorted(one.path.glob("*.json")):
                with contextlib.suppress(DataError, OSError):
                    if one.allowed or path.stat().st_mtime > self.tools.clock() - LEARN_S:
                        found.append((one, path, read_boundary(path)))
        known = self._ask([record.job_id for _, _, record in found[:BATCH]]) if found else {}
        for one, path, record in found:
            given = _nodes_by_slurm(record.start_ns, record.end_ns, known.get(record.job_id, []))
            if one.allowed or (given is not None and is_one_of(record.node, given)):
                with contextlib.suppress(OSError):
                    home = self.archive.arrived(Run(record.job_id, record.restart_count))
                    make_directory(home)
                    put_back(path, home)

    def _finish(self, record: EnergyRecord, runs: Sequence[SlurmJob]) -> EnergyRecord:
        """Add what Slurm and the policy's factors say."""
        job = self._run_of(record, runs)
        if job is not None:
            record = add_slurm(record, job)
        if self.tools.footprint is not None:
            record = replace(record, footprint=self.tools.footprint(record))
        return record

    def _run_of(self, record: EnergyRecord, runs: Sequence[SlurmJob]) -> SlurmJob | None:
        """Return the run that slurmdbd has all of; one beside the record's times only when no better one can come.

        What Slurm once said of a record holds: a late node's clock may be wrong.
        """
        if record.submit_s:
            runs = [job for job in runs if job.submit_s == record.submit_s]
        slack_s = ROUNDED_S
        late = self.tools.clock() > record.end_ns / 1e9 + _INCOMPLETE_S
        if late:
            # An agent that was started later on reports its own times of a job whose Epilog alone ran.
            slack_s = CLOCK_S if len(runs) == 1 else SLACK_S
        job = match_run(runs, record.start_ns, record.end_ns, slack_s, record.sluid)
        if not record.submit_s and not record.sluid:
            job = _own_run(record, runs, job, late)
        return job if job is not None and self._settled(job) else None

    def _settled(self, job: SlurmJob) -> bool:
        """Whether slurmdbd has all of a job: its end may arrive there before its name and QOS."""
        if not job.ended or job.end_s is None:
            return False
        return job.qos not in ("", "Unknown") or self.tools.clock() > job.end_s + _INCOMPLETE_S

    def _ask(self, job_ids: Sequence[int]) -> dict[int, list[SlurmJob]]:
        """Ask sacct for all of them at once; without an answer the records go in without Slurm's data for now."""
        if self.tools.slurm is None:
            return {}
        try:
            jobs = self.tools.slurm.jobs(job_ids)
        except UnavailableError as error:
            self._unanswered.append(str(error))
            return {}
        return by_id(jobs)

    def _finalise(self, ready: _Ready, home: Run) -> None:
        """Close the trace; its loss never costs the record."""
        directory = self.archive.job(home)
        try:
            bare = Run(home.job_id, home.restart_count)
            if home != bare and self._homes.has_only_a_trace_of(bare, of_record(ready.record)):
                adopt(self.archive.job(bare), directory)
            if (stray := self.archive.stray(home)) is not None:  # of a node with an older perun
                adopt(stray, directory)
        except (PerunError, OSError) as error:
            log.warning("%s", error)
        if self.tools.finalise is None or not any((directory / part).exists() for part in (PLAN, APART)):
            return
        try:
            deadline_ns = ready.record.end_ns + int(self.deadline_s * 1e9)
            records = tuple(b.raw for b in ready.boundaries)
            why = reasons(ready.boundaries, ready.unreadable)
            self.tools.finalise(directory, Closing(ready.expected, deadline_ns, records, why))
        except (PerunError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("trace of %s not finalised: %s", ready.run.name, error)

    def _write(self, run: Run, record: EnergyRecord, found: bool = False) -> _Written:
        """Write a record beside its place in a run's directory, where evidence may be that a restored ledger lacks.

        `found`: the directory was there. OSError where it is there no more, and what lay in it is kept elsewhere.
        """
        directory = self.archive.job(run)
        try:
            self.archive.make_job(run)
        except FileExistsError:
            there = record_in(self.archive, run)
            if there is not None and adds(there, record):
                record = combine(there, record)
        else:
            if found or (run.submit_s is not None and files_of(self.archive, run)):
                directory.rmdir()  # a directory counts, and what is packed no more
                raise OSError("was packed meanwhile, the next sweep goes on")
        file = Replacement(directory / RECORD)
        file.write((to_json(record) + "\n").encode())
        return _Written(file, record)

    def _publish(self, written: Sequence[_Written]) -> list[Replacement]:
        """Put records into their places, durably, and let their owners read them: a reader never sees half of one.

        Returns those whose directories are there no more: what lay in these was packed, or deleted, meanwhile. OSError
        where that cannot be; nothing may leave `incoming/` then. LeaseLostError where it took so long that
        newer ones may be there by now.
        """
        self.tools.sync(self.archive.jobs, [one.file.partial for one in written])
        try:
            self._keep_lease()
        except PerunError:
            for one in written:
                one.file.drop()
            raise
        gone = []
        for one in written:
            try:
                one.file.keep()
            except FileNotFoundError:
                gone.append(one.file)
        there = [one for one in written if one.file not in gone]
        self.tools.sync(self.archive.jobs, [one.file.path for one in there])
        for one in there:
            if self.tools.publish is not None and one.record.uid is not None:
                try:
                    self.tools.publish(one.file.path.parent, one.record.uid, ())
                except (PerunError, OSError) as error:
                    log.warning("%s", error)
        return gone

    def _keep(self, ready: _Ready, home: Run, record: EnergyRecord | None) -> None:
        """Move the boundary records out of `incoming/`; those of hidden users and of deleted records (None) go."""
        if not ready.files:
            return
        hidden = record is None or (record.user.startswith(HIDDEN) and record.uid is None)
        if not hidden and keep_whole(ready.files, self.archive.boundaries(home)):
            return
        taken = [path if not digest else take(path, digest) for path, digest in ready.files]
        there = [path for path in taken if path is not None and path.exists()]
        if hidden:
            for path in there:
                path.unlink()
        else:
            self.archive.boundaries(home).mkdir(mode=0o700, exist_ok=True)
            keep(there, self.archive.boundaries(home))
        incoming = ready.files[0][0].parent
        with contextlib.suppress(OSError):
            (incoming / REFUSED).unlink(missing_ok=True)
            incoming.rmdir()

    def _gather(self, others: Iterable[Run], home: Run) -> None:
        """Bring what further directories of the same run hold into the one that it keeps; a trace there stays."""
        for run in others:
            directory, boundaries = self.archive.job(run), self.archive.boundaries(run)
            keep([*boundaries.glob("*.json"), *boundaries.glob(f"*.json{DAMAGED}")], self.archive.boundaries(home))
            if (directory / PLAN).exists():
                for name in (RECORD, RUNNING):
                    (directory / name).unlink(missing_ok=True)
                continue
            shutil.rmtree(directory)

    def _home_of(self, record: EnergyRecord) -> Run:
        """Return the directory of a record's run, found as it is now or given."""
        who = of_record(record)
        found = self._homes.find(who)
        return found[0] if found else self._homes.give(who)

    def _keep_lease(self) -> tuple[str, str]:
        """Renew the lease for what comes next; returns its name and holder.

        LeaseLostError where another one had it meanwhile: what was read before that may be old by now.
        """
        for lease in {self._lead, self._lease} if self.leads else {self._lease}:
            if not self.ledger.acquire(lease, self.holder, again=True):
                raise LeaseLostError
        return self._lease, self.holder

    def _compare(self, summary: Summary) -> Summary:
        """Give every run that sacct knows and nobody reported a record that says so.

        In slices of time, each kept once it is done: halved when sacct cannot answer, doubled in a later sweep, shorter
        again where answers are long. One at least in each sweep; the next ones wait when nodes report meanwhile.
        """
        if self.tools.slurm is None:
            return summary
        cluster, began_s = self.archive.cluster, self.tools.clock()
        until_s = int(began_s - self.deadline_s)
        since_s = self.ledger.marks.compared_until_s(cluster)
        if since_s is None:
            since_s = self.ledger.first_start_s(cluster)
        elif since_s > until_s:  # this host's clock was ahead for a while: what ends until then is compared, too
            self.ledger.marks.set_compared(cluster, until_s)
        shrunk = False
        while since_s is not None and since_s < until_s and self.tools.clock() - began_s < COMPARE_S:
            slice_s = self.ledger.marks.compared_slice_s(cluster) or FIRST_SLICE_S
            end_s = min(since_s + slice_s, until_s)
            asked_s = self.tools.clock()
            self._keep_lease()
            try:
                absent, rows = self._unreported(since_s, end_s)
            except UnavailableError as error:
                self.ledger.marks.set_compared_slice(cluster, max((end_s - since_s) // 2, LEAST_SLICE_S))
                shrunk = True
                if end_s - since_s > LEAST_SLICE_S and self.tools.clock() - asked_s < SLOW_S:
                    continue
                return replace(summary, notes=(*summary.notes, str(error)))
            absent.sort(key=lambda job: self._shard(job.job_id))
            for at in range(0, len(absent), BATCH):
                records = [missing_record(job, cluster, UNREPORTED) for job in absent[at : at + BATCH]]
                puts, summary = self._amend(records, False, summary)
                summary = replace(summary, missing=summary.missing + len(puts))
            self.ledger.marks.set_compared(cluster, end_s)
            if rows > SLICE_ROWS:
                fits_s = (end_s - since_s) * SLICE_ROWS // rows
                self.ledger.marks.set_compared_slice(cluster, max(fits_s, LEAST_SLICE_S))
            elif end_s - since_s == slice_s < SLICE_S and 2 * rows <= SLICE_ROWS and not shrunk:
                self.ledger.marks.set_compared_slice(cluster, min(2 * slice_s, SLICE_S))
            since_s = end_s
            if self._has_come():
                break
        return summary

    def _has_come(self) -> bool:
        """Whether nodes reported something since this sweep looked: a job that ended comes before those of long ago."""
        for _, directory in self.archive.incoming():
            with contextlib.suppress(OSError):
                wait = self._waits.get(directory)
                if (wait is None or wait.files != _files(directory)) and not self._refused_lately(directory):
                    return True
        return False

    def _unreported(self, since_s: int, until_s: int) -> tuple[list[SlurmJob], int]:
        """Return the runs that ended in [since, until] by Slurm and of which nothing is stored, but should be.

        Also how many runs sacct answered with.
        """
        assert self.tools.slurm is not None
        jobs = self.tools.slurm.between(since_s, until_s)
        ended = [j for j in jobs if _ran(j) and (j.end_s or 0) <= until_s]
        stored = self.ledger.spans(self.archive.cluster, [j.job_id for j in ended])
        waiting = {run.job_id for run, _ in self.archive.incoming()}
        # A time span shows some runs of a job: only beside all of them it is clear which one a stored run is.
        lacking = [j for j in _without_record(ended, stored, ROUNDED_S) if self._expects(j)]
        doubtful = {j.job_id for j in lacking} - waiting
        every = self.tools.slurm.jobs(sorted(doubtful)) if doubtful else []
        unanswered = doubtful - {j.job_id for j in every}
        every += [j for j in ended if j.job_id in unanswered]
        absent = [
            j for j in _without_record(every, stored, CLOCK_S) if _ran(j) and since_s <= (j.end_s or 0) <= until_s
        ]
        return [j for j in absent if self._expects(j)], len(jobs)

    def _expects(self, job: SlurmJob) -> bool:
        return self.tools.expects is None or self.tools.expects(job)

    def _amend(self, records: Sequence[EnergyRecord], queue: bool, summary: Summary) -> tuple[list[Put], Summary]:
        """Store and publish records that rest on Slurm's word; what the ledger refuses is noted."""
        puts: list[Put] = []
        for shard, part in self._by_shard(records, lambda record: record.job_id):
            with self._holding(shard):
                more, summary = self._amend_part(part, queue, summary)
            puts += more
        return puts, summary

    def _amend_part(self, records: Sequence[EnergyRecord], queue: bool, summary: Summary) -> tuple[list[Put], Summary]:
        answers = self.ledger.offer(records, queue=queue, lease=self._keep_lease())
        notes = tuple(_refusal(answer) for answer in answers if isinstance(answer, Refused))
        puts = [answer for answer in answers if isinstance(answer, Put) and not answer.deleted]
        written: list[_Written] = []
        for put in puts:
            try:
                written.append(self._write(self._home_of(put.record), put.record))
            except OSError as error:
                name = Run(put.record.job_id, put.record.restart_count).name
                summary = replace(summary, failed=summary.failed + 1, notes=(*summary.notes, f"{name}: {error}"))
        gone = tuple(f"{file.path.parent}: was packed or deleted meanwhile" for file in self._publish(written))
        return puts, replace(summary, failed=summary.failed + len(gone), notes=(*summary.notes, *notes, *gone))

    def _complete(self, summary: Summary) -> Summary:
        """Fetch Slurm's data for records that were stored without, the newest first; of weeks some in each sweep."""
        if self.tools.slurm is None:
            return summary
        idle, began_s = 0, self.tools.clock()
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
            spent_s = self.tools.clock() - began_s
            if idle == IDLE_BATCHES or spent_s > COMPARE_S or (spent_s > COMPLETE_S and self._has_come()):
                break
        return summary

    def _rename_old(self) -> None:
        """Move finished runs out of the way of recycled job ids; each is looked at once, whatever their number."""
        until_s = int(self.tools.clock()) - RENAME_AFTER_S
        since_s = self.ledger.marks.renamed_until_s(self.archive.cluster)
        if since_s > until_s:  # this host's clock was ahead for a while
            self.ledger.marks.set_renamed(self.archive.cluster, until_s)
        if until_s - since_s < RENAME_EVERY_S:
            return
        ended = self.ledger.ended_runs(self.archive.cluster, since_s, until_s)
        for shard, runs in self._by_shard(ended, lambda run: run[0]):
            with self._holding(shard):
                for job_id, restart_count, end_s in runs:
                    bare = Run(job_id, restart_count)
                    with contextlib.suppress(OSError):
                        record = record_in(self.archive, bare)
                        # Else a newer run has the name.
                        if record is not None and record.end_ns // 1_000_000_000 == end_s:
                            self._homes.vacate(bare, of_record(record))
        self.ledger.marks.set_renamed(self.archive.cluster, until_s)


def _own_run(record: EnergyRecord, runs: Sequence[SlurmJob], by_times: SlurmJob | None, late: bool) -> SlurmJob | None:
    """Return the run that a record is of, given what its times say: those of a node whose clock is hours off mislead.

    Times that fit at both ends decide. Else the run of the record's restart count does, if it is as long: a length
    needs no clock. None while that one has not ended by Slurm, or is not known, unless it is `late` for that.
    """
    own = [job for job in runs if job.run == record.restart_count]
    if by_times is None or by_times.start_s is None or by_times.end_s is None or by_times in own or len(own) > 1:
        return by_times
    start_s, end_s = record.start_ns // 1_000_000_000, record.end_ns // 1_000_000_000
    if abs(by_times.start_s - start_s) <= SLACK_S and abs(by_times.end_s - end_s) <= SLACK_S:
        return by_times
    if not own:
        return by_times if late else None
    (likely,) = own
    if likely.end_s is None or likely.start_s is None:
        return None
    as_long = abs((likely.end_s - likely.start_s) - (end_s - start_s)) <= SLACK_S
    return likely if as_long and abs(likely.start_s - start_s) <= CLOCK_S else by_times


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


def _nodes_by_slurm(start_ns: int, end_ns: int, runs: Sequence[SlurmJob]) -> frozenset[str] | None:
    """The nodes of a job's runs; None where Slurm names none at that time: it may not know of one that has begun."""
    began_s, ended_s = start_ns // 1_000_000_000, end_ns // 1_000_000_000
    named = any(
        job.nodelist
        and job.start_s is not None
        and job.start_s <= ended_s
        and (job.end_s is None or job.end_s >= began_s)
        for job in runs
    )
    return nodes_of(runs) if named else None


def _files(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files in a directory."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries]
    return tuple(sorted(found))


def _failed(summary: Summary, ready: _Ready, error: OSError) -> Summary:
    return replace(summary, failed=summary.failed + 1, notes=(*summary.notes, f"{ready.run.name}: {error}"))


def _refusal(answer: Refused) -> str:
    return f"job {answer.record.job_id}.{answer.record.restart_count}: {answer.why}"


def _ran(job: SlurmJob) -> bool:
    """Whether a run has ended, and had nodes for a time."""
    return job.ended and job.end_s is not None and job.ran


def _attempted(part: Callable[[Summary], Summary], summary: Summary) -> Summary:
    """Return what a part of a sweep makes of the summary; whatever it fails by, the other parts are done."""
    try:
        return part(summary)
    except LeaseLostError:
        raise
    except Exception as error:  # Slurm's answers and a site's policy decide what can go wrong there
        if not isinstance(error, (PerunError, OSError)):
            log.exception("comparison with Slurm")
        return replace(summary, failed=summary.failed + 1, notes=(*summary.notes, str(error)))


def _without_record(jobs: Sequence[SlurmJob], stored: dict[int, list[tuple[int, int]]], slack_s: int) -> list[SlurmJob]:
    """Return the runs that no stored run (job id -> start and end) belongs to."""
    absent = []
    for job_id, runs in by_id(jobs).items():
        pairs = pair_runs(runs, stored.get(job_id, ()), slack_s)
        absent += [job for index, job in enumerate(runs) if index not in pairs]
    return absent
