"""What the tests said at each moment, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from tests.dates.moments import Moment
from tests.junit import Result
from tests.stamp import stamp

HEAD = "| moment | begins | zone | tests | n | passed | failed | skipped | of |\n|---|---|---|---|--:|--:|---|---|---|"


def row(moment: Moment, result: Result, folders: Sequence[str]) -> str:
    """One line of the table, as of now."""
    failed = f"{len(result.failed)}: {', '.join(result.failed)}" if result.failed else "0"
    passed = f"{result.passed:,}" + (f", of them {len(result.again)} only alone" if result.again else "")
    skipped = "; ".join(f"{n}: {why}" for why, n in sorted(result.skipped.items())) or "0"
    begins = f"{moment.begin:%Y-%m-%d %H:%M}"
    cells = [f"{moment.name} ({moment.what})", begins, moment.zone, ", ".join(folders), f"{result.n:,}"]
    return f"| {' | '.join(cell.replace('|', '/') for cell in [*cells, passed, failed, skipped, stamp()])} |"


def rows(page: str) -> dict[str, str]:
    """The lines of an earlier page, by the moment's name."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and " (" in line.split(" | ")[0]]
    return {line.removeprefix("| ").partition(" ")[0]: line for line in lines}
