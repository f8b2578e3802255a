"""Results of attacks as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One attack: its name, what was tried, how often, what came of it, and whether perun held."""

    name: str
    tried: str
    n: int
    outcome: str
    held: bool


def markdown(results: Sequence[Result]) -> str:
    """The table as Markdown."""
    rows = ["| attack | tried | n | outcome | held |", "|---|---|--:|---|---|"]
    for one in results:
        cells = (one.name, one.tried, f"{one.n:,}", one.outcome, "yes" if one.held else "**no**")
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def line(one: Result) -> str:
    """One result for the terminal."""
    return f"{'held ' if one.held else 'BROKE'}  {one.name:<28} {one.n:>9,}  {one.outcome}"
