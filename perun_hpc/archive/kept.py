"""What the archive keeps of a run, for whoever may read it: in the run's directory or, once it is old, packed.

Whatever reads records, boundary records and what meters showed reads them here; traces are never packed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.archive.places import BOUNDARIES, PER_BUCKET, Archive, Run, bucket_of, order, packs_in, possible

if TYPE_CHECKING:
    from perun_hpc.archive.packs import Member


@dataclass(frozen=True)
class Kept:
    """A file of a run: `name` below its directory, `path` where it lies, or lay when it was packed."""

    archive: Archive
    run: Run
    name: str
    path: Path

    def open(self) -> io.BufferedReader | io.BytesIO:
        """The file, to be read. OSError where it is gone, or not the caller's to read; `DataError` of a damaged one."""
        try:
            return (self.archive.job(self.run) / self.name).open("rb")
        except FileNotFoundError:
            return io.BytesIO(_packed(self.archive, self.run, self.name).read())

    def read(self) -> bytes:
        """What it holds; OSError and `DataError` as of `open`."""
        with self.open() as file:
            return file.read()

    @property
    def changed_s(self) -> float:
        """When it was changed (epoch seconds); OSError where it is gone."""
        try:
            return (self.archive.job(self.run) / self.name).stat().st_mtime
        except FileNotFoundError:
            return _packed(self.archive, self.run, self.name).changed_s


def runs(archive: Archive, job_id: int, submits: Iterable[int] = ()) -> list[Run]:
    """The runs of a job of which something is here that the caller may read, the oldest submission first.

    Asked for by name, since the directory above holds every job and users may not list it; `submits` as for
    `places.possible`.
    """
    return present(archive, possible(job_id, submits))


def present(archive: Archive, names: Iterable[Run]) -> list[Run]:
    """Those of these runs of which something is here that the caller may read, in their order."""
    asked = list(names)
    here = set(archive.present(asked))
    # A bare name may be another run's by now, so what is packed has none.
    old = [run for run in asked if run.submit_s is not None and run not in here]
    if old:
        here |= {run for run in old if _files(archive, run)}
    return [run for run in asked if run in here]


def exists(archive: Archive, run: Run) -> bool:
    """Whether a run has a directory, or something packed."""
    return os.path.lexists(archive.job(run)) or bool(_files(archive, run))


def read(archive: Archive, run: Run, name: str) -> bytes:
    """What a file of a run holds, by its name below the run's directory.

    Raises
    ------
    OSError
        Where there is none, or it is not the caller's to read.
    DataError
        Where it is packed and its pack is damaged.
    """
    directory = archive.job(run)
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        if os.path.lexists(directory):
            raise
        return _packed(archive, run, name).read()


def readable(archive: Archive, run: Run, name: str) -> bool:
    """Whether a file of a run is there and the caller's to read."""
    directory = archive.job(run)
    return os.access(directory / name, os.R_OK) or (not os.path.lexists(directory) and name in _files(archive, run))


def closed(archive: Archive, job_id: int, uid: int | None) -> bool:
    """Whether a job's owner has old runs of these ids packed that are not the caller's to read."""
    from perun_hpc.archive.packs import pack_of

    pack = pack_of(archive, job_id // PER_BUCKET, uid)
    return uid is not None and os.access(pack, os.F_OK) and not os.access(pack, os.R_OK)


def boundaries(archive: Archive, run: Run) -> list[Kept]:
    """The files beside a run's boundary records, these among them, in the order of their names."""
    directory = archive.job(run)
    try:
        names = [entry.name for entry in os.scandir(directory / BOUNDARIES) if not entry.name.startswith(".")]
        return [Kept(archive, run, f"{BOUNDARIES}/{name}", directory / BOUNDARIES / name) for name in sorted(names)]
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(directory):
            return []
    except PermissionError:
        return []
    there = sorted(_files(archive, run).items())
    return [
        Kept(archive, run, name, archive.base / member.name)
        for name, member in there
        if name.startswith(f"{BOUNDARIES}/")
    ]


def portions(archive: Archive) -> Iterator[list[Run]]:
    """Every run of which something is here, in its directory or packed, as of `Archive.portions`.

    One that gets another name, or is packed, while the caller reads those of its thousand job ids comes again.
    """
    yield from archive.flat()
    for number in archive.buckets():
        yield from _until_none_is_new(partial(_in_bucket, archive, number))


def each_run(archive: Archive) -> Iterator[Run]:
    """Every run of which something is here, as in `portions`."""
    return chain.from_iterable(portions(archive))


def each_present(archive: Archive, names: Iterable[Run]) -> Iterator[Run]:
    """Those of these runs of which something is here; one that gets another of these names meanwhile comes again."""
    asked = list(names)
    return chain.from_iterable(_until_none_is_new(lambda: present(archive, asked)))


def _until_none_is_new(look: Callable[[], Iterable[Run]]) -> Iterator[list[Run]]:
    """What is found, and found again once the caller has read it: a directory may be renamed while one looks."""
    seen: set[Run] = set()
    while new := [run for run in look() if run not in seen]:
        yield new
        seen.update(new)


def _in_bucket(archive: Archive, number: int) -> list[Run]:
    from perun_hpc.archive.packs import packed

    here = archive.in_bucket(
        number
    )  # before the packs: a run that is packed meanwhile is in one when its directory goes
    old = {run for run in packed(archive, number) if not os.path.lexists(archive.jobs / run.name)}
    return sorted(old.union(here), key=order)


class Once:
    """Tells which files were read before, under a name that their run has no more."""

    def __init__(self, archive: Archive) -> None:
        """Nothing was read yet."""
        self._archive = archive
        self._first: dict[str, Run] = {}

    def had(self, file: Kept, digest: str) -> bool:
        """Whether what a file holds, by its digest, was read before its run got this name."""
        before = self._first.setdefault(digest, file.run)
        return before != file.run and not exists(self._archive, before)


def _files(archive: Archive, run: Run) -> Mapping[str, Member]:
    """The packed files of a run; who has no packs to read does not load what reads them."""
    bucket = archive.bucket(bucket_of(run))
    try:
        changed_ns = bucket.stat().st_mtime_ns
    except OSError:
        return {}
    if not _has_packs(bucket, changed_ns, os.geteuid()):
        return {}
    from perun_hpc.archive.packs import files_of

    return files_of(archive, run)


@lru_cache(maxsize=64)
def _has_packs(bucket: Path, changed_ns: int, uid: int) -> bool:
    return bool(packs_in(bucket, uid))


def _packed(archive: Archive, run: Run, name: str) -> Member:
    member = _files(archive, run).get(name)
    if member is None:
        raise FileNotFoundError(f"{archive.job(run) / name} is not there")
    return member
