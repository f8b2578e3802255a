from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy import footprint
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import adding_up, package_number, plan, scope_sentence
from perun_hpc.energy.counters import Status, difference
from perun_hpc.energy.crosscheck import compare
from perun_hpc.energy.integrate import Rule, SyntheticCounter, integrate
from perun_hpc.energy.static import DAY_NS, StaticPower
from perun_hpc.energy.uncertainty import (
    DRIFT_ERROR,
    RANDOM,
    STATIC_ERROR,
    Edge,
    Gain,
    Gap,
    Split,
    added,
    combined_uj,
    of_sensor,
    random_uj,
    standard_uj,
    static_error,
)
from perun_hpc.errors import ConfigError, NotFoundError

S = 1_000_000_000
MS = 1_000_000
COUNTER = Sensor(
    id="powercap:package-0:energy", host="n1", backend="powercap", device="intel-rapl:0", domain="package-0",
    component="cpu", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", wrap_range=262_143_328_911,
    update_ns=MS, max_uw=1_000_000_000,
)  # fmt: skip
GAUGE = replace(
    COUNTER, id="hwmon:node:power", backend="hwmon", domain="node", component="node", kind=Kind.GAUGE,
    quantity=Quantity.POWER, unit="mW", scale_num=1000, wrap_range=None, update_ns=50 * MS, scope="node",
)  # fmt: skip


def counted(readings, sensor=COUNTER):
    return difference(sensor, readings[0], readings[-1]).ticks


# --- the predecessor's faults


