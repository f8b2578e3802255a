"""What the machines said, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.stamp import stamp

HEAD = "| step | what | | s | found |\n|---|---|---|--:|---|"


def markdown(name: str, title: str, rows: Sequence[Mapping[str, Any]], minutes: float) -> str:
    """One scenario's part of the page, as of now: its steps in their order."""
    failed = sum(not row["ok"] for row in rows)
    outcome = f"{len(rows)} steps, {failed or 'none'} failed, {minutes:.0f} min; {stamp()}"
    return "\n".join([f"### {name}: {title}", "", f"{outcome}.", "", HEAD, *map(_row, rows)]) + "\n"


def _row(row: Mapping[str, Any]) -> str:
    found = row["error"] if not row["ok"] else "; ".join(row["said"])
    cells = [row["step"], row["what"], "ok" if row["ok"] else "**failed**", f"{row['seconds']:.0f}", found]
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"


def parts(page: str) -> dict[str, str]:
    """The parts of an earlier page, by the scenario's name."""
    pieces = page.split("\n### ")[1:]
    return {piece.partition(":")[0]: f"### {piece.strip()}\n" for piece in pieces}
