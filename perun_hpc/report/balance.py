"""The site's balance as text: each part with its bounds, what is not known with the reason, and where hours went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from perun_hpc.accounting.balance import FACILITY, JOBS, NODES, Balance, Edge, Hours
from perun_hpc.accounting.metering import Amount
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, table, wrapped

NAMES = 8
_LEVEL = {FACILITY: 1, NODES: 2, JOBS: 3}


def amount(one: Amount, style: Style) -> str:
    """`4.20 GJ (4.10 GJ to 4.31 GJ)`; what is not known is `not known`, missing bounds are said."""
    if one.energy_uj is None:
        return "not known"
    least = "at least " if one.partly else ""
    if one.low_uj is None or one.high_uj is None:
        return f"{least}{q.energy(one.energy_uj)} (bounds not known)"
    if one.low_uj == one.high_uj == one.energy_uj:
        return f"{least}{q.energy(one.energy_uj)}"
    return f"{least}{q.energy(one.energy_uj)} ({q.energy(one.low_uj)} to {q.energy(one.high_uj)})"


def lines(made: Balance, style: Style) -> list[str]:
    """The whole page."""
    begin, end = (f"{datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M}" for at_s in made.span)
    rows = [
        [f"{'  ' * _LEVEL.get(one.source, 0)}{one.target}", amount(one.amount, style), share(made, one)]
        for one in in_order(made)
    ]
    said = [style.bold(f"{made.month} of {made.cluster}, {begin} to {end}")]
    said += table(rows, ["", "energy, bounds k=2", "of it"], [False, True, True], style, widest=44)
    said.append("")
    said += [line for text in gaps(made) for line in wrapped(text, 4, "  - ")]
    said += wrapped(hours(made.hours), 0)
    if made.sources:
        said += wrapped(meters(made.sources), 0)
    said += [line for note in made.notes for line in wrapped(f"{note}.", 0)]
    said += [line for text in made.findings for line in wrapped(text, 4, style.warn("  - "))]
    return said


def in_order(made: Balance) -> Iterator[Edge]:
    """Each edge, and below it those that go on from there."""
    below: dict[str, list[Edge]] = {}
    for one in made.edges:
        below.setdefault(one.source, []).append(one)

    def go(source: str) -> Iterator[Edge]:
        for one in below.get(source, ()):
            yield one
            yield from go(one.target)

    return go("")


def share(made: Balance, one: Edge) -> str:
    """What part of its source an edge is."""
    whole = next((edge.amount.energy_uj for edge in made.edges if edge.target == one.source), None)
    if one.amount.energy_uj is None or not whole or whole < 0:
        return ""
    return f"{100 * one.amount.energy_uj / whole:.1f} %"


def gaps(made: Balance) -> list[str]:
    """A sentence for each part that is not known, or not all of it."""
    return [f"{one.target}: {one.amount.why}" for one in in_order(made) if one.amount.why]


def meters(sources: Sequence[str]) -> str:
    """Which meters count what."""
    more = f" and {len(sources) - NAMES} more" if len(sources) > NAMES else ""
    return f"{count(len(sources), 'meter')}: {'; '.join(sources[-NAMES:])}{more}."


def hours(one: Hours) -> str:
    """Where node-hours went, and the share that was observed."""
    if not one.nodes:
        return "No nodes are known of this month."
    parts = [
        ("observed", one.observed_s),
        ("off", one.off_s),
        ("booting", one.boot_s),
        ("unobserved", one.unobserved_s),
    ]
    said = ", ".join(f"{_hours(seconds)} {name}" for name, seconds in parts)
    seen = "none was on" if one.observed is None else f"{100 * one.observed:.2f} % of the time in which nodes were on"
    return f"Node-hours of {count(one.nodes, 'node')}: {said}. Observed: {seen}."


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 10 or not hours else f"{hours:.3f}"
