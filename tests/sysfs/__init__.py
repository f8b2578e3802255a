"""Small trees of kernel files as text, and what `table.py` expects of each.

A line is `PATH = CONTENT` (`\\n` for a line's end), `PATH -> TARGET` (a symbolic link), `move PATH WATTS` (whoever lets
the tree's counters run lets this one run so fast), or `#` and a note. `STAMP` in a content is the present time in us.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.txt"))


def build(name: str, root: Path, stamp_us: int | None = None) -> Path:
    """Write the tree `NAME.txt` below `root` and return it; `stamp_us` is what `STAMP` stands for (default: now)."""
    return write(text(name), root, stamp_us)


def text(name: str) -> str:
    """The tree `NAME.txt`, as it is written."""
    return (HERE / f"{name}.txt").read_text()


def write(tree: str, root: Path, stamp_us: int | None = None) -> Path:
    """As `build`, of a tree's text."""
    stamp = str(time.time_ns() // 1000 if stamp_us is None else stamp_us)
    for line in _lines(tree):
        path, mark, content = line.partition(" = ")
        link, arrow, target = line.partition(" -> ")
        if mark:
            _place(root, path).write_text(content.replace("\\n", "\n").replace("STAMP", stamp) + "\n")
        elif arrow:
            _place(root, link).symlink_to(target)
    return root


def moves(tree: str) -> dict[str, int]:
    """Path below the root -> watts, of the counters that run in a tree's text."""
    found = (line.split() for line in _lines(tree) if line.startswith("move "))
    return {path: int(watts) for _, path, watts in found}


def _lines(tree: str) -> Iterator[str]:
    return (line for line in tree.splitlines() if not line.startswith("#"))


def _place(root: Path, path: str) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
