"""The site's balance of a month: from the facility's meter down to jobs, idle nodes and those that were off.

facility = nodes + fabric, storage, login nodes (declared meters) + losses;
nodes = jobs + idle + system + off + boot + unobserved + unknown + what node sensors do not see.

Every part is counted by a meter or by the nodes' own counters, or named as not known; only losses, and on nodes behind
a meter what their sensors do not see, are what is left of a whole without its parts, so that each whole closes to the
microjoule. A part that is not known is in what is left, and the text says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from perun_hpc.accounting import audit
from perun_hpc.accounting.metering import ZERO, Amount, Row, bounded, metered, read_meter_rows
from perun_hpc.accounting.month import RecordFile, Sums, counted_sums, ledger_files, read_records
from perun_hpc.accounting.node_events import Slurm
from perun_hpc.accounting.presence import Presence, length, merged, presence, without
from perun_hpc.archive.meter_readings import files_of
from perun_hpc.archive.places import Archive
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError
from perun_hpc.slurm import hostlist
from perun_hpc.slurm.events import OFF, NodeEvent

FACILITY, NODES, JOBS, LOSSES, UNSEEN = "facility", "nodes", "jobs", "losses", "unseen"
MOST_ACCOUNTS = 8
BESIDE = ("fabric", "storage", "login", "cooling", "other")
"""What meters feed beside the nodes."""
COUNTED = ("jobs", "idle", "system", "unknown", "unobserved")
"""Parties of the nodes' own counters."""
UNKNOWN = "no node was observed in this time: what jobs, idle nodes and the system drew is not known"
ODD_S = 60.0
PLACED = 0.999
"""A node's holes are looked up at its meter where so much of what was observed lies on the calendar."""


@dataclass(frozen=True)
class Edge:
    """What of one part of the site went to another."""

    source: str
    target: str
    amount: Amount


@dataclass(frozen=True)
class Hours:
    """Node-hours of the month, in seconds; `nodes` is how many there are."""

    nodes: int
    total_s: float
    observed_s: float
    off_s: float
    boot_s: float
    unobserved_s: float

    @property
    def observed(self) -> float | None:
        """The share of the time in which nodes were on that was observed; None where none was on."""
        on_s = self.total_s - self.off_s
        return self.observed_s / on_s if on_s > 0 else None


@dataclass(frozen=True)
class Balance:
    """A month's balance: its edges, node-hours, per node where its time went, and what does not close.

    `metered` says how many nodes are behind meters of their own, `sources` which meter is which.
    """

    cluster: str
    month: str
    span: tuple[float, float]
    edges: tuple[Edge, ...]
    hours: Hours
    nodes: Mapping[str, Presence]
    metered: int
    sums: Sums
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    findings: tuple[str, ...]

    def edge(self, source: str, target: str) -> Amount:
        """One edge's amount."""
        return next(one.amount for one in self.edges if (one.source, one.target) == (source, target))


@dataclass(frozen=True)
class _Node:
    """A node's month; `gain` is the relative error (k=1) of its counters, None where no record says it."""

    sums: Sums
    gain: float | None
    u_uj: int
    sharing_uj: int
    time: Presence
    accounts: Mapping[str, Amount]
    machines: int
    simulated: bool

    @property
    def unbacked(self) -> bool:
        """Whether its records hold what its ledgers do not: these are not there."""
        return self.sums.recorded_uj > self.sums.jobs_uj


@dataclass(frozen=True)
class _Meter:
    name: str
    feeds: str
    nodes: tuple[str, ...]
    text: str
    u: float | None
    rows: Sequence[Row]


