"""Energy budgets of accounts: what the policy grants, what the ledger says was used; it warns and enforces nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from perun_hpc.accounting.ledger import Ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.config.resolve import JobFacts, resolve

MONTHS = {"month": 1, "quarter": 3, "year": 12}
"""Length of each period."""


@dataclass(frozen=True)
class BudgetUse:
    """One account in its current period; `state` is `ok`, `warn` (from the policy's fraction on) or `over`."""

    account: str
    since_day: str
    used_uj: int
    budget_uj: int
    state: str


def first_day(period: str, today: date) -> date:
    """The first day of the calendar month, quarter or year that `today` lies in."""
    length = MONTHS[period]
    return date(today.year, (today.month - 1) // length * length + 1, 1)


def budget_use(ledger: Ledger, policy: Mapping[str, Any], today: date, cluster: str = "") -> list[BudgetUse]:
    """All accounts that have a budget under the compiled `policy`, the fullest first."""
    used = {
        period: {
            row.group[0]: row.values["energy_uj"]
            for row in usage(
                ledger, ("account",), Filter(cluster=cluster), first_day(period, today).isoformat(), today.isoformat()
            )
        }
        for period in MONTHS
    }
    found = []
    for account in sorted({*policy["accounts"], *used["year"]}):
        budget = resolve(policy, JobFacts(account=account)).budget
        if not isinstance(budget.energy_uj, int):
            continue
        spent = used[budget.period].get(account, 0)
        state = "over" if spent > budget.energy_uj else "warn" if spent >= budget.warn_at * budget.energy_uj else "ok"
        since = first_day(budget.period, today).isoformat()
        found.append(BudgetUse(account, since, spent, budget.energy_uj, state))
    return sorted(found, key=lambda one: (-one.used_uj / max(one.budget_uj, 1), one.account))
