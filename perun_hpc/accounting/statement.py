"""What a sealed month's energy means in CO2 and cost: `factors.N.json` beside its manifest, revision by revision.

The joules are the manifest's and never change. A factor that was corrected makes the next revision, which names the
hash of the one before; each holds its factors whole, so that whoever has the evidence computes the figures again.
Embodied carbon is a statement of its own and is added to nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perun_hpc.accounting.manifest import MAX_B, NO_HASH, Manifest, manifest_file, place
from perun_hpc.accounting.month import RecordFile, digest_of
from perun_hpc.archive.places import Archive
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model import codec
from perun_hpc.energy.footprint import FIGURES, Factor, Factors, Piece, footprint
from perun_hpc.errors import DataError
from perun_hpc.files import write_new
from perun_hpc.inputs import read_regular

SCHEMA = "perun.factors/1"
NS = 1_000_000_000


@dataclass(frozen=True)
class Embodied:
    """What making a node emitted: `kg` between `low` and `high`, to be written off over `lifetime_s`."""

    kg: float
    low: float
    high: float
    lifetime_s: int
    source: str
    date: str


@dataclass(frozen=True)
class EmbodiedShares:
    """Embodied carbon of the month in mg, by reserved node-hours (ISO/IEC 21031): accounts, and what nobody reserved.

    `nodes` is how many have a figure, `without` how many have none. `low` and `high` are the range of the total.
    """

    accounts: Mapping[str, int]
    idle: int
    total: int
    low: int
    high: int
    nodes: int
    without: int


@dataclass(frozen=True)
class Statement:
    """Figures of a part of a month's energy: CO2 in mg, by figure (`energy/footprint.py`), None where no factor is.

    `lower_bound`: the energy was not measured at the wall, no PUE is stated, or a figure is not of all of the energy,
    since partitions have factors of other kinds. `u` is the relative standard uncertainty (k=1) of a figure, of energy,
    PUE and factor together; of jobs, where the factors state theirs.
    """

    energy_uj: int
    facility_uj: int | None
    co2_mg: Mapping[str, int]
    cost_millicents: int | None
    lower_bound: bool
    u: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Revision:
    """One revision of a month's factors: of which manifest it is, after which revision, and what follows from it."""

    cluster: str
    month: str
    revision: int
    manifest: str
    before: str
    stated_s: int
    perun_version: str
    factors: Mapping[str, Factor]
    embodied_of: Mapping[str, Embodied]
    jobs: Statement
    others: Statement
    embodied: EmbodiedShares | None


def revision_file(archive: Archive, month: str, number: int) -> Path:
    """Return where a revision lies."""
    return place(archive, month) / f"factors.{number}.json"