def draw_up(
    archive: Archive,
    month: str,
    span: tuple[float, float],
    slurm: Slurm,
    meters: Iterable[Mapping[str, Any]],
    undeclared: Iterable[str] = (),
) -> Balance:
    """Draw up a month's balance.

    Parameters
    ----------
    archive, month : whose and which (`YYYY-MM`).
    span : its begin and end, or now (epoch seconds).
    slurm : what Slurm says of its nodes.
    meters : the policy's `facility.meters`.
    undeclared : names of facility meters (`sensors.files`) that are not among them; of these no error is known.
    """
    notes = [slurm.why] if slurm.why else []
    behind = [_meter(archive, one, span, notes) for one in meters]
    if not any(one.feeds == FACILITY for one in behind):
        behind += [_meter(archive, {"meter": name, "feeds": FACILITY}, span, notes) for name in undeclared]
    nodes, findings = _nodes(archive, month, span, slurm, behind)
    time_of = {name: one.time for name, one in nodes.items()}
    odd = sorted(name for name, one in time_of.items() if one.odd_s > ODD_S)
    if odd:
        notes.append(f"observed while Slurm had them as powered down: {', '.join(odd[:8])}: that is observed")
    unbacked = [name for name, one in nodes.items() if one.unbacked]
    if unbacked:
        findings.append(f"records hold more than the ledgers of {', '.join(unbacked[:8])}: see perun audit")
    in_turn = [f"{name} ({one.machines})" for name, one in nodes.items() if one.machines > 1]
    if in_turn:
        notes.append(f"names that several machines had in turn: {_named(in_turn)}")
    notes += _not_measured(nodes)
    whole, parts, fed = _of_nodes(nodes, [one for one in behind if one.feeds == NODES], span, notes)
    jobs = next(one.amount for one in parts if one.target == JOBS)
    edges = [*_of_site(whole, len(nodes) - fed, behind, span, notes), *parts, *_of_jobs(nodes.values(), jobs)]
    for one in edges:
        if one.target in (LOSSES, UNSEEN) and one.amount.high_uj is not None and one.amount.high_uj < 0:
            findings.append(f"{one.source}: its parts are more than it, whatever the bounds: see what each meter feeds")
    return Balance(
        cluster=archive.cluster,
        month=month,
        span=span,
        edges=tuple(edges),
        hours=_hours(time_of.values()),
        nodes=time_of,
        metered=fed,
        sums=reduce(add, (one.sums for one in nodes.values()), Sums()),
        sources=tuple(f"{one.name}: {one.feeds} {one.text}".rstrip() for one in behind),
        notes=tuple(notes),
        findings=tuple(findings),
    )


def _hours(times: Collection[Presence]) -> Hours:
    names = ("total_s", "observed_s", "off_s", "boot_s", "unobserved_s")
    return Hours(len(times), *(sum(getattr(one, name) for one in times) for name in names))


def _meter(archive: Archive, stated: Mapping[str, Any], span: tuple[float, float], notes: list[str]) -> _Meter:
    name, text = str(stated["meter"]), str(stated.get("nodes") or "")
    rows: list[Row] = []
    path = archive.facility(name)
    try:
        if not any(one.exists() for one in files_of(path, *span)):
            raise DataError(f"{path} is not there: see what writes it, or correct facility.meters")
        rows = read_meter_rows(path, *span, stated.get("range_uj"))
    except DataError as error:
        notes.append(f"meter {name}: {error}")
    return _Meter(name, str(stated["feeds"]), tuple(hostlist.expand(text)) if text else (), text, stated.get("u"), rows)


def _nodes(
    archive: Archive, month: str, span: tuple[float, float], slurm: Slurm, meters: Iterable[_Meter]
) -> tuple[dict[str, _Node], list[str]]:
    """Return each node's month: of those with a ledger or a record, that Slurm knows, or that a meter feeds."""
    records: dict[str, list[RecordFile]] = {}
    read = read_records(archive, month)
    for record in read.files:
        records.setdefault(record.node, []).append(record)
    paths: dict[str, list[Path]] = {}
    for path in ledger_files(archive, month):
        paths.setdefault(path.parent.name, []).append(path)
    events: dict[str, list[NodeEvent]] = {}
    for event in slurm.events:
        events.setdefault(event.node, []).append(event)
    names = {*records, *paths, *events, *(slurm.nodes or ()), *(name for one in meters for name in one.nodes)}
    findings = [f"{name}: damaged boundary record" for name, _ in read.unreadable]
    findings += [f"{name}: a pack that cannot be read, whatever it holds" for name in read.packs]
    found = {}
    for name in sorted(names):
        books = audit.read_books(paths[name]) if name in paths else None
        findings += [f"{one.where}: {one.what}" for one in (books.findings if books else ())]
        mine, its = records.get(name, []), events.get(name, [])
        if not books and not its and (slurm.nodes or {}).get(name, frozenset()) & OFF:
            its = [NodeEvent(name, int(span[0]), None, OFF)]  # off since before slurmdbd's first event
        found[name] = _Node(
            sums=(counted_sums(books) if books else Sums())
            + Sums(recorded_uj=sum(share.energy_uj for one in mine for share in one.shares)),
            gain=_gain(mine),
            u_uj=sum(one.u_uj for one in mine),
            sharing_uj=sum(one.sharing_uj for one in mine),
            time=presence(books, mine, its, span),
            accounts=_accounts(mine),
            machines=len({one.machine for one in mine if one.machine}),
            simulated=any(one.get("provenance") == "simulated" for one in _sensors(mine)),
        )
    return found, findings


def _accounts(records: Iterable[RecordFile]) -> dict[str, Amount]:
    """Return what records hold of each account."""
    found: dict[str, Amount] = {}
    for record in records:
        account = lower_case(record.account) or "(no account)"
        energy_uj = sum(share.energy_uj for share in record.shares)
        found[account] = found.get(account, ZERO) + _at_least_nothing(bounded(energy_uj, record.u_uj))
    return found


