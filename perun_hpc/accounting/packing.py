"""Records and evidence of old runs go from directories of their own into packs, and come back where they are needed.

A run is packed once its record was written long ago and it has no trace: packs first, durably, then the directory
goes, if it still holds just what was packed. Killed at any moment, the run lies in its directory, in a pack, or in both
alike. A run has its directory back before anything is added to it. Packs of a cluster are changed under one lease.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from perun_hpc.accounting.holders import has_died, this_process
from perun_hpc.accounting.homes import Homes, record_in
from perun_hpc.accounting.identity import Identity, of_record
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.archive.access import NoListsError, listable_by, readable_by
from perun_hpc.archive.durable import sync_new
from perun_hpc.archive.job_meters import FILE as METERS
from perun_hpc.archive.packs import EVIDENCE, MAX_FILE_B, Entry, files_of, owner_of, pack_of, packed, replace_packed
from perun_hpc.archive.places import BOUNDARIES, PER_BUCKET, RECORD, RUNNING, Archive, Run, bucket_of
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError, PerunError, UnavailableError
from perun_hpc.files import PARTIAL, sync_directory, temporary, write_new

log = logging.getLogger(__name__)

_DEAD_S = 86_400
"""What was to become a run's directory so long ago comes to nothing."""
ASIDE = ".packed"
"""How the name of a run's directory ends while it is taken away; before it stands a dot."""
OF_RECORDS = frozenset({RECORD, RUNNING, METERS})
"""What a run's directory holds beside its boundary records and its trace."""

Stamp = tuple[int, int, int]
"""Inode, length and time of change (ns) of a file."""


@dataclass(frozen=True)
class Access:
    """Who may read packs beside the service user and each pack's owner: these groups."""

    gids: tuple[int, ...] = ()

    def grant(self, pack: Path, uid: int | None) -> None:
        """Open a pack to its owner and the groups; a file system without lists leaves it closed."""
        if uid is None:
            return
        pack.chmod(0o640)
        with contextlib.suppress(NoListsError):
            readable_by(pack, [uid], self.gids)

    def open_bucket(self, bucket: Path) -> None:
        """Let the groups see whose packs there are; everybody else passes."""
        if self.gids:
            with contextlib.suppress(NoListsError):
                listable_by(bucket, self.gids)


@dataclass(frozen=True)
class _Old:
    """A run that can be packed: its record, and its files below its directory as they were."""

    run: Run
    record: EnergyRecord
    files: Mapping[str, Stamp]


class LostError(UnavailableError):
    """Another process has the right to change packs."""


class PackLease:
    """The right to change the packs of a cluster, which one process has at a time."""

    def __init__(self, ledger: Ledger, cluster: str) -> None:
        """Nothing is taken yet."""
        self._ledger, self._name, self._cluster = ledger, f"pack:{cluster}", cluster
        self._holder = this_process()
        self._had = False

    def __enter__(self) -> PackLease:
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(PerunError):
            self._ledger.release(self._name, self._holder)

    def renew(self) -> None:
        """Have it, and what else this process has, for two minutes more.

        `LostError` where another process has it, or had it meanwhile.
        """
        taken = self._ledger.acquire(self._name, self._holder, dead=has_died, again=self._had)
        self._had = True
        if not taken:
            raise LostError(
                f"another perun ledger command changes packed records of cluster {self._cluster}: run it again later"
            )
        self._ledger.prolong(self._holder)


def pack(
    archive: Archive,
    runs: Iterable[Run],
    before_s: float,
    now_s: float,
    access: Access,
    lease: PackLease,
    tell: Callable[[str], object] = log.warning,
) -> int:
    """Pack those of some runs with a directory whose record was written before an epoch time; returns how many.

    What cannot be packed stays as it is, and `tell` is called with what it was and why.
    """
    count = 0
    for number, some in groupby(sorted(runs, key=bucket_of), key=bucket_of):
        lease.renew()
        try:
            count += _pack_bucket(archive, number, list(some), before_s, now_s, access, lease)
        except LostError:
            raise
        except (PerunError, OSError) as error:
            tell(f"{archive.bucket(number)}: {error}")
    return count


def due(archive: Archive, runs: Iterable[Run], before_s: float) -> int:
    """How many of these runs `pack` would take."""
    return sum(_look(archive, run, before_s) is not None for run in runs)


