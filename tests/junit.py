"""What pytest's JUnit report says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path


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
    return Result(passed, tuple(dict.fromkeys(failed)), dict(skipped))


def run_alone(first: Result, second: Result) -> Result:
    """The first run, with those that failed in it judged by a second one of them alone."""
    again = tuple(name for name in first.failed if name not in second.failed)
    return replace(first, passed=first.passed + len(again), failed=second.failed, again=again)
