"""Of what day and of which state of the code a row of a page is."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def stamp() -> str:
    """Today and the commit that is checked out; `+` where its files were changed since, those of docs/ aside."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return f"{datetime.date.today().isoformat()}, {git('rev-parse', '--short=8', 'HEAD')}{'+' if changed else ''}"
