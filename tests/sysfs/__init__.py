"""Small trees of kernel files as text: one `PATH = CONTENT` a line, `\\n` for a line's end, `#` for notes."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def build(name: str, root: Path) -> Path:
    """Write the tree `NAME.txt` below `root` and return it."""
    for line in (HERE / f"{name}.txt").read_text().splitlines():
        path, mark, content = line.partition(" = ")
        if not mark or line.startswith("#"):
            continue
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.replace("\\n", "\n") + "\n")
    return root
