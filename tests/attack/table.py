"""Results of attacks as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.stamp import stamp

HEAD = ("attack", "tried", "n:", "outcome", "held", "of")
"""A column's title; one that ends in a colon is a number's."""


@dataclass(frozen=True)
class Result:
    """One attack: its name, what was tried, how often, what came of it, and whether perun held."""

    name: str
    tried: str
    n: int
    outcome: str
    held: bool


def cells(one: Result) -> tuple[str, tuple[str, ...]]:
    """Name and cells of a result, as of now."""
    return one.name, (one.tried, f"{one.n:,}", one.outcome, "yes" if one.held else "**no**", stamp())


def row(name: str, values: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in (name, *values))} |"


def merged(head: Sequence[str], rows: Mapping[str, Sequence[str]], page: str, order: Sequence[str]) -> str:
    """A table as Markdown: these rows, and those of an earlier `page` with as many columns that were not made anew."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and line.count(" | ") == len(head) - 1]
    known = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    known |= {name: row(name, values) for name, values in rows.items()}
    kept = [known[name] for name in order if name in known]
    rule = "|".join("--:" if title.endswith(":") else "---" for title in head)
    return "\n".join([row(head[0], [title.rstrip(":") for title in head[1:]]), f"|{rule}|", *kept]) + "\n"


def line(one: Result) -> str:
    """One result for the terminal."""
    return f"{'held ' if one.held else 'BROKE'}  {one.name:<28} {one.n:>9,}  {one.outcome}"