def test_fault_01_a_burst_at_the_end_counts_in_full():
    # 1 W for 1 s, then 100 J in the last 10 ms.
    readings = [Reading(0, 0), Reading(500_000, S // 2), Reading(1_000_000, S), Reading(101_000_000, S + 10 * MS)]
    burst = replace(COUNTER, max_uw=20_000_000_000)
    assert counted(readings, burst) == 101_000_000


def test_fault_01_a_gap_at_the_start_adds_nothing():
    # 50 samples of 0.1 J each, with the first two a long time apart: 5 J, not a triangle over the gap.
    readings = [Reading(0, 0)] + [Reading(100_000 * k, 5 * S + k * 100 * MS) for k in range(1, 51)]
    assert counted(readings) == 5_000_000


def mean_uw(result):
    """Mean power over the time that readings cover."""
    return result.energy_uj * S // result.covered_ns


def test_fault_02_a_failed_counter_read_costs_nothing_and_is_never_zero():
    readings = [Reading(400_000_000 * k // 10 + 7, k * S) for k in range(11)]
    readings[5] = Reading(None, 5 * S, "input/output error")
    assert counted(readings) == 400_000_000
    around = [difference(COUNTER, before, after) for before, after in zip(readings[4:6], readings[5:7])]
    assert [step.status for step in around] == [Status.GAP, Status.GAP]


def test_fault_02_a_failed_gauge_read_is_a_marked_gap():
    readings = [Reading(300_000, k * S) for k in range(5)]
    readings[2] = Reading(None, 2 * S, "GPU is lost")
    result = integrate(GAUGE, readings, 0, 4 * S, max_gap_ns=S)
    assert (result.covered_ns, result.gap_ns) == (2 * S, 2 * S)
    assert mean_uw(result) == 300_000_000
    assert result.high_uj == 600_000_000 + 2 * GAUGE.max_uw


def test_fault_03_a_week_at_ten_hertz_is_exact():
    week_ns = 168 * 3600 * S
    start = week_ns * 500
    readings = [Reading(250_000, start + k * 100 * MS) for k in (0, 1, 2)]
    assert mean_uw(integrate(GAUGE, readings, start, start + 200 * MS, S)) == 250_000_000
    later = [Reading(250_000, start + week_ns + k * 100 * MS) for k in (0, 1, 2)]
    assert integrate(GAUGE, later, start + week_ns, start + week_ns + 200 * MS, S).energy_uj == 50_000_000


def test_fault_04_mean_power_is_weighted_by_time():
    # 200 W for 1 s (two samples close together), 350 W for 2 s: 300 W, whatever the number of samples.
    times = [0, S, S + 1, 3 * S]
    readings = [Reading(watts, at) for watts, at in zip((200_000, 200_000, 350_000, 350_000), times)]
    assert mean_uw(integrate(GAUGE, readings, 0, 3 * S, 5 * S)) == pytest.approx(300_000_000, rel=1e-6)


def test_fault_05_energy_of_a_short_run_rests_on_its_edges_not_on_samples():
    # A 0.3 s run between two edge readings, with not one sample inside.
    edges = [Reading(10_000_000, 0), Reading(10_000_000 + 30_000_000, 300 * MS)]
    result = difference(COUNTER, *edges)
    assert (result.ticks, result.elapsed_ns) == (30_000_000, 300 * MS)


# --- gauges


def test_a_trailing_mean_stands_for_the_time_before_it():
    readings = [Reading(100_000, 0), Reading(300_000, S), Reading(100_000, 2 * S)]
    assert integrate(GAUGE, readings, 0, 2 * S, S, Rule.TRAILING).energy_uj == 400_000_000
    linear = integrate(GAUGE, readings, 0, 2 * S, S)
    assert (linear.energy_uj, linear.low_uj, linear.high_uj) == (400_000_000, 200_000_000, 600_000_000)


def test_a_span_cuts_segments_and_leaves_what_lies_outside_as_a_gap():
    readings = [Reading(0, S), Reading(200_000, 3 * S)]
    inside = integrate(GAUGE, readings, 2 * S, 3 * S, 2 * S)
    assert (inside.energy_uj, inside.gap_ns) == (150_000_000, 0)
    wider = integrate(GAUGE, readings, 0, 4 * S, 2 * S)
    assert (wider.covered_ns, wider.gap_ns) == (2 * S, 2 * S)
    assert integrate(replace(GAUGE, max_uw=None), readings, 0, 4 * S, 2 * S).high_uj is None


@given(
    st.lists(st.tuples(st.integers(1, 3 * S), st.none() | st.integers(0, 700_000)), min_size=2, max_size=40),
    st.integers(1, 4 * S),
)
def test_pieces_of_a_span_sum_to_the_span(steps, max_gap_ns):
    at, readings = 0, []
    for step, value in steps:
        at += step
        readings.append(Reading(value, at, None if value is not None else "lost"))
    middle = at // 2
    whole = integrate(GAUGE, readings, 0, at, max_gap_ns)
    first, second = (integrate(GAUGE, readings, a, b, max_gap_ns) for a, b in ((0, middle), (middle, at)))
    assert first.covered_ns + second.covered_ns == whole.covered_ns
    assert whole.covered_ns + whole.gap_ns == at
    assert abs(first.energy_uj + second.energy_uj - whole.energy_uj) <= 1 + at // S
    assert whole.low_uj <= whole.energy_uj + 1
    assert whole.energy_uj <= whole.high_uj + 1


def test_a_reading_above_the_gauges_ceiling_is_none_and_says_what_the_site_can_do():
    most = GAUGE.max_uw // GAUGE.scale_num
    readings = [Reading(most, 0), Reading(most + 1, S), Reading(most, 2 * S)]
    assert integrate(GAUGE, readings, 0, 2 * S, 3 * S).covered_ns == 0
    state = SyntheticCounter(GAUGE, max_gap_ns=9 * S)
    for reading in readings[:2]:
        state, counted = state.advance(reading)
    assert counted.ticks is None
    assert counted.error.endswith("that it can take (the policy's `energy` may say more)")
    state, counted = state.advance(readings[2])
    assert state.total == 2 * 2 * GAUGE.max_uw * S


def test_a_synthetic_counter_counts_and_its_gaps_are_resets():
    state = SyntheticCounter(GAUGE, max_gap_ns=2 * S)
    assert (state.sensor.id, state.sensor.kind, state.sensor.quantity) == ("hwmon:node:energy", Kind.COUNTER, "energy")
    seen = []
    for reading in (Reading(100_000, 0), Reading(100_000, S), Reading(None, 2 * S, "no"), Reading(300_000, 3 * S)):
        state, counted_reading = state.advance(reading)
        seen.append(counted_reading)
    assert difference(state.sensor, seen[0], seen[1]).ticks == 100_000_000
    assert seen[2].ticks is None
    # The failed reading is bridged: two seconds from 100 W to 300 W.
    assert difference(state.sensor, seen[0], seen[3]).ticks == 500_000_000
    state, after_gap = state.advance(Reading(100_000, 60 * S))
    assert difference(state.sensor, seen[0], after_gap).status is Status.RESET
    state, later = state.advance(Reading(100_000, 61 * S))
    assert difference(state.sensor, after_gap, later).ticks == 100_000_000
    assert difference(state.sensor, seen[3], later).status is Status.RESET
    assert 0 < later.ticks < 2**63


def test_a_mean_over_the_time_before_is_energy_of_that_time():
    """A job begins at 2 s and uses 100 W; its gauge shows the mean of the last second, read each second."""
    state = SyntheticCounter(replace(GAUGE, lag_ns=S // 2), max_gap_ns=9 * S)
    shown = []
    for second, milliwatts in enumerate((0, 0, 0, 100_000, 100_000)):
        state, reading = state.advance(Reading(milliwatts, second * S))
        shown.append(reading)
    assert [reading.mono_ns for reading in shown] == [second * S for second in range(5)]
    # From the third second on the mean goes up by straight lines around 2 s, and on to the reading at its power.
    assert [difference(state.sensor, shown[2], one).ticks for one in shown[2:]] == [0, 100_000_000, 200_000_000]


# --- static power


def test_static_power_needs_half_an_hour_of_idle_intervals():
    learnt = StaticPower()
    for number in range(179):
        learnt = learnt.observe(number * 10 * S, 10 * S, 400_000_000, 0, 8)
    assert learnt.estimate_uw() is None
    learnt = learnt.observe(1790 * S, 10 * S, 400_000_000, 0, 8)
    assert learnt.estimate_uw() == 40_000_000


def test_busy_short_and_old_intervals_do_not_count():
    learnt = StaticPower()
    for number in range(400):
        learnt = learnt.observe(number * 10 * S, 10 * S, 400_000_000, 0, 8)
    before = learnt
    assert learnt.observe(0, 9 * S, 1, 0, 8) is before
    assert learnt.observe(0, 10 * S, 1, 8 * 10 * S // 200, 8) is before
    assert learnt.observe(0, 10 * S, -1, 0, 8) is before
    later = learnt.observe(31 * DAY_NS, 10 * S, 900_000_000, 0, 8)
    assert list(later.bins) == [31]
    assert StaticPower.from_json(learnt.to_json()) == learnt


def test_static_power_is_a_low_percentile_not_the_minimum():
    learnt = StaticPower()
    for number in range(1000):
        energy = 100_000_000 if number < 10 else 400_000_000 + number * 100_000
        learnt = learnt.observe(number * 10 * S, 10 * S, energy, 0, 8)
    assert 40_000_000 <= learnt.estimate_uw() < 46_000_000


# --- uncertainty


def test_gains_of_one_model_add_linearly_of_two_in_quadrature():
    same = standard_uj(gains=[Gain(300, 0.1, "rapl"), Gain(400, 0.1, "rapl")])
    other = standard_uj(gains=[Gain(300, 0.1, "rapl"), Gain(400, 0.1, "nvml")])
    assert (same, other) == (70, 50)
    rapl = replace(COUNTER, gain_error=0.1)
    memory, gpu = replace(rapl, offset_uw=1_000_000), replace(rapl, backend="nvml")
    assert combined_uj(added([of_sensor(rapl, 300), of_sensor(rapl, -100)])) == 20
    assert combined_uj(added([of_sensor(rapl, 300), of_sensor(gpu, 400)])) == 50
    assert of_sensor(memory, 300, 5 * S) == {f"gain {rapl.backend}": 30, f"offset {rapl.backend}": 5_000_000}


def test_an_edge_and_a_gap_are_rectangles():
    # Two edges of a 2 s job on a 700 W GPU that updates every 100 ms: 70 J / sqrt(12) each.
    assert standard_uj(edges=[Edge(700_000_000, 100 * MS)] * 2) == math.ceil(70e6 * math.sqrt(2 / 12))
    assert standard_uj(gaps=[Gap(100_000_000, 700_000_000, S)]) == math.ceil(600e6 / math.sqrt(12))
    assert standard_uj() == 0
    assert random_uj([Edge(700_000_000, 100 * MS)], others_uj=[3.0]) == math.ceil(math.hypot(70e6 / math.sqrt(12), 3))


def test_doubts_of_one_cause_add_with_their_signs_random_ones_by_their_squares():
    package, rest = {"gain powercap": 30, RANDOM: 3}, {"gain powercap": -30, "gain ipmi": 50, RANDOM: 4}
    assert added([package, rest]) == {"gain powercap": 0, "gain ipmi": 50, RANDOM: 5}
    assert added([package, package]) == {"gain powercap": 60, RANDOM: 5}  # the root of 18, rounded up
    assert combined_uj({"a": 3, "b": -4}) == 5
    assert (combined_uj({"a": 3, "b": 5}), combined_uj({}), added([])) == (6, 0, {})  # the root of 34


def test_who_worked_alone_is_sure_of_his_dynamic_part():
    alone = Split.of([(40, 100), (60, 0)])
    assert alone.sharing_doubt_uj(100, "cores") == (0, 0)
    two = Split.of([(5000, 5000), (5000, 5000)])
    assert two.sharing_doubt_uj(5000, "cores") == (850, 850)
    assert two.sharing_doubt_uj(5000, "exclusive") == two.sharing_doubt_uj(0, "cores") == (0, 0)
    three = Split.of([(0, 5000), (0, 2500), (0, 2500)])
    assert three.sharing_doubt_uj(5000, "cores") == (850, round(1700 * math.sqrt(2 * 0.0625)))


def test_static_power_that_is_wrong_moves_energy_from_who_works_to_who_holds():
    split = Split.of([(400, 9000), (600, 1000)])
    assert split.static_doubt_uj(400, 9000, 0.1) == -50  # 10 % of 400 - 0.9 x 1000
    assert split.static_doubt_uj(600, 1000, 0.1) == 50
    assert Split.of([(400, 0), (600, 0)]).static_doubt_uj(400, 0, 0.1) == 0


# --- containment


def energy(domain, component, parent=None, backend="powercap", **more):
    return replace(
        COUNTER,
        id=f"{backend}:{domain}:energy",
        domain=domain,
        component=component,
        parent=parent,
        backend=backend,
        **more,
    )


def names_of(chosen, known):
    return [domain.name for domain in adding_up(chosen.domains, known)]


def test_a_sum_never_adds_a_sensor_and_its_container():
    psys = energy("psys", "node")
    package = energy("package-0", "cpu", psys.id)
    chosen = plan([psys, package, energy("core-0", "cpu", package.id), energy("dram-0", "dram", psys.id)])
    assert [(domain.name, domain.kind) for domain in chosen.domains] == [
        ("dram-0", DomainKind.DRAM), ("package-0", DomainKind.PACKAGE), ("psys", DomainKind.METER),
    ]  # fmt: skip
    assert names_of(chosen, {"psys", "package-0", "dram-0"}) == ["psys"]
    assert names_of(chosen, {"package-0", "dram-0"}) == ["dram-0", "package-0"]
    assert names_of(chosen, set()) == []
    assert [sensor.domain for sensor, _ in chosen.left_out] == ["core-0"]


def test_without_a_meter_the_leaves_add_up():
    chosen = plan([energy("package-0", "cpu"), energy("dram-0", "dram")])
    assert names_of(chosen, {"package-0", "dram-0"}) == ["dram-0", "package-0"]
    assert "power supply" in scope_sentence(chosen)
    assert "no sensor" in scope_sentence(plan([]))


def test_the_widest_meter_counts_and_a_counter_beats_a_gauge():
    node_power = replace(GAUGE, id="ipmi:node:power", backend="ipmi")
    node_energy = energy("node", "node", backend="cray_pm")
    psys = energy("psys", "node")
    chosen = plan([node_power, node_energy, psys, energy("package-0", "cpu", psys.id)])
    (meter,) = chosen.meters
    assert (meter.sensor.id, meter.leaves) == ("cray_pm:node:energy", ("package-0",))


def test_a_rail_whose_place_is_unknown_is_never_added():
    chosen = plan([energy("package-0", "cpu"), energy("ina3221-vdd", "other", backend="hwmon")])
    assert [domain.name for domain in chosen.domains] == ["package-0"]


def test_the_package_of_a_domain():
    assert [package_number(name) for name in ("package-1", "dram-10", "grace-3", "cpu")] == [1, 10, 3, None]


# --- cross-check


def test_a_frozen_or_diverging_counter_is_flagged():
    integral = integrate(GAUGE, [Reading(300_000, 0), Reading(300_000, S)], 0, S, S)
    assert compare(295_000_000, integral).flag == ""
    assert "frozen" in compare(0, integral).flag
    assert "0.57 times" in compare(171_000_000, integral).flag
    assert compare(None, integral).ratio is None
    assert compare(171_000_000, replace(integral, gap_ns=S)).flag == ""


# --- footprint

KWH = 3_600_000_000_000


def test_a_factor_without_source_or_date_is_refused():
    for source, date in (("", "2026-01-01"), ("operator", " ")):
        with pytest.raises(ConfigError, match="source and date"):
            footprint.constant(1.0, source, date)
    with pytest.raises(ConfigError, match="refused"):
        footprint.from_policy({"value": 1.3})
    assert footprint.from_policy({}) is None


def test_constants():
    factors = footprint.Factors(
        pue=footprint.from_policy({"value": 1.5, "source": "site", "date": "2025"}),
        carbon_location=footprint.from_policy(
            {"g_per_kwh": 400, "source": "grid", "date": "2025", "stage": "operational"}
        ),
        price=footprint.from_policy({"per_kwh": 0.2, "source": "contract", "date": "2025", "currency": "EUR"}),
    )
    result = footprint.footprint([footprint.Piece(0, S, 2 * KWH)], factors, at_wall=True)
    assert (result.co2_location_g, result.co2_market_g, result.cost) == (1200, None, pytest.approx(0.6))
    assert (result.facility_uj, result.currency, result.lower_bound) == (3 * KWH, "EUR", False)
    assert "CO2 location-based: grid, 2025 (operational)" in result.sources
    assert footprint.footprint([], factors, at_wall=False).lower_bound


WORDS = {"source": "grid", "date": "2025"}


@pytest.mark.parametrize(
    ("section", "words", "figure"),
    [
        ("carbon_location", {"stage": "operational"}, "co2_location_g"),
        ("carbon_location", {"stage": "life-cycle"}, "co2_life_cycle_g"),
        ("carbon_location", {"stage": "operational", "kind": "average", "losses": "excluded"}, "co2_location_g"),
        ("carbon_location", {"stage": "operational", "kind": "marginal"}, "co2_marginal_g"),
        ("carbon_location", {"stage": "life-cycle", "kind": "marginal"}, "co2_marginal_g"),
        ("carbon_market", {"stage": "operational"}, "co2_market_g"),
        ("carbon_market", {"stage": "life-cycle"}, "co2_life_market_g"),
        ("carbon_upstream", {"losses": "included"}, "co2_upstream_g"),
    ],
)
def test_scopes_are_never_mixed(section, words, figure):
    factor = footprint.from_policy({"g_per_kwh": 400, **WORDS, **words})
    result = footprint.footprint([footprint.Piece(0, S, KWH)], footprint.Factors(**{section: factor}), at_wall=True)
    given = {name: getattr(result, name) for name in footprint.FIGURES if getattr(result, name) is not None}
    assert given == {figure: 400}
    assert all(word in result.sources[0] for word in words.values() if word not in ("included", "excluded"))
    assert "losses" not in words or "the grid's losses" in result.sources[0]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ({"value": 1.3, "category": "PUE2", "period": "2025"}, "PUE2, 2025"),
        ({"value": 1.3, "category": "PUE3", "period": "2025-04-01/2026-03-31"}, "PUE3, 2025-04-01/2026-03-31"),
        ({"value": 1.3, "category": "PUE1", "period": "2025-04-01/2025-09-30"},
         "PUE1, 2025-04-01/2025-09-30, interim"),
        ({"series": "x", "category": "PUE2", "period": "2025"}, "PUE2, 2025, interim"),
        ({"value": 1.3, "category": "PUE2"}, "PUE2, interim, period not stated"),
        ({"value": 1.3, "period": "2025"}, "2025, category not stated"),
    ],
)  # fmt: skip
def test_a_pue_names_its_category_and_is_interim_where_it_is_of_no_year(words, note):
    factor = footprint.from_policy({**WORDS, **words}, read=lambda _: "time,value\n2025-01-01,1.3\n")
    assert factor is not None and factor.note == note


def test_bounds_hold_both_factors_or_are_not_given():
    pue, carbon = (footprint.from_policy({"value": 2, **WORDS, "u": u}) for u in (0.03, 0.04))
    bare = footprint.from_policy({"value": 2, **WORDS})
    piece = [footprint.Piece(0, S, KWH)]
    both = footprint.footprint(piece, footprint.Factors(pue=pue, carbon_location=carbon, carbon_market=bare), True)
    assert both.u == {"facility_uj": pytest.approx(0.03), "co2_location_g": pytest.approx(0.05)}
    assert footprint.footprint(piece, footprint.Factors(pue=bare, carbon_location=carbon), True).u == {}


def test_series_are_multiplied_before_they_are_summed():
    hour = 3600 * S
    text = "time,value\n1970-01-01T01:00:00Z,300\n1970-01-01T00:00:00Z,100\n"
    carbon = footprint.from_policy({"series": "x.csv", "source": "grid", "date": "2025"}, read=lambda path: text)
    pue = footprint.series("time,value\n1970-01-01T00:00,2\n1970-01-01T01:00,1\n", "site", "2025")
    result = footprint.footprint([footprint.Piece(0, 2 * hour, 2 * KWH)], footprint.Factors(pue, carbon), True)
    # 1 kWh at 2 x 100 g and 1 kWh at 1 x 300 g; the product of the means would be 600 g.
    assert result.co2_location_g == pytest.approx(500)
    late = footprint.footprint([footprint.Piece(5 * hour, 5 * hour, KWH)], footprint.Factors(pue, carbon), True)
    assert late.co2_location_g == pytest.approx(300)


@pytest.mark.parametrize(("text", "why"), [
    ("a,b\n1,2\n", "columns"), ("time,value\nyesterday,1\n", "line 2"), ("time,value\n", "values"),
])  # fmt: skip
def test_a_damaged_series_is_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        footprint.series(text, "grid", "2025")


def test_national_intensities_name_source_and_year():
    germany = footprint.national_intensity("deu")
    assert (germany.at(0), germany.date, germany.words[0]) == (381, "2023", "life-cycle")
    assert "Ember" in germany.source
    with pytest.raises(NotFoundError, match="three letters"):
        footprint.national_intensity("Germany")


def test_static_power_that_a_node_learnt_asleep_is_surer_while_nobody_works() -> None:
    assert static_error("learnt") == STATIC_ERROR["learnt"] == pytest.approx(static_error("learnt", 2.0))
    assert static_error("learnt", 0.0) == DRIFT_ERROR
    assert DRIFT_ERROR < static_error("learnt", 0.3) < static_error("learnt", 0.6) < STATIC_ERROR["learnt"]
    assert static_error("policy", 0.0) == STATIC_ERROR["policy"]
    assert static_error("estimate", 0.0) == 0.0
