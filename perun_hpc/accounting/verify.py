"""Sealing a month, and verifying a sealed one from a copy of the archive alone, with nothing of the site at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

from perun_hpc._version import __version__
from perun_hpc.accounting import manifest as sealed
from perun_hpc.accounting import node_events, statement
from perun_hpc.accounting.audit import Finding
from perun_hpc.accounting.ledger import Key, Ledger
from perun_hpc.accounting.manifest import Manifest
from perun_hpc.accounting.month import (
    Job,
    RecordFile,
    Records,
    Sums,
    days_of,
    digest_of,
    ledger_files,
    meter_files,
    read_records,
    sum_month,
)
from perun_hpc.accounting.node_events import Slurm
from perun_hpc.accounting.statement import Embodied
from perun_hpc.archive.places import Archive
from perun_hpc.energy.footprint import Factor
from perun_hpc.errors import DataError, NotFoundError, UsageError
from perun_hpc.inputs import read_regular

GROWS = ("nodes/", "facility/")
"""Files to which lines may come after the seal."""


@dataclass(frozen=True)
class Verdict:
    """What verifying found: `faults` are what is not as it was sealed, in which file and of which day.

    `late` are files that came after the seal: they are in no sum. `moved` is how many lie elsewhere with their content
    as it was; `records` and `nodes` are those that were sealed, `after` the records that came later.
    """

    manifest: Manifest
    faults: Sequence[Finding]
    late: Sequence[str]
    late_uj: int
    moved: int
    files: int
    records: Sequence[RecordFile]
    nodes: frozenset[str]
    after: Sequence[RecordFile]


NOT_READ = "cannot be read, whatever it holds: restore the pack from a backup, or come as who may read it"


def seal(
    archive: Archive, month: str, now_s: float, ask: Callable[[int, int], Slurm | None] = lambda *_: None
) -> Manifest:
    """Sum a month's evidence and write its manifest.

    Parameters
    ----------
    archive, month, now_s : whose and which, as of an epoch time.
    ask : what Slurm says of nodes between two epoch times, which is sealed, too; None: that is left out.

    Raises
    ------
    UsageError
        While the month goes on, or once it is sealed: joules of a sealed month never change.
    NotFoundError
        Of a month of which nothing is here: nobody knows what was drawn in it, which is not 0 J.
    DataError
        Where evidence cannot be read.
    """
    bounds = {day: day_bounds(day) for day in days_of(month)}
    ends_s = max(until_s for _, until_s in bounds.values())
    if now_s < ends_s:
        raise UsageError(f"{month} goes on until {datetime.fromtimestamp(ends_s):%Y-%m-%d %H:%M}: seal it after that")
    path = sealed.manifest_file(archive, month)
    if path.exists():
        raise UsageError(f"{path} is there: a sealed month's joules never change; perun verify {month} checks them")
    said = ask(min(from_s for from_s, _ in bounds.values()), ends_s)
    records = read_records(archive, month)
    if records.unreadable:
        names = ", ".join(name for name, _ in records.unreadable[:3])
        raise DataError(
            f"{names}: damaged boundary record: let perun collect put it aside, or restore the pack that it is in "
            "from a backup, before the month is sealed"
        )
    if records.packs:
        raise DataError(f"{records.packs[0]}: {NOT_READ}")
    ledgers, others, last = ledger_files(archive, month), meter_files(archive, month), max(bounds)
    if not (records.files or ledgers or others):
        raise NotFoundError(f"{archive.base} has no evidence of {month}: there is nothing to seal")
    summed = sum_month(archive, month, records.files, ledgers)
    if said is not None:
        path = node_events.write(archive, month, said)
        others[path.relative_to(archive.base).as_posix()] = digest_of(path)
    else:  # of a seal that was broken off
        node_events.file_of(archive, month).unlink(missing_ok=True)
    summed = replace(summed, evidence={**summed.evidence, last: {**summed.evidence[last], **others}})
    return sealed.write_manifest(archive, month, summed, bounds, int(now_s), __version__)


def verify(archive: Archive, month: str) -> Verdict:
    """Sum a sealed month's evidence again and hold it against the manifest.

    Raises
    ------
    NotFoundError, DataError
        Where there is no manifest, or none that can be read.
    """
    manifest = sealed.read_manifest(archive, month)
    faults: list[Finding] = []
    if (manifest.cluster, manifest.month) != (archive.cluster, month):
        faults.append(Finding("manifest.json", f"is of {manifest.cluster}, {manifest.month}"))
    before = sealed.last_hash(archive, month)
    if before not in (sealed.NO_HASH, manifest.after):
        faults.append(Finding("manifest.json", "does not follow the month before: the chain is broken"))
    listed = _lists(archive, manifest, faults)
    records = read_records(archive, month)
    faults += [Finding(name, NOT_READ) for name in records.packs]
    here = {one.path: one.digest for one in records.files} | dict(records.unreadable)
    by_digest = {digest: path for path, digest in here.items()}
    days = {path: day for day, files in reversed(listed.items()) for path in files}
    wanted: set[str] = set()
    lengths: dict[Path, int] = {}
    late: list[str] = []
    moved = 0
    for name, day in sorted(days.items()):
        digest, path = listed[day][name], archive.base / name
        found = here.get(name) or (digest_of(path) if path.is_file() else None)
        if found == digest:
            wanted.add(name)
        elif name.startswith(GROWS) and found is not None and (length := _grown_from(path, digest)) is not None:
            wanted.add(name)
            lengths[path] = length
            late.append(f"{name}: lines after byte {length}")
        elif digest in by_digest:
            wanted.add(by_digest[digest])
            moved += 1
        elif found is None:
            faults.append(Finding(day, f"{name} is gone"))
        else:
            wanted.add(name)
            faults.append(Finding(day, f"{name} is not what was sealed: it has changed"))
    after = [one for one in records.files if one.path not in wanted]
    ledgers = {path: path.relative_to(archive.base).as_posix() for path in ledger_files(archive, month)}
    late += [one.path for one in after] + [name for name in ledgers.values() if name not in wanted]
    late += [name for name in meter_files(archive, month) if name not in days]
    said = node_events.file_of(archive, month)
    if said.is_file() and said.relative_to(archive.base).as_posix() not in days:
        faults.append(Finding(said.name, "was not sealed with the month: remove it"))
    faults += _differences(archive, manifest, records, wanted, [p for p, n in ledgers.items() if n in wanted], lengths)
    late_uj = sum(share.energy_uj for one in after for share in one.shares)
    counted = [one for one in records.files if one.path in wanted]
    nodes = frozenset(name.split("/")[1] for name in days if name.startswith("nodes/"))
    nodes |= {record.node for record in counted}
    faults += [Finding(name, what) for name, what in statement.faults(archive, manifest, counted, set(nodes))]
    return Verdict(manifest, faults, sorted(late), late_uj, moved, len(days), counted, nodes, after)


def differences_from_ledger(archive: Archive, found: Verdict, ledger: Ledger) -> tuple[int, list[Finding]]:
    """Hold a sealed month's records against the SQL ledger, by node, day, domain and job, to the microjoule.

    What came after the seal is in the ledger, and left out on both sides. Returns the ledger's sum of what was sealed
    (uJ), and what differs.
    """
    days = [one.day for one in found.manifest.days]
    held = ledger.shares_between(archive.cluster, days[0], days[-1])
    sealed_uj: dict[tuple[Key, Job], int] = {}
    for record in found.records:
        for share in record.shares:
            at = ((share.node, share.day, share.domain), record.job)
            sealed_uj[at] = sealed_uj.get(at, 0) + share.energy_uj
    later = {(record.node, record.job) for record in found.after}
    faults, sum_uj = [], 0
    for at in sorted({*held, *sealed_uj}):
        (node, day, domain), job = at
        if (node, job) in later:
            continue
        sum_uj += held.get(at, 0)
        if off_uj := held.get(at, 0) - sealed_uj.get(at, 0):
            what = "is not in the ledger" if at not in held else "is in the ledger alone" if at not in sealed_uj else ""
            name = f"{node} {domain}: job {job[0]}.{job[1]}"
            faults.append(Finding(day, f"{name} {what or 'is another in the ledger'}", off_uj))
    return sum_uj, faults


def restate(
    archive: Archive,
    month: str,
    factors: Mapping[str, Factor],
    embodied: Callable[[str], Embodied | None],
    now_s: float,
) -> Path | None:
    """Write the next revision of a sealed month's factors; None where they are those of the last one.

    Raises
    ------
    DataError
        Where the month is not as it was sealed.
    """
    found = verify(archive, month)
    if found.faults:
        raise DataError(f"{month} is not as it was sealed, so no factors were stated: see perun verify {month}")
    made = {node: one for node in found.nodes if (one := embodied(node)) is not None}
    if not factors and not made:
        return None
    return statement.state(archive, found.manifest, found.records, found.nodes, factors, made, now_s, __version__)


def day_bounds(day: str) -> tuple[int, int]:
    """Return begin and end of a local day (`YYYY-MM-DD`) in epoch seconds."""
    begin = datetime.fromisoformat(day)
    return int(begin.timestamp()), int((begin + timedelta(days=1)).timestamp())


def _lists(archive: Archive, manifest: Manifest, faults: list[Finding]) -> dict[str, Mapping[str, str]]:
    """Return day -> path -> digest of the days whose lists are as they were sealed, and what the others can say."""
    listed: dict[str, Mapping[str, str]] = {}
    before = manifest.after
    if [one.day for one in manifest.days] != days_of(manifest.month):
        faults.append(Finding("manifest.json", "does not have the days of its month"))
    for one in manifest.days:
        path = sealed.day_file(archive, one.day)
        try:
            text = read_regular(path, sealed.MAX_B)
            if hashlib.sha256(text).hexdigest() != one.sha256:
                faults.append(Finding(one.day, f"{path.name} is not what was sealed: it has changed"))
            listed[one.day] = sealed.read_day(text, manifest.cluster, one.day, before)
        except OSError as error:
            faults.append(Finding(one.day, f"{path.name} cannot be read: {error.strerror}"))
        except DataError as error:
            faults.append(Finding(one.day, f"{path.name}: {error}"))
        before = one.sha256
    return listed


def _grown_from(path: Path, digest: str) -> int | None:
    """Return how many bytes a file had when it had that digest, if lines were only added since; else None."""
    so_far = hashlib.sha256()
    length = 0
    with path.open("rb") as file:
        for line in file:
            so_far.update(line)
            length += len(line)
            if so_far.hexdigest() == digest:
                return length
    return 0 if hashlib.sha256().hexdigest() == digest else None


def _differences(
    archive: Archive,
    manifest: Manifest,
    records: Records,
    wanted: set[str],
    ledgers: Sequence[Path],
    lengths: Mapping[Path, int],
) -> list[Finding]:
    """Return where the sums of what was sealed are not those of the manifest."""
    counted: list[RecordFile] = [one for one in records.files if one.path in wanted]
    again = sum_month(archive, manifest.month, counted, ledgers, lengths)
    found = []
    for one in manifest.days:
        found += _sums_differ(one.day, one.sums, again.sums.get(one.day, Sums()))
    found += _sums_differ(manifest.month, manifest.sums, again.total)
    for kind, before, now in (
        ("account", manifest.accounts, again.accounts),
        ("job", manifest.unrecorded, again.unrecorded),
    ):
        for name in sorted({*before, *now}):
            if off_uj := now.get(name, 0) - before.get(name, 0):
                found.append(
                    Finding(manifest.month, f"{kind} {name or '(none)'}: the sum is not the sealed one", off_uj)
                )
    known = set(manifest.findings)
    found += [f for f in again.findings if f"{f.where}: {f.what} ({f.off_uj} uJ)" not in known]
    return found


def _sums_differ(where: str, before: Sums, now: Sums) -> list[Finding]:
    return [
        Finding(where, f"{field.name.rpartition('_')[0]}: the sum is not the sealed one", off)
        for field in fields(Sums)
        if (off := getattr(now, field.name) - getattr(before, field.name))
    ]