def revisions(archive: Archive, month: str) -> Iterator[tuple[Path, Revision]]:
    """Yield a month's revisions from the first on; `DataError` for one that is damaged."""
    number = 1
    while (path := revision_file(archive, month, number)).exists():
        try:
            value = json.loads(read_regular(path, MAX_B))
            if value.pop("schema") != SCHEMA:
                raise ValueError("of another version of perun")
            yield path, codec.decode(Revision, value)
        except (OSError, *codec.MISFITS, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: damaged factors ({error}): take the copy that was signed") from error
        number += 1


def state(
    archive: Archive,
    manifest: Manifest,
    records: Sequence[RecordFile],
    nodes: Iterable[str],
    factors: Mapping[str, Factor],
    embodied_of: Mapping[str, Embodied],
    now_s: float,
    version: str,
) -> Path | None:
    """Write the next revision of a month's factors; None where these are those of the last one.

    Parameters
    ----------
    archive, manifest, records : of the month.
    nodes : those with a ledger or a record in the month.
    factors : the site's, by their names in the policy.
    embodied_of : node -> what making it emitted, of the nodes of which that is stated.
    now_s, version : when this is, by which perun.
    """
    known = list(revisions(archive, manifest.month))
    embodied_of = {node: embodied_of[node] for node in sorted(nodes) if node in embodied_of}
    if known and (known[-1][1].factors, known[-1][1].embodied_of) == (dict(factors), embodied_of):
        return None
    made = Revision(
        cluster=manifest.cluster,
        month=manifest.month,
        revision=len(known) + 1,
        manifest=digest_of(manifest_file(archive, manifest.month)),
        before=digest_of(known[-1][0]) if known else NO_HASH,
        stated_s=int(now_s),
        perun_version=version,
        factors=factors,
        embodied_of=embodied_of,
        **_figures(manifest, records, set(nodes), factors, embodied_of),
    )
    path = revision_file(archive, manifest.month, made.revision)
    write_new(path, (json.dumps({"schema": SCHEMA, **codec.encode(made)}, indent=1) + "\n").encode())
    return path


def faults(
    archive: Archive, manifest: Manifest, records: Sequence[RecordFile], nodes: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a month's revisions: the file's name, and what.

    `records` and `nodes` are those of the sealed evidence: every figure is computed again from them.
    """
    before = NO_HASH
    try:
        for number, (path, one) in enumerate(revisions(archive, manifest.month), 1):
            if (one.cluster, one.month, one.revision) != (manifest.cluster, manifest.month, number):
                yield path.name, "is of another month, cluster or revision"
            if one.manifest != digest_of(manifest_file(archive, manifest.month)):
                yield path.name, "is of another manifest"
            if one.before != before:
                yield path.name, "does not follow the revision before it"
            before = digest_of(path)
            again = _figures(manifest, records, nodes, one.factors, one.embodied_of)
            for name, figures in again.items():
                stated = getattr(one, name)
                if isinstance(stated, Statement) and not stated.u:
                    figures = replace(figures, u={})  # of a perun before these bounds
                if figures != stated:
                    yield path.name, f"{name}: not what its factors make of the sealed energies"
    except DataError as error:
        yield "factors", str(error)


def _figures(
    manifest: Manifest,
    records: Sequence[RecordFile],
    nodes: set[str],
    factors: Mapping[str, Factor],
    embodied_of: Mapping[str, Embodied],
) -> dict[str, Any]:
    of = factors_of(factors)
    jobs: dict[str, list[Piece]] = {}
    for record in records:
        partition = record.partition if record.partition in of else ""
        jobs.setdefault(partition, []).extend(_pieces(manifest, record))
    others = [  # of a day whose ledgers are not there nothing is known but the records
        Piece(one.from_s * NS, one.until_s * NS, max(0, one.sums.counted_uj - one.sums.recorded_uj))
        for one in manifest.days
    ]
    u_uj = sum(record.u_uj for record in records)
    return {
        "jobs": _statement([(of[name], pieces) for name, pieces in sorted(jobs.items())] or [(of[""], [])], u_uj),
        "others": _statement([(of[""], others)], None),
        "embodied": _embodied(manifest, records, nodes, embodied_of) if embodied_of else None,
    }


def _pieces(manifest: Manifest, record: RecordFile) -> Iterator[Piece]:
    """Yield a record's energy of each day, spread evenly over its time on that day."""
    energies: dict[str, int] = {}
    for share in record.shares:
        energies[share.day] = energies.get(share.day, 0) + share.energy_uj
    for day in manifest.days:
        if day.day in energies:
            begin_ns = max(record.start_ns, day.from_s * NS)
            end_ns = min(record.end_ns, day.until_s * NS)
            if end_ns <= begin_ns:  # a clock was off: the day has the energy
                begin_ns, end_ns = day.from_s * NS, day.until_s * NS
            yield Piece(begin_ns, end_ns, energies[day.day])


def factors_of(factors: Mapping[str, Factor]) -> dict[str, Factors]:
    """Return the factors of the site ("") and of each partition that has some of its own (`PARTITION/NAME`)."""
    found: dict[str, dict[str, Factor]] = {"": {}}
    for key, factor in factors.items():
        partition, _, name = key.rpartition("/")
        found.setdefault(partition, {})[name] = factor
    return {partition: Factors(**{**found[""], **own}) for partition, own in found.items()}


def _statement(groups: Sequence[tuple[Factors, Sequence[Piece]]], u_uj: int | None) -> Statement:
    """Return what energies mean, each group by its own factors; `u_uj` of them all (k=1), None where not known."""
    made = [
        (footprint(pieces, stated, at_wall=False), sum(one.energy_uj for one in pieces)) for stated, pieces in groups
    ]
    energy_uj = sum(uj for _, uj in made)

    def total(name: str) -> float | None:
        known = [value for one, _ in made if (value := getattr(one, name)) is not None]
        return math.fsum(known) if known else None

    figures = {name: grams for name in FIGURES if (grams := total(name)) is not None}
    partly = any(getattr(one, name) is None for one, _ in made for name in figures)
    u = {}
    if u_uj is not None and energy_uj > 0:
        for name in figures:
            if all(name in one.u for one, _ in made):
                u[name] = round(math.hypot(u_uj / energy_uj, max(one.u[name] for one, _ in made)), 6)
    facility_uj, cost = total("facility_uj"), total("cost")
    return Statement(
        energy_uj=energy_uj,
        facility_uj=None if facility_uj is None else round(facility_uj),
        co2_mg={name: round(grams * 1000) for name, grams in figures.items()},
        cost_millicents=None if cost is None else round(cost * 100_000),
        lower_bound=partly or any(one.lower_bound for one, _ in made),
        u=u,
    )


def _embodied(
    manifest: Manifest, records: Sequence[RecordFile], nodes: set[str], embodied_of: Mapping[str, Embodied]
) -> EmbodiedShares:
    """Share out what the month writes off of each node: to accounts by the CPU-hours that they reserved of it."""
    from_ns, until_ns = manifest.days[0].from_s * NS, manifest.days[-1].until_s * NS
    reserved: dict[tuple[str, str], int] = {}
    for record in records:
        held_ns = max(0, min(record.end_ns, until_ns) - max(record.start_ns, from_ns))
        cpus, of = record.cpus
        at = (record.node, lower_case(record.account))
        reserved[at] = reserved.get(at, 0) + (held_ns * min(cpus, of) // of if of else held_ns)
    accounts: dict[str, int] = {}
    sums = dict.fromkeys(("kg", "low", "high"), 0)
    idle = 0
    for node, one in sorted(embodied_of.items()):
        part = (until_ns - from_ns) / NS / one.lifetime_s
        for name in sums:
            sums[name] += round(getattr(one, name) * 1e6 * part)
        whole = left = round(one.kg * 1e6 * part)
        here = {account: ns for (at, account), ns in sorted(reserved.items()) if at == node}
        most_ns = max(until_ns - from_ns, sum(here.values()))
        for account, ns in here.items():
            mg = whole * ns // most_ns
            accounts[account] = accounts.get(account, 0) + mg
            left -= mg
        idle += left
    without = len(nodes - embodied_of.keys())
    return EmbodiedShares(accounts, idle, sums["kg"], sums["low"], sums["high"], len(embodied_of), without)
