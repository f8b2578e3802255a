"""Boundary records become one energy record: sums, provenance, what is missing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.accounting import footprint
from perun_hpc.accounting.daily import MEASURES, by_day, seconds_by_day, spread
from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.data_model.codec import encode
from perun_hpc.data_model.record import Doubt, from_json, json_schema, to_json
from perun_hpc.energy.footprint import Factor, Factors
from perun_hpc.errors import DataError
from tests.accounting_data import DAY, NS, START_S, boundary, domain, parsed, slurm_job

pytestmark = pytest.mark.usefixtures("utc")

ENERGY = st.one_of(st.none(), st.integers(-(10**9), 10**15))


@st.composite
def jobs(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = [f"n{i}" for i in range(1, draw(st.integers(1, 4)) + 1)]
    nodelist = ",".join(names)
    records = []
    for node in draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        parts = {
            name: domain(name.split("-")[0], draw(ENERGY), u_uj=draw(st.integers(0, 10**6)))
            for name in draw(st.lists(st.sampled_from(["cpu-0", "cpu-1", "dram-0", "gpu-a", "node-0"]), unique=True))
        }
        data = boundary(node=node, nodelist=nodelist, domains=parts, num_nodes=len(names))
        data["shares"] = []
        for name, part in parts.items():
            whole = part["energy_uj"] or 0
            cut = draw(st.integers(min(whole, 0), max(whole, 0)))
            for day, uj in (("2026-11-22", cut), ("2026-11-23", whole - cut)):
                data["shares"].append({"day": day, "domain": name, "energy_uj": uj})
        records.append(data)
    return records


@given(jobs(), st.randoms())
def test_record_is_the_sum_whatever_the_order(records: list[dict[str, Any]], rng: random.Random) -> None:
    record = sum_boundaries([parsed(r) for r in records])
    shuffled = records * 2
    rng.shuffle(shuffled)
    assert sum_boundaries([parsed(r) for r in shuffled]) == record
    if record.energy_uj is None:
        assert record.provenance == "missing"
        return
    assert record.energy_uj == sum(n.energy_uj or 0 for n in record.nodes) == sum(s.energy_uj for s in record.shares)
    days = by_day(record)
    for at, name in enumerate(MEASURES):
        if name == "energy_uj":
            assert sum(vector[at] for vector in days.values()) == record.energy_uj
        if name == "jobs":
            assert sum(vector[at] for vector in days.values()) == 1


@given(jobs())
def test_record_survives_json(records: list[dict[str, Any]]) -> None:
    record = add_slurm(sum_boundaries([parsed(r) for r in records]), slurm_job())
    assert from_json(to_json(record)) == record
    assert from_json(to_json(record, indent=1)) == record


def test_what_nodes_noted_and_what_their_agents_took_is_in_the_record() -> None:
    agent = {"cpu_ns": 300_000_000, "rss_b": 22_000_000}
    refused = {"notes": ["--perun: the site does not allow the option 'x': ignored"]}
    first = boundary(node="n1", nodelist="n1,n2", agent=agent, settings=refused, notes=["no rank registered"])
    second = boundary(node="n2", nodelist="n1,n2", agent={**agent, "rss_b": 23_000_000}, settings=refused)
    record = sum_boundaries([parsed(first), parsed(second)])
    assert record.notes == ("n1: no rank registered", *refused["notes"])
    assert (record.agent_cpu_ns, record.agent_rss_b) == (600_000_000, 23_000_000)
    alone = sum_boundaries([parsed(boundary(agent={}))])
    assert (alone.notes, alone.agent_cpu_ns) == ((), None)
    with pytest.raises(DataError):
        parsed(boundary(notes=7))


def test_schema_describes_a_record() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    record = add_slurm(sum_boundaries([parsed(boundary())]), slurm_job())
    jsonschema.validate(encode(record), json_schema())
    broken = {**encode(record), "energy_uj": "much"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json_schema())
    with pytest.raises(DataError, match="energy_uj"):
        from_json(to_json(record).replace('"energy_uj":8000000000,"u_uj"', '"energy_uj":"much","u_uj"', 1))
    with pytest.raises(DataError, match="64 bits"):
        huge = f'"energy_uj":{1 << 63},"u_uj"'
        from_json(to_json(record).replace('"energy_uj":8000000000,"u_uj"', huge, 1))


def test_unknown_keys_and_absent_new_fields_are_no_obstacle() -> None:
    record = sum_boundaries([parsed(boundary())])
    data = encode(record)
    data["invented_later"] = 1
    for name in ("trace_bytes", "footprint", "ranks", "time_limit_s"):
        del data[name]
    assert from_json(json.dumps(data)) == record


def test_a_stored_record_of_the_first_version_is_read_for_ever() -> None:
    """`record_1.json` was written by the first perun on a test cluster; it must never be written anew."""
    jsonschema = pytest.importorskip("jsonschema")
    text = (Path(__file__).parents[1] / "golden" / "record_1.json").read_text()
    record = from_json(text)
    assert (record.schema, record.status, record.num_nodes) == ("perun.record/1", "complete", 2)
    assert record.energy_uj == sum(n.energy_uj or 0 for n in record.nodes) == sum(s.energy_uj for s in record.shares)
    data = json.loads(text)
    jsonschema.validate(data, json_schema())
    required = set(json_schema()["$defs"]["EnergyRecord"]["required"])
    for name in data.keys() - required:
        assert from_json(json.dumps({k: v for k, v in data.items() if k != name})).energy_uj == record.energy_uj
    with pytest.raises(DataError, match="upgrade perun"):
        from_json(json.dumps({**data, "schema": "perun.record/2"}))


def test_the_meter_is_never_added_to_its_parts() -> None:
    parts = {"package-0": domain("cpu", 60), "node": domain("node", 100), "other": domain("other", 40)}
    record = sum_boundaries([parsed(boundary(domains=parts))])
    assert record.energy_uj == 100
    assert [c.component for c in record.components] == ["cpu", "other", "node"]
    only_meter = sum_boundaries([parsed(boundary(domains={"node": domain("node", 100)}))])
    assert only_meter.energy_uj == 100


def test_a_missing_node_makes_it_partial_and_is_named() -> None:
    record = sum_boundaries([parsed(boundary(node="n2", nodelist="n[1-3]", num_nodes=3))])
    assert record.status == "partial"
    assert record.missing_nodes == ("n1", "n3")
    assert record.coverage == pytest.approx(1 / 3)


def test_coverage_is_of_the_time_between_the_hooks() -> None:
    data = boundary(seconds=100, domains={"package-0": domain("cpu", 8_000_000_000, covered_ns=70 * NS)})
    data["start"]["late_ns"] = 40 * NS
    data["start"]["real_ns"] += 40 * NS
    data["end"]["late_ns"] = 10 * NS
    data["end"]["real_ns"] += 10 * NS
    record = sum_boundaries([parsed(data)])
    assert record.elapsed_s == 100
    assert record.coverage == record.nodes[0].coverage == pytest.approx(0.6)
    data["domains"]["package-0"]["covered_ns"] = 9 * NS  # first read after the job's end
    assert sum_boundaries([parsed(data)]).coverage == 0


def test_coverage_where_slurm_knows_of_a_later_end() -> None:
    record = sum_boundaries([parsed(boundary())])
    lost = add_slurm(record, slurm_job(end_s=START_S + 400))
    assert lost.coverage == pytest.approx(0.25)
    assert add_slurm(lost, slurm_job(end_s=START_S + 400)).coverage == lost.coverage
    assert add_slurm(record, slurm_job(end_s=START_S + 101)).coverage == 1


def test_a_memory_peak_of_zero_is_not_known() -> None:
    data = boundary()
    data["usage"]["mem_peak_b"] = 0
    record = sum_boundaries([parsed(data)])
    assert record.mem_peak_b is None and record.nodes[0].mem_peak_b is None


def test_a_cpu_time_of_zero_is_not_known_and_slurm_may_know_it() -> None:
    data = boundary()
    data["usage"]["cpu_ns"] = 0
    record = sum_boundaries([parsed(data)])
    assert record.cpu_ns is None
    assert add_slurm(record, slurm_job(cpu_ns=7 * NS)).cpu_ns == 7 * NS


def test_a_job_cancelled_while_pending_took_no_time() -> None:
    job = slurm_job(start_s=None, state="CANCELLED", nodelist="", num_nodes=0, gpus=4)
    record = missing_record(job, "c", "never ran")
    assert (record.elapsed_s, record.gpu_held_s) == (0, 0)
    assert list(by_day(record)) == [DAY]


def test_nothing_measured_is_none_not_zero() -> None:
    record = sum_boundaries([parsed(boundary(domains={"package-0": domain("cpu", None, covered_ns=0, gap_ns=5)}))])
    assert record.energy_uj is None
    assert record.status == "partial"
    assert record.missing == ("n1: not measured: package-0",)


def test_provenance_is_the_worst_of_the_parts() -> None:
    parts = {"package-0": domain("cpu", 60), "dram-0": domain("dram", 6, provenance="modelled")}
    assert sum_boundaries([parsed(boundary(domains=parts))]).provenance == "modelled"
    assert sum_boundaries([parsed(boundary(domains=parts, simulated=True))]).provenance == "simulated"


def test_uncertainties_add_up_inside_a_component_and_in_quadrature_between() -> None:
    parts = {
        "package-0": domain("cpu", 100, u_uj=1),
        "package-1": domain("cpu", 100, u_uj=2),
        "dram-0": domain("dram", 10, u_uj=4),
    }
    assert sum_boundaries([parsed(boundary(domains=parts))]).u_uj == 5


def test_shares_that_do_not_sum_are_refused() -> None:
    data = boundary(shares=[{"day": DAY, "domain": "package-0", "energy_uj": 1}])
    with pytest.raises(DataError, match="shares of package-0"):
        parsed(data)


@pytest.mark.parametrize("change", [{"job_id": "x"}, {"schema": "perun.boundary/9"}, {"domains": []}, {"start": {}}])
def test_damage_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        parsed({**boundary(), **change})


def test_slurm_data_and_waste() -> None:
    record = add_slurm(sum_boundaries([parsed(boundary())]), slurm_job(state="TIMEOUT", shown_id="4700_11"))
    assert record.display_id == "4700_11"
    assert record.wasted_uj == record.energy_uj == 8_000_000_000
    assert add_slurm(record, slurm_job(state="COMPLETED")).wasted_uj == 0


def test_a_job_nobody_reported_says_so() -> None:
    record = missing_record(slurm_job(nodelist="n[1-2]", num_nodes=2), "c", "no node reported this job")
    assert record.energy_uj is None
    assert record.missing_nodes == ("n1", "n2")
    (vector,) = by_day(record).values()
    assert dict(zip(MEASURES, vector, strict=True))["unmeasured"] == 1


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**12), min_size=1, max_size=9))
def test_spread_sums_to_its_total(total: int, weights: list[int]) -> None:
    assert sum(spread(total, weights)) == total


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2027-03-28", 23),
        ("Europe/Berlin", "2027-10-31", 25),
        ("America/New_York", "2027-03-14", 23),
        ("America/New_York", "2027-11-07", 25),
        ("Australia/Lord_Howe", "2027-10-03", 23.5),
        ("Australia/Lord_Howe", "2027-04-04", 24.5),
        ("America/Havana", "2027-03-14", 23),  # clocks change at midnight: 00:00 is left out
        ("America/Havana", "2027-11-07", 25),
        ("UTC", "2028-02-29", 24),
        ("UTC", "2027-12-31", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(
    local_time: Callable[[str], None], zone: str, day: str, hours: float
) -> None:
    local_time(zone)
    noon_s = int(datetime.fromisoformat(f"{day}T12:00").timestamp())
    days = seconds_by_day(noon_s - 86400, noon_s + 86400)
    assert days[day] == hours * 3600
    assert len(days) == 3 and sum(days.values()) == 2 * 86400


def test_scopes_have_columns_of_their_own_and_bounds_of_energy_pue_and_factor() -> None:
    def factor(value: float, note: str = "", u: float | None = None) -> Factor:
        return Factor((value,), (0,), "s", "d", note, u)

    record = sum_boundaries([parsed(boundary())])
    assert record.energy_uj is not None
    scopes = Factors(factor(1.5, u=0.03), factor(400, "operational", 0.04), factor(0, "operational"), None, factor(50))
    made = footprint.estimate(record, scopes)
    assert made is not None
    kwh = record.energy_uj / 3.6e12
    assert made.co2_location_g == pytest.approx(600 * kwh) and made.co2_upstream_g == pytest.approx(75 * kwh)
    bounds = {one.of: one.u for one in made.bounds}
    energy = record.u_uj / record.energy_uj
    assert bounds["co2_location_g"] == pytest.approx(math.hypot(energy, 0.05))
    assert bounds.keys() == {"facility_uj", "co2_location_g"}
    (sums,) = by_day(replace(record, footprint=made)).values()
    day = dict(zip(MEASURES, sums, strict=True))
    assert (day["co2_mg"], day["co2_market_mg"], day["co2_life_cycle_mg"]) == (round(600_000 * kwh), 0, 0)
    assert day["co2_upstream_mg"] == round(75_000 * kwh)
    whole = footprint.estimate(record, Factors(carbon_location=factor(400, "life-cycle")))
    (sums,) = by_day(replace(record, footprint=whole)).values()
    day = dict(zip(MEASURES, sums, strict=True))
    assert (day["co2_mg"], day["co2_life_cycle_mg"]) == (0, round(400_000 * kwh))


def test_seconds_by_day_across_midnights() -> None:
    days = seconds_by_day(START_S, START_S + 2 * 86400)
    assert sum(days.values()) == 2 * 86400
    assert len(days) == 3
    assert seconds_by_day(START_S, START_S) == {DAY: 0}


def doubted(energy_uj: int, component: str, **doubts: int) -> dict[str, Any]:
    return domain(component, energy_uj, u_uj=1, doubts={name.replace("_", " "): uj for name, uj in doubts.items()})


def test_a_node_and_a_job_of_one_node_have_one_uncertainty() -> None:
    parts = {"package-0": domain("cpu", 100, u_uj=3), "dram-0": domain("dram", 10, u_uj=4)}
    record = sum_boundaries([parsed(boundary(domains=parts))])
    assert record.u_uj == record.nodes[0].u_uj == 5


def test_gains_of_one_backend_err_together_over_domains_and_nodes() -> None:
    parts = {
        "package-0": doubted(100, "cpu", gain_powercap=30),
        "dram-0": doubted(10, "dram", gain_powercap=3, random=4),
    }
    record = sum_boundaries([parsed(boundary(node=node, domains=parts)) for node in ("n1", "n2")])
    assert record.u_uj == math.ceil(math.hypot(66, math.sqrt(32)))
    assert record.components[1].doubts == (Doubt("gain powercap", 6), Doubt("random", 6))
    assert from_json(to_json(record)) == record


def test_with_a_node_meter_the_sums_uncertainty_is_the_meters() -> None:
    parts = {
        "package-0": doubted(100, "cpu", gain_powercap=30),
        "other": doubted(20, "other", gain_powercap=-30, gain_ipmi=7),
    }
    record = sum_boundaries([parsed(boundary(domains=parts))])
    assert (record.u_uj, record.nodes[0].u_uj) == (7, 7)
    assert [c.u_uj for c in record.components] == [30, 31]
