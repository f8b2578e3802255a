"""Nodes' own meters (BMC, PDU) beside what perun counts of these nodes, for the audit: what is wrong shows over hours.

One that shows less than the CPUs and GPUs of its node alone is another rail's; one that never moves is no reading; one
that moves with another node's sensors is that node's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

from perun_hpc.accounting.audit import Finding, Interval, NodeBooks
from perun_hpc.accounting.evidence import component_named
from perun_hpc.archive.meter_readings import SCOPE_WORDS, Meter, Row, by_node, read_series, read_states
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError

NS = 1_000_000_000

OWN = ("cpu", "dram", "gpu")
"""Components whose sum a node's meter contains."""
WINDOW_S = 600.0
LEAST_WINDOWS = 18
"""Three hours in windows of ten minutes: in less nothing is named."""
PERIODS = 3
"""A window has so many periods of the meter at least."""
COVERED = 0.98
BELOW = 0.97
"""A meter that shows less than this part of what CPUs, memory and GPUs take is another rail's."""
FLAT, MOVED = 0.001, 0.2
"""A meter that changes by less than the first part of its mean while its node changes by more than the second."""
ALIKE, UNLIKE = 0.9, 0.5
"""Correlations: of what moves together, and of what does not."""
SLOPES = (0.6, 2.5)
"""Watts of a meter for each of its node's sensors, where both move together, are between these."""
NAMED = 8
SWINGS_W = 10.0
"""A node whose power changes by less tells nothing of whose meter moves with it."""


