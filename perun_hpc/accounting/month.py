"""A month's sums from its evidence alone: node ledgers and boundary records, without ledger, policy, Slurm or network.

What counts is what nodes wrote at the time: of every interval who got what (node ledgers), and of every job its shares
(boundary records). Both must agree to the microjoule, and both with the raw readings at the jobs' edges.
"""

from __future__ import annotations

import calendar
import hashlib
import io
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perun_hpc.accounting import audit
from perun_hpc.accounting.audit import Finding
from perun_hpc.accounting.ledger import Key
from perun_hpc.accounting.summing import counted_shares
from perun_hpc.archive import kept
from perun_hpc.archive.packs import EVIDENCE, is_damaged
from perun_hpc.archive.places import JOBS, NODES, Archive
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model.boundary import Boundary, read_open
from perun_hpc.data_model.record import Share
from perun_hpc.errors import DataError

Job = tuple[int, int]


@dataclass(frozen=True)
class Sums:
    """Energies in uJ of some days and nodes: what counters counted, and who got it.

    `recorded_uj` is what boundary records hold of it, `estimated_uj` what no sensor measured, `gap_ns` for how long
    nothing is known, summed over nodes and domains.
    """

    counted_uj: int = 0
    jobs_uj: int = 0
    idle_uj: int = 0
    system_uj: int = 0
    unknown_uj: int = 0
    unobserved_uj: int = 0
    estimated_uj: int = 0
    recorded_uj: int = 0
    gap_ns: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Sums)))


@dataclass(frozen=True)
class RecordFile:
    """A boundary record with shares in the month; `path` below the cluster's directory, `counters` for the edges.

    `machine` tells machines of one name apart, where the node says it. `cpus` are those that the job had reserved of
    the node, and all that it has (0: not known). `u_uj` is what its shares may be wrong by (k=1, errors of all domains
    alike), `sharing_uj` what of that lies with other parties.
    """

    path: str
    digest: str
    job: Job
    node: str
    machine: str
    partition: str
    account: str
    start_ns: int
    end_ns: int
    cpus: tuple[int, int]
    shares: tuple[Share, ...]
    u_uj: int
    sharing_uj: int
    counters: Mapping[str, Any]


@dataclass(frozen=True)
class Records:
    """The boundary records of a month, and what could not be read: path and digest of each.

    `packs` are those in which there may be more of them, since nobody can say what they hold, or not the caller.
    """

    files: Sequence[RecordFile]
    unreadable: Sequence[tuple[str, str]]
    packs: Sequence[str] = ()


@dataclass(frozen=True)
class Month:
    """What the evidence of a month says.

    `evidence` is path -> digest (SHA-256) of each day; `unrecorded` are jobs that nodes gave energy and that left no
    boundary record there (they may still run).
    """

    sums: Mapping[str, Sums]
    evidence: Mapping[str, Mapping[str, str]]
    accounts: Mapping[str, int]
    unrecorded: Mapping[str, int]
    findings: Sequence[Finding]

    @property
    def total(self) -> Sums:
        """Of all days."""
        return sum(self.sums.values(), Sums())


def days_of(month: str) -> list[str]:
    """Return the days (`YYYY-MM-DD`) of a month (`YYYY-MM`)."""
    year, number = int(month[:4]), int(month[5:])
    return [f"{month}-{day:02d}" for day in range(1, calendar.monthrange(year, number)[1] + 1)]


def ledger_files(archive: Archive, month: str) -> list[Path]:
    """Return the node ledger files of a month."""
    return [path for path in archive.node_ledgers() if path.stem.startswith(f"{month}-")]


def meter_files(archive: Archive, month: str) -> dict[str, str]:
    """Return the files of the month (UTC) with readings of meters outside the nodes, each with its digest."""
    found = sorted(archive.facility("*").parent.glob(f"*.{month}.csv"))
    return {_name(archive, path): digest_of(path) for path in found}


def read_records(archive: Archive, month: str) -> Records:
    """Read the collected boundary records that have shares in the month."""
    found: list[RecordFile] = []
    unreadable: list[tuple[str, str]] = []
    mark, days = f'"{month}-'.encode(), set(days_of(month))
    files = (file for run in kept.each_run(archive) for file in kept.boundaries(archive, run))
    once = kept.Once(archive)
    for file in files:
        if not file.name.endswith(".json"):
            continue
        name, data = _name(archive, file.path), b""
        try:
            data = file.read()
            if mark not in data:
                continue
            read = read_open(io.BytesIO(data), str(file.path))
            if once.had(file, read.digest):
                continue
        except FileNotFoundError:
            continue  # and before: it comes again
        except OSError as error:
            raise DataError(f"{file.path}: {error.strerror or error}: run it as who may read the archive") from error
        except DataError:
            unreadable.append((name, hashlib.sha256(data).hexdigest()))
            continue
        shares = tuple(share for share in counted_shares(read) if share.day.startswith(f"{month}-"))
        if not {share.day for share in shares} <= days:
            unreadable.append((name, hashlib.sha256(data).hexdigest()))
        elif shares:
            found.append(_record_file(name, read, shares))
    found.sort(key=lambda one: one.path)
    return Records(found, unreadable, _closed_packs(archive))


def _closed_packs(archive: Archive) -> list[str]:
    found = []
    for number in archive.buckets():
        pack = archive.bucket(number) / EVIDENCE
        if is_damaged(pack) or (pack.exists() and not os.access(pack, os.R_OK)):
            found.append(_name(archive, pack))
    return found


