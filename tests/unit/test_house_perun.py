"""The list of differences from perun: short, each with a reason, and where it is promised."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_differences_from_perun_are_few_and_each_has_a_reason() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs/perun.md").read_text(), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    assert 0 < len(rows) <= 15
    assert all(len(cell) > 10 for row in rows for cell in row[1:])


def test_the_list_is_where_it_is_promised() -> None:
    for page in ("README.md", "docs/launcher.md"):
        assert "perun.md)" in (ROOT / page).read_text(), page
