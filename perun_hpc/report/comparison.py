"""Jobs or runs beside each other: energy to solution, its product with time, scaling, and how sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perun_hpc.data_model.wording import count
from perun_hpc.energy import comparison as c
from perun_hpc.energy.comparison import PROVED, Difference, Run
from perun_hpc.report import gpu_pace
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, table, wrapped
from perun_hpc.report.subjects import Subject

LABEL = 16
VAGUE = math.log(2)
"""A bound (of the logarithm) above which the figure itself is not worth its digits: half and twice are both in it."""
NAMED = 6
"""So many values of a condition are named."""
ALL = 0.995
"""From this part on the nodes are the same."""


@dataclass(frozen=True)
class Side:
    """One variant: what ran once, or the repeats of it."""

    label: str
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class Sides:
    """All variants over the components that every one of them knows; the first is what the others are held against.

    Attributes
    ----------
    sides : with at least one subject each, whose energies can be compared.
    components : that are counted.
    left_out : (component, labels of those that do not know it).
    known : spread of single runs that earlier runs of this work showed, its degrees of freedom; None: nothing.
    """

    sides: tuple[Side, ...]
    components: tuple[str, ...]
    left_out: tuple[tuple[str, tuple[str, ...]], ...]
    known: tuple[float, int] | None = None

    def runs(self, side: Side) -> list[Run]:
        """The runs of a side."""
        return [subject.run(self.components) for subject in side.subjects]


def sides_of(sides: Sequence[Side], known: tuple[float, int] | None = None) -> Sides:
    """Choose what can be compared: components that every subject knows."""
    subjects = [subject for side in sides for subject in side.subjects]
    names = list(dict.fromkeys(name for subject in subjects for name in subject.parts))
    lacking = {name: tuple(one.label for one in subjects if not one.counts(name)) for name in names}
    kept = tuple(name for name in names if not lacking[name])
    return Sides(tuple(sides), kept, tuple((name, lacking[name]) for name in names if lacking[name]), known)


def comparison_lines(found: Sides, style: Style, weak: bool = False) -> list[str]:
    """The comparison as people read it; `weak`: the work grew with the nodes."""
    first, *others = found.sides
    lines = _table(found, style)
    for component, labels in found.left_out:
        some = f"{', '.join(labels[:3])}{' and others' if len(labels) > 3 else ''}"
        lines += wrapped(f"without {component}, which is not known of {some}", 2, "  ")
    for other in others:
        lines += ["", style.bold(style.fit(f"{other.label} beside {first.label}", 80).rstrip())]
        lines += _beside(found, first, other, style)
    scaling = _scaling(found, style, weak)
    return [style.units(line) for line in [*lines, *(["", *scaling] if scaling else [])]]


def comparison_json(found: Sides, weak: bool = False) -> dict[str, Any]:
    """The same for programs; energies in J, times in s, uncertainties k=1."""
    first, *others = found.sides
    return {
        "components": list(found.components),
        "left_out": dict(found.left_out),
        "sides": [
            {
                "label": side.label,
                "runs": [
                    {
                        "label": subject.label, "name": subject.name, "nodes": subject.nodes,
                        "elapsed_s": run.elapsed_s, "energy_j": run.energy_j, "energy_delay_js": run.delay_product_js,
                        "uncertainty": math.sqrt(sum(part**2 for part in run.doubts.values())),
                        "conditions": dict(subject.conditions),
                        "gpu_paces": gpu_pace.as_json(subject.gpu_paces),
                    }
                    for subject, run in zip(side.subjects, found.runs(side), strict=True)
                ],
            }
            for side in found.sides
        ],
        "beside_the_first": [
            {
                "label": other.label,
                "energy": _as_json(
                    c.energies(found.runs(first), found.runs(other), found.known), _bounded(first, other)
                ),
                "energy_delay": _as_json(
                    c.delay_products(found.runs(first), found.runs(other), found.known), _bounded(first, other)
                ),
                "time": _as_json(time := c.times(found.runs(first), found.runs(other)), time.bound > 0),
                "same_nodes": c.common_part(found.runs(first), found.runs(other)),
                "repeats_to_prove": _needed(c.energies(found.runs(first), found.runs(other), found.known)),
                "differs": {name: list(values) for name, values in _differing(first, other)},
            }
            for other in others
        ],
        "scaling": [asdict(row) for row in scaling(found, weak)],
    }  # fmt: skip


def sentence(found: Sides, what: str, sign: str) -> str:
    """One line: the second side beside the first, which `what` names; `sign` stands before a bound."""
    first, other = found.sides
    energy = c.energies(found.runs(first), found.runs(other), found.known)
    time = c.times(found.runs(first), found.runs(other))
    verdict = "no difference within the bounds" if energy.within else "more than the bounds explain"
    verdict = (_vague(energy) or verdict) if _bounded(first, other) else "bounds not known"
    return f"{_change(energy, sign)} energy, {_percent(time.change)} time beside {what}: {verdict}"


def _as_json(one: Difference, bounded: bool) -> dict[str, Any]:
    known = (one.low, one.high, one.within, one.systematic) if bounded else (None, None, None, None)
    bounds = dict(zip(("low", "high", "within_bounds", "sensors"), known))
    return {"change": one.change, **bounds, "spread": one.spread}


def _bounded(first: Side, other: Side) -> bool:
    """Whether it is known what each of the energies may be wrong by."""
    return all(subject.u_uj for side in (first, other) for subject in side.subjects)


def _needed(one: Difference) -> int | None:
    return None if one.spread is None else c.repeats(one.spread, one.systematic)


# The table.


def _table(found: Sides, style: Style) -> list[str]:
    rows = []
    for side in found.sides:
        runs = found.runs(side)
        number = len(runs)
        energy_uj = round(math.fsum(run.energy_j for run in runs) / number * 1e6)
        time_s = math.fsum(run.elapsed_s for run in runs) / number
        doubts = c.mean_doubts(runs)
        u_uj = round(energy_uj * math.sqrt(sum(part**2 for part in doubts.values())))
        product = math.fsum(run.delay_product_js for run in runs) / number
        rows.append(
            [
                side.label, str(number), _few({str(one.nodes) for one in side.subjects}), q.duration(time_s),
                q.bounded(energy_uj, u_uj, style.plus_minus), q.power(energy_uj / time_s / 1e3),
                q.joule_seconds(product),
            ]
        )  # fmt: skip
    many = any(len(side.subjects) > 1 for side in found.sides)
    head = ("", "runs", "nodes", "time", "energy (k=2)", "power", "energy x time")
    lines = table(rows, head, (False, True, True, True, True, True, True), style)
    note = ["  of repeats: means"] if many else []
    return [style.bold(lines[0]), *lines[1:], *note]


def _few(values: set[str]) -> str:
    ordered = sorted(values, key=lambda one: (len(one), one))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]}-{ordered[-1]}"


# One beside the first.


def _beside(found: Sides, first: Side, other: Side, style: Style) -> list[str]:
    one, two = found.runs(first), found.runs(other)
    energy = c.energies(one, two, found.known)
    product, time = c.delay_products(one, two, found.known), c.times(one, two)
    bounded = _bounded(first, other)
    rows = [
        ("energy", energy, _verdict(energy, bounded)),
        ("time", time, _verdict(time, True) if time.bound else ""),
        ("energy x time", product, _verdict(product, bounded)),
    ]
    lines = [f"  {name:<14} {_change(one, style.plus_minus):<20} {verdict}".rstrip() for name, one, verdict in rows]
    for text in [_why(found, first, other, energy), *_repeats(first, other, energy)]:
        lines += wrapped(text, 4, "  - ")
    for name, values in _differing(first, other):
        lines += wrapped(f"differs: {name}: {values[0]} | {values[1]}", 4, "  - ")
    return lines


def _verdict(one: Difference, bounded: bool) -> str:
    if not bounded:
        return "bounds not known"
    if vague := _vague(one):
        return vague
    if one.within:
        return "within the bounds: no difference seen"
    return "less" if one.log < 0 else "more"


def _vague(one: Difference) -> str:
    """Why a difference shows nothing, where the bounds allow half and twice alike; empty where they are narrower."""
    if not one.within or one.bound <= VAGUE:
        return ""
    return "too few runs to tell" if 2 * one.systematic <= VAGUE else "too uncertain to tell"


def _why(found: Sides, first: Side, other: Side, energy: Difference) -> str:
    """What the sensors leave in doubt, and why."""
    part = c.common_part(found.runs(first), found.runs(other))
    left = f"the sensors leave {_bound(2 * energy.systematic)} of doubt (k=2)"
    if part >= ALL:
        return f"same nodes: what their sensors count wrongly is in both and cancels; {left}"
    if part > 0:
        return f"{q.percent(part)} of the energy is from the same nodes, where the sensors' errors cancel; {left}"
    known = all(subject.nodes_uj for side in (first, other) for subject in side.subjects)
    return f"{'other nodes, whose sensors err on their own' if known else 'the nodes are not known'}: {left}"


def _repeats(first: Side, other: Side, energy: Difference) -> list[str]:
    if energy.spread is None:
        return ["one run each: how far runs of this work lie apart is not known; repeats would show it"]
    seen = f"single runs lie {_bound(energy.spread)} apart (standard deviation)"
    needed = _needed(energy)
    wanted = f"{100 * PROVED:.0f} %"
    if needed is None:
        mend = "take the same nodes, and work that varies less"
        return [f"{seen}; a difference of {wanted} cannot be proved here: {mend}"]
    return [f"{seen}: {count(needed, 'run')} of each prove a difference of {wanted} (power 0.8 at 5 %)"]


def _differing(first: Side, other: Side) -> list[tuple[str, tuple[str, str]]]:
    """Conditions of which the two sides had other values."""
    names = dict.fromkeys(name for side in (first, other) for one in side.subjects for name in one.conditions)
    found = []
    for name in names:
        values = [sorted({one.conditions.get(name, "not known") for one in side.subjects}) for side in (first, other)]
        if values[0] != values[1]:
            shown = [", ".join(some[:NAMED]) + (" and others" if len(some) > NAMED else "") for some in values]
            found.append((name, (shown[0], shown[1])))
    if all(one.gpus for side in (first, other) for one in side.subjects):
        found += gpu_pace.differing(*([one.gpu_paces for one in side.subjects] for side in (first, other)))
    return found


def _change(one: Difference, sign: str) -> str:
    if not one.bound or _vague(one):
        return _percent(one.change)
    # A ratio's upper bound lies further away than its lower one; the one towards no difference is the verdict's.
    return f"{_percent(one.change)} {sign} {_bound(one.high - one.change if one.log < 0 else one.change - one.low)}"


def _percent(change: float) -> str:
    return f"{100 * change:+.1f} %" if abs(change) < 1 else f"{100 * change:+.0f} %"


def _bound(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.1 else f"{100 * part:.0f} %"


# Scaling.


@dataclass(frozen=True)
class Scaled:
    """One number of nodes beside the least.

    Attributes
    ----------
    speed_up, ideal : how many times as fast, and how fast it would be with no loss.
    efficiency : their ratio.
    energy_efficiency : energy of the least number of nodes over that of this one; weak: by node.
    within : whether the bounds explain its difference from 1.
    """

    label: str
    nodes: int
    elapsed_s: float
    speed_up: float
    ideal: float
    efficiency: float
    energy_efficiency: float
    within: bool


def scaling(found: Sides, weak: bool = False) -> list[Scaled]:
    """One row a side where their numbers of nodes differ, each of one number; none elsewhere."""
    numbers = [{subject.nodes for subject in side.subjects} for side in found.sides]
    if any(len(one) != 1 for one in numbers) or len(set.union(*numbers)) < 2:
        return []
    ordered = sorted(found.sides, key=lambda side: side.subjects[0].nodes)
    base = ordered[0]
    least, before = base.subjects[0].nodes, found.runs(base)
    rows = []
    for side in ordered:
        runs, nodes = found.runs(side), side.subjects[0].nodes
        energy, time = c.energies(before, runs, found.known), c.times(before, runs)
        more = math.log(nodes / least) if least and nodes else 0.0
        log = energy.log - (more if weak else 0.0)
        speed_up = math.exp(-time.log + (more if weak else 0.0))
        rows.append(
            Scaled(
                side.label, nodes, math.fsum(run.elapsed_s for run in runs) / len(runs), speed_up, math.exp(more),
                speed_up / math.exp(more), math.exp(-log), side is base or abs(log) <= energy.bound,
            )
        )  # fmt: skip
    return rows


def _scaling(found: Sides, style: Style, weak: bool) -> list[str]:
    rows = scaling(found, weak)
    if not rows:
        return []
    shown = [
        [
            one.label, str(one.nodes), q.duration(one.elapsed_s), f"{one.speed_up:.2f}", f"{one.ideal:.2f}",
            q.percent(one.efficiency), q.percent(one.energy_efficiency) + (" =" if one.within else ""),
        ]
        for one in rows
    ]  # fmt: skip
    head = ("Scaling", "nodes", "time", "speed-up", "ideal", "efficiency", "of energy")
    lines = table(shown, head, (False, True, True, True, True, True, True), style)
    what = "work that grows with the nodes (--weak)" if weak else "the same work on each (--weak: it grows with them)"
    note = f"against the fewest nodes, for {what}; = where the bounds explain the difference"
    return [style.bold(lines[0]), *lines[1:], *wrapped(note, 2, "  ")]
