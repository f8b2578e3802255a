"""What runs left behind, once they are old: many runs' files in few, in the directory of their thousand job ids.

`evidence.zip` holds boundary records, for the service user alone; `UID.zip` what one owner may read of the own runs;
`hidden.zip` the same of runs without an owner. All are plain zip files (deflate, a CRC-32 each) and name each file by
its path below the cluster's directory: unpacked there, everything lies where it lay. A run's directory, where there is
one, counts; what packs hold of it then is what it was before.

A pack is replaced whole: written beside its name, read back, synced, renamed. Only one process may replace packs of a
cluster at a time; anybody may read meanwhile.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import logging
import os
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from perun_hpc.archive.places import JOBS, SUFFIX, Archive, Run, bucket_of, packs_in
from perun_hpc.errors import DataError
from perun_hpc.files import Replacement, give_to_owner, sync_directory, sync_file

log = logging.getLogger(__name__)

EVIDENCE, HIDDEN_PACK = f"evidence{SUFFIX}", f"hidden{SUFFIX}"
MAX_FILE_B = 64 << 20
"""A run with a longer file keeps its directory: what is packed is read whole."""
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
_EARLIEST, _LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""Zip files know no time before and after."""
_HEADER, _MAGIC = struct.Struct("<26x2H"), b"PK\x03\x04"
"""What stands before each packed file: the lengths of its name and of what else is said there."""
_PIECE_B = 1 << 20


