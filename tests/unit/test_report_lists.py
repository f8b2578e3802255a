"""The tables of many jobs: usage, audit, figures that must not suggest more than is known."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from perun_hpc.accounting.audit import Account, Finding
from perun_hpc.accounting.daily import MEASURES
from perun_hpc.accounting.questions import Usage
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.report import quantities as q
from perun_hpc.report.audit import accounts_table, findings_list, verdict
from perun_hpc.report.listing import jobs_listing
from perun_hpc.report.screen import WIDTH, Style
from perun_hpc.report.usage import total, usage_csv, usage_json, usage_table
from tests.accounting_data import START_S, boundary, parsed, slurm_job

AT = ("n1", "2026-11-22", "package-0")


@pytest.mark.parametrize(
    ("uj", "u_uj", "shown"),
    [
        (None, 0, "-"),
        (0, 0, "-"),
        (0, 1_000_000, "at most 2.00 J"),
        (1_000_000, 2_000_000, "at most 5.00 J"),
        (-1_000_000, 2_000_000, "at most 4.00 J"),
        (8_000_000, 500_000, "8.0 J ± 1.0 J"),
        (8_000_000, 0, "8.00 J"),
    ],
)
def test_no_bound_suggests_a_negative_energy(uj: int | None, u_uj: int, shown: str) -> None:
    assert q.bounded(uj, u_uj, "±") == shown


def test_micro() -> None:
    assert q.watt_hours(3_600) == "1.00 µWh"
    assert Style(unicode=False).units("1.00 µWh") == "1.00 uWh"


def test_cost_with_its_currency() -> None:
    values = dict.fromkeys(MEASURES, 0)
    rows = [Usage(("physics",), {**values, "jobs": 1, "energy_uj": 10**9, "co2_mg": 5, "cost_millicents": 7})]
    assert usage_table(rows, total(rows), ["account"], Style(), "CHF")[1].endswith("<0.01 CHF")
    assert "cost" not in usage_table(rows, total(rows), ["account"], Style(), None)[0]


def test_what_is_not_known_is_no_zero_for_programs_either() -> None:
    nobody = Usage(("physics",), {**dict.fromkeys(MEASURES, 0), "jobs": 2, "unmeasured": 2})
    known = Usage(("chemistry",), {**dict.fromkeys(MEASURES, 0), "jobs": 1, "energy_uj": 10**9, "co2_mg": 5})
    first, second = usage_json([nobody, known], ["account"])
    assert (first["energy_uj"], first["wasted_uj"], first["co2_mg"], first["jobs"]) == (None, None, None, 2)
    assert (second["energy_uj"], second["wasted_uj"], second["co2_mg"], second["cost_millicents"]) == (
        10**9,
        0,
        5,
        None,
    )
    rows = list(csv.DictReader(usage_csv([nobody, known], ["account"]).splitlines()))
    assert [(row["co2_kg"], row["co2_market_kg"], row["cost"]) for row in rows] == [("", "", ""), ("0.000005", "", "")]


def test_an_audit_with_gaps_says_so_in_its_verdict() -> None:
    assert "Nothing is known of 2219 s" in " ".join(verdict(2219 * 10**9))
    assert "gaps" not in " ".join(verdict(0))


def test_the_audit_explains_the_columns_that_hold_something() -> None:
    account = Account(total_uj=30, jobs_uj=10)
    account.others_uj.update(system=15, unobserved=5)
    lines = accounts_table({AT: account}, Style(), per_domain=False)
    assert any(line.startswith("  system: ") for line in lines)
    assert any(line.startswith("  unobserved: ") for line in lines)
    assert not any(line.startswith("  idle: ") for line in lines)
    assert all(len(line) <= WIDTH for line in lines)


def test_the_audit_says_how_much_of_what_was_counted_no_sensor_measured() -> None:
    accounts = {(node, AT[1], "cpu"): Account(total_uj=10**9, estimated_uj=10**9) for node in ("n1", "n2")}
    accounts[AT] = Account(total_uj=10**9)
    lines = accounts_table(accounts, Style(), per_domain=False)
    assert lines[-1] == "  2.00 kJ of what was counted is estimated: nothing measures on n1, n2"
    assert "estimated" not in "".join(accounts_table({AT: accounts[AT]}, Style(), per_domain=False))


def test_four_columns_of_long_names_fit_the_screen_and_no_figure_is_cut() -> None:
    values = {**dict.fromkeys(MEASURES, 0), "jobs": 123_456, "energy_uj": 456 * 10**12, "wasted_uj": 10**12,
              "footprint_uj": 456 * 10**12, "co2_mg": 123_456_789, "cost_millicents": 12_345_678_900}  # fmt: skip
    by = ["account", "user", "partition", "month"]
    rows = [Usage((f"account-of-many-letters-{n}", "somebody-with-a-name", "partition-gpu-long", "2026-11"), values)
            for n in range(2)]  # fmt: skip
    lines = usage_table(rows, total(rows), by, Style(), "EUR")
    assert max(map(len, lines)) <= 80
    # No room for CO2 and cost: they stand below, with the same groups.
    for figure in ("account-… ", "123456", "127 kWh", "2026-11"):
        assert figure in lines[1]
    assert lines[5].split() == [*by, "CO2e", "cost"]
    for figure in ("account-of-ma…", "2026-11", "123 kg", "123456.79 EUR"):
        assert figure in lines[6]
    one = [Usage(("a-name-of-16-cell",), values)]
    wide = usage_table(one, total(one), ["account"], Style(), "EUR")
    assert "a-name-of-16-ce" in wide[1]


def test_no_jobs_are_said_to_be_none() -> None:
    assert usage_table([], total([]), ["account"], Style(), "EUR") == ["no jobs in this time"]


def test_the_same_finding_of_several_domains_or_jobs_is_one_entry() -> None:
    lost = [Finding(f"n1 2026-11-22 {d}", "job 3.0 has no record", 5) for d in ("dram-0", "dram-1", "package-0")]
    absent = [Finding(f"job {n}", "ran according to sacct, but has no record") for n in range(1, 12)]
    other = Finding("n1 2026-11-22 dram-0", "job 4.0: node ledger and record differ", -1)
    lines = " ".join(findings_list([*lost, other, *absent], Style())).split("  - ")[1:]
    assert [" ".join(line.split()) for line in lines] == [
        "n1 2026-11-22 dram-0, dram-1, package-0: job 3.0 has no record (off by +15 uJ)",
        "n1 2026-11-22 dram-0: job 4.0: node ledger and record differ (off by -1 uJ)",
        "job 1, 2, 3, 4, 5, 6, 7, 8 and 3 more: ran according to sacct, but has no record",
    ]


def test_a_list_says_at_most_where_the_report_of_the_job_does() -> None:
    whole = add_slurm(sum_boundaries([parsed(boundary())]), slurm_job())
    small = replace(whole, energy_uj=27_000_000, u_uj=16_000_000)
    unknown = replace(whole, energy_uj=None, u_uj=0, status="running")
    lines = jobs_listing([small, replace(small, status="partial"), unknown], Style(), START_S, total=True)
    assert all("≤ 59.0 J" in line for line in lines[1:3]) and lines[4].rstrip().endswith("≤ 118 J")
    assert "<= 59.0 J" in jobs_listing([small], Style(unicode=False), START_S)[1]
    both = jobs_listing([small, replace(whole, energy_uj=10**9, u_uj=10**7)], Style(), START_S, total=True)
    assert "≤ 59.0 J" in both[1] and both[3].rstrip().endswith(" 1.03 kJ")


def test_jobs_fit_the_screen_and_a_partial_energy_is_a_lower_bound() -> None:
    whole = add_slurm(sum_boundaries([parsed(boundary(1234567))]), slurm_job(1234567, shown_id="1234567_100"))
    partial = replace(
        whole,
        status="partial",
        state="OUT_OF_MEMORY",
        name="a name of many letters",
        user="somebody",
        end_ns=START_S * 10**9 + 3 * 10**14,
    )
    short = jobs_listing([replace(whole, array_job_id=None)], Style(), START_S, total=True)
    assert "COMPLETED" in short[1] and max(map(len, short)) <= WIDTH
    lines = jobs_listing([whole, partial], Style(), START_S, total=True)
    assert max(map(len, lines)) <= WIDTH
    assert lines[2].split()[-4:] == ["≥", "8.00", "kJ", "measured"] and " OOM " in lines[2] and " CD " in lines[1]
    assert ">= 8.00 kJ" in jobs_listing([partial], Style(unicode=False), START_S)[1]
