"""What the tests said at each moment, as a page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.dates.moments import Moment

HEAD = "| moment | begins | zone | tests | n | passed | failed | skipped |\n|---|---|---|---|--:|--:|---|---|"


@dataclass(frozen=True)
class Result:
    """One run: how many passed, the ids of those that failed, the reasons of those that were skipped.

    `again` are those of the passed that failed at first, beside all others, and passed when they were run alone.
    """

    passed: int
    failed: tuple[str, ...]
    skipped: Mapping[str, int]
    again: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Tests in all."""
        return self.passed + len(self.failed) + sum(self.skipped.values())


def read(report: Path) -> Result:
    """Read pytest's JUnit report."""
    passed, failed, skipped = 0, [], Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        if (why := case.find("skipped")) is not None:
            skipped[why.get("message", "")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}")
        else:
            passed += 1
    return Result(passed, tuple(dict.fromkeys(failed)), skipped)


def run_alone(first: Result, second: Result) -> Result:
    """The first run, with those that failed in it judged by a second one of them alone."""
    again = tuple(name for name in first.failed if name not in second.failed)
    return replace(first, passed=first.passed + len(again), failed=second.failed, again=again)


def row(moment: Moment, result: Result, folders: Sequence[str]) -> str:
    """One line of the table."""
    failed = f"{len(result.failed)}: {', '.join(result.failed)}" if result.failed else "0"
    passed = f"{result.passed:,}" + (f", of them {len(result.again)} only alone" if result.again else "")
    skipped = "; ".join(f"{n}: {why}" for why, n in sorted(result.skipped.items())) or "0"
    begins = f"{moment.begin:%Y-%m-%d %H:%M}"
    cells = [f"{moment.name} ({moment.what})", begins, moment.zone, ", ".join(folders), f"{result.n:,}"]
    return f"| {' | '.join(cell.replace('|', '/') for cell in [*cells, passed, failed, skipped])} |"


def rows(page: str) -> dict[str, str]:
    """The lines of an earlier page, by the moment's name."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and " (" in line.split(" | ")[0]]
    return {line.removeprefix("| ").partition(" ")[0]: line for line in lines}
