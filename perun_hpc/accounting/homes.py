"""Where a run's directory is: the one place that finds it, under whatever name it lies, and that gives names away.

A run lives under its bare name until that is needed again; then under `JOB.RESTART@SUBMIT`. Which run a directory holds
is seen from what lies in it, never by its name. A directory of jobs is listed only for a run that may have been
renamed. Runs that are packed have none; the collector gives them theirs back (`accounting.packing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from perun_hpc.accounting.evidence import combine
from perun_hpc.accounting.identity import Identity, likest, of_boundaries, of_record, runs_in
from perun_hpc.accounting.keeping import UNREADABLE, kept_names, problems, read_kept
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.kept import exists, read
from perun_hpc.archive.places import RECORD, Archive, Run, bucket_of
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import DataError
from perun_hpc.files import sync_directory
from perun_hpc.slurm.sacct import CLOCK_S
from perun_hpc.store.create import read_plan

RENAME_AFTER_S = 7 * 86400
"""When a finished run gives its bare directory name away: before job ids recycle, after most late nodes."""


class Homes:
    """The directories of one cluster's runs, as of the epoch time `now_s`.

    `unpack` is called with an old run that is looked for, and may give it its directory back.
    """

    def __init__(self, archive: Archive, now_s: float, unpack: Callable[[Identity], object] | None = None) -> None:
        self._archive = archive
        self._now_s = now_s
        self._unpack = unpack
        self._flat: dict[tuple[int, int], list[Run]] | None = None
        self._bucket: tuple[int, list[Run]] | None = None
        self.stored: Mapping[tuple[int, int], Sequence[tuple[int, int]]] = {}
        """When the runs were (epoch seconds) that the ledger has by job id and restart count; who looks may say it."""

    def find(self, who: Identity) -> list[Run]:
        """Return the directories that hold a run, the one that it is to keep first: none for one that is new.

        More than one: an older perun made a second one beside a renamed run's, or a crash did.
        """
        bare = Run(who.job_id, who.restart_count)
        occupant = self.holds(bare)
        names = [bare]
        renamed = self._may_be_renamed(who) if occupant is None else not occupant.likeness(who)
        if renamed or self._is_old(who):
            if self._unpack is not None:
                self._unpack(who)
                self._bucket = None
            names = [*self._others(bare, who), bare]
        held = [occupant if run == bare else self.holds(run) for run in names]
        return [names[at] for at in likest(who, held)]

    def give(self, who: Identity) -> Run:
        """Return the name under which a run without a directory is to live; a run whose name it needs is renamed.

        OSError where it cannot be.
        """
        bare = Run(who.job_id, who.restart_count)
        occupant = self.holds(bare)
        if occupant is not None and occupant.end_ns <= who.end_ns and not self._is_old(who):
            self.vacate(bare, occupant)
            return bare
        if occupant is None and not self._is_old(who):
            return bare
        run = self.free(replace(bare, submit_s=_named_after(who)))
        if self.has_only_a_trace_of(bare, who):
            self._rename(bare, run)
        return run

    def vacate(self, bare: Run, occupant: Identity) -> Run:
        """Rename a run, so that another may have the bare name; returns its new one. OSError where that cannot be."""
        run = self.free(replace(bare, submit_s=_named_after(occupant)))
        self._rename(bare, run)
        return run

    def holds(self, run: Run) -> Identity | None:
        """Return which run a directory holds the record or boundary records of; None where it has neither."""
        return run_in(self._archive, run) if self._archive.job(run).is_dir() else None

    def _may_be_renamed(self, who: Identity) -> bool:
        """Whether a run that had the name may be this one: whoever needed its name died before taking it."""
        begin_s, end_s = who.start_ns / 1e9 - CLOCK_S, who.end_ns / 1e9 + CLOCK_S
        spans = self.stored.get((who.job_id, who.restart_count), ())
        return any(start_s <= end_s and begin_s <= stop_s for start_s, stop_s in spans)

    def _is_old(self, who: Identity) -> bool:
        return who.end_ns / 1e9 < self._now_s - RENAME_AFTER_S + CLOCK_S

    def _others(self, bare: Run, who: Identity) -> list[Run]:
        """The runs of that name under other names: those of its thousand job ids, and of all that lie flat."""
        if self._flat is None:
            self._flat = {}
            for run in chain.from_iterable(self._archive.flat()):
                if run.submit_s is not None:
                    self._flat.setdefault((run.job_id, run.restart_count), []).append(run)
        number = bucket_of(bare)
        if self._bucket is None or self._bucket[0] != number:
            self._bucket = number, [run for run in self._archive.in_bucket(number) if run.submit_s is not None]
        name = (bare.job_id, bare.restart_count)
        here = [run for run in self._bucket[1] if (run.job_id, run.restart_count) == name]
        # By name, too: a job's owner cannot list what lies beside it.
        likely = [replace(bare, submit_s=at) for at in (who.submit_s, who.end_ns // 10**9) if at]
        return list(dict.fromkeys([*self._flat.get(name, ()), *here, *likely]))

    def free(self, run: Run) -> Run:
        """The first name from this one on that no directory has, and nothing packed."""
        while exists(self._archive, run):
            run = replace(run, submit_s=(run.submit_s or 0) + 1)
        return run

    def _rename(self, bare: Run, run: Run) -> None:
        path, target = self._archive.job(bare), self._archive.job(run)
        self._archive.open_bucket(target.parent)
        path.rename(target)
        sync_directory(target.parent)
        if path.parent != target.parent:
            sync_directory(path.parent)
        self._bucket = None

    def has_only_a_trace_of(self, bare: Run, who: Identity) -> bool:
        """Whether a late node put its trace, which comes before its record, where its run's directory once was."""
        try:
            start_ns = read_plan(self._archive.job(bare)).start_ns
        except (DataError, OSError):
            return False
        return abs(start_ns - who.start_ns) <= CLOCK_S * 10**9 and self.holds(bare) is None


def record_in(archive: Archive, run: Run) -> EnergyRecord | None:
    """Return the energy record kept of a run; None where there is none that can be read."""
    try:
        return from_json(read(archive, run, RECORD), str(archive.job(run) / RECORD))
    except (OSError, DataError):
        return None


def run_in(archive: Archive, run: Run) -> Identity | None:
    """Return which run's record is kept under a name; where it cannot be read, which run's evidence; else None."""
    record = record_in(archive, run)
    if record is not None:
        return of_record(record)
    groups = runs_in(read_kept(archive, run))
    return of_boundaries(groups[-1]) if groups else None


def known_records(archive: Archive, runs: Iterable[Run]) -> Iterator[EnergyRecord]:
    """Yield one record for every run of which something is kept under one name: all that records and evidence say.

    One whose record cannot be read gives what its boundary records sum to.
    """
    found: list[tuple[Identity, EnergyRecord]] = []

    def add(record: EnergyRecord, who: Identity) -> None:
        for at in likest(who, [one for one, _ in found]):
            known = found[at][1]
            found[at] = (found[at][0].joined(who), combine(known, record))
            return
        found.append((who, record))

    for run in runs:
        record = record_in(archive, run)
        if record is not None:
            add(record, of_record(record))
        groups = runs_in(read_kept(archive, run))
        for group in groups:
            lost = problems(kept_names(archive, run), group) if group is groups[-1] else []
            add(sum_boundaries(group, [f"{node}: {UNREADABLE}" for node in lost]), of_boundaries(group))
    yield from (record for _, record in found)


def _named_after(who: Identity) -> int:
    return who.submit_s or who.end_ns // 1_000_000_000