def digest_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole_lines(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a node ledger's whole lines, and how many bytes they are: half a line comes to its end."""
    so_far, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                so_far.update(line)
                length += len(line)
    return so_far.hexdigest(), length


def sum_month(
    archive: Archive,
    month: str,
    records: Iterable[RecordFile],
    ledgers: Collection[Path],
    lengths: Mapping[Path, int] | None = None,
) -> Month:
    """Sum a month and hold its parts against each other, a node at a time.

    Parameters
    ----------
    archive, month : whose and which (`YYYY-MM`).
    records : the boundary records that count.
    ledgers : the node ledger files that count.
    lengths : of which of them only so many bytes do; of the others as many whole lines as they have now.
    """
    sums = dict.fromkeys(days_of(month), Sums())
    evidence: dict[str, dict[str, str]] = {day: {} for day in sums}
    accounts: dict[str, int] = {}
    unrecorded: dict[str, int] = {}
    findings: list[Finding] = []
    by_node: dict[str, tuple[list[RecordFile], list[Path]]] = {}
    whole_b: dict[Path, int] = {}
    for record in records:
        by_node.setdefault(record.node, ([], []))[0].append(record)
        for share in record.shares:
            evidence[share.day][record.path] = record.digest
            sums[share.day] += Sums(recorded_uj=share.energy_uj)
            account = lower_case(record.account)
            accounts[account] = accounts.get(account, 0) + share.energy_uj
    for path in ledgers:
        by_node.setdefault(path.parent.name, ([], []))[1].append(path)
        evidence[path.stem][_name(archive, path)], whole_b[path] = _whole_lines(path)
    for node, (written, paths) in sorted(by_node.items()):
        books = audit.read_books(paths, {**whole_b, **(lengths or {})})
        held = _held(written)
        findings += books.findings
        for (_, day, _), account_of in books.accounts.items():
            sums[day] += _counted(account_of)
        without = {job for (_, job) in books.given} - {job for (_, job) in held}
        for (_, job), energy_uj in books.given.items():
            if job in without:
                name = f"{job[0]}.{job[1]}"
                unrecorded[name] = unrecorded.get(name, 0) + energy_uj
        findings += audit.compare_shares(books, held, without)
        findings += _unbacked(node, held, {day for _, day, _ in books.accounts})
        findings += audit.compare_edges(books, (record.counters for record in written))[1]
    return Month(sums, evidence, dict(sorted(accounts.items())), dict(sorted(unrecorded.items())), findings)


def counted_sums(books: audit.NodeBooks) -> Sums:
    """Return the sums of what some node ledgers say."""
    return sum((_counted(account) for account in books.accounts.values()), Sums())


def _name(archive: Archive, path: Path) -> str:
    return path.relative_to(archive.base).as_posix()


def _record_file(path: str, read: Boundary, shares: tuple[Share, ...]) -> RecordFile:
    u_uj, sharing_uj = _doubts(read, shares)
    return RecordFile(
        path=path,
        digest=read.digest,
        job=(read.job_id, read.restart_count),
        node=read.node,
        machine=str(read.raw.get("machine_id") or ""),
        partition=str(read.raw.get("partition") or ""),
        account=str(read.raw.get("account") or ""),
        start_ns=read.start_ns,
        end_ns=read.end_ns,
        cpus=(_number(read.raw.get("cpus_on_node")), _number(read.raw.get("node_cpus"))),
        shares=shares,
        u_uj=u_uj,
        sharing_uj=sharing_uj,
        counters={
            "node": read.node,
            "job_id": read.job_id,
            "restart_count": read.restart_count,
            "start": {"mono_ns": read.raw["start"].get("mono_ns")},
            "end": {"mono_ns": read.raw["end"].get("mono_ns")},
            "sensors": read.raw.get("sensors") or (),
            "edges": read.raw.get("edges") or {},
        },
    )


def _doubts(read: Boundary, shares: Iterable[Share]) -> tuple[int, int]:
    """Return what some of a record's shares may be wrong by, all errors alike, and how much of it is no sensor's."""
    held: dict[str, int] = {}
    for share in shares:
        held[share.domain] = held.get(share.domain, 0) + share.energy_uj
    u_uj = sharing_uj = 0.0
    for domain in read.domains:
        part = abs(held.get(domain.name, 0)) / abs(domain.energy_uj) if domain.energy_uj else 0.0
        sensors = sum(abs(uj) for cause, uj in domain.doubts.items() if cause.startswith(("gain ", "offset ")))
        u_uj += part * domain.u_uj
        sharing_uj += part * (max(0, domain.u_uj**2 - sensors**2) ** 0.5 if domain.doubts else domain.u_uj)
    return math.ceil(u_uj), math.ceil(sharing_uj)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _held(records: Iterable[RecordFile]) -> dict[tuple[Key, Job], int]:
    held: dict[tuple[Key, Job], int] = {}
    for record in records:
        for share in record.shares:
            at = ((share.node, share.day, share.domain), record.job)
            held[at] = held.get(at, 0) + share.energy_uj
    return held


def _counted(account: audit.Account) -> Sums:
    return Sums(
        counted_uj=account.total_uj,
        jobs_uj=account.jobs_uj,
        estimated_uj=account.estimated_uj,
        gap_ns=account.gap_ns,
        **{f"{name}_uj": account.others_uj[name] for name in audit.OTHERS},
    )


def _unbacked(node: str, held: Mapping[tuple[Key, Job], int], days: Collection[str]) -> list[Finding]:
    """Return the days of which records hold energy and the node's ledger nothing."""
    lost: dict[str, int] = {}
    for ((_, day, _), _), energy_uj in held.items():
        if day not in days:
            lost[day] = lost.get(day, 0) + energy_uj
    return [
        Finding(f"{NODES}/{node}/{day}.jsonl", f"is not there, and records of that day ({JOBS}) hold energy", uj)
        for day, uj in sorted(lost.items())
        if uj
    ]
