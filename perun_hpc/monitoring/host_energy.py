"""A host's energy by the containment plan, as the node's agent accounts it: domains, what meters count beside them, and
what is not known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perun_hpc.data_model.sensor import Missing, Provenance, Sensor, worst
from perun_hpc.energy.attribute import OTHER, DomainKind
from perun_hpc.energy.containment import adding_up, energy_counters, plan, scope_sentence
from perun_hpc.energy.uncertainty import PEAK, RANDOM, Doubts, Edge, Gap, added, combined_uj, of_sensor, random_uj


@dataclass(frozen=True)
class Figure:
    """A sum of energies that are known; None where none of them is.

    `u_uj` is its standard uncertainty (k=1): also of what a counter did not show, as far as its ceiling is known.
    """

    energy_uj: int
    u_uj: int
    provenance: Provenance


@dataclass(frozen=True)
class _Part:
    """A domain's energy (of a meter: what it counted beside the others; None: not known) and its counter's column; of a
    meter also those of the domains that it contains."""

    component: str
    energy_uj: int | None
    column: int
    inside: tuple[int, ...] = ()


class HostEnergy:
    """The energies of a run on one host.

    Parameters
    ----------
    sensors, results : the columns and their tallies' results.
    runtime_ns : between the run's first reading and its last.
    missing : what could not be read, which the scope names.

    Attributes
    ----------
    lacks : why the energy is partial, one reason each; empty where it is whole.
    scope : what it includes and leaves out, one sentence.
    bearing : columns of the counters whose energies add up to the host's, each joule once.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        results: Sequence[Mapping[str, Any]],
        runtime_ns: int,
        missing: Sequence[Missing] = (),
    ) -> None:
        self._sensors, self._results, self._runtime_ns = sensors, results, runtime_ns
        chosen = plan(sensors)
        self.scope = scope_sentence(chosen, missing)
        column_of = {sensor.id: column for column, sensor in enumerate(sensors)}
        bases = {domain.name: results[column_of[domain.sensor.id]]["base"] for domain in chosen.counted}
        self._parts: list[_Part] = []
        known = set()
        breaks = []
        for domain in chosen.counted:
            column, energy_uj = column_of[domain.sensor.id], bases[domain.name]
            result = results[column]
            broken, lacking = result.get("breaks", ()), result.get("lacks", ())
            breaks += [f"{domain.name}: {why}" for why in broken]
            whole = energy_uj is not None and not broken and not lacking
            if domain.kind is DomainKind.METER and energy_uj is not None:
                # Another process of this host may have named domains that the meter's own does not know; sums that an
                # earlier version left when it was killed name none.
                rest = result.get("rest", {"uj": energy_uj, "beside": ()})
                energy_uj = rest["uj"] - sum(bases[leaf] or 0 for leaf in domain.leaves if leaf not in rest["beside"])
            if energy_uj is not None and (whole or domain.kind is not DomainKind.METER):
                known.add(domain.name)
            component = OTHER if domain.kind is DomainKind.METER else domain.sensor.component
            inside = tuple(column_of[one.sensor.id] for one in chosen.counted if one.name in domain.leaves)
            self._parts.append(_Part(component, energy_uj, column, inside))
        lacks = [why for sensor in energy_counters(sensors) for why in results[column_of[sensor.id]].get("lacks", ())]
        self.lacks = tuple(dict.fromkeys([*breaks, *lacks]))
        self.bearing = tuple(column_of[one.sensor.id] for one in adding_up(chosen.counted, known))
        held = {leaf for one in chosen.counted if one.name in known for leaf in one.leaves}
        self._borne = {column_of[one.sensor.id] for one in chosen.counted if one.name in held}

    @property
    def coverage(self) -> float:
        """Part of the time that the counters' readings cover, 0 to 1; 0 without any."""
        known_ns = [self._results[one.column]["covered_ns"] for one in self._parts if one.energy_uj is not None]
        whole_ns = self._runtime_ns * len(self._parts)
        return min(1.0, sum(known_ns) / whole_ns) if whole_ns else 0.0

    def columns(self, component: str) -> list[int]:
        """Columns of a component's domains whose energy is known."""
        return [one.column for one in self._parts if one.component == component and one.energy_uj is not None]

    @property
    def known_uj(self) -> float | None:
        """The host's energy, of the domains in which it is known."""
        known = [one.energy_uj for one in self._parts if one.energy_uj is not None]
        return sum(known) if known else None

    def total(self) -> Figure | None:
        """The host's energy."""
        # What lies inside a meter that showed all is as good as the meter.
        return self._sum(self._parts, [one for one in self._parts if one.column not in self._borne])

    def of(self, component: str) -> Figure | None:
        """The energy of one component: cpu, dram, gpu, other."""
        parts = [one for one in self._parts if one.component == component]
        # A meter's rest has too little of what its parts have too much.
        gains = [
            of_sensor(self._sensors[column], -(self._results[column]["base"] or 0))
            for one in parts
            for column in one.inside
            if one.column in self.bearing
        ]
        return self._sum(parts, parts, gains)

    def _sum(self, parts: Sequence[_Part], doubted: Sequence[_Part], beside: Sequence[Doubts] = ()) -> Figure | None:
        known = [one for one in parts if one.energy_uj is not None]
        if not known:
            return None
        doubts, edges, gaps = [*beside], [], []
        for one in doubted:
            sensor, result = self._sensors[one.column], self._results[one.column]
            ceiling_uw = sensor.max_uw or round(result["peak_per_s"])
            edge_uw = min(ceiling_uw, round(PEAK * result["peak_per_s"])) or ceiling_uw
            counted_uj = result["base"] if one.column in self.bearing else one.energy_uj
            covered_ns = result["covered_ns"] if one.energy_uj is not None else 0
            doubts.append(of_sensor(sensor, counted_uj or 0, covered_ns))
            edges += [Edge(edge_uw, sensor.update_ns + sensor.lag_ns // 4)] * (2 if counted_uj is not None else 0)
            gaps.append(Gap(0, ceiling_uw, max(0, self._runtime_ns - covered_ns)))
        provenance = worst(self._sensors[one.column].provenance for one in known)
        u_uj = combined_uj(added([*doubts, {RANDOM: random_uj(edges, gaps)}]))
        return Figure(sum(one.energy_uj or 0 for one in known), u_uj, provenance)
