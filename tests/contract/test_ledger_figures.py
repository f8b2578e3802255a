"""Every figure of two days' jobs, computed by hand, from the agents' boundary records to what people read.

Factors: PUE 1.5, 400 g CO2 a kWh, 0.30 EUR a kWh. 1 Wh = 3.6 GuJ.

    job  user   from .. to              energy (before / after midnight)          GPUs                     ended
    1    alice  23:00 .. 01:00 (2 h)    2000 Wh (1500 / 500)                      2, idle 0.5 h and 1.5 h  TIMEOUT
         CPU 600, of which 50 while suspended; GPU a 900, held idle 100; GPU b 300, held idle 200; DRAM 200
    2    bob    20:00 .. 21:00          1000 Wh                                   none                     COMPLETED
    3    alice  01:00 .. 02:00          500 Wh                                    1, nobody watched it     COMPLETED
    4    bob    01:00 .. 02:00          nobody reported                           1                        COMPLETED
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.footprint import estimate
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, largest, usage
from perun_hpc.accounting.site_figures import SiteFigures
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.energy.footprint import Factors, constant, series
from perun_hpc.report.job import job_report
from perun_hpc.report.listing import idle_listing
from perun_hpc.report.screen import Style
from perun_hpc.report.usage import total, usage_csv, usage_table
from tests.accounting_data import DAY, NS, START_S, boundary, domain, put_incoming, slurm_job
from tests.contract.conftest import empty

pytestmark = pytest.mark.usefixtures("utc")
WH = 3_600_000_000
HOUR_S = 3600
NEXT_DAY = "2026-11-23"
MIDNIGHT_S = START_S + 10 * HOUR_S
FACTORS = Factors(
    pue=constant(1.5, "the building", "2026"),
    carbon_location=constant(400, "the grid", "2026"),
    price=constant(0.3, "the contract", "2026", "EUR"),
)


def split(energies_wh: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Shares before and after midnight."""
    return [
        {"day": day, "domain": name, "energy_uj": parts[at] * WH}
        for name, parts in energies_wh.items()
        for at, day in enumerate((DAY, NEXT_DAY))
    ]


def boundaries() -> list[dict[str, Any]]:
    """What the agents wrote of jobs 1 to 3."""
    first = {
        "package-0": domain("cpu", 600 * WH, static_uj=200 * WH, dynamic_uj=400 * WH, suspended_uj=50 * WH),
        "dram-0": domain("dram", 200 * WH),
        "gpu-a": domain("gpu", 900 * WH, idle_uj=100 * WH, idle_ns=1800 * NS),
        "gpu-b": domain("gpu", 300 * WH, idle_uj=200 * WH, idle_ns=5400 * NS),
    }
    shares = split({"package-0": (450, 150), "dram-0": (150, 50), "gpu-a": (675, 225), "gpu-b": (225, 75)})
    peak = {"cpu_ns": 0, "mem_peak_b": 0, "peak_mw": 1_500_000}
    third = {"gpu-a": domain("gpu", 500 * WH, idle_ns=None)}
    return [
        boundary(1, domains=first, shares=shares, start_s=MIDNIGHT_S - HOUR_S, seconds=2 * HOUR_S, usage=peak),
        boundary(2, domains={"package-0": domain("cpu", 1000 * WH)}, start_s=MIDNIGHT_S - 4 * HOUR_S, seconds=HOUR_S,
                 user="bob"),
        boundary(3, domains=third, shares=split({"gpu-a": (0, 500)}), start_s=MIDNIGHT_S + HOUR_S, seconds=HOUR_S),
    ]  # fmt: skip


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """The ledger after the collector's sweep."""
    after = {"start_s": MIDNIGHT_S + HOUR_S, "end_s": MIDNIGHT_S + 2 * HOUR_S, "gpus": 1}
    begin, end = MIDNIGHT_S - HOUR_S, MIDNIGHT_S + HOUR_S
    jobs = [
        slurm_job(1, state="TIMEOUT", start_s=begin, end_s=end, gpus=2, suspended_s=600, time_limit_s=7200),
        slurm_job(2, user="bob", start_s=MIDNIGHT_S - 4 * HOUR_S, end_s=MIDNIGHT_S - 3 * HOUR_S),
        slurm_job(3, **after),
        slurm_job(4, user="bob", **after),
    ]
    for data in boundaries():
        put_incoming(tmp_path, data)
    opened = open_ledger(ledger_url, create=True)
    slurm = Slurm(jobs=lambda ids: [j for j in jobs if j.job_id in set(ids)], between=lambda since, until: jobs)
    tools = Tools(lambda: MIDNIGHT_S + 86400.0, slurm, footprint=lambda record: estimate(record, FACTORS))
    summary = Collector(Archive(tmp_path, "c"), opened, tools, 900).sweep()
    assert (summary.stored, summary.missing) == (3, 1)
    yield opened
    empty(opened)
    opened.close()


