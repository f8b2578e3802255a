"""One row per run of a job: what each of Slurm's commands said, as Markdown; and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HEAD = (
    "kind", "run", "ledger J", "counters J", "sacct J", "tail J", "steps J", "sstat J (counters)",
    "scontrol W (counters)", "sreport J", "HDF5 J",
)  # fmt: skip
BLANK = "blank"
GUESS_J = 1.03
"""sstat's figure goes on with the power of the last second: by so much it may be above what was counted."""


@dataclass(frozen=True)
class Row:
    """Energies in J: of the ledger, of the simulator's own log while the run had its nodes, and of Slurm's commands.

    `sstat` and `watts` have the simulator's figure for the same time beside them; of one job of several on a node the
    counters say nothing. `account_j` is sreport's of the kind's account, in its first row.
    """

    kind: str
    run: str
    ledger_j: float | None
    served_j: float | None
    sacct_j: int | None
    tail_j: float
    nodes: int
    steps: dict[str, int | None] = field(default_factory=dict)
    sstat: tuple[int, float] | None = None
    watts: tuple[int, float] | None = None
    account_j: int | None = None
    profile: dict[str, int] | None = None
    short: bool = False

    @property
    def said_j(self) -> int | None:
        """sacct's figure of the run; of one that was requeued it is in the row of the external step alone."""
        return self.steps.get("extern") if self.sacct_j is None else self.sacct_j


def troubles(row: Row) -> list[str]:
    """What does not fit in a row."""
    found = []
    if row.ledger_j is None:
        found.append("the ledger has nothing")
    elif row.said_j is None:
        if not row.short:
            found.append("sacct has a blank")
    elif abs(row.said_j - row.ledger_j) > row.tail_j:
        found.append(f"sacct {row.said_j} J, ledger {row.ledger_j:.1f} J: more than {row.tail_j:.1f} J apart")
    if row.ledger_j is not None and row.served_j is not None and abs(row.ledger_j - row.served_j) > 0.001 * row.nodes:
        found.append(f"ledger {row.ledger_j:.3f} J, counters {row.served_j:.3f} J")
    own = [one for name, one in row.steps.items() if name != "extern" and one is not None]
    if row.said_j is not None and sum(own) > row.said_j + row.nodes * len(own):
        found.append(f"steps have {sum(own)} J of {row.said_j} J")
    if own and max(own) == 0 and (row.ledger_j or 0) > row.tail_j:
        found.append("no step has anything")
    if row.sstat is not None and row.sstat[0] > GUESS_J * row.sstat[1] + row.tail_j / 2:
        found.append(f"sstat {row.sstat[0]} J of {row.sstat[1]:.1f} J")
    return [f"{row.kind} {row.run}: {one}" for one in found]


def sreport_troubles(rows: Sequence[Row]) -> list[str]:
    """The accounts of which sreport does not have the sum of sacct's figures.

    22.05 counts the energy of a job of 0 s (of whole ones) with the account of the job before it.
    """
    sums: dict[str, int] = {}
    said: dict[str, int] = {}
    for row in rows:
        sums[row.kind] = sums.get(row.kind, 0) + (0 if "both" in row.run else row.sacct_j or 0)
        if row.account_j is not None:
            said[row.kind] = row.account_j
    slack_j = 2 + sum(row.sacct_j or 0 for row in rows if row.short)
    return [
        f"{kind}: sreport {said[kind]} J, sacct {sums[kind]} J"
        for kind in said
        if abs(said[kind] - sums[kind]) > slack_j
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    before = ""
    for row in rows:
        lines.append(_line([row.kind if row.kind != before else "", *_cells(row)]))
        before = row.kind
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    steps = ", ".join(
        f"{name} {_shown(one)}" for name, one in row.steps.items() if name != "extern" or row.sacct_j is None
    )
    profile = row.profile or {}
    return [
        row.run,
        BLANK if row.ledger_j is None else f"{row.ledger_j:.1f}",
        "" if row.served_j is None else f"{row.served_j:.1f}",
        _shown(row.sacct_j),
        f"{row.tail_j:.0f}",
        steps,
        "" if row.sstat is None else f"{row.sstat[0]} ({row.sstat[1]:.1f})",
        "" if row.watts is None else f"{row.watts[0]} ({row.watts[1]:.1f})",
        "" if row.account_j is None else str(row.account_j),
        ", ".join(f"{name} {one}" for name, one in profile.items()),
    ]


def _shown(figure: int | None) -> str:
    return BLANK if figure is None else str(figure)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
