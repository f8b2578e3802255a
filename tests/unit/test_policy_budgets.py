"""Energy budgets of accounts: what was used in the current period, and when it warns."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from perun_hpc.accounting.budgets import BudgetUse, budget_use, first_day, proposals
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse
from tests.accounting_data import DAY, parsed
from tests.accounting_data import boundary as record

TODAY = date.fromisoformat(DAY)
JOULES = 8000
"""What one job of the test data used."""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    for number, account in enumerate(["physics", "physics", "physics", "biology"], 1):
        ledger.put([sum_boundaries([parsed(record(number, account=account))])])
    return ledger


def use(ledger: Ledger, text: str) -> list[tuple[str, str, int, str]]:
    compiled = compile_policy(parse(text.encode(), "policy"))
    return [(one.account, one.since_day, one.used_uj, one.state) for one in budget_use(ledger, compiled, TODAY)]


@pytest.mark.parametrize(
    ("period", "today", "first"),
    [
        ("month", "2026-11-22", "2026-11-01"),
        ("quarter", "2026-11-22", "2026-10-01"),
        ("quarter", "2026-03-31", "2026-01-01"),
        ("year", "2026-11-22", "2026-01-01"),
    ],
)
def test_periods_are_those_of_the_calendar(period, today, first):
    assert first_day(period, date.fromisoformat(today)).isoformat() == first


@pytest.mark.parametrize(
    ("budget", "state"), [("23000 J", "over"), ("24000 J", "warn"), ("30000 J", "warn"), ("30001 J", "ok")]
)
def test_an_account_is_warned_from_the_policys_fraction_on(ledger, budget, state):
    found = use(ledger, f"accounts: {{physics: {{budget: {{energy: {budget}}}}}}}")
    assert found == [("physics", "2026-11-01", 3 * JOULES * 10**6, state)]


def test_a_budget_of_the_site_holds_for_every_account(ledger):
    found = use(ledger, "budget: {energy: 10000 J, period: year}\naccounts: {chem: {budget: {energy: 1 kWh}}}")
    assert [(account, since) for account, since, _, _ in found] == [
        ("physics", "2026-01-01"),
        ("biology", "2026-01-01"),
        ("chem", "2026-01-01"),
    ]
    assert [state for *_, state in found] == ["over", "warn", "ok"]


def test_without_a_budget_nobody_is_listed(ledger):
    assert use(ledger, "") == []


def test_limits_are_proposed_as_lines_that_somebody_else_runs():
    kwh = 3_600_000 * 10**6
    found = [
        BudgetUse("physics", "2026-11-01", 11 * kwh, 10 * kwh, "over", 60),
        BudgetUse("chem", "2026-11-01", 8 * kwh, 10 * kwh, "warn", 600 * 60),
        BudgetUse("bio", "2026-11-01", 9 * kwh, 10 * kwh, "warn", 0),
        BudgetUse("geo", "2026-11-01", kwh, 10 * kwh, "ok", 60),
    ]
    lines = list(proposals(found, "c1"))
    assert [line for line in lines if not line.startswith("#")] == [
        "sacctmgr -i modify account where name=physics cluster=c1 set GrpSubmitJobs=0",
        # 600 CPU minutes cost 8 kWh: the 2 that are left are worth 150
        "sacctmgr -i modify account where name=chem cluster=c1 set GrpTRESRunMins=cpu=150",
    ]
    assert sum(line.startswith("# sacctmgr") and "GrpSubmitJobs=-1" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["a b", "x;reboot", "$(id)", "-i", "a\nreboot", "", "a\x1b[2J"])
def test_no_account_name_becomes_a_command(name):
    lines = list(proposals([BudgetUse(name, "2026-11-01", 2, 1, "over", 1)]))
    assert len(lines) == 1
    assert lines[0].startswith("# ")
    assert lines[0].isprintable()