def _of_jobs(nodes: Iterable[_Node], jobs: Amount) -> list[Edge]:
    """Return the edges from all jobs to the accounts with most energy, the others', and jobs without a record."""
    found: dict[str, Amount] = {}
    for node in nodes:
        for account, amount in node.accounts.items():
            found[account] = found.get(account, ZERO) + amount
    ordered = sorted(found.items(), key=lambda one: -(one[1].energy_uj or 0))
    named, others = ordered[:MOST_ACCOUNTS], ordered[MOST_ACCOUNTS:]
    edges = [Edge(JOBS, f"account {account}", amount) for account, amount in named]
    if others:
        rest = reduce(add, (amount for _, amount in others), ZERO)
        edges.append(Edge(JOBS, f"{count(len(others), 'other account')}", rest))
    recorded = reduce(add, found.values(), ZERO)
    without = (jobs.energy_uj or 0) - (recorded.energy_uj or 0)
    return [*edges, Edge(JOBS, "without a record", Amount(without))] if without else edges


def _gain(records: Iterable[RecordFile]) -> float | None:
    """Return the greatest relative error (k=1) that a node's energy sensors state."""
    return max((float(sensor.get("gain_error") or 0.0) for sensor in _sensors(records)), default=None)


def _sensors(records: Iterable[RecordFile]) -> Iterator[Mapping[str, Any]]:
    """Yield the energy sensors that records name."""
    for record in records:
        for sensor in record.counters["sensors"]:
            if isinstance(sensor, Mapping) and sensor.get("quantity") in ("energy", "power"):
                yield sensor


def _not_measured(nodes: Mapping[str, _Node]) -> Iterator[str]:
    """Say which nodes' counters are none: how much of what they counted is estimated, and whose are simulated."""
    estimated = [name for name, one in nodes.items() if one.sums.estimated_uj]
    if estimated:
        counted_uj = sum(one.sums.counted_uj for one in nodes.values())
        share = sum(one.sums.estimated_uj for one in nodes.values()) / counted_uj
        yield f"{100 * share:.3g} % of what nodes counted is estimated: nothing measures on {_named(estimated)}"
    if simulated := [name for name, one in nodes.items() if one.simulated]:
        yield f"Sensors are simulated, made up for a trial, on {_named(simulated)}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _of_nodes(
    nodes: Mapping[str, _Node], meters: Sequence[_Meter], span: tuple[float, float], notes: list[str]
) -> tuple[Amount, list[Edge], int]:
    """Return all nodes' energy, its parts, and how many nodes are behind meters."""
    worst = max((one.gain for one in nodes.values() if one.gain is not None), default=None)
    parts = dict.fromkeys((*COUNTED, "off", "boot"), ZERO)
    blind: dict[str, list[str]] = {"off": [], "boot": [], "unobserved": []}
    whole, unseen, fed, open_ended = ZERO, ZERO, 0, False
    for names, behind in _blocks(nodes, meters, notes):
        wall = reduce(add, (metered(one.rows, *span, one.u) for one in behind), ZERO)
        here = {party: reduce(add, (_counted(nodes[n], party, worst) for n in names), ZERO) for party in COUNTED}
        here |= {"off": ZERO, "boot": ZERO}
        for which, dark in blind.items():
            lacking = [name for name in names if getattr(nodes[name].time, f"{which}_s") > 0]
            amount = _outside(nodes[names[0]], which, behind) if len(names) == 1 and lacking else ZERO
            if amount is None or (len(names) > 1 and lacking):
                dark += lacking
            elif amount is not None:
                here[which] += amount
        inside = reduce(add, here.values(), ZERO)
        if behind and wall.energy_uj is not None:
            whole, unseen, fed = whole + wall, unseen + wall.minus(inside, ""), fed + len(names)
        else:
            whole += inside
            open_ended |= any(getattr(nodes[n].time, f"{which}_s") > 0 for n in names for which in blind)
            notes += [f"{', '.join(one.name for one in behind)}: {wall.why}"] if behind else []
        parts = {name: parts[name] + amount for name, amount in here.items()}
    for which, dark in blind.items():
        if dark:
            why = f"not known of {count(len(dark), 'node')}, which no meter of that node alone saw"
            known = bool(parts[which].energy_uj)
            parts[which] = replace(parts[which], why=why, partly=True) if known else Amount(None, why=why)
    if open_ended:
        whole = replace(whole, partly=True)
    if not any(one.time.observed_s > 0 or one.sums.recorded_uj for one in nodes.values()):
        parts |= {name: Amount(None, why=UNKNOWN if name == JOBS else parts[name].why) for name in COUNTED}
        whole = whole if whole.energy_uj else Amount(None)
    edges = [Edge(NODES, name, amount) for name, amount in parts.items()]
    if fed:
        why = "power supplies, fans, boards: what no sensor of these nodes shows"
        edges.append(Edge(NODES, UNSEEN, replace(unseen, why=why)))
    return whole, edges, fed


