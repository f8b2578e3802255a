"""The survivors that docs/mutants.md explains: a row of its table has module, line, change and reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"
ROW = re.compile(r"\| `(?P<path>[^`]+\.py)` \| `` (?P<before>.+?) `` \| `` (?P<after>.+?) `` \| (?P<why>.+) \|")


@dataclass(frozen=True)
class Row:
    """A change of a line."""

    path: str
    before: str
    after: str

    def text(self, why: str) -> str:
        """As a row of the page; a bar would end the cell."""
        before, after = (part.replace("|", r"\|") for part in (self.before, self.after))
        return f"| `{self.path}` | `` {before} `` | `` {after} `` | {why} |"


def explained() -> dict[Row, str]:
    """The changes that the page explains, and how."""
    if not PAGE.exists():
        return {}
    found = {}
    for line in PAGE.read_text().splitlines():
        match = ROW.fullmatch(line)
        if match:
            before, after = (match[name].replace(r"\|", "|") for name in ("before", "after"))
            found[Row(match["path"], before, after)] = match["why"]
    return found
