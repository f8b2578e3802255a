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
    """A release, the versions found in its root, and what each target gave there."""

    release: Release
    versions: Mapping[str, str]
    results: Mapping[str, Result]


def column(release: Release, kept: Mapping[str, Any]) -> Column:
    """Read what a run left in its file."""
    rows = {
        test: Result(one["passed"], tuple(one["failed"]), one["skipped"], tuple(one["again"]))
        for test, one in kept["rows"].items()
    }
    return Column(release, kept["versions"], rows)


def markdown(columns: Sequence[Column], order: Sequence[str]) -> str:
    """The table, and below it what was skipped and what failed."""
    versions = [
        f"{one.release.title}: Slurm {one.versions['slurmctld']}, Python {one.versions['python3']}" for one in columns
    ]
    lines = [f"| tests | {' | '.join(versions)} |", f"|---|{'---|' * len(columns)}"]
    for test in order:
        cells = [cell(one.results[test]) if test in one.results else "" for one in columns]
        if any(cells):
            lines.append(f"| `{test}` | {' | '.join(cells)} |")
    lines += ["", *(f"- {one.release.title} also has {others(one)}." for one in columns)]
    notes = [note for one in columns for note in _notes(one, order)]
    return "\n".join([*lines, *(["", NOTES, *notes] if notes else []), ""])


def cell(result: Result) -> str:
    """One run in a few words."""
    words = [f"{result.passed} passed" + (f" ({len(result.again)} of them only alone)" if result.again else "")]
    if result.failed:
        words.append(f"**{len(result.failed)} failed**")
    if result.skipped:
        words.append(f"{sum(result.skipped.values())} skipped")
    return ", ".join(words)


def others(one: Column) -> str:
    """The versions of everything but Slurm and Python."""
    names = {"mariadb-server": "MariaDB", "munge": "munge", "openmpi-bin": "Open MPI"}
    return ", ".join(f"{title} {one.versions[name]}" for name, title in names.items() if name in one.versions)


def _notes(one: Column, order: Sequence[str]) -> list[str]:
    """What was skipped, and what failed, a row each."""
    found = []
    for test in order:
        if test in one.results:
            result = one.results[test]
            words = [f"{n} skipped: {why}" for why, n in result.skipped.items()]
            words += [f"failed: `{name}`" for name in result.failed]
            found += [f"| {one.release.title} | `{test}` | {word.replace('|', '/')} |" for word in words]
    return found
