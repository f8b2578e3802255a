"""What a record rests on, and the one rule for replacing it: no revision holds less evidence than the one before.

A record's evidence are its nodes, each with the rank of the boundary record that was summed for it. A record that knows
more replaces the stored one; one that knows less changes nothing; where each knows nodes that the other does not (their
boundary records are gone, since users were pseudonymised, say), what the two have is put together. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TypeVar

from perun_hpc.accounting.summing import METER, carry_slurm, doubts_of, highest_of_all, joined_conditions, named, u_of
from perun_hpc.data_model import activity
from perun_hpc.data_model.record import (
    CARBON,
    Component,
    EnergyRecord,
    Footprint,
    NodeEnergy,
    Region,
    Step,
    worst_provenance,
)
from perun_hpc.data_model.wording import count
from perun_hpc.energy.region_energy import worst_method
from perun_hpc.energy.uncertainty import added, combined_uj

T = TypeVar("T")

HIDDEN = "user-"
"""How the pseudonyms begin that stand for users."""
_KINDS = (("gpu", "gpu"), ("dram", "dram"), ("package", "cpu"), ("other", "other"), ("node", METER), ("psys", METER))
"""Beginnings of domains' names, and the components that such domains belong to."""


def combine(before: EnergyRecord, offered: EnergyRecord) -> EnergyRecord:
    """Return what replaces `before`, given `offered` of the same run: `before` itself where nothing changes.

    Energies come from the nodes, of each the boundary record of the highest rank; Slurm's data from whoever has them,
    `offered` first; a user whom a pseudonym hides stays hidden.
    """
    after = _sums(before, offered)
    if before.user.startswith(HIDDEN) and before.uid is None:
        after = replace(after, user=before.user, uid=None, gid=None, name=before.name)
    return after


def ranks(record: EnergyRecord) -> dict[str, tuple[int, str]]:
    """Return the record's evidence: node -> rank of its boundary record, greater for what counts more."""
    return {n.node: (n.revision, n.digest) for n in record.nodes}


def adds(one: EnergyRecord, other: EnergyRecord) -> bool:
    """Whether `one` rests on evidence that `other`, of the same run, does not hold."""
    held = ranks(other)
    return any(node not in held or _counts_more(rank, held[node]) for node, rank in ranks(one).items())


