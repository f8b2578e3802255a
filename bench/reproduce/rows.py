"""What a line of the tables is: what was published, what perun makes of it, its bound, and whether that holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One figure of one thing: published, ours, and the k = 2 half width of our bound, all in one unit."""

    published: float
    ours: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the published figure lies within our bound."""
        return abs(self.ours - self.published) <= self.bound


@dataclass(frozen=True)
class Line:
    """A line of a table: several things of one kind (means are shown), with their unit and how many decimals."""

    what: str
    unit: str
    compared: Sequence[Compared]
    decimals: int = 1

    def __str__(self) -> str:
        """The line as Markdown."""
        count = len(self.compared)
        published, ours, bound = (
            f"{sum(getattr(one, name) for one in self.compared) / count:.{self.decimals}f}"
            for name in ("published", "ours", "bound")
        )
        held = sum(one.holds for one in self.compared)
        verdict = ("yes" if held else "**no**") if count == 1 else f"{held} of {count}"
        return f"| {self.what} | {self.unit} | {published} | {ours} | ± {bound} | {verdict} |"


def table(lines: Iterable[Line]) -> str:
    """The table as Markdown."""
    head = ["| what | unit | published | ours | bound (k = 2) | holds |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *map(str, lines)])