def _pack_bucket(
    archive: Archive,
    number: int,
    runs: Sequence[Run],
    before_s: float,
    now_s: float,
    access: Access,
    lease: PackLease,
) -> int:
    old = [one for run in runs if (one := _look(archive, run, before_s)) is not None]
    if not old:
        return 0
    bucket = archive.bucket(number)
    archive.open_bucket(bucket)
    homes = Homes(archive, now_s)
    old = list(_named(archive, homes, old))
    if not old:
        return 0
    access.open_bucket(bucket)
    add: dict[Path, Iterable[Entry]] = {bucket / EVIDENCE: _entries(archive, old, evidence=True)}
    for uid in {one.record.uid for one in old}:
        own = [one for one in old if one.record.uid == uid]
        add[pack_of(archive, number, uid)] = _entries(archive, own, evidence=False)
    files = {(one.run, name) for one in old for name in one.files}
    replace_packed(archive, number, add, {one.run for one in old}, _ready(access, lease), files)
    return _take_away(archive, homes, old)


def _ready(access: Access, lease: PackLease) -> Callable[[Path, Path], None]:
    """What is done with each new pack before it has its name."""

    def ready(pack: Path, named: Path) -> None:
        access.grant(pack, owner_of(named))
        lease.renew()  # of many nodes' records it may have taken minutes

    return ready


def _look(archive: Archive, run: Run, before_s: float) -> _Old | None:
    """What there is to pack of a run; None where it is too young, has a trace, or holds what is not known."""
    directory = archive.job(run)
    try:
        if (directory / RECORD).stat().st_mtime >= before_s:
            return None
        files = _stamps(directory)
    except OSError:
        return None
    if files is None:
        return None
    record = record_in(archive, run)
    if record is None or record.end_ns >= before_s * 1e9:
        return None
    return _Old(run, record, files)