def _blocks(
    nodes: Mapping[str, _Node], meters: Sequence[_Meter], notes: list[str]
) -> list[tuple[tuple[str, ...], tuple[_Meter, ...]]]:
    """Return the nodes in groups, each with all meters that feed it; of a node that two groups have, none is used."""
    groups: dict[tuple[str, ...], list[_Meter]] = {}
    for one in meters:
        groups.setdefault(tuple(sorted(one.nodes)), []).append(one)
    times: dict[str, int] = {}
    for names in groups:
        for name in names:
            times[name] = times.get(name, 0) + 1
    found = []
    for names, behind in groups.items():
        if twice := [name for name in names if times[name] > 1]:
            which = ", ".join(one.name for one in behind)
            notes.append(f"meters of {twice[0]} feed different nodes: {which} is left out, name all nodes of each")
        else:
            found.append((names, tuple(behind)))
    fed = {name for names, _ in found for name in names}
    return [*found, *(((name,), ()) for name in nodes if name not in fed)]


def _counted(node: _Node, party: str, worst: float | None) -> Amount:
    """Return what a node's own counters gave a party."""
    energy_uj = int(getattr(node.sums, f"{party}_uj"))
    if party == JOBS:  # records are evidence of their own, where the ledger that they belong to is not there
        energy_uj = max(energy_uj, node.sums.recorded_uj)
    gain = worst if node.gain is None else node.gain
    if not energy_uj:
        return ZERO
    if party == JOBS:
        rest_uj = energy_uj - node.sums.recorded_uj
        u_uj = None if gain is None and rest_uj else node.u_uj + (gain or 0.0) * abs(rest_uj)
    else:
        u_uj = None if gain is None else gain * abs(energy_uj) + node.sharing_uj
    return _at_least_nothing(bounded(energy_uj, u_uj))


def _at_least_nothing(one: Amount) -> Amount:
    """Return an energy that somebody used, whatever the sharing out may be wrong by: it was not less than nothing."""
    return one if one.low_uj is None or one.low_uj >= 0 else replace(one, low_uj=min(0, one.energy_uj or 0))


def _outside(node: _Node, which: str, meters: Sequence[_Meter]) -> Amount | None:
    """Return what the meters of one node counted while it was off, booted, or was not observed; None: not known."""
    time = node.time
    if which == "unobserved":
        if node.unbacked:  # jobs ran in its holes
            return None
        if length(time.seen) < time.observed_s * PLACED:
            return None
        spans = without((time.span,), merged((*time.seen, *time.off, *time.boots)))
    else:
        spans = time.off if which == "off" else time.boots
    found = ZERO
    for begin_s, end_s in spans:
        for one in meters:
            found += metered(one.rows, begin_s, end_s, one.u)
    return found if meters and found.energy_uj is not None else None


def _of_site(
    nodes: Amount, unfed: int, meters: Sequence[_Meter], span: tuple[float, float], notes: list[str]
) -> list[Edge]:
    """Return the edges from the facility on: nodes, what else has a meter, and losses, which are what is left."""
    found = {NODES: nodes}
    for one in meters:
        if one.feeds in BESIDE:
            amount = metered(one.rows, *span, one.u)
            found[one.feeds] = found[one.feeds] + amount if one.feeds in found else amount
            notes += [f"meter {one.name}: {amount.why}"] if one.rows and amount.energy_uj is None else []
    halls = [metered(one.rows, *span, one.u) for one in meters if one.feeds == FACILITY]
    hall = reduce(add, halls, ZERO) if halls else Amount(None, why="no meter of the facility is declared")
    known = reduce(add, (one for one in found.values() if one.energy_uj is not None), ZERO)
    lacking = [name for name in BESIDE[:3] if name not in found or found[name].energy_uj is None]
    inside = [*(f"{name} without a meter" for name in lacking)]
    inside += [f"what no sensor of {count(unfed, 'node')} without a meter shows"] if unfed else []
    why = f"with {', '.join(inside)}" if inside else ""
    losses = hall.minus(known, hall.why if hall.energy_uj is None else why)
    return [
        Edge("", FACILITY, hall),
        *(Edge(FACILITY, name, amount) for name, amount in found.items()),
        *(Edge(FACILITY, name, Amount(None, why="no meter is declared")) for name in BESIDE[:3] if name not in found),
        Edge(FACILITY, LOSSES, losses),
    ]
