"""The table of results, as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from tests.faults.catalogue import FAULTS
from tests.faults.measure import Result, percentile

HEAD = (
    "fault",
    "jobs",
    "failed",
    "requeued",
    "nodes lost",
    "hook p50 / p99 / max ms (n)",
    "records",
    "recovered",
    "of",
)


def markdown(results: Sequence[Result], controls: Mapping[str, Result], page: str = "") -> str:
    """One row per fault, then what was done and what the records say; of faults not tried as `page` has it."""
    rows = {
        name: row for row in page.splitlines() if row.startswith("| ") and (name := row.split(" | ")[0][2:]) in FAULTS
    }
    rows |= {result.name: _row(_cells(result, controls.get(result.name))) for result in results}
    texts = {text.split("**")[1]: text for text in re.findall(r"^- \*\*(?:.+\n)(?:  .+\n)*", page, re.MULTILINE)}
    texts |= {result.name: _told(result) for result in results}
    lines = [_row(HEAD), _row(["---"] * len(HEAD)), *(rows[name] for name in FAULTS if name in rows)]
    lines += ["", "### What was done, what was lost, what the records say", ""]
    return "\n".join(lines) + "\n" + "".join(texts[name] for name in FAULTS if name in texts)


def _told(result: Result) -> str:
    """What was done under one fault and what was lost, as an item of a list."""
    fault = FAULTS[result.name]
    said = "; ".join(f"*{text}* ({count})" for text, count in result.said.items())
    text = f"- **{fault.name}**: {fault.what}. May be lost: {fault.loss}. Said: {said or 'nothing'}."
    if result.late_ms and max(result.late_ms) >= 1000:
        text += f" Edges late by up to {max(result.late_ms) / 1000:.1f} s."
    if result.flagged_unseen:
        text += (
            f" Of {result.flagged} flagged steps {result.flagged_unseen} left no ranks in their records, which say so."
        )
    if result.audit:
        text += f" The audit found {len(result.audit)} things, the first: {result.audit[0]}."
    return textwrap.fill(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(result: Result, control: Result | None) -> list[str]:
    failed = str(result.failed + result.beside_failed)
    requeued = str(result.requeued)
    bad = str(len({state.split()[0] for state in result.bad_nodes}))
    if control is not None:
        without = f"without perun, {control.jobs + control.beside} jobs:"
        failed += f" ({without} {control.failed + control.beside_failed})"
        requeued += f" ({control.requeued})"
        bad += f" ({len({state.split()[0] for state in control.bad_nodes})})"
    records = [f"{result.complete} complete"]
    for count, word in ((result.partial, "partial"), (result.missing, "missing"), (result.absent, "without")):
        if count:
            records.append(f"{count} {word}")
    recovered = "no" if result.recovered_s is None else f"{result.recovered_s:.0f} s"
    if result.audit:
        recovered += f", audit {len(result.audit)}"
    jobs = f"{result.jobs} + {result.beside}"
    return [result.name, jobs, failed, requeued, bad, hooks(result), ", ".join(records), recovered, result.of]


def hooks(result: Result) -> str:
    """How long the hooks took."""
    ms = result.hook_ms
    if not ms:
        return "-"
    return f"{percentile(ms, 0.5):.0f} / {percentile(ms, 0.99):.0f} / {max(ms):.0f} ({len(ms)})"
