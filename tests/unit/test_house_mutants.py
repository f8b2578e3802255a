"""docs/mutants.md explains changes of lines that are there, and the runner makes the changes that it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.page import PAGE, Row, explained

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("row", explained(), ids=lambda row: row.after)
def test_an_explained_change_is_of_a_line_that_is_there(row: Row) -> None:
    lines = [line.strip() for line in (ROOT / row.path).read_text().splitlines()]
    assert row.before in lines, "the line has changed: try again without the row"
    assert row.after not in lines


def test_every_row_of_the_page_is_read() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `perun_hpc/") and "``" in line]
    assert len(rows) == len(explained())
    assert [Row(row.path, row.before, row.after).text(why) for row, why in explained().items()] == rows


def test_a_mutant_is_one_change_and_none_of_an_annotation(tmp_path: Path) -> None:
    source = pytest.importorskip("tests.mutants.source")
    text = (
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass One:\n    at: int | None = 7\n\n\n"
        "def grown(one: int | None, by: float) -> float | None:\n"
        "    return None if one is None or by < 0 else one + by\n"
    )
    (tmp_path / "module.py").write_text(text)
    changed = [mutant.lines(text) for mutant in source.mutants(tmp_path, "module.py")]
    assert {before for before, _ in changed} == {
        "at: int | None = 7",
        "return None if one is None or by < 0 else one + by",
    }
    after = {"".join(line.split()) for _, line in changed}
    assert {"returnNoneifoneisNoneorby<=0elseone+by", "returnNoneifoneisNoneandby<0elseone+by"} <= after
    assert {"returnNoneifoneisNoneorby<0elseone-by", "at:int|None=8"} <= after
