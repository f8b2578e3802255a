"""Booking closed intervals: each session gets its shares, its coverage and its gaps."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Gap, Session
from perun_hpc.agent.measure.intervals import Closed, rests
from perun_hpc.agent.measure.learning import Figure
from perun_hpc.backend.estimate import ASSUMED
from perun_hpc.data_model.sensor import Provenance, Reading, Sensor
from perun_hpc.energy import uncertainty
from perun_hpc.energy.attribute import OTHER, DomainKind, JobInput, Share
from perun_hpc.energy.containment import EnergyDomain
from perun_hpc.energy.counters import stands_still, what_lacks
from perun_hpc.energy.integrate import is_integrated
from perun_hpc.energy.uncertainty import NS_PER_S, Split, static_error
from perun_hpc.process.log import guard

#: A power is the mean of an interval at least so long: over less, a counter's own steps would show.
PEAK_NS = 1_000_000_000
SAMPLED = 0.18
"""How far the power that a sensor on duty does not see lies from what it does see, against the highest power, k=1."""
OVER_GAPS = {DomainKind.PACKAGE: "cores", DomainKind.DRAM: "memory+cores"}
"""What is as sure over a gap as else: CPU times are known though the counter gave no reading. Of GPUs nothing is."""
UNKNOWN_GAIN = 0.08
"""Relative gain error (k=1) of what a sensor measured that counts no more: the most of those that measure."""


def local_day(real_ns: int) -> str:
    """The local calendar day of a moment, `YYYY-MM-DD`."""
    return time.strftime("%Y-%m-%d", time.localtime(real_ns // 1_000_000_000))


def book(
    closed: Iterable[Closed],
    sessions: Sequence[Session],
    domains: Mapping[str, EnergyDomain],
    static: Mapping[str, Figure],
    day: str,
    before_uw: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Add every closed interval to the sessions that were live in it; `static` is the static power of the domains.

    `before_uw` is what each account's domain drew in the interval of it that closed before, as far as it is known.

    Returns
    -------
    The same of those that closed last; of none that ended without a figure.
    """
    owners = {session.key.owner: session for session in sessions}
    by_account = _by_account(domains)
    used: dict[tuple[str, int, int], int] = {}
    before_uw = before_uw or {}
    powers_uw = dict(before_uw)
    for interval in closed:
        name = interval.shares.domain
        shares = {share.owner: share for share in interval.shares.shares}
        books = _Books(interval, by_account.get(name), static)
        powers_uw.pop(name, None)
        if books.power_uw:
            powers_uw[name] = books.power_uw
        shows_power = not interval.gap and books.long_ns >= PEAK_NS
        for job in interval.jobs:
            session, share = owners.get(job.owner), shares.get(job.owner)
            if session is None:
                continue
            guard("booking", partial(_book, session, books, job, share, day, before_uw), session)
            if shows_power and share is not None:
                at = (job.owner, interval.t0_ns, interval.t1_ns)
                used[at] = used.get(at, 0) + share.energy_uj
    for (owner, t0_ns, t1_ns), energy_uj in used.items():
        owners[owner].draw(energy_uj * 1_000_000 // (t1_ns - t0_ns))
    return powers_uw


def _mean_uw(interval: Closed, domain: EnergyDomain | None) -> int:
    """A domain's mean power: more by as much as its edge readings may be old; 0 where that is most of it."""
    long_ns, total_uj = interval.t1_ns - interval.t0_ns, interval.shares.total_uj or 0
    sensor = domain.sensor if domain is not None else None
    old_ns = sensor.update_ns + sensor.lag_ns // 4 if sensor is not None else long_ns
    if interval.gap or total_uj <= 0 or 2 * long_ns < old_ns:
        return 0
    return total_uj * NS_PER_S // long_ns * (long_ns + old_ns) // long_ns


class _Books:
    """A closed interval as it is booked: its domain, and what its sharing out may be wrong by."""

    def __init__(self, interval: Closed, domain: EnergyDomain | None, static: Mapping[str, Figure]) -> None:
        self.interval, self.domain = interval, domain
        self.long_ns = interval.t1_ns - interval.t0_ns
        self.power_uw = _mean_uw(interval, domain)
        shares = interval.shares.shares
        self._split: Split | None = None
        if len(shares) < 2:  # nothing is shared out, which is so of most
            return
        figure = static.get(domain.name) if domain is not None else None
        self._static_error = static_error(figure.source) if figure is not None else 0.0
        self._split = Split.of((share.static_uj, share.dynamic_uj) for share in shares)
        self._method = interval.shares.method
        if self._method == "presence" and domain is not None:
            self._method = OVER_GAPS.get(domain.kind, self._method)

    def doubts_uj(self, share: Share) -> tuple[int, int, int]:
        """What an owner's share is wrong by for its static power, and for the watts of its and of the others' work."""
        if self._split is None:
            return 0, 0, 0
        fixed = self._split.static_doubt_uj(share.static_uj, share.dynamic_uj, self._static_error)
        known_uj = self.interval.shares.doubts_uj.get(share.owner)
        return fixed, *self._split.sharing_doubt_uj(share.dynamic_uj, self._method, known_uj)


def _book(
    session: Session, books: _Books, job: JobInput, share: Share | None, day: str, before_uw: Mapping[str, int]
) -> None:
    """Add one interval to one session that was live in it."""
    interval, shares = books.interval, books.interval.shares
    name, total_uj = shares.domain, shares.total_uj
    account = session.domains.get(name)
    if account is None:
        account = _account(session, name, books.domain)
        account.begin_after(before_uw.get(name, 0))
    if total_uj is None:
        session.add_gap(Gap(name, interval.t0_ns, interval.t1_ns, interval.why))
        session.note(f"{name}: {interval.why}")
        return
    present_ns = job.present_ns if job.present_ns is not None else books.long_ns
    if interval.why:
        session.add_gap(Gap(name, interval.t0_ns, interval.t1_ns, interval.why))
    if interval.gap:
        why = f"no reading in between{f' ({interval.failed})' if interval.failed else ''}; shared out by presence"
        session.add_gap(Gap(name, interval.t0_ns, interval.t1_ns, why))
    account.cover(present_ns, interval.gap, shares.method, shares.provenance, total_uj, present_ns >= books.long_ns)
    account.see_power(books.power_uw)
    if share is None:
        return
    account.give(share, shares.method)
    account.doubt(*books.doubts_uj(share))
    session.add_share(day, name, share.energy_uj)


def take_edge(readings: Mapping[str, Reading], sensors: Iterable[Sensor]) -> dict[str, list[int | None]]:
    """The edge readings of a session: ticks and time of every energy counter."""
    return {
        sensor.id: [readings[sensor.id].ticks, readings[sensor.id].mono_ns]
        for sensor in sensors
        if sensor.id in readings
    }


def take_late_edges(
    session: Session, readings: Mapping[str, Reading], sensors: Iterable[Sensor], others: Collection[str] = ()
) -> bool:
    """The start readings of counters that could not be read when the session began; they have their own times.

    `others` count a domain in the place of another sensor, which counted it until then: nothing is missing of those.
    True where there is none any more that has not been read.
    """
    all_read = True
    for sensor in sensors if session.start.source != "epilog" else ():
        reading, taken = readings[sensor.id], session.edges_start.get(sensor.id)
        if taken is not None and taken[0] is not None:
            continue
        if reading.ticks is None:
            all_read = False
            continue
        session.read_late(sensor.id, [reading.ticks, reading.mono_ns])
        late_ns = reading.mono_ns - session.start.mono_ns
        if late_ns > 0 and sensor.id not in others:
            why = f"first read {late_ns / 1e9:.1f} s after the job's start"
            session.add_gap(Gap(sensor.domain, session.start.mono_ns, reading.mono_ns, why))
    return all_read


def note_what_lacks(
    session: Session,
    readings: Mapping[str, Reading],
    sensors: Iterable[Sensor],
    domains: Mapping[str, EnergyDomain],
    gpus: Collection[str],
) -> None:
    """Say what the session's edge readings do not show; a domain whose counter gave nothing has no energy, not 0.

    Figures rest on the node's counters but for those of GPUs that the job neither held (`gpus`) nor was given any of.
    """
    by_account = _by_account(domains)
    accounted = {
        domain.sensor.id: name
        for name, domain in by_account.items()
        if domain.kind is not DomainKind.GPU or name in gpus or name in session.domains
    }
    for sensor in sensors:
        ticks, mono_ns = session.edges_start.get(sensor.id) or (None, 0)
        first = None if ticks is None or mono_ns is None else Reading(ticks, mono_ns)
        if first is None and not session.edges_start:  # nobody reported its start
            first = readings[sensor.id]
        for why in what_lacks(sensor, first, readings[sensor.id], sensor.id in accounted):
            session.note(why)
        if sensor.id in accounted and session.edges_start:
            name = accounted[sensor.id]
            account = _account(session, name, by_account[name])
            if first is not None and stands_still(sensor, first, readings[sensor.id]):
                account.uncover()


def doubts(session: Session, domains: Mapping[str, EnergyDomain]) -> dict[str, dict[str, int]]:
    """What the session's energy may be wrong by: domain -> cause -> standard uncertainty (k=1) in uJ, with its sign.

    A meter's rest has its gain from the meter, and with the other sign from what the meter contains: in the sum the
    parts' gains cancel, and the meter's is left. Of what was measured and is counted no more (another policy, another
    sensor, another agent than at the job's start) no sensor says how wrong it may be.
    """
    result, by_account = {}, _by_account(domains)
    for name, account in session.domains.items():
        if name not in by_account:
            estimated = account.provenance == Provenance.ESTIMATED  # a sensor came in its place
            cause, error = ("gain estimate", ASSUMED.relative_error) if estimated else ("gain unknown", UNKNOWN_GAIN)
            gain = {cause: round(abs(account.energy_uj) * error)}
            result[name] = uncertainty.added((gain, _of_sharing(account)))
        elif account.node_uj is not None:
            result[name] = uncertainty.added(_doubts(session, name, by_account))
    return result


def _of_sharing(account: DomainAccount) -> dict[str, int]:
    """What a session's shares of a domain are wrong by, whatever counted it."""
    return {
        f"static {account.component}": account.static_doubt_uj,
        f"sharing {account.component}": account.sharing_doubt_uj,
        uncertainty.RANDOM: account.others_doubt_uj,
    }


def _doubts(session: Session, name: str, domains: Mapping[str, EnergyDomain]) -> Iterator[dict[str, int]]:
    account, domain = session.domains[name], domains[name]
    sensor, rest_uj = domain.sensor, account.node_uj or 0
    # What is wrong with the whole domain is shared out like its energy.
    part = min(1.0, abs(account.energy_uj) / rest_uj) if rest_uj > 0 else 1.0
    leaves = [leaf for leaf in domain.leaves if leaf in session.domains and leaf in domains]
    inside_uj = sum(session.domains[leaf].node_uj or 0 for leaf in leaves)
    yield uncertainty.of_sensor(sensor, (rest_uj + inside_uj) * part, account.covered_ns * part)
    for leaf in leaves:
        held = session.domains[leaf]
        yield uncertainty.of_sensor(domains[leaf].sensor, -(held.node_uj or 0) * part, -held.covered_ns * part)
    yield _of_sharing(account)
    last = _edge_of(account, sensor, part)
    most_uw = last.max_uw
    # A counter's first reading may lack what was used before the job; a mean over a time is of both sides of an edge.
    before_uw = round(uncertainty.PEAK * account.before_uw * part)
    first_uw = min(before_uw, most_uw) if before_uw and not sensor.lag_ns else most_uw
    edges = [uncertainty.Edge(first_uw, last.tau_ns), last]
    # A counter has counted the gap: when in it does not matter to who was there from its begin to its end.
    unknown_ns = account.gap_ns if is_integrated(sensor) else account.parted_ns
    gaps = [uncertainty.Gap(0, most_uw, unknown_ns)] if unknown_ns else []
    # What a sensor did not look at differs from what it did, each time anew.
    unseen_uj = SAMPLED * most_uw * math.sqrt(sensor.sampled_ns / NS_PER_S * account.covered_ns / NS_PER_S)
    yield {uncertainty.RANDOM: uncertainty.random_uj(edges, gaps, [unseen_uj])}


def _edge_of(account: DomainAccount, sensor: Sensor, part: float = 1.0) -> uncertainty.Edge:
    """A reading at an edge, of such a part of the domain's power."""
    ceiling_uw = sensor.max_uw or 0
    power_uw = round(uncertainty.PEAK * account.peak_uw)
    most_uw = round(part * (min(power_uw, ceiling_uw or power_uw) if power_uw else ceiling_uw))
    return uncertainty.Edge(most_uw, sensor.update_ns + sensor.lag_ns // 4)


def edges_uj(session: Session, domains: Mapping[str, EnergyDomain]) -> int:
    """What two edges inside the session, as a step has them, may be wrong by (k=1)."""
    by_account = _by_account(domains)
    edges = [
        _edge_of(account, by_account[name].sensor, min(1.0, account.energy_uj / account.node_uj))
        for name, account in session.domains.items()
        if name in by_account and account.node_uj is not None and account.node_uj > 0 and account.energy_uj > 0
    ]
    return uncertainty.random_uj([*edges, *edges])


def _account(session: Session, name: str, domain: EnergyDomain | None) -> DomainAccount:
    if name in session.domains:
        return session.domains[name]
    sensor = domain.sensor if domain is not None else None
    component = OTHER if name.startswith(OTHER) or sensor is None else sensor.component
    scope = "meter minus its known parts" if name.startswith(OTHER) or sensor is None else sensor.scope
    provenance = sensor.provenance if sensor else "modelled"
    return session.open_account(name, DomainAccount(component, scope, provenance, "exclusive"))


def _by_account(domains: Mapping[str, EnergyDomain]) -> dict[str, EnergyDomain]:
    """Domains by the names under which energy is given: a meter's rest is `other`, of further ones `other-METER`."""
    rest_of = rests(domains.values())
    return {rest_of.get(name, name): domain for name, domain in domains.items()}
