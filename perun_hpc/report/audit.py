"""The audit's page: what was counted and who got it, per day; then what does not close, where and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perun_hpc.accounting.audit import OTHERS, Account, Finding
from perun_hpc.accounting.ledger import Key
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, table, wrapped

MOST = 40
NAMES = 8
"""How many jobs or domains one entry names."""
_MEANING = {
    "idle": "idle: CPUs and devices that no job held",
    "system": "system: cores kept for the system, and work that no job explains",
    "unobserved": "unobserved: counted while no agent watched (it was stopped or restarted), given to no job",
}


def accounts_table(accounts: Mapping[Key, Account], style: Style, per_domain: bool) -> list[str]:
    """Return a table per day, or per node, day and domain."""
    rows: dict[tuple[str, ...], Account] = {}
    for (node, day, domain), account in sorted(accounts.items()):
        at = (day, node, domain) if per_domain else (day,)
        rows[at] = _sum(rows.get(at, Account()), account)
    head = ("day", "node", "domain")[: 3 if per_domain else 1]
    names = ("counted", "jobs", *OTHERS)
    cells = [
        [*at, q.energy(a.total_uj), q.energy(a.jobs_uj), *(q.energy(a.others_uj[name]) for name in OTHERS)]
        for at, a in rows.items()
    ]
    lines = table(cells, [*head, *names], [False] * len(head) + [True] * len(names), style, widest=14)
    notes = [text for name, text in _MEANING.items() if any(a.others_uj[name] for a in rows.values())]
    estimated_uj = sum(a.estimated_uj for a in rows.values())
    if estimated_uj:
        nodes = sorted({node for (node, _, _), a in accounts.items() if a.estimated_uj})
        named = ", ".join(nodes[:NAMES]) + (f" and {len(nodes) - NAMES} more" if len(nodes) > NAMES else "")
        notes.append(f"{q.energy(estimated_uj)} of what was counted is estimated: nothing measures on {named}")
    return [style.bold(lines[0]), *lines[1:], *(line for text in notes for line in wrapped(text, 2, "  "))]


def verdict(gap_ns: int) -> list[str]:
    """Return what it means that nothing was found; `gap_ns` is summed over nodes and domains."""
    text = "What was counted closes, to the microjoule."
    if gap_ns:
        text += (
            f" Nothing is known of {gap_ns / 1e9:.0f} s (summed over nodes and domains) of gaps: they are in no sum."
        )
    return wrapped(f"{text} That is bookkeeping: the sensors' own errors stand in each report.", 0)


def gaps(accounts: Mapping[Key, Account]) -> list[str]:
    """Return a sentence on the counters that gave nothing for a time, the longest first; none where all gave."""
    found: dict[tuple[str, str], int] = {}
    for (node, _, domain), account in accounts.items():
        if account.gap_ns:
            found[node, domain] = found.get((node, domain), 0) + account.gap_ns
    if not found:
        return []
    longest = sorted(found.items(), key=lambda one: -one[1])
    names = ", ".join(f"{node} {domain} {gap_ns / 1e9:.0f} s" for (node, domain), gap_ns in longest[:NAMES])
    more = f" and {len(found) - NAMES} more" if len(found) > NAMES else ""
    return [f"counters that gave nothing for a time, which is missing, not zero: {names}{more}"]


def lost_list(lost: Sequence[str], style: Style) -> list[str]:
    """Return one entry for each kind of thing that is lost or late; it does not keep the books from closing."""
    return [style.warn("Lost or late"), *(line for text in lost for line in wrapped(text, 4, "  - "))]


def findings_list(findings: Sequence[Finding], style: Style) -> list[str]:
    """Return one entry per finding, the first `MOST` of them; the same of several domains of a node is one entry."""
    lines = []
    merged = _merged(findings)
    for f in merged[:MOST]:
        off = "" if f.off_uj is None else f" (off by {f.off_uj:+d} uJ)"
        lines += wrapped(f"{f.where}: {f.what}{off}", 4, "  - ")
    if len(merged) > MOST:
        lines.append(f"  and {len(merged) - MOST} more: perun audit --json")
    return [style.warn("Does not close"), *lines]


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    alike: dict[tuple[str, str, bool], list[Finding]] = {}
    for f in findings:
        place, _, _ = f.where.rpartition(" ")
        alike.setdefault((place, f.what, f.off_uj is None), []).append(f)
    merged = []
    for (place, what, unknown), same in alike.items():
        names = [f.where.rpartition(" ")[2] for f in same]
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        where = f"{place} {', '.join(names[:NAMES])}{more}".strip()
        merged.append(Finding(where, what, None if unknown else sum(f.off_uj or 0 for f in same)))
    return merged


def _sum(a: Account, b: Account) -> Account:
    return Account(
        total_uj=a.total_uj + b.total_uj,
        jobs_uj=a.jobs_uj + b.jobs_uj,
        others_uj={name: a.others_uj[name] + b.others_uj[name] for name in OTHERS},
        gap_ns=a.gap_ns + b.gap_ns,
        intervals=a.intervals + b.intervals,
        estimated_uj=a.estimated_uj + b.estimated_uj,
    )
