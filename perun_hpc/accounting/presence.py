"""Where a node's time of a month went: observed, off, booting, or neither, which is a hole.

Observed is what the node's ledger covers. That a node was off says Slurm (`perun_hpc.slurm.events`), never a ledger
that is silent. A boot lasts from when Slurm asked for the node until the node's first reading thereafter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from perun_hpc.accounting.audit import Interval, NodeBooks
from perun_hpc.accounting.month import RecordFile
from perun_hpc.slurm.events import NodeEvent

NS = 1_000_000_000
LONGEST_BOOT_S = 7200
"""A node whose first reading comes later was not booting all that time."""
Spans = tuple[tuple[float, float], ...]
"""Times from .. until in epoch seconds, in order, none over another."""


@dataclass(frozen=True)
class Presence:
    """A node's time of a month in seconds; `off`, `boots`, `down` are Slurm's word.

    `observed_s` is what its ledger covers, `seen` those parts of it that can be laid on the calendar; `odd_s` for how
    long it was observed while Slurm had it as powered down: that is observed.
    """

    span: tuple[float, float]
    observed_s: float
    seen: Spans
    off: Spans
    boots: Spans
    down: Spans
    odd_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.span[1] - self.span[0]

    @property
    def off_s(self) -> float:
        """For how long Slurm had it powered down."""
        return min(length(self.off), max(0.0, self.total_s - self.observed_s))

    @property
    def boot_s(self) -> float:
        """For how long it booted."""
        return min(length(self.boots), max(0.0, self.total_s - self.observed_s - self.off_s))

    @property
    def unobserved_s(self) -> float:
        """For how long nobody knows what it drew."""
        return max(0.0, self.total_s - self.observed_s - self.off_s - self.boot_s)


def presence(
    books: NodeBooks | None,
    records: Iterable[RecordFile],
    events: Iterable[NodeEvent],
    span: tuple[float, float],
) -> Presence:
    """Return where a node's time went.

    Parameters
    ----------
    books : its ledgers of that time; None: there are none.
    records : its boundary records, which have both of its clocks.
    events : what Slurm says of it.
    span : the time (epoch seconds).
    """
    found = list(events)
    observed_s, placed = _observed(books, list(records)) if books else (0.0, ())
    seen = clipped(placed, span)
    off_all = merged((one.start_s, span[1] if one.end_s is None else one.end_s) for one in found if one.off)
    off = without(clipped(off_all, span), seen)
    boots = []
    for number, (_, end_s) in enumerate(off_all):
        until_s = off_all[number + 1][0] if number + 1 < len(off_all) else span[1]
        first_s = next((begin for begin, _ in seen if begin >= end_s - 1), None)
        if span[0] <= end_s < span[1] and first_s is not None and first_s <= min(until_s, end_s + LONGEST_BOOT_S):
            boots.append((end_s, first_s))
    down = merged((one.start_s, span[1] if one.end_s is None else one.end_s) for one in found if one.down)
    return Presence(
        span=span,
        observed_s=min(observed_s, span[1] - span[0]),
        seen=seen,
        off=off,
        boots=without(clipped(boots, span), off),
        down=without(clipped(down, span), merged((*seen, *off, *boots))),
        odd_s=length(clipped(off_all, span)) - length(off),
    )


def length(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long some spans are together, in seconds."""
    return sum(end - begin for begin, end in spans)


def merged(spans: Iterable[tuple[float, float]]) -> Spans:
    """Return spans in order, those that touch as one."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if end <= begin:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return tuple(found)


def clipped(spans: Iterable[tuple[float, float]], to: tuple[float, float]) -> Spans:
    """Return what of spans lies in a time."""
    return merged((max(begin, to[0]), min(end, to[1])) for begin, end in spans)


def without(spans: Spans, others: Spans) -> Spans:
    """Return what of spans lies in no other."""
    found = []
    for begin, end in spans:
        for other_begin, other_end in others:
            if other_end <= begin or other_begin >= end:
                continue
            if other_begin > begin:
                found.append((begin, other_begin))
            begin = max(begin, other_end)
        if begin < end:
            found.append((begin, end))
    return tuple(found)


def _observed(books: NodeBooks, records: Sequence[RecordFile]) -> tuple[float, Spans]:
    """Return how long a node's best covered counter counted, and when, as far as records say it.

    Times since boot say nothing of the boot: another one, or another machine of that name, may go on beyond them. So
    each chain of intervals without a hole has its own place on the calendar, by the edges of jobs in it.
    """
    anchors: dict[int, int] = {}
    for record in records:
        for edge, real_ns in (("start", record.start_ns), ("end", record.end_ns)):
            mono_ns = record.counters[edge].get("mono_ns")
            if isinstance(mono_ns, int) and mono_ns:
                anchors[mono_ns] = real_ns
    best: tuple[float, Spans] = (0.0, ())
    for intervals in books.intervals.values():
        covered_ns, placed = 0, []
        for chain in _chains(intervals):
            known = [one for one in chain if one.total_uj is not None]
            covered_ns += sum(one.t1_ns - one.t0_ns for one in known)
            offsets = {anchors[ns] - ns for one in chain for ns in (one.t0_ns, one.t1_ns) if ns in anchors}
            if offsets:
                by_ns = median(offsets)
                placed += [((one.t0_ns + by_ns) / NS, (one.t1_ns + by_ns) / NS) for one in known]
        if covered_ns / NS > best[0]:
            best = covered_ns / NS, merged(placed)
    return best


def _chains(intervals: Mapping[int, Interval]) -> Iterator[list[Interval]]:
    """Yield a counter's intervals in chains: each begins where the one before it ended."""
    chain: list[Interval] = []
    for one in intervals.values():
        if chain and one.t0_ns != chain[-1].t1_ns:
            yield chain
            chain = []
        chain.append(one)
    if chain:
        yield chain
