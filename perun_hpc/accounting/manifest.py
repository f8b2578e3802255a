"""The manifest of a sealed month: `ARCHIVE/CLUSTER/months/YYYY-MM/`, the only place that writes and reads its files.

`YYYY-MM-DD.sha256` names the evidence of a day, in the form that `sha256sum -c` reads in the cluster's directory; its
first line names the day before's own hash, so that the days are a chain. `manifest.json` (`perun.month/1`) has each
day's hash and the sums; `manifest.json.sig` is its signature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from perun_hpc.accounting.month import Month, Sums, days_of
from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.errors import AccessError, DataError, NotFoundError
from perun_hpc.files import write_new
from perun_hpc.inputs import read_regular

SCHEMA = "perun.month/1"
MAX_B = 64 << 20
NO_HASH = "0" * 64
"""Before the first day of a chain."""
_LINE = re.compile(r"([0-9a-f]{64})  ((?:jobs|nodes|facility|months)/(?!.*\.\./)[^\n]+)\Z")
_HEAD = re.compile(r"# perun\.day/1 (\S+) (\d{4}-\d\d-\d\d) after ([0-9a-f]{64})\Z")


@dataclass(frozen=True)
class SealedDay:
    """One day: the hash of its list of files, how many these are, and their sums.

    `from_s` and `until_s` are its begin and end at the site (epoch seconds), whatever zone a reader lives in.
    """

    day: str
    sha256: str
    files: int
    from_s: int
    until_s: int
    sums: Sums


@dataclass(frozen=True)
class Manifest:
    """A sealed month; `after` is the hash of the last day before it, `findings` what did not close when it was sealed.

    `accounts` are the sums of the boundary records, `unrecorded` what nodes gave to jobs (`JOB.RESTART`) that had left
    no record there yet.
    """

    cluster: str
    month: str
    after: str
    sealed_s: int
    perun_version: str
    days: tuple[SealedDay, ...]
    sums: Sums
    accounts: Mapping[str, int]
    unrecorded: Mapping[str, int]
    findings: tuple[str, ...]


def place(archive: Archive, month: str) -> Path:
    """Return the directory of a sealed month."""
    return archive.base / "months" / month


def manifest_file(archive: Archive, month: str) -> Path:
    """Return where a month's manifest lies."""
    return place(archive, month) / "manifest.json"


def day_file(archive: Archive, day: str) -> Path:
    """Return where the list of a day's evidence lies."""
    return place(archive, day[:7]) / f"{day}.sha256"


def write_manifest(
    archive: Archive, month: str, summed: Month, bounds: Mapping[str, tuple[int, int]], sealed_s: int, version: str
) -> Manifest:
    """Write a month's lists and its manifest.

    Parameters
    ----------
    archive, month : whose and which.
    summed : what its evidence says.
    bounds : begin and end of each day (epoch seconds).
    sealed_s, version : when it is sealed, by which perun.
    """
    place(archive, month).mkdir(mode=0o750, parents=True, exist_ok=True)
    before = after = last_hash(archive, month)
    days = []
    for day in days_of(month):
        files = summed.evidence[day]
        text = day_text(archive.cluster, day, before, files)
        write_new(day_file(archive, day), text)
        before = sha256(text).hexdigest()
        days.append(SealedDay(day, before, len(files), *bounds[day], summed.sums[day]))
    manifest = Manifest(
        cluster=archive.cluster,
        month=month,
        after=after,
        sealed_s=sealed_s,
        perun_version=version,
        days=tuple(days),
        sums=summed.total,
        accounts=summed.accounts,
        unrecorded=summed.unrecorded,
        findings=tuple(sorted(f"{f.where}: {f.what} ({f.off_uj} uJ)" for f in summed.findings)),
    )
    text = (json.dumps({"schema": SCHEMA, **codec.encode(manifest)}, indent=1) + "\n").encode()
    write_new(manifest_file(archive, month), text)
    return manifest


def read_manifest(archive: Archive, month: str) -> Manifest:
    """Read a month's manifest; `NotFoundError` where it was never sealed, `AccessError` where it is not the caller's,
    `DataError` where it is damaged."""
    path = manifest_file(archive, month)
    try:
        value = json.loads(read_regular(path, MAX_B))
        if value.pop("schema") != SCHEMA:
            raise ValueError("of another version of perun")
        return codec.decode(Manifest, value)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} is not there: seal the month at the site (perun seal {month}), or copy all of the archive"
        ) from error
    except PermissionError as error:
        raise AccessError(
            f"{path}: not yours to read: ask as root or the collector's user, or verify a copy"
        ) from error
    except (OSError, *codec.MISFITS, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged manifest ({error}): take the copy that was signed") from error


def last_hash(archive: Archive, month: str) -> str:
    """Return the hash of the last day of the month before; of a chain that begins here `NO_HASH`."""
    year, number = int(month[:4]), int(month[5:])
    before = f"{year - (number == 1):04d}-{(number - 2) % 12 + 1:02d}"
    try:
        return read_manifest(archive, before).days[-1].sha256
    except (NotFoundError, DataError, IndexError):
        return NO_HASH


def day_text(cluster: str, day: str, before: str, files: Mapping[str, str]) -> bytes:
    """Return a day's list: `before` is the hash of the day before's, `files` are path -> digest."""
    lines = [f"# perun.day/1 {cluster} {day} after {before}"]
    lines += [f"{digest}  {path}" for path, digest in sorted(files.items())]
    return ("\n".join(lines) + "\n").encode()


def read_day(text: bytes, cluster: str, day: str, before: str) -> dict[str, str]:
    """Return path -> digest of a day's list; `DataError` where it is of another day, or of another chain."""
    lines = text.decode(errors="replace").splitlines()
    head = _HEAD.match(lines[0]) if lines else None
    if head is None or (head[1], head[2]) != (cluster, day):
        raise DataError(f"its first line is not of {cluster} and {day}")
    if head[3] != before:
        raise DataError("it does not follow the day before: the chain is broken")
    found = {}
    for number, line in enumerate(lines[1:], 2):
        match = _LINE.match(line)
        if match is None:
            raise DataError(f"line {number} is none of sha256sum's")
        found[match[2]] = match[1]
    return found
