"""The terms of the project, each in a sentence: what `perun report --explain` says and docs/glossary.md lists.

`terms.csv` is the one place where they stand: `python -m perun_hpc.report.terms glossary | report` prints the tables of
docs/glossary.md and docs/report.md, which a test holds against it.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LINES = "Lines of a report"
WORDS = "Words of a report"


@dataclass(frozen=True)
class Term:
    """A term and what it is; `names` are those that it is asked for by."""

    section: str
    name: str
    text: str

    @property
    def names(self) -> tuple[str, ...]:
        """The words of the name: of `holder, unheld` both, without Markdown's marks."""
        return tuple(self.name.replace("`", "").split(", "))


@cache
def terms() -> tuple[Term, ...]:
    """All terms, in the order of the documents."""
    text = Path(__file__).with_name("terms.csv").read_text(encoding="utf-8")
    return tuple(Term(**row) for row in csv.DictReader(text.splitlines()))


def lines() -> tuple[Term, ...]:
    """The lines that a report can have, by what stands at their left."""
    return tuple(term for term in terms() if term.section == LINES)


def find(word: str) -> list[Term]:
    """What a word is, as a line of a report and as a term; empty where there is no such term."""
    wanted = plain(word)
    return [term for term in terms() if wanted in map(plain, term.names)]


def near(word: str) -> list[str]:
    """Names that resemble a word, or hold it."""
    import difflib

    names = {plain(name): name for term in terms() for name in term.names}
    holding = [key for key in names if plain(word) and plain(word) in key]
    return [names[key] for key in dict.fromkeys((*holding, *difflib.get_close_matches(plain(word), names, n=3)))][:5]


def plain(word: str) -> str:
    """A word as it is compared: `K=2` is `k = 2`."""
    return "".join(word.replace("`", "").replace("_", " ").lower().split())


def glossary() -> str:
    """The tables of docs/glossary.md."""
    parts: list[str] = []
    for section in dict.fromkeys(term.section for term in terms()):
        if section != LINES:
            rows = [f"| {term.name} | {term.text} |" for term in terms() if term.section == section]
            parts += [f"## {section}", "", "| term | is |", "|---|---|", *rows, ""]
    return "\n".join(parts[:-1]) + "\n"


def of_report() -> str:
    """The table of docs/report.md: each line of the report."""
    return "\n".join(["| line | says |", "|---|---|", *(f"| **{term.name}** | {term.text} |" for term in lines()), ""])


if __name__ == "__main__":
    print(of_report() if sys.argv[1:] == ["report"] else glossary(), end="")