@dataclass(frozen=True)
class Anchors:
    """Moments of each node on both clocks: node -> ns since boot -> CLOCK_REALTIME ns."""

    at: dict[str, dict[int, int]]

    @classmethod
    def none(cls) -> Anchors:
        """No moments yet."""
        return cls({})

    def noting(self, boundaries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Pass boundary records on, and keep the moments of their edges."""
        for record in boundaries:
            for edge in (record.get("start"), record.get("end")):
                if isinstance(edge, Mapping) and "mono_ns" in edge and "real_ns" in edge:
                    self.at.setdefault(str(record.get("node")), {})[int(edge["mono_ns"])] = int(edge["real_ns"])
            yield record


@dataclass(frozen=True)
class Compared:
    """A node's meter beside its own sensors: mean powers in W over `windows` times, `slope` in W/W and how they
    correlate; None where one of them does not move.
    """

    node: str
    by: str
    meters: tuple[str, ...]
    scope: str
    lag_s: float | None
    windows: int
    meter_w: float
    own_w: float
    slope: float | None
    correlation: float | None


def compare(
    archive: Archive, books: NodeBooks, anchors: Anchors, since_s: float, until_s: float
) -> tuple[list[Finding], list[Compared], list[str]]:
    """Compare nodes' meters with what perun counted of these nodes between two times (epoch seconds).

    Returns
    -------
    What is wrong; each comparison; and the nodes of whose meters too little was read to say anything, by words.

    Raises
    ------
    DataError
        Where the poller's word on its meters is damaged.
    """
    directory = archive.facility("x").parent
    states = read_states(directory)
    if states is None:
        return [], [], []
    nodes = {node for node, _ in books.intervals}
    meters = by_node(states.meters, nodes)
    if not meters:
        return [], [], []
    window_s = max([WINDOW_S, *(PERIODS * one.period_s for some in meters.values() for one in some.values())])
    edges = [since_s + window_s * n for n in range(int((until_s - since_s) / window_s) + 1)]
    domains: dict[str, list[Mapping[int, Interval]]] = {node: [] for node, _ in meters}
    for (node, domain), intervals in books.intervals.items():
        if node in domains and component_named(domain) in OWN:
            domains[node].append(intervals)
    own = {node: _own_powers(some, anchors.at.get(node, {}), edges) for node, some in domains.items()}
    shown = {at: _metered_powers(directory, some, edges) for at, some in meters.items()}
    findings: list[Finding] = []
    compared: list[Compared] = []
    silent: list[str] = []
    for at, some in sorted(meters.items()):
        pairs = _pairs(shown[at], own[at[0]])
        if len(pairs) < LEAST_WINDOWS:
            silent.append(f"{at[0]} ({', '.join(sorted(some))})")
            continue
        compared.append(_beside(at, some, pairs))
    swapped = _strangers(compared, shown, own)
    for one in compared:
        findings += swapped.get((one.node, one.by)) or _faults(one, _pairs(shown[one.node, one.by], own[one.node]))
    return findings, compared, silent


Watts = list[float | None]
Pairs = list[tuple[float, float]]


def _pairs(shown: Watts, own: Watts) -> Pairs:
    return [(a, b) for a, b in zip(shown, own, strict=True) if a is not None and b is not None]


def _beside(at: tuple[str, str], meters: Mapping[str, Meter], pairs: Pairs) -> Compared:
    shown, own = [a for a, _ in pairs], [b for _, b in pairs]
    scopes, lags = {one.scope for one in meters.values()}, [one.lag_s for one in meters.values()]
    r = _correlation(shown, own)
    return Compared(
        node=at[0],
        by=at[1],
        meters=tuple(sorted(meters)),
        scope=scopes.pop() if len(scopes) == 1 else "unknown",
        lag_s=None if None in lags else max(lag for lag in lags if lag is not None),
        windows=len(pairs),
        meter_w=fmean(shown),
        own_w=fmean(own),
        slope=None if r is None else r * pstdev(shown) / pstdev(own),
        correlation=r,
    )


def _faults(one: Compared, pairs: Pairs) -> list[Finding]:
    where = f"meter of {one.node} ({', '.join(one.meters)})"
    shown, own = [a for a, _ in pairs], [b for _, b in pairs]
    if max(shown) - min(shown) <= FLAT * one.meter_w and max(own) - min(own) > max(SWINGS_W, MOVED * one.own_w):
        what = (
            f"it shows {one.meter_w:.0f} W all the time, while the node's own sensors went from {min(own):.0f} to "
            f"{max(own):.0f} W: it is no reading of the node (perun meters discover {one.node})"
        )
        return [Finding(where, what)]
    if one.meter_w < BELOW * one.own_w:
        what = (
            f"it shows {one.meter_w:.0f} W on average, less than the {one.own_w:.0f} W of the node's own sensors: "
            f"another rail, or another node's (perun meters discover {one.node})"
        )
        return [Finding(where, what)]
    moves = one.correlation is not None and one.correlation > ALIKE and max(own) - min(own) > SWINGS_W
    if moves and one.slope is not None and not SLOPES[0] <= one.slope <= SLOPES[1]:
        what = (
            f"it moves with the node's own sensors, but by {one.slope:.2g} W for each of theirs: another unit or rail, "
            "several nodes' meter, or much of the node that no sensor shows"
        )
        return [Finding(where, what)]
    return []


def _strangers(
    compared: Sequence[Compared], shown: Mapping[tuple[str, str], Watts], own: Mapping[str, Watts]
) -> dict[tuple[str, str], list[Finding]]:
    """Meters that move with another node's sensors and not with their own's: of two such, one finding."""
    likest: dict[tuple[str, str], str] = {}
    for one in compared:
        if one.correlation is not None and one.correlation >= UNLIKE:
            continue
        best, which = ALIKE, ""
        for node, powers in own.items():
            pairs = _pairs(shown[one.node, one.by], powers)
            if node == one.node or len(pairs) < LEAST_WINDOWS:
                continue
            theirs = [b for _, b in pairs]
            r = _correlation([a for a, _ in pairs], theirs)
            if r is not None and r > best and max(theirs) - min(theirs) > SWINGS_W:
                best, which = r, node
        if which:
            likest[one.node, one.by] = which
    findings: dict[tuple[str, str], list[Finding]] = {}
    for (node, by), other in sorted(likest.items()):
        if likest.get((other, by)) != node:
            what = f"it moves with the sensors of {other}, not with its own node's: see who is fed by what"
            findings[node, by] = [Finding(f"meter of {node}", what)]
        elif node < other:
            what = "each moves with the other's sensors: they are swapped (correct meters.yaml, discover again)"
            findings[node, by] = [Finding(f"meters of {node} and {other}", what)]
        else:
            findings[node, by] = []
    return {at: found or [] for at, found in findings.items()}


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    a, b, spread = fmean(one), fmean(other), pstdev(one) * pstdev(other)
    if spread <= 1e-9 * max(1.0, a * b):
        return None
    return fmean((x - a) * (y - b) for x, y in zip(one, other, strict=True)) / spread


def _metered_powers(directory: Path, meters: Mapping[str, Meter], edges: Sequence[float]) -> Watts:
    """A node's mean power in each window by its meters, all outlets together; None where one of them has too little."""
    kind = "power" if any(one.kind == "power" for one in meters.values()) else "energy"
    total: Watts = [0.0] * (len(edges) - 1)
    for name, meter in meters.items():
        if meter.kind != kind:
            continue
        try:
            rows = read_series(directory / f"{name}.csv", edges[0], edges[-1])
        except DataError:
            rows = []
        total = _plus(total, _means(rows, edges))
    return total


def _means(rows: Sequence[Row], edges: Sequence[float]) -> Watts:
    steps = [
        (before.time_s, after.time_s, float(after.kwh - before.kwh) * 3.6e6, after.covered_s - before.covered_s)
        for before, after in zip(rows, rows[1:], strict=False)
    ]
    return _spread_out(((t0, t1, joules) for t0, t1, joules, covered_s in steps if covered_s > 0), edges)


def _own_powers(domains: Sequence[Mapping[int, Interval]], anchors: Mapping[int, int], edges: Sequence[float]) -> Watts:
    """A node's mean power in each window by perun's own sensors of CPU, memory and GPU; None where one has gaps."""
    total: Watts = [0.0 if domains else None] * (len(edges) - 1)
    for intervals in domains:
        placed: list[tuple[float, float, float]] = []
        for boot in _boots(intervals.values()):
            offsets = [anchors[ns] - ns for one in boot for ns in (one.t0_ns, one.t1_ns) if ns in anchors]
            if offsets:
                shift_ns = median(offsets)
                placed += [
                    ((one.t0_ns + shift_ns) / NS, (one.t1_ns + shift_ns) / NS, one.total_uj / 1e6)
                    for one in boot
                    if one.total_uj is not None
                ]
        total = _plus(total, _spread_out(placed, edges))
    return total


def _boots(intervals: Iterable[Interval]) -> list[list[Interval]]:
    """The intervals of one domain, those of one boot in a list: a clock that goes back is another's."""
    boots: list[list[Interval]] = [[]]
    for one in intervals:
        if boots[-1] and one.t0_ns < boots[-1][-1].t1_ns:
            boots.append([])
        boots[-1].append(one)
    return boots


def _plus(one: Watts, other: Watts) -> Watts:
    return [None if a is None or b is None else a + b for a, b in zip(one, other, strict=True)]


def _spread_out(steps: Iterable[tuple[float, float, float]], edges: Sequence[float]) -> Watts:
    """Mean power in each window, of energies in J between times; None where too little of it is covered."""
    width_s = edges[1] - edges[0] if len(edges) > 1 else 1.0
    joules, covered = [0.0] * (len(edges) - 1), [0.0] * (len(edges) - 1)
    for t0, t1, energy_j in steps:
        if t1 <= t0:
            continue
        for at in range(max(0, int((t0 - edges[0]) / width_s)), min(len(joules), int((t1 - edges[0]) / width_s) + 1)):
            part_s = min(t1, edges[at + 1]) - max(t0, edges[at])
            if part_s > 0:
                joules[at] += energy_j * part_s / (t1 - t0)
                covered[at] += part_s
    return [
        energy_j / covered_s if covered_s >= COVERED * width_s else None
        for energy_j, covered_s in zip(joules, covered, strict=True)
    ]


def sentence(compared: Sequence[Compared], silent: Sequence[str]) -> str:
    """What there is to say of the comparison, for the audit's summary; empty without meters."""
    parts = []
    for scope in sorted({one.scope for one in compared}):
        ratios = sorted(one.meter_w / one.own_w for one in compared if one.scope == scope and one.own_w > 0)
        lags = [one.lag_s for one in compared if one.scope == scope]
        known = [lag for lag in lags if lag is not None]
        lag = f"up to {max(known):.0f} s old" if len(known) == len(lags) else "their age not said"
        if ratios:
            spread = f"{ratios[0]:.2f}" if len(ratios) == 1 else f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            parts.append(f"{count(len(ratios), 'node')} {SCOPE_WORDS[scope]} {spread} ({lag})")
    said = f"nodes' meters by nodes' own sensors: {', '.join(parts)}" if parts else ""
    if silent:
        named = ", ".join(silent[:NAMED]) + (f" and {len(silent) - NAMED} more" if len(silent) > NAMED else "")
        said += f"{'; ' if said else ''}too few readings beside records for meters of {named}"
    return said
