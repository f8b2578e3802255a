"""What the tests said on each release, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.junit import Result
from tests.matrix.roots import Release

NOTES = "| release | tests | what was skipped, and what failed |\n|---|---|---|"


@dataclass(frozen=True)
class Column:
    """A release as the page shows it: the versions found in its root, and by target its cell and its notes' rows."""

    title: str
    others: str
    cells: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]


def column(release: Release, kept: Mapping[str, Any], before: Column | None = None) -> Column:
    """Read what a run left in its file; targets that it did not try are as they were `before`."""
    versions = kept["versions"]
    cells, notes = (dict(before.cells), dict(before.notes)) if before else ({}, {})
    for test, one in kept["rows"].items():
        result = Result(one["passed"], tuple(one["failed"]), one["skipped"], tuple(one["again"]))
        cells[test] = f"{cell(result)}; {one['of']}"
        notes[test] = _notes(release, test, result)
    title = f"{release.title}: Slurm {versions['slurmctld']}, Python {versions['python3']}"
    return Column(title, f"- {release.title} also has {_others(versions)}.", cells, notes)


def former(release: Release, page: str) -> Column | None:
    """A release's column of an earlier page, if it has one."""
    lines = page.splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith(("| tests |", "| `"))]
    titles = [title.strip() for title in rows[0]] if rows else []
    at = next((n for n, title in enumerate(titles) if title.startswith(f"{release.title}: ")), None)
    if at is None:
        return None
    cells = {row[0].strip(" `"): row[at].strip() for row in rows[1:] if row[at].strip()}
    notes = {test: tuple(line for line in lines if line.startswith(_place(release, test))) for test in cells}
    others = next((line for line in lines if line.startswith(f"- {release.title} also has ")), "")
    return Column(titles[at], others, cells, notes)


def markdown(columns: Sequence[Column], order: Sequence[str]) -> str:
    """The table, and below it what was skipped and what failed."""
    lines = [f"| tests | {' | '.join(one.title for one in columns)} |", f"|---|{'---|' * len(columns)}"]
    for test in order:
        cells = [one.cells.get(test, "") for one in columns]
        if any(cells):
            lines.append(f"| `{test}` | {' | '.join(cells)} |")
    lines += ["", *(one.others for one in columns)]
    notes = [note for one in columns for test in order for note in one.notes.get(test, ())]
    return "\n".join([*lines, *(["", NOTES, *notes] if notes else []), ""])


def cell(result: Result) -> str:
    """One run in a few words."""
    words = [f"{result.passed} passed" + (f" ({len(result.again)} of them only alone)" if result.again else "")]
    if result.failed:
        words.append(f"**{len(result.failed)} failed**")
    if result.skipped:
        words.append(f"{sum(result.skipped.values())} skipped")
    return ", ".join(words)


def _others(versions: Mapping[str, str]) -> str:
    """The versions of everything but Slurm and Python."""
    names = {"mariadb-server": "MariaDB", "munge": "munge", "openmpi-bin": "Open MPI"}
    return ", ".join(f"{title} {versions[name]}" for name, title in names.items() if name in versions)


def _notes(release: Release, test: str, result: Result) -> tuple[str, ...]:
    """What was skipped, and what failed, a row each."""
    words = [f"{n} skipped: {why}" for why, n in result.skipped.items()]
    words += [f"failed: `{name}`" for name in result.failed]
    return tuple(f"{_place(release, test)}{word.replace('|', '/')} |" for word in words)


def _place(release: Release, test: str) -> str:
    return f"| {release.title} | `{test}` | "
