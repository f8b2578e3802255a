"""Which run of a job a record is of: names come again (job ids recycle, clusters are made anew), times separate runs.

The one place that decides it, for the collector, the ledger and whatever looks for a run's directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from perun_hpc.data_model.boundary import Boundary
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.slurm.sacct import CLOCK_S

SAME_RUN_NS = 60_000_000_000
"""Nodes of one run overlap in time, but for their clocks' differences; a job id that came back does not."""


class Likeness(IntEnum):
    """Whether two records are of one run: no; possibly, with a clock that is wrong; yes."""

    OTHER = 0
    POSSIBLE = 1
    SAME = 2


@dataclass(frozen=True)
class Identity:
    """What separates runs: names, times, nodes (`expected` the job's, `reported` those with a record)."""

    job_id: int
    restart_count: int
    start_ns: int
    end_ns: int
    submit_s: int | None = None
    sluid: str | None = None
    uid: int | None = None
    expected: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()

    def likeness(self, other: Identity) -> Likeness:
        """Whether both are of one run.

        Runs of one name are days apart; where Slurm's own ids are known on both sides, they decide. A node whose clock
        is wrong by up to a day belongs to a run of the same user and nodes in which it has not reported.
        """
        if (self.job_id, self.restart_count) != (other.job_id, other.restart_count):
            return Likeness.OTHER
        apart_ns = -self.overlap_ns(other)
        if self.sluid and other.sluid and (self.sluid == other.sluid or apart_ns > 0):
            # A resized job's differ, while it runs.
            return Likeness.SAME if self.sluid == other.sluid else Likeness.OTHER
        if self.submit_s and other.submit_s:
            return Likeness.SAME if self.submit_s == other.submit_s else Likeness.OTHER
        if apart_ns <= SAME_RUN_NS:
            return Likeness.SAME
        alike = bool(self.expected) and self.expected == other.expected and not self.reported & other.reported
        one_user = self.uid is None or other.uid is None or self.uid == other.uid
        return Likeness.POSSIBLE if apart_ns <= CLOCK_S * 10**9 and alike and one_user else Likeness.OTHER

    def overlap_ns(self, other: Identity) -> int:
        """Return for how long both ran at the same time; negative: the pause between them."""
        return min(self.end_ns, other.end_ns) - max(self.start_ns, other.start_ns)

    def joined(self, other: Identity) -> Identity:
        """Return what both together say of one run."""
        return Identity(
            self.job_id,
            self.restart_count,
            min(self.start_ns, other.start_ns),
            max(self.end_ns, other.end_ns),
            self.submit_s or other.submit_s,
            self.sluid or other.sluid,
            other.uid if self.uid is None else self.uid,
            self.expected or other.expected,
            self.reported | other.reported,
        )


def of_record(record: EnergyRecord) -> Identity:
    """Return whose record it is."""
    reported = frozenset(n.node for n in record.nodes)
    return Identity(
        record.job_id,
        record.restart_count,
        record.start_ns,
        record.end_ns,
        record.submit_s,
        record.sluid or None,
        record.uid,
        reported.union(record.missing_nodes),
        reported,
    )


def of_boundaries(boundaries: Sequence[Boundary]) -> Identity:
    """Return whose boundary records these are; at least one, all of one run."""
    first = boundaries[0]
    sluid, uid = first.raw.get("sluid"), first.raw.get("uid")
    return Identity(
        first.job_id,
        first.restart_count,
        min(b.start_ns for b in boundaries),
        max(b.end_ns for b in boundaries),
        None,
        str(sluid) if sluid else None,
        None if uid in (None, "") else int(str(uid)),
        frozenset(first.expected),
        frozenset(b.node for b in boundaries),
    )


def runs_in(boundaries: Iterable[Boundary]) -> list[list[Boundary]]:
    """Return boundary records of one name by their runs, the oldest run first."""
    ordered = sorted(boundaries, key=lambda b: (b.start_ns, b.node, b.digest))
    if _one_run(ordered):
        return [ordered] if ordered else []
    groups: list[tuple[Identity, list[Boundary]]] = []
    for boundary in ordered:
        _add(groups, of_boundaries([boundary]), [boundary], Likeness.SAME)
    # Only whole runs show whether one without some node and that node's record, by a wrong clock, are the same.
    whole: list[tuple[Identity, list[Boundary]]] = []
    for who, members in groups:
        _add(whole, who, members, Likeness.POSSIBLE)
    return [members for _, members in whole]


def _add(
    groups: list[tuple[Identity, list[Boundary]]], who: Identity, members: list[Boundary], least: Likeness
) -> None:
    """Put records of one run with those of the same run, or at the end."""
    at = likest(who, [group if group.likeness(who) >= least else None for group, _ in groups])
    if at:
        group, known = groups[at[-1]]
        groups[at[-1]] = (group.joined(who), [*known, *members])
    else:
        groups.append((who, members))


def _one_run(ordered: Sequence[Boundary]) -> bool:
    """Whether these, in the order of their starts, are plainly of one run: no pause between them, one id of Slurm's."""
    end_ns = ordered[0].end_ns if ordered else 0
    for boundary in ordered:
        if boundary.start_ns - end_ns > SAME_RUN_NS:
            return False
        end_ns = max(end_ns, boundary.end_ns)
    return len({b.raw.get("sluid") or None for b in ordered} - {None}) <= 1


def likest(who: Identity, others: Sequence[Identity | None]) -> list[int]:
    """Return the places in `others` of what is the same run as `who`; of what only may be, the nearest."""
    found = [(at, other) for at, other in enumerate(others) if other is not None and other.likeness(who)]
    same = [at for at, other in found if other.likeness(who) is Likeness.SAME]
    if same or not found:
        return same
    return [max(found, key=lambda one: _nearness(one[1], who))[0]]


def _nearness(one: Identity, other: Identity) -> tuple[int, int]:
    return (one.likeness(other), one.overlap_ns(other))
