"""docs/method.md names a test for every known fault; it exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_method_names_exists():
    text = (ROOT / "docs/method.md").read_text()
    table = text[text.index("### Known faults") : text.index("## In the node's agent")]
    named = set(re.findall(r"`(test_\w+)`", table))
    defined = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named - defined == set()
    numbers = [int(number) for number in re.findall(r"^\| (\d+) ", table, re.MULTILINE)]
    assert numbers == [*range(1, 11), *range(1, 11)]
