"""Archives of a month as nodes and collector leave them, made at random, with their own log of what is in them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from perun_hpc.archive.places import Archive
from tests.accounting_data import NS, boundary, domain

MONTH = "2025-11"
AFTER_S = 1_764_654_400
"""2025-12-02 05:46:40 UTC."""
PARTIES = ("idle", "system", "unknown", "unobserved")


@dataclass
class Log:
    """What was put into an archive, in uJ: by day and party, by account, and what no record has."""

    days: dict[str, dict[str, int]] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    unrecorded: dict[str, int] = field(default_factory=dict)


def make_archive(root: Path, seed: int) -> tuple[Archive, Log]:
    """Write some nodes' ledgers and their jobs' boundary records; one job may still run."""
    dice, log, archive = random.Random(seed), Log(), Archive(root, "c")
    jobs = {
        number: dice.choice(("physics", "Chemistry", "")) for number in dice.sample(range(1, 50), dice.randint(1, 5))
    }
    runs = next(iter(jobs)) if dice.random() < 0.5 else None
    for node in [f"n{number}" for number in range(1, dice.randint(1, 3) + 1)]:
        given: dict[int, dict[tuple[str, str], int]] = {}
        edges: dict[int, list[int]] = {}
        t_ns, ticks = dice.randint(1, 10**12), dice.randint(0, 10**9)
        at = {t_ns: ticks}
        for day in sorted(dice.sample(range(1, 31), dice.randint(1, 3))):
            name = f"{MONTH}-{day:02d}"
            lines = []
            for _ in range(dice.randint(1, 6)):
                begin_ns, t_ns = t_ns, t_ns + dice.randint(1, 60) * NS
                shares = {party: dice.randint(0, 10**7) for party in PARTIES}
                for job in jobs:
                    if dice.random() < 0.6:
                        uj = shares[f"job:{job}.0"] = dice.randint(-5, 10**9)
                        mine = given.setdefault(job, {})
                        mine[name, "package-0"] = mine.get((name, "package-0"), 0) + uj
                        edges.setdefault(job, [begin_ns, t_ns])[1] = t_ns
                total = sum(shares.values())
                ticks += total
                at[t_ns] = ticks
                lines.append(_line(begin_ns, t_ns, total, shares))
                _note(log, name, total, shares)
            path = archive.base / "nodes" / node / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines))
        for job, parts in given.items():
            if job == runs:
                log.unrecorded[f"{job}.0"] = log.unrecorded.get(f"{job}.0", 0) + sum(parts.values())
            else:
                _put_record(archive, job, jobs[job], node, parts, edges[job], at)
                account = jobs[job].lower()
                log.accounts[account] = log.accounts.get(account, 0) + sum(parts.values())
    return archive, log


def _line(begin_ns: int, end_ns: int, total: int, shares: dict[str, int]) -> str:
    line = {"t0_ns": begin_ns, "t1_ns": end_ns, "domain": "package-0", "total_uj": total, "shares": shares}
    return json.dumps({**line, "method": "cores"}, separators=(",", ":")) + "\n"


def _note(log: Log, day: str, total: int, shares: dict[str, int]) -> None:
    noted = log.days.setdefault(day, dict.fromkeys(("counted", "jobs", *PARTIES), 0))
    noted["counted"] += total
    for party, uj in shares.items():
        noted[party if party in PARTIES else "jobs"] += uj


def _put_record(
    archive: Archive, job: int, account: str, node: str, parts: dict[tuple[str, str], int], span: list[int], at: Any
) -> None:
    shares = [{"day": day, "domain": name, "energy_uj": uj} for (day, name), uj in sorted(parts.items())]
    counter = {"id": "x", "domain": "package-0", "kind": "counter", "quantity": "energy", "scale_num": 1,
               "scale_den": 1, "wrap_range": None}  # fmt: skip
    made = boundary(
        job,
        node,
        node,
        domains={"package-0": domain("cpu", sum(parts.values()))},
        shares=shares,
        start_s=datetime.fromisoformat(f"{shares[0]['day']}T12:00Z").timestamp(),
        account=account,
        sensors=[counter],
        edges={"x": {"start": {"ticks": at[span[0]], "mono_ns": 0}, "end": {"ticks": at[span[1]], "mono_ns": 0}}},
    )
    made["start"]["mono_ns"], made["end"]["mono_ns"] = span
    path = archive.base / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "boundary" / f"{node}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
