"""Energy budgets of accounts: what the policy grants, what the ledger says was used; it warns and enforces nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
    """One account in its current period; `state` is `ok`, `warn` (from the policy's fraction on) or `over`.

    `cpu_s` is the CPU time that its jobs used for it.
    """

    account: str
    since_day: str
    used_uj: int
    budget_uj: int
    state: str
    cpu_s: int = 0


def first_day(period: str, today: date) -> date:
    """The first day of the calendar month, quarter or year that `today` lies in."""
    length = MONTHS[period]
    return date(today.year, (today.month - 1) // length * length + 1, 1)


def budget_use(ledger: Ledger, policy: Mapping[str, Any], today: date, cluster: str = "") -> list[BudgetUse]:
    """All accounts that have a budget under the compiled `policy`, the fullest first."""
    used = {
        period: {
            row.group[0]: (row.values["energy_uj"], row.values["cpu_s"])
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
        spent, cpu_s = used[budget.period].get(account, (0, 0))
        state = "over" if spent > budget.energy_uj else "warn" if spent >= budget.warn_at * budget.energy_uj else "ok"
        since = first_day(budget.period, today).isoformat()
        found.append(BudgetUse(account, since, spent, budget.energy_uj, state, cpu_s))
    return sorted(found, key=lambda one: (-one.used_uj / max(one.budget_uj, 1), one.account))


def proposals(found: Iterable[BudgetUse], cluster: str = "") -> Iterator[str]:
    """Lines of a shell script with the limits that would hold accounts to their budgets; nothing here runs them.

    Over the budget: no further jobs. Warned: running jobs may have as many CPU minutes left as the rest of the budget
    gives at what a CPU minute has cost the account so far. Lines that would lift a limit are comments, since nobody
    knows here who set it. An account whose name is not a plain word is a comment, too.
    """
    for one in found:
        if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", name) for name in (one.account, cluster or "all")):
            yield f"# {one.account!a}: no plain name: not proposed"
            continue
        where = f"sacctmgr -i modify account where name={one.account}{f' cluster={cluster}' if cluster else ''} set "
        yield f"# {one.account}: {one.used_uj / 3.6e12:.6g} of {one.budget_uj / 3.6e12:.6g} kWh since {one.since_day}"
        if one.state == "over":
            yield f"{where}GrpSubmitJobs=0"
        elif one.state == "warn" and one.cpu_s > 0:
            left_min = (one.budget_uj - one.used_uj) * one.cpu_s // (one.used_uj * 60)
            yield f"{where}GrpTRESRunMins=cpu={left_min}"
        else:
            yield f"# {where}GrpSubmitJobs=-1 GrpTRESRunMins=cpu=-1"