@dataclass(frozen=True)
class Member:
    """A packed file: its pack, its name there, when it was changed (epoch seconds)."""

    pack: Path
    name: str
    changed_s: float

    def read(self) -> bytes:
        """What it holds.

        Raises
        ------
        FileNotFoundError
            Where the pack no longer has it.
        DataError
            Where the pack is damaged there.
        """
        try:
            return _opened(self.pack).read(self.name)
        except KeyError as error:
            raise FileNotFoundError(f"{self.pack}: no {self.name}") from error
        except (*_DAMAGES, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # another day it may be read; the two are a place that no file has, and another way of packing
            raise DataError(f"{self.pack}: {self.name} is damaged ({error}): restore the pack from a backup") from error


@dataclass(frozen=True)
class Entry:
    """A file to be packed: its path below the cluster's directory, when it was changed (epoch seconds), its bytes."""

    name: str
    changed_s: float
    data: bytes


_Goes = Callable[[Path, str], bool]
"""Whether a file leaves a pack."""
Packed = Mapping[Run, Mapping[str, Member]]
"""The files of runs, by their names below the run's directory."""


def packed(archive: Archive, number: int) -> Packed:
    """What the packs of a thousand job ids hold, as far as the caller may read it.

    Who may not list that directory sees the pack of his own. A damaged pack is named in the log.
    """
    bucket = archive.bucket(number)
    try:
        changed_ns = bucket.stat().st_mtime_ns
    except OSError:
        return {}
    return _index(bucket, changed_ns, os.geteuid())


def damaged_packs(archive: Archive, number: int) -> list[Path]:
    """The packs of a thousand job ids of which nobody can say what they hold."""
    return [pack for pack in packs_in(archive.bucket(number), os.geteuid()) if is_damaged(pack)]


def is_damaged(pack: Path) -> bool:
    """Whether nobody can say what a pack holds; False of one that is gone, or not the caller's to read."""
    try:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            _opened(pack)
    except _DAMAGES:
        return True
    return False


def files_of(archive: Archive, run: Run) -> Mapping[str, Member]:
    """The packed files of a run by their names below its directory; none where it has none, or a directory."""
    return packed(archive, bucket_of(run)).get(run, {})


def pack_of(archive: Archive, number: int, uid: int | None) -> Path:
    """The pack of what an owner may read, None: of runs without one."""
    return archive.bucket(number) / (HIDDEN_PACK if uid is None else f"{uid}{SUFFIX}")


def owner_of(pack: Path) -> int | None:
    """Whose pack it is, by its name; None: nobody's but the service user's."""
    return int(pack.stem) if pack.stem.isdecimal() else None


def replace_packed(
    archive: Archive,
    number: int,
    add: Mapping[Path, Iterable[Entry]],
    drop: Collection[Run],
    grant: Callable[[Path, Path], object],
    renewed: Collection[tuple[Run, str]] = (),
) -> None:
    """Add files to the packs of a thousand job ids, without what these held of the runs `drop` before.

    Parameters
    ----------
    add
        By pack: what each is to hold besides, read once.
    renewed
        Where there are some: these files alone leave the evidence. What a directory lacks could not be read when it
        was made, and may be read again.
    grant
        Is called with each new pack before it has its name, and that name: who may read it.

    Raises
    ------
    OSError, DataError
        Where one cannot be written, or the old one not be read; whichever were replaced are whole.
    """
    bucket = archive.bucket(number)

    def goes(pack: Path, name: str) -> bool:
        run, file = _run_and_file(name)
        return run in drop and (not renewed or pack.name != EVIDENCE or (run, file) in renewed)

    changed = [pack for pack in packs_in(bucket, os.geteuid()) if pack not in add and _loses(pack, goes)]
    for pack in (*add, *changed):
        _replace(pack, add.get(pack, ()), goes, grant)
    sync_directory(bucket)
    _index.cache_clear()


def _replace(pack: Path, add: Iterable[Entry], goes: _Goes, grant: Callable[[Path, Path], object]) -> None:
    file = Replacement(pack)
    try:
        file.write(b"", 0o600)
        if pack.exists():
            _carry_over(pack, file.partial, goes)
        with zipfile.ZipFile(file.partial, "a", zipfile.ZIP_DEFLATED) as zipped:
            added = []
            for entry in add:
                zipped.writestr(_info(entry), entry.data)
                added.append(entry.name)
            empty = not zipped.namelist()
        if empty:
            pack.unlink(missing_ok=True)
            file.drop()
            return
        with zipfile.ZipFile(file.partial) as written:
            for name in added:
                written.read(name)  # as what was read from the directory, by its CRC-32
        give_to_owner(file.partial)
        grant(file.partial, pack)
        sync_file(file.partial)
    except _DAMAGES as error:
        file.drop()
        raise DataError(f"{pack}: damaged pack ({error}): restore it from a backup") from error
    except BaseException:
        file.drop()
        raise
    file.keep()


def _carry_over(pack: Path, target: Path, goes: _Goes) -> None:
    """Bring what a pack holds into the file that replaces it, but for what goes."""
    if not _loses(pack, goes):
        with pack.open("rb") as source, target.open("wb") as beside:
            shutil.copyfileobj(source, beside)
        return
    with zipfile.ZipFile(pack) as old, pack.open("rb") as file, zipfile.ZipFile(target, "w") as new:
        assert new.fp is not None
        for info in old.infolist():
            if goes(pack, info.filename):
                continue
            length = _length(file, info)
            file.seek(info.header_offset)
            stays = copy(info)
            stays.header_offset = new.fp.tell()
            while length:  # as it lies there: what is damaged costs nothing else
                data = file.read(min(length, _PIECE_B))
                if not data:
                    raise zipfile.BadZipFile(f"cut short in {info.filename}")
                new.fp.write(data)
                length -= len(data)
            new.filelist.append(stays)
            new.NameToInfo[stays.filename] = stays
        new.start_dir = new.fp.tell()
        new.comment = old.comment  # a change, so that the directory is written


def _length(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """How many bytes a packed file takes, with the header before it (APPNOTE.TXT, 4.3.7)."""
    file.seek(info.header_offset)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise zipfile.BadZipFile(f"{info.filename} is not where the directory says")
    lengths: tuple[int, int] = _HEADER.unpack(header)
    return _HEADER.size + sum(lengths) + info.compress_size


def _loses(pack: Path, goes: _Goes) -> bool:
    try:
        with zipfile.ZipFile(pack) as zipped:
            return any(goes(pack, name) for name in zipped.namelist())
    except FileNotFoundError:
        return False
    except _DAMAGES as error:
        raise DataError(f"{pack}: damaged pack ({error}): restore it from a backup") from error


def _info(entry: Entry) -> zipfile.ZipInfo:
    when = min(max(time.gmtime(entry.changed_s)[:6], _EARLIEST), _LATEST)
    info = zipfile.ZipInfo(entry.name, when)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o100600 << 16
    return info


@lru_cache(maxsize=4)
def _index(bucket: Path, changed_ns: int, uid: int) -> Packed:
    found: dict[Run, dict[str, Member]] = {}
    for pack in packs_in(bucket, uid):
        try:
            zipped = _opened(pack)
        except (FileNotFoundError, PermissionError):
            continue
        except _DAMAGES as error:
            log.warning("%s: damaged pack (%s): restore it from a backup", pack, error)
            continue
        for info in zipped.infolist():
            run, file = _run_and_file(info.filename)
            if run is not None:
                changed_s = _seconds(info)
                found.setdefault(run, {})[file] = Member(pack, info.filename, changed_s)
    return found


def _opened(pack: Path) -> zipfile.ZipFile:
    status = pack.stat()
    return _opened_as(pack, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _opened_as(pack: Path, inode: int, changed_ns: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(pack)


def _seconds(info: zipfile.ZipInfo) -> float:
    try:
        return float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except ValueError:  # a damaged one
        return float(calendar.timegm((*_EARLIEST, 0, 0, 0)))


def _run_and_file(name: str) -> tuple[Run | None, str]:
    """The run of a packed file, and its name below the run's directory."""
    parts = PurePosixPath(name).parts
    for at in (2, 1):  # below a thousand's directory, or flat
        if len(parts) > at + 1 and parts[0] == JOBS and (run := Run.parse(parts[at])) is not None:
            return run, "/".join(parts[at + 1 :])
    return None, ""