def job(ledger: Ledger, number: int) -> EnergyRecord:
    (record,) = ledger.members("c", str(number))
    return record


def test_one_job(ledger: Ledger) -> None:
    record = job(ledger, 1)
    assert record.energy_uj == record.wasted_uj == 2000 * WH
    assert (record.idle_uj, record.suspended_uj, record.suspended_s) == (300 * WH, 50 * WH, 600)
    assert (record.gpu_held_s, record.gpu_idle_s) == (4 * HOUR_S, 2 * HOUR_S)
    assert (record.power_mean_mw, record.power_peak_mw) == (1_000_000, 1_500_000)
    foot = record.footprint
    assert foot is not None and foot.lower_bound
    assert foot.facility_uj == 3000 * WH
    assert (foot.co2_location_g, foot.co2_market_g) == (pytest.approx(1200), None)
    assert (foot.cost, foot.currency) == (pytest.approx(0.9), "EUR")
    screen = " ".join("\n".join(job_report(record, "the ledger", Style())).split())
    for said in (
        "2.00 kWh",
        "1.00 kW on average, 1.50 kW at its highest",
        "at least 1.20 kg CO2e (location-based), 0.90 EUR, 3.00 kWh with cooling (PUE)",
        "held idle 1.08 MJ, suspended 180 kJ, wasted 7.20 MJ",
        "GPU 4 h held, 50 % idle",
        "suspended for 00:10:00",
        "7.20 MJ went into a run that ended as TIMEOUT",
    ):
        assert said in screen


def test_days_of_a_job_across_midnight(ledger: Ledger) -> None:
    days = {row.group: row.values for row in usage(ledger, ["user", "day"], Filter(), DAY, NEXT_DAY)}
    before, after = days["alice", DAY], days["alice", NEXT_DAY]
    assert (before["jobs"], after["jobs"]) == (0, 2)
    assert (before["energy_uj"], after["energy_uj"]) == (1500 * WH, 1000 * WH)
    assert (before["wasted_uj"], after["wasted_uj"]) == (1500 * WH, 500 * WH)
    assert (before["idle_uj"], after["idle_uj"]) == (225 * WH, 75 * WH)
    assert (before["gpu_held_s"], after["gpu_held_s"]) == (2 * HOUR_S, 3 * HOUR_S)
    assert (before["gpu_watched_s"], after["gpu_watched_s"]) == (2 * HOUR_S, 2 * HOUR_S)
    assert (before["gpu_idle_s"], after["gpu_idle_s"]) == (HOUR_S, HOUR_S)
    assert (before["co2_mg"], after["co2_mg"]) == (900_000, 600_000)
    assert (before["cost_millicents"], after["cost_millicents"]) == (67_500, 45_000)


def test_a_month_by_user(ledger: Ledger) -> None:
    rows = usage(ledger, ["user", "month"], Filter(), "2026-11-01", "2026-11-30")
    assert [row.group for row in rows] == [("alice", "2026-11"), ("bob", "2026-11")]
    alice, bob = csv.DictReader(usage_csv(rows, ["user", "month"]).splitlines())
    wanted = {"jobs": "2", "unmeasured": "0", "energy_kwh": "2.500000", "wasted_kwh": "2.000000",
              "idle_kwh": "0.300000", "footprint_kwh": "2.500000", "gpu_held_h": "5.000", "gpu_watched_h": "4.000",
              "gpu_idle_h": "2.000", "co2_kg": "1.500000", "cost": "1.12500", "co2_market_kg": ""}  # fmt: skip
    assert {name: alice[name] for name in wanted} == wanted
    wanted = {"jobs": "2", "unmeasured": "1", "energy_kwh": "1.000000", "gpu_held_h": "1.000", "gpu_watched_h": "0.000",
              "co2_kg": "0.600000", "cost": "0.45000"}  # fmt: skip
    assert {name: bob[name] for name in wanted} == wanted

    lines = usage_table(rows, total(rows), ["user", "month"], Style(), "EUR")
    assert [line.split() for line in lines[1:4]] == [
        ["alice", "2026-11", "2", "2.50", "kWh", "80", "%", "5", "50", "%", "1.50", "kg", "1.12", "EUR"],
        ["bob", "2026-11", "2", "1.00", "kWh", "0", "%", "1", "-", "600", "g", "0.45", "EUR"],
        ["sum", "4", "3.50", "kWh", "57", "%", "6", "50", "%", "2.10", "kg", "1.57", "EUR"],
    ]
    remarks = "\n".join(lines[4:])
    assert "1 of 4 jobs not measured: not in the energies" in remarks
    assert "nobody watched whether GPUs were idle for 2 h" in remarks
    assert max(map(len, lines)) <= 80