def _counts_more(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Whether another boundary record counts more; the same one does not, whatever an older perun ranked it."""
    return one > other and (one[1] != other[1] or not one[1])


def shared(one: EnergyRecord, other: EnergyRecord) -> bool:
    """Whether two records rest on some boundary record that is the same."""
    known = {(n.node, n.digest) for n in one.nodes if n.digest}
    return any((n.node, n.digest) in known for n in other.nodes)


def _sums(before: EnergyRecord, offered: EnergyRecord) -> EnergyRecord:
    held, new = ranks(before), ranks(offered)
    behind = {node for node, rank in held.items() if node not in new or _counts_more(rank, new[node])}
    ahead = {node for node, rank in new.items() if node not in held or _counts_more(rank, held[node])}
    if not offered.inputs or offered.inputs == before.inputs or (behind and not ahead):
        return carry_slurm(offered, before) if offered.state else before
    sums = offered
    if behind:
        sums = _joined(_only(before, held.keys() - ahead), _only(offered, ahead))
    named = sums if offered.state or not before.state else carry_slurm(before, sums)
    return replace(named, revision=before.revision + 1)


def _only(record: EnergyRecord, nodes: Collection[str]) -> EnergyRecord:
    """Return the part of a record that some of its nodes have.

    Energies are exact. What a record holds of a whole component alone (its static part, say) goes by energy; steps and
    regions, which know no nodes, stay.
    """
    if set(nodes) >= {n.node for n in record.nodes}:
        return record
    kept = tuple(n for n in record.nodes if n.node in nodes)
    shares = tuple(s for s in record.shares if s.node in nodes)
    energies: dict[str, int] = {}
    for share in shares:
        kind = _component_of(share.domain, record.components)
        energies[kind] = energies.get(kind, 0) + share.energy_uj
    components = tuple(_scaled(c, energies[c.component]) for c in record.components if c.component in energies)
    known = [n.energy_uj for n in kept if n.energy_uj is not None]
    energy_uj = sum(known) if known else None

    def part(value: int) -> int:
        return value * (energy_uj or 0) // record.energy_uj if record.energy_uj else 0

    return replace(
        record,
        nodes=kept,
        shares=shares,
        components=components,
        devices=tuple(d for d in record.devices if d.node in nodes),
        ranks=tuple(r for r in record.ranks if r.node in nodes),
        energy_uj=energy_uj,
        start_ns=min((n.start_ns for n in kept), default=record.start_ns),
        end_ns=max((n.end_ns for n in kept), default=record.end_ns),
        cpus=sum(n.cpus for n in kept),
        cpu_ns=_known(n.cpu_ns for n in kept),
        static_uj=part(record.static_uj),
        dynamic_uj=part(record.dynamic_uj),
        idle_uj=part(record.idle_uj),
        suspended_uj=part(record.suspended_uj),
        modelled_uj=part(record.modelled_uj),
        estimated_uj=part(record.estimated_uj),
        power_peak_mw=highest_of_all(n.peak_mw for n in kept if n.energy_uj is not None),
    )


def _joined(one: EnergyRecord, other: EnergyRecord) -> EnergyRecord:
    """Return the sum of two records of one run that have no node in common."""
    nodes = tuple(sorted((*one.nodes, *other.nodes), key=lambda n: n.node))
    here = {n.node for n in nodes}
    expected = max(one.num_nodes, other.num_nodes, len(nodes))
    absent = tuple(dict.fromkeys(n for n in (*one.missing_nodes, *other.missing_nodes) if n not in here))
    missing = _missing(one, other, here, absent, expected)
    components = _components((*one.components, *other.components))
    energy_uj = _known((one.energy_uj, other.energy_uj))
    start_ns, end_ns = min(one.start_ns, other.start_ns), max(one.end_ns, other.end_ns)
    watched = [r.gpu_idle_s for r in (one, other) if r.devices]
    return replace(
        one,
        status="partial" if missing or energy_uj is None else "complete",
        provenance=worst_provenance([r.provenance for r in (one, other) if r.energy_uj is not None]),
        energy_uj=energy_uj,
        u_uj=u_of(components),
        start_ns=start_ns,
        end_ns=end_ns,
        inputs=sha256(f"{one.inputs}\n{other.inputs}".encode()).hexdigest()[:32],
        sluid=one.sluid or other.sluid,
        num_nodes=expected,
        cpus=one.cpus + other.cpus,
        gpus=len(one.devices) + len(other.devices),
        cpu_ns=_known((one.cpu_ns, other.cpu_ns)),
        mem_peak_b=_largest((one.mem_peak_b, other.mem_peak_b)),
        coverage=_coverage(nodes, expected),
        static_uj=one.static_uj + other.static_uj,
        dynamic_uj=one.dynamic_uj + other.dynamic_uj,
        idle_uj=one.idle_uj + other.idle_uj,
        suspended_uj=one.suspended_uj + other.suspended_uj,
        modelled_uj=one.modelled_uj + other.modelled_uj,
        estimated_uj=one.estimated_uj + other.estimated_uj,
        power_mean_mw=None if energy_uj is None else energy_uj * 1_000_000 // max(end_ns - start_ns, 1),
        power_peak_mw=highest_of_all(n.peak_mw for n in nodes if n.energy_uj is not None),
        gpu_held_s=one.gpu_held_s + other.gpu_held_s,
        gpu_idle_s=_known(watched) if watched and None not in watched else None,
        missing=missing,
        missing_nodes=absent,
        components=components,
        nodes=nodes,
        devices=(*one.devices, *other.devices),
        steps=_steps((*one.steps, *other.steps)),
        ranks=tuple(dict.fromkeys((*one.ranks, *other.ranks))),
        regions=_regions((*one.regions, *other.regions)),
        shares=tuple(sorted((*one.shares, *other.shares), key=lambda s: (s.node, s.domain, s.day))),
        footprint=_footprint(one, other, energy_uj),
        trace_bytes=one.trace_bytes + other.trace_bytes,
        simulated=one.simulated or other.simulated,
        notes=tuple(dict.fromkeys((*one.notes, *other.notes))),
        agent_cpu_ns=_known((one.agent_cpu_ns, other.agent_cpu_ns)),
        agent_rss_b=_largest((one.agent_rss_b, other.agent_rss_b)),
        conditions=joined_conditions(
            (known.name, value) for r in (one, other) for known in r.conditions for value in known.values
        ),
    )


def _missing(
    one: EnergyRecord, other: EnergyRecord, here: set[str], absent: Sequence[str], expected: int
) -> tuple[str, ...]:
    """Return the sentences of both about what is not in the sum, without those about nodes that are in it now."""
    said = dict.fromkeys((*one.missing, *other.missing))
    kept = [text for text in said if not text.endswith("no boundary record")]
    kept += [f"{node}: no boundary record" for node in absent]
    unnamed = expected - len(here) - len(absent)
    if unnamed > 0:
        kept.append(f"{unnamed} of {count(expected, 'node')}: no boundary record")
    return tuple(kept)


def _component_of(domain: str, components: Sequence[Component]) -> str:
    """Return the component that a domain belongs to: by its name, where the record has no such one the largest."""
    named = component_named(domain)
    if named in {c.component for c in components} or not components:
        return named
    return max(components, key=lambda c: c.energy_uj).component


def component_named(domain: str) -> str:
    """Return the component that a domain's name says; empty where it says none."""
    return next((kind for begin, kind in _KINDS if domain.startswith(begin)), "")


def _scaled(component: Component, energy_uj: int) -> Component:
    """Return a component with another energy and its parts in proportion."""
    if not component.energy_uj:
        return replace(component, energy_uj=energy_uj)
    names = ("u_uj", "static_uj", "dynamic_uj", "idle_uj", "suspended_uj", "modelled_uj", "covered_ns", "gap_ns")
    parts = {name: getattr(component, name) * energy_uj // component.energy_uj for name in names}
    doubts = {cause: uj * energy_uj // component.energy_uj for cause, uj in doubts_of(component).items()}
    return replace(component, energy_uj=energy_uj, **parts, doubts=named(doubts))


def _components(parts: Iterable[Component]) -> tuple[Component, ...]:
    names = ("energy_uj", "static_uj", "dynamic_uj", "idle_uj", "suspended_uj", "modelled_uj", "covered_ns", "gap_ns",
             "domains")  # fmt: skip

    def plus(a: Component, b: Component) -> Component:
        doubts = added((doubts_of(a), doubts_of(b)))
        return replace(
            a,
            u_uj=combined_uj(doubts),
            doubts=named(doubts),
            provenance=worst_provenance([a.provenance, b.provenance]),
            methods=tuple(sorted({*a.methods, *b.methods})),
            **{name: getattr(a, name) + getattr(b, name) for name in names},
        )

    return _merged(parts, lambda c: c.component, plus)


def _steps(parts: Iterable[Step]) -> tuple[Step, ...]:
    return _merged(
        parts,
        lambda s: s.step_id,
        lambda a, b: replace(
            a,
            tasks=max(a.tasks, b.tasks),
            nodes=max(a.nodes, b.nodes),
            start_ns=min(a.start_ns or b.start_ns, b.start_ns or a.start_ns),
            end_ns=max(a.end_ns, b.end_ns),
            energy_uj=_known((a.energy_uj, b.energy_uj)),
            u_uj=a.u_uj + b.u_uj,
            cpu_ns=_known((a.cpu_ns, b.cpu_ns)),
            steps=max(a.steps, b.steps),
            why="; ".join(dict.fromkeys(one for one in (a.why, b.why) if one)),
        ),
    )


def _regions(parts: Iterable[Region]) -> tuple[Region, ...]:
    return _merged(
        parts,
        lambda r: (r.step_id, r.name),
        lambda a, b: replace(
            a,
            calls=a.calls + b.calls,
            ranks=a.ranks + b.ranks,
            time_ns=a.time_ns + b.time_ns,
            time_min_ns=min(a.time_min_ns, b.time_min_ns),
            time_max_ns=max(a.time_max_ns, b.time_max_ns),
            energy_uj=_known((a.energy_uj, b.energy_uj)),
            u_uj=a.u_uj + b.u_uj,
            method=worst_method((a.method, b.method)),
            ran=activity.together((a.ran, b.ran)) if a.ran and b.ran else (),
        ),
    )


def _merged(parts: Iterable[T], key: Callable[[T], object], add: Callable[[T, T], T]) -> tuple[T, ...]:
    found: dict[object, T] = {}
    for part in parts:
        known = found.get(key(part))
        found[key(part)] = part if known is None else add(known, part)
    return tuple(found.values())


def _footprint(one: EnergyRecord, other: EnergyRecord, energy_uj: int | None) -> Footprint | None:
    """Return the footprint of the one that has one, in proportion: the same factors hold for the same job."""
    for record in (other, one):
        foot = record.footprint
        if foot is not None and record.energy_uj:
            factor = (energy_uj or 0) / record.energy_uj
            return replace(
                foot,
                facility_uj=None if foot.facility_uj is None else round(foot.facility_uj * factor),
                **{name: figure * factor for name in ("cost", *CARBON) if (figure := getattr(foot, name)) is not None},
            )
    return other.footprint or one.footprint


def _coverage(nodes: Sequence[NodeEnergy], expected: int) -> float:
    """Return the covered part of the time of all nodes that were expected."""
    total_ns = sum(n.end_ns - n.start_ns for n in nodes)
    if not total_ns:
        return 0.0
    return sum(n.coverage * (n.end_ns - n.start_ns) for n in nodes) / total_ns * len(nodes) / expected


def _known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
