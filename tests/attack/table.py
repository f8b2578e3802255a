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


def markdown(results: Sequence[Result], page: str, order: Sequence[str]) -> str:
    """The table as Markdown: these results, and those of an earlier `page` that were not made anew."""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    for one in results:
        cells = (one.name, one.tried, f"{one.n:,}", one.outcome, "yes" if one.held else "**no**")
        rows[one.name] = f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    kept = [rows[name] for name in order if name in rows]
    return "\n".join(["| attack | tried | n | outcome | held |", "|---|---|--:|---|---|", *kept]) + "\n"


def line(one: Result) -> str:
    """One result for the terminal."""
    return f"{'held ' if one.held else 'BROKE'}  {one.name:<28} {one.n:>9,}  {one.outcome}"