def test_who_held_idle_gpus(ledger: Ledger) -> None:
    found = largest(ledger, Filter(), "gpu_idle", 10)
    assert [record.job_id for record in found] == [1]
    assert idle_listing(found, Style())[1].split()[-5:] == ["h", "50", "%", "1.08", "MJ"]


def test_jobs_that_nobody_measured_have_no_energy_rather_than_none_used(ledger: Ledger) -> None:
    (row,) = usage(ledger, ["account"], Filter(users=("bob",)), NEXT_DAY, NEXT_DAY)
    assert (row.values["jobs"], row.values["unmeasured"]) == (1, 1)
    shown = usage_table([row], total([row]), ["account"], Style(), None)[1]
    assert shown.split() == [
        "physics",
        "1",
        "-",
        "-",
        "1",
        "-",
    ]
    (cells,) = csv.DictReader(usage_csv([row], ["account"]).splitlines())
    assert cells["energy_kwh"] == cells["wasted_kwh"] == ""


def test_energy_that_no_sensor_measured_is_a_sum_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    """One node of the job has counters, the other an estimate."""
    guessed = domain("cpu", 300 * WH, provenance="estimated", u_uj=225 * WH)
    start_s = MIDNIGHT_S - 4 * HOUR_S
    put_incoming(
        tmp_path, boundary(5, nodelist="n1,n2", domains={"package-0": domain("cpu", 700 * WH)}, start_s=start_s)
    )
    put_incoming(tmp_path, boundary(5, "n2", "n1,n2", domains={"cpu": guessed}, start_s=start_s))
    row = slurm_job(5, start_s=start_s, end_s=start_s + 100, nodelist="n1,n2", num_nodes=2, account="mixed")
    slurm = Slurm(jobs=lambda ids: [row], between=lambda since, until: [row])
    Collector(Archive(tmp_path, "c"), ledger, Tools(lambda: MIDNIGHT_S + 86400.0, slurm), 900).sweep()
    record = job(ledger, 5)
    assert (record.energy_uj, record.estimated_uj, record.provenance) == (1000 * WH, 300 * WH, "estimated")
    (found,) = usage(ledger, ["account"], Filter(accounts=("mixed",)), DAY, DAY)
    assert (found.values["energy_uj"], found.values["estimated_uj"]) == (1000 * WH, 300 * WH)
    assert "30 % of the energy is estimated." in usage_table([found], total([found]), ["account"], Style(), None)
    (cells,) = csv.DictReader(usage_csv([found], ["account"]).splitlines())
    assert (cells["energy_kwh"], cells["estimated_kwh"]) == ("1.000000", "0.300000")
    shown = {one.name: one.samples for one in SiteFigures(ledger).collect([Archive(tmp_path, "c")], (), None)}
    assert [one.value for one in shown["perun_ledger_estimated_energy_joules"]] == [300 * WH / 1e6]


def test_factors_that_change_at_midnight(ledger: Ledger) -> None:
    cleaner = series("time,value\n2026-11-22T00:00,400\n2026-11-23T00:00,200\n", "the grid", "2026")
    made = estimate(job(ledger, 1), Factors(pue=FACTORS.pue, carbon_location=cleaner))
    assert made is not None
    assert made.co2_location_g == pytest.approx(1.5 * 1.5 * 400 + 0.5 * 1.5 * 200)


@pytest.mark.parametrize(
    ("nodes", "mean_mw", "highest_mw"),
    [
        # energy in J, seconds, highest mean of the agent's intervals in mW
        ([(800, 100, 9_000)], 8_000, 9_000),
        ([(800, 100, 7_000)], 8_000, 8_000),  # most of it came in intervals of less than a second
        ([(800, 100, 7_000), (100, 50, 3_000)], 9_000, 11_000),
        ([(800, 100, 9_000), (900, 0.5, None)], 17_000, None),  # of one node no power over a second is known
        ([(800, 100, None)], 8_000, None),
    ],
)
def test_no_average_is_above_its_highest(
    tmp_path: Path, nodes: list[tuple[int, float, int | None]], mean_mw: int, highest_mw: int | None
) -> None:
    nodelist = ",".join(f"n{at}" for at in range(1, len(nodes) + 1))
    for at, (joules, seconds, told_mw) in enumerate(nodes, 1):
        used = {} if told_mw is None else {"usage": {"cpu_ns": 0, "mem_peak_b": 0, "peak_mw": told_mw}}
        whole = {"package-0": domain("cpu", joules * 1_000_000)}
        put_incoming(tmp_path, boundary(1, f"n{at}", nodelist, whole, seconds=seconds, **used))
    opened = open_ledger(str(tmp_path / "ledger.db"), create=True)
    Collector(Archive(tmp_path, "c"), opened, Tools(lambda: START_S + 1000.0), 900).sweep()
    (record,) = opened.members("c", "1")
    opened.close()
    assert (record.power_mean_mw, record.power_peak_mw) == (mean_mw, highest_mw)
