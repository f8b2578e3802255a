"""Booking closed intervals: each session gets its shares, its coverage and its gaps."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Gap, Session
from perun_hpc.agent.measure.intervals import Closed, rests
from perun_hpc.backend.estimate import ASSUMED
from perun_hpc.data_model.sensor import Provenance, Reading, Sensor
from perun_hpc.energy.attribute import OTHER, DomainKind, JobInput, Share
from perun_hpc.energy.containment import EnergyDomain
from perun_hpc.energy.counters import stands_still, what_lacks
from perun_hpc.process.log import guard

#: A power is the mean of an interval at least so long: over less, a counter's own steps would show.
PEAK_NS = 1_000_000_000


def local_day(real_ns: int) -> str:
    """The local calendar day of a moment, `YYYY-MM-DD`."""
    return time.strftime("%Y-%m-%d", time.localtime(real_ns // 1_000_000_000))


def book(closed: Iterable[Closed], sessions: Sequence[Session], domains: Mapping[str, EnergyDomain], day: str) -> None:
    """Add every closed interval to the sessions that were live in it."""
    owners = {session.key.owner: session for session in sessions}
    used: dict[tuple[str, int, int], int] = {}
    for interval in closed:
        shares = {share.owner: share for share in interval.shares.shares}
        for job in interval.jobs:
            session, share = owners.get(job.owner), shares.get(job.owner)
            if session is None:
                continue
            guard("booking", partial(_book, session, interval, job, share, domains, day), session)
            if share is not None and not interval.gap and interval.t1_ns - interval.t0_ns >= PEAK_NS:
                at = (job.owner, interval.t0_ns, interval.t1_ns)
                used[at] = used.get(at, 0) + share.energy_uj
    for (owner, t0_ns, t1_ns), energy_uj in used.items():
        owners[owner].draw(energy_uj * 1_000_000 // (t1_ns - t0_ns))


def _book(
    session: Session,
    interval: Closed,
    job: JobInput,
    share: Share | None,
    domains: Mapping[str, EnergyDomain],
    day: str,
) -> None:
    """Add one interval to one session that was live in it."""
    account = _account(session, interval.shares.domain, domains)
    if interval.shares.total_uj is None:
        session.add_gap(Gap(interval.shares.domain, interval.t0_ns, interval.t1_ns, interval.why))
        session.note(f"{interval.shares.domain}: {interval.why}")
        return
    present_ns = job.present_ns if job.present_ns is not None else interval.t1_ns - interval.t0_ns
    if interval.why:
        session.add_gap(Gap(interval.shares.domain, interval.t0_ns, interval.t1_ns, interval.why))
    if interval.gap:
        why = f"no reading in between{f' ({interval.failed})' if interval.failed else ''}; shared out by presence"
        session.add_gap(Gap(interval.shares.domain, interval.t0_ns, interval.t1_ns, why))
    shares = interval.shares
    account.cover(present_ns, interval.gap, shares.method, shares.provenance, interval.shares.total_uj)
    if share is None:
        return
    account.give(share, shares.method)
    session.add_share(day, interval.shares.domain, share.energy_uj)


def take_edge(readings: Mapping[str, Reading], sensors: Iterable[Sensor]) -> dict[str, list[int | None]]:
    """The edge readings of a session: ticks and time of every energy counter."""
    return {
        sensor.id: [readings[sensor.id].ticks, readings[sensor.id].mono_ns]
        for sensor in sensors
        if sensor.id in readings
    }


def take_late_edges(session: Session, readings: Mapping[str, Reading], sensors: Iterable[Sensor]) -> None:
    """The start readings of counters that could not be read when the session began; they have their own times."""
    for sensor in sensors if session.start.source != "epilog" else ():
        reading, taken = readings[sensor.id], session.edges_start.get(sensor.id)
        if reading.ticks is None or (taken is not None and taken[0] is not None):
            continue
        session.read_late(sensor.id, [reading.ticks, reading.mono_ns])
        late_ns = reading.mono_ns - session.start.mono_ns
        if late_ns > 0:
            why = f"first read {late_ns / 1e9:.1f} s after the job's start"
            session.add_gap(Gap(sensor.domain, session.start.mono_ns, reading.mono_ns, why))


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
    accounted = {
        domain.sensor.id: name
        for name, domain in _by_account(domains).items()
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
            account = _account(session, accounted[sensor.id], domains)
            if first is not None and stands_still(sensor, first, readings[sensor.id]):
                account.uncover()


def standard_uj(session: Session, domains: Mapping[str, EnergyDomain]) -> dict[str, int]:
    """Standard uncertainty (k=1) of the session's energy, per domain."""
    from perun_hpc.energy import uncertainty  # not before the first edge reading: a prolog waits for it

    result, by_account = {}, _by_account(domains)
    for name, account in session.domains.items():
        domain = by_account.get(name)
        if domain is None and account.provenance == Provenance.ESTIMATED:  # a sensor came in its place
            result[name] = round(abs(account.energy_uj) * ASSUMED.relative_error)
        if domain is None or account.node_uj is None:
            continue
        sensor = domain.sensor
        ceiling_uw = sensor.max_uw or 0
        # An edge's error is shared out like the interval's energy.
        part = min(1.0, abs(account.energy_uj) / account.node_uj) if account.node_uj > 0 else 1.0
        edge = uncertainty.Edge(round(ceiling_uw * part), sensor.update_ns)
        result[name] = uncertainty.standard_uj(
            gains=[uncertainty.Gain(account.energy_uj, sensor.gain_error, sensor.backend)],
            edges=[edge, edge],
            gaps=[uncertainty.Gap(0, round(ceiling_uw * part), account.gap_ns)] if account.gap_ns else [],
            attribution_uj=[uncertainty.attribution_uj(account.dynamic_uj, account.method)],
        )
    return result


def _account(session: Session, name: str, domains: Mapping[str, EnergyDomain]) -> DomainAccount:
    if name in session.domains:
        return session.domains[name]
    domain = _by_account(domains).get(name)
    sensor = domain.sensor if domain is not None else None
    component = OTHER if name.startswith(OTHER) or sensor is None else sensor.component
    scope = "meter minus its known parts" if name.startswith(OTHER) or sensor is None else sensor.scope
    provenance = sensor.provenance if sensor else "modelled"
    return session.open_account(name, DomainAccount(component, scope, provenance, "exclusive"))


def _by_account(domains: Mapping[str, EnergyDomain]) -> dict[str, EnergyDomain]:
    """Domains by the names under which energy is given: a meter's rest is `other`, of further ones `other-METER`."""
    rest_of = rests(domains.values())
    return {rest_of.get(name, name): domain for name, domain in domains.items()}
