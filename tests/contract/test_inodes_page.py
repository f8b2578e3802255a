"""The archive's arithmetic in `docs/store.md` is what its command counts."""

from __future__ import annotations

from pathlib import Path

from bench import inodes

ROOT = Path(__file__).parents[2]


def _counts(line: str) -> list[str]:
    """Title and inodes of a line: those of bytes depend on the file system."""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return [*cells[:4], cells[5]]


def test_the_table_of_inodes_is_the_commands() -> None:
    found = inodes.measured(shorter=60)
    page = (ROOT / "docs/store.md").read_text().splitlines()
    lines = list(inodes.table(found))
    at = page.index(lines[0])
    assert list(map(_counts, page[at : at + len(lines)])) == list(map(_counts, lines))
    assert found.packed.inodes <= 1.2 and max(one.inodes for one in found.records) == 19