def _stamps(directory: Path) -> dict[str, Stamp] | None:
    """The files of a run's directory; None where there is something that is not packed. OSError where one is gone."""
    found: dict[str, Stamp] = {}
    for name, status in _below(directory, ""):
        known = name in OF_RECORDS or (name.startswith(f"{BOUNDARIES}/") and name.count("/") == 1)
        if not known or not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_B:
            return None
        found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _below(directory: Path, above: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # what was to become a file, and came to nothing
                continue
            if entry.is_dir(follow_symlinks=False) and entry.name == BOUNDARIES and not above:
                yield from _below(directory / entry.name, f"{entry.name}/")
            else:
                yield above + entry.name, entry.stat(follow_symlinks=False)


def _named(archive: Archive, homes: Homes, old: Iterable[_Old]) -> Iterator[_Old]:
    """Those of some runs that can be read, under names of their own; the others are named in the log, and stay."""
    for one in old:
        directory = archive.job(one.run)
        closed = [name for name in one.files if not os.access(directory / name, os.R_OK)]
        try:
            if closed:
                raise PermissionError(f"{closed[0]} is not the collector's to read: see its owner")
            yield _under_its_own_name(archive, homes, one)
        except OSError as error:
            log.warning("%s is not packed: %s", directory, error)


def _under_its_own_name(archive: Archive, homes: Homes, one: _Old) -> _Old:
    """A run that another one cannot take the name of; its bare name may be needed again. OSError where that fails."""
    if one.run.submit_s is not None:
        return one
    return _Old(homes.vacate(one.run, of_record(one.record)), one.record, one.files)


def _entries(archive: Archive, old: Iterable[_Old], evidence: bool) -> Iterator[Entry]:
    for one in old:
        directory = archive.job(one.run)
        for name, (_, _, changed_ns) in sorted(one.files.items()):
            if name.startswith(f"{BOUNDARIES}/") is evidence and name != RUNNING:
                path = directory / name
                yield Entry(path.relative_to(archive.base).as_posix(), changed_ns / 1e9, path.read_bytes())


def _take_away(archive: Archive, homes: Homes, old: Iterable[_Old]) -> int:
    """Remove the directories of runs that are packed; returns of how many. What has changed meanwhile stays."""
    asides = []
    above = set()
    for one in old:
        directory, aside = archive.job(one.run), _aside(archive, one.run)
        try:
            directory.rename(aside)
        except OSError as error:  # it is packed, and counts where it is
            log.warning("%s stays: %s", directory, error)
            continue
        asides.append((one, aside))
        above |= {aside.parent, directory.parent}
    for place in above:  # else a directory may be found again that lacks what was removed
        sync_directory(place)
    count = 0
    for one, aside in asides:
        if _stamps(aside) == one.files:
            shutil.rmtree(aside)
            count += 1
        else:
            _put_back(archive, homes, one.run, aside)
    return count


def _aside(archive: Archive, run: Run) -> Path:
    return archive.bucket(bucket_of(run)) / f".{run.name}{ASIDE}"


def _put_back(archive: Archive, homes: Homes, run: Run, aside: Path) -> None:
    """Give a directory a name again under which it is found."""
    target = archive.job(run)
    aside.rename(archive.job(homes.free(run)) if os.path.lexists(target) else target)


def finish(archive: Archive, number: int, now_s: float) -> None:
    """End what a process that died while it packed left of a thousand job ids: nothing of it is lost.

    What cannot be ended is named in the log, and waits. Only who has the lease may do it.
    """
    bucket = archive.bucket(number)
    with contextlib.suppress(FileNotFoundError), os.scandir(bucket) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
        if names:
            sync_directory(bucket)
        for name in names:
            try:
                _finish(archive, bucket / name, now_s)
            except (PerunError, OSError) as error:
                log.warning("left of packing, %s: %s", bucket / name, error)


def _finish(archive: Archive, left: Path, now_s: float) -> None:
    if left.name.endswith(ASIDE):
        run = Run.parse(left.name[1 : -len(ASIDE)])
        if run is not None and _is_packed(archive, run, left):
            shutil.rmtree(left)
        elif run is not None:
            _put_back(archive, Homes(archive, now_s), run, left)
    elif left.name.endswith(PARTIAL):
        if not left.is_dir():
            left.unlink(missing_ok=True)  # of a pack, which nobody else makes now
        elif left.stat().st_mtime < now_s - _DEAD_S:
            shutil.rmtree(left)


def _is_packed(archive: Archive, run: Run, directory: Path) -> bool:
    """Whether packs hold all that a directory does; OSError and `DataError` where that cannot be seen."""
    files, members = _stamps(directory), files_of(archive, run)
    return files is not None and all(
        file == RUNNING or (file in members and members[file].read() == (directory / file).read_bytes())
        for file in files
    )


def unpack(archive: Archive, who: Identity, publish: Callable[[Path, int, Iterable[int]], None] | None) -> None:
    """Give the packed runs that may be `who` their directories back, durably and open to their owners.

    What is damaged in a pack is left out, and named in the log: what was summed of it stays in the record. OSError
    where a directory cannot be made; nothing has changed then.
    """
    number = who.job_id // PER_BUCKET
    for run, members in packed(archive, number).items():
        if (run.job_id, run.restart_count) != (who.job_id, who.restart_count) or os.path.lexists(archive.job(run)):
            continue
        record = record_in(archive, run)
        if record is None or not of_record(record).likeness(who):
            continue
        target = archive.job(run)
        beside = temporary(target)
        (beside / BOUNDARIES).mkdir(mode=0o700, parents=True)
        try:
            written = []
            for name, member in members.items():
                path = beside / name
                try:
                    write_new(path, member.read(), durable=False)
                except DataError as error:
                    log.warning("%s", error)
                    continue
                os.utime(path, (member.changed_s, member.changed_s))
                written.append(path)
            beside.chmod(0o750)
            sync_new(beside, written)
            if publish is not None and record.uid is not None:
                publish(beside, record.uid, ())
            beside.rename(target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync_directory(target.parent)


def forget(
    archive: Archive,
    number: int,
    gone: Collection[Run],
    hidden: Mapping[Run, bytes],
    now_s: float,
    access: Access,
    lease: PackLease,
) -> None:
    """Take runs out of the packs of a thousand job ids; of those `hidden` a record stays, for nobody but the service.

    OSError and `DataError` where a pack cannot be replaced.
    """
    add: dict[Path, Iterable[Entry]] = {}
    if hidden:
        members = packed(archive, number)
        add[pack_of(archive, number, None)] = [
            Entry(members[run][RECORD].name, now_s, data) for run, data in hidden.items() if RECORD in members[run]
        ]
    replace_packed(archive, number, add, {*gone, *hidden}, _ready(access, lease))
