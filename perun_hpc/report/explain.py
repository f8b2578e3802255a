"""What the lines and words of a report mean: its legend, and `perun report JOB --explain [LINE]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.data_model.sensor import Provenance
from perun_hpc.errors import UsageError
from perun_hpc.report import terms
from perun_hpc.report.screen import Style, wrapped
from perun_hpc.report.terms import LINES, WORDS, Term

INDENT = 11
_CODE = re.compile(r"`([^`]*)`")


def legend(record: EnergyRecord) -> list[tuple[str, str]]:
    """Return the words for where a figure comes from that the report has, best first, each with what it means."""
    if record.energy_uj is None:
        return []
    said = {record.provenance, *(c.provenance for c in record.components)}
    said |= {"modelled"} if record.modelled_uj else set()
    meaning = {term.name: term.text for term in terms.terms() if term.section == WORDS}
    return [(word.value, meaning[word.value]) for word in Provenance if word.value in said]


def explain_report(report: Sequence[str], style: Style) -> list[str]:
    """Explain each line and each word of a report that is given as its plain lines."""
    shown = [term for term in terms.lines() if _blocks(report, term)]
    text = " ".join(report)
    said = [term for term in terms.terms() if term.section == WORDS and any(_holds(text, n) for n in term.names)]
    return [
        style.bold("Its lines"),
        *(line for term in shown for line in _entry(term)),
        "",
        style.bold("Its words"),
        *(line for term in said for line in _entry(term)),
    ]


def explain_word(word: str, report: Sequence[str], style: Style) -> list[str]:
    """Explain one line or term, under what the report says of it.

    Raises
    ------
    UsageError
        If there is no such term.
    """
    found = terms.find(word)
    if not found:
        near = terms.near(word)
        hint = f"did you mean {' or '.join(near)}?" if near else "perun report JOB --explain explains all that it says"
        raise UsageError(f"--explain {word}: no line or term of that name: {hint}")
    quoted = [line for term in found for line in _blocks(report, term)]
    if not quoted:
        quoted = [line for line in report if any(_holds(line, name) for term in found for name in term.names)]
    head = [*dict.fromkeys(quoted), ""] if quoted else []
    several = len(found) > 1
    lines = head
    for term in found:
        first = f"{term.name.replace('`', '')}" + (" (the report's line)" if several and term.section == LINES else "")
        lines += [style.bold(first), *wrapped(_CODE.sub(r"\1", term.text), 2, "  ")]
    return lines


def _entry(term: Term) -> list[str]:
    name = term.name.replace("`", "")
    text = _CODE.sub(r"\1", term.text)
    if len(name) < INDENT:
        return wrapped(text, INDENT, name)
    return [name, *wrapped(text, INDENT)]


def _blocks(report: Iterable[str], term: Term) -> list[str]:
    """The lines of a report that a label heads: its own, and those below that belong to it."""
    if term.section != LINES:
        return []
    head = re.compile(rf"{re.escape(term.name)}(?:  | \(|$| \d)" if term.name != "Record from" else "Record from ")
    kept: list[str] = []
    inside = False
    for line in report:
        if head.match(line):
            inside = True
        elif inside and (not line or line[0] in "─-" or _labelled(line)):
            inside = False
        if inside:
            kept.append(line)
    return kept


def _labelled(line: str) -> bool:
    return any(re.match(rf"{re.escape(one.name)}(?:  | \()", line) for one in terms.lines())


def _holds(text: str, name: str) -> bool:
    """Whether a text has a term as words of its own; `k=2` is `k = 2`."""
    pattern = r"\s*".join(re.escape(part) for part in name.split())
    return re.search(rf"(?<![\w-]){pattern}(?![\w-])", text) is not None
