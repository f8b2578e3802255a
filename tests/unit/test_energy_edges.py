"""Figures at the very edges, where a change of the arithmetic by one would go unseen elsewhere (docs/mutants.md)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import (
    DomainInput,
    DomainKind,
    GpuHolding,
    IntervalInput,
    JobInput,
    NodeInput,
    Share,
    attribute,
)
from perun_hpc.energy.containment import package_and_die, package_number, plan, scope_sentence
from perun_hpc.energy.counters import (
    Difference,
    Span,
    Status,
    busy_between,
    ceiling_ticks,
    difference,
    longest_poll_ns,
    span,
)
from perun_hpc.energy.crosscheck import Check, compare
from perun_hpc.energy.footprint import Factor, Factors, Piece, constant, footprint, from_policy, series
from perun_hpc.energy.integrate import Integral, SyntheticCounter, integrate
from perun_hpc.energy.schedule import Schedule, Tick
from perun_hpc.energy.static import BIN_UW, DAY_NS, ENOUGH_NS, StaticPower
from perun_hpc.energy.uncertainty import SHARING_ERROR, Edge, Gain, Gap, standard_uj
from perun_hpc.errors import ConfigError

S = 1_000_000_000
# Two packages of two cores with two threads each: CPU c and c + 4 share core c; cores 0 and 1 sit on package 0.
NODE = NodeInput(
    package_of={cpu: (cpu % 4) // 2 for cpu in range(8)}, core_of={cpu: cpu % 4 for cpu in range(8)}, memory_b=1000
)
GAUGE = Sensor(
    id="hwmon:node:power", host="n1", backend="hwmon", device="x", domain="node", component="node", kind=Kind.GAUGE,
    quantity=Quantity.POWER, unit="mW", scale_num=1000, update_ns=50_000_000, scope="node",
)  # fmt: skip


def interval(domains, jobs, busy=None, end_ns=S, **more):
    return IntervalInput(
        t0_ns=0, t1_ns=end_ns, node=NODE, domains=tuple(domains), jobs=tuple(jobs), busy_ns=busy or {}, **more
    )


def of(result, domain):
    return next(one for one in result if one.domain == domain)


@pytest.mark.parametrize(
    ("domain", "number"),
    [("package-1", 1), ("dram-0", 0), ("grace-12", 12), ("package", None), ("dram", None),
     ("package-x", None), ("node", None), ("gpu-1", None)],
)  # fmt: skip
def test_the_package_of_a_domain_is_its_number(domain, number):
    assert package_number(domain) == number


@pytest.mark.parametrize(("package", "die"), [(0, 0), (0, 1), (1, 0), (7, 15), (36, 3), (999_999_999, 999_999)])
def test_a_die_has_a_number_that_no_package_and_no_other_die_has(package, die):
    number = package_number(f"package-{package}-die-{die}")
    assert number == package_number(f"dram-{package}-die-{die}")
    assert package_and_die(number) == (package, die)
    assert package_and_die(package_number(f"package-{package}")) == (package, None)


def test_only_energy_and_power_are_energy():
    time = replace(GAUGE, id="proc:cpu:time", kind=Kind.COUNTER, quantity=Quantity.TIME, component="cpu", domain="cpu")
    stock = replace(GAUGE, id="x:cpu:energy", kind=Kind.GAUGE, quantity=Quantity.ENERGY, component="cpu", domain="cpu")
    rate = replace(GAUGE, id="x:cpu:power", kind=Kind.COUNTER, component="cpu", domain="cpu")
    assert plan([time, stock, rate]).domains == ()
    (power,) = plan([time, GAUGE]).domains
    assert (power.name, power.kind) == ("node", DomainKind.METER)


def test_the_sentence_says_what_is_simulated():
    measured, simulated = GAUGE, replace(GAUGE, provenance=Provenance.SIMULATED)
    other = replace(simulated, id="powercap:package-0:power", domain="package-0", component="cpu")
    assert scope_sentence(plan([simulated])).startswith("Figures are simulated; they ")
    assert scope_sentence(plan([measured, other])).startswith("Figures are simulated; they ")
    assert "simulated" not in scope_sentence(plan([measured]))


def gpu(name, device):
    return replace(
        GAUGE,
        id=f"nvml:gpu-{name}:power",
        backend="nvml",
        device=device,
        domain=f"gpu-{name}",
        component="gpu",
        scope="gpu",
    )


def module(number):
    return replace(GAUGE, id=f"hwmon:module-{number}:power", domain=f"module-{number}", scope="module")


def test_rails_of_a_module_count_unless_its_gpu_shows_the_whole_modules_energy():
    grace = replace(
        GAUGE,
        id="hwmon:grace-0:power",
        domain="grace-0",
        component="cpu",
        parent="hwmon:module-0:power",
        scope="CPU rail",
    )
    alone = {one.name: one for one in plan([module(0), grace]).domains}
    assert alone["module-0"].leaves == ("grace-0",)
    beside = {one.name: one for one in plan([module(0), grace, gpu("a", "0000:01:00.0")]).domains}
    assert set(beside["module-0"].leaves) == {"grace-0", "gpu-a"}
    whole = replace(gpu("a", "0000:01:00.0"), scope="module: GPU, CPU and memory")
    chosen = plan([module(0), grace, whole])
    assert "grace-0" not in {one.name for one in chosen.domains}
    assert (grace, "contained in gpu-a, whose energy is its module's") in chosen.left_out


def test_gpus_belong_to_superchip_modules_in_the_order_of_their_addresses():
    gpus = [gpu("d", "0000:01:00.0"), gpu("c", "0000:02:00.0"), gpu("b", "0000:41:00.0"), gpu("a", "0000:42:00.0")]
    domains = {one.name: one for one in plan([*gpus, module(1), module(0)]).domains}
    assert set(domains["module-0"].leaves) == {"gpu-d", "gpu-c"}
    assert set(domains["module-1"].leaves) == {"gpu-b", "gpu-a"}
    odd = {one.name: one for one in plan([*gpus[:3], module(1), module(0)]).domains}
    assert odd["module-0"].leaves == odd["module-1"].leaves == ()  # nobody can say which belongs where


# --- static power


@pytest.mark.parametrize(
    ("below_ns", "uw"), [(ENOUGH_NS // 20, 1 * BIN_UW), (ENOUGH_NS // 20 - 1, 9 * BIN_UW), (0, 9 * BIN_UW)]
)
def test_static_power_is_the_first_bin_at_which_five_percent_of_the_time_are_reached(below_ns, uw):
    seen = {1: below_ns, 9: ENOUGH_NS - below_ns} if below_ns else {9: ENOUGH_NS}
    assert StaticPower({5: seen}).estimate_uw() == uw


def test_static_power_is_told_from_half_an_hour_on():
    assert StaticPower({5: {3: ENOUGH_NS}}).estimate_uw() == 3 * BIN_UW
    assert StaticPower({5: {3: ENOUGH_NS - 1}}).estimate_uw() is None


def test_a_day_is_kept_for_thirty_days():
    assert DAY_NS == 24 * 3600 * S
    first = StaticPower().observe(3 * DAY_NS, 10 * S, 5_000_000, 0, 1)
    assert first.bins == {3: {500_000 // BIN_UW: 10 * S}}
    assert set(first.observe(32 * DAY_NS + DAY_NS - 1, 10 * S, 5_000_000, 0, 1).bins) == {3, 32}
    assert set(first.observe(33 * DAY_NS, 10 * S, 5_000_000, 0, 1).bins) == {33}


@pytest.mark.parametrize(
    ("duration_ns", "energy_uj", "busy_ns", "cpus", "counts"),
    [
        (10 * S, 0, 0, 1, True),
        (10 * S - 1, 0, 0, 1, False),
        (10 * S, -1, 0, 1, False),
        (10 * S, 0, 0, 0, False),
        (10 * S, 0, -1, 0, False),  # a machine without CPUs
        (10 * S, 0, 10 * S // 200, 1, False),  # half a percent busy
        (10 * S, 0, 10 * S // 200 - 1, 1, True),
        (10 * S, 0, 10 * S // 100 - 1, 2, True),
    ],
)
def test_an_interval_counts_when_it_is_long_and_idle(duration_ns, energy_uj, busy_ns, cpus, counts):
    static = StaticPower()
    assert (static.observe(0, duration_ns, energy_uj, busy_ns, cpus) is not static) is counts


# --- attribution


def test_memory_of_the_whole_node_is_split_by_all_its_memory():
    """A domain without a package spans the node: its bytes are not divided by the number of packages."""
    dram = DomainInput(name="dram", kind=DomainKind.DRAM, total_uj=1_000_000, package=None, static_uw=1_000_000)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0, memory_b=250)
    assert of(attribute(interval([dram], [job])), "dram").by_owner() == {"job:1.0": 250_000, "idle": 750_000}


def test_a_job_without_cpus_has_its_memory_in_equal_parts_on_all_packages():
    dram = DomainInput(name="dram-1", kind=DomainKind.DRAM, total_uj=1000, package=1, static_uw=10**9)
    job = JobInput(owner="job:1.0", cpus=frozenset(), cpu_ns=0, memory_b=500)
    assert of(attribute(interval([dram], [job])), "dram-1").by_owner() == {"job:1.0": 500, "idle": 500}
    here = replace(job, cpus=frozenset({0, 2, 3}))  # a third of its CPUs is on the other package
    assert of(attribute(interval([dram], [here])), "dram-1").by_owner() == {"job:1.0": 666, "idle": 334}


def test_an_interval_of_a_nanosecond_is_split_as_any_other():
    dram = DomainInput(name="dram", kind=DomainKind.DRAM, total_uj=1000, package=None, static_uw=1000 * S)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0, memory_b=500)
    assert of(attribute(interval([dram], [job], end_ns=1)), "dram").by_owner() == {"job:1.0": 500, "idle": 500}


@pytest.mark.parametrize("end_ns", [S, 1])
def test_a_job_that_may_run_on_more_cpus_than_it_was_given_holds_just_those_of_a_whole_node(end_ns):
    node = DomainInput(
        name="package", kind=DomainKind.PACKAGE, total_uj=4_000_000, package=None, static_uw=4_000_000 * S // end_ns
    )
    job = JobInput(owner="job:1.0", cpus=frozenset({0, 1, 2}), held=1, cpu_ns=0)
    result = of(attribute(interval([node], [job], end_ns=end_ns)), "package").by_owner()
    assert result == {"job:1.0": 1_000_000, "idle": 3_000_000}


def test_work_of_which_nobody_can_tell_is_not_idle():
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=7, package=0)
    result = of(attribute(interval([package], [], unread={0: "was not read"})), "package-0")
    assert result.by_owner() == {"unknown": 7}


def test_a_cpu_that_was_not_read_did_what_its_jobs_own_time_leaves_for_it():
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=10**12, package=0)
    a = JobInput(owner="job:1.0", cpus=frozenset({0, 1}), cpu_ns=S)
    result = of(attribute(interval([package], [a], {0: S // 4}, unread={1: "was not read"})), "package-0")
    assert result.by_owner() == {"job:1.0": 10**12}
    assert result.why == "busy time of CPU 1 was not read: taken from the jobs' own CPU times"
    b = JobInput(owner="job:2.0", cpus=frozenset({0}), cpu_ns=S // 4)
    other = JobInput(owner="job:1.0", cpus=frozenset({1}), cpu_ns=3 * S // 4)
    both = of(attribute(interval([package], [other, b], {0: S // 4}, unread={1: "was not read"})), "package-0")
    assert both.by_owner() == {"job:1.0": 750 * 10**9, "job:2.0": 250 * 10**9}


@pytest.mark.parametrize("cpu_ns", [-1, -S])
def test_a_time_below_nothing_is_one_that_is_not_known(cpu_ns):
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=1000, package=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=cpu_ns)
    other = JobInput(owner="job:2.0", cpus=frozenset({1}), cpu_ns=S)
    unknown = replace(job, cpu_ns=None)
    by_owner = [
        of(attribute(interval([package], [one, other], {0: S, 1: S})), "package-0").by_owner()
        for one in (job, unknown, replace(job, cpu_ns=0), replace(job, cpu_ns=0, memory_b=-1))
    ]
    assert by_owner[0] == by_owner[1] == {"job:1.0": 500, "job:2.0": 500}
    assert by_owner[2] == by_owner[3] == {"job:2.0": 500, "system": 500}
    backwards = of(attribute(interval([package], [other], {0: -1, 1: S})), "package-0")
    assert backwards.by_owner() == {"job:2.0": 1000}
    assert "CPU 0 went backwards" in backwards.why


@pytest.mark.parametrize(("present_ns", "method"), [(None, "exclusive"), (S, "exclusive"), (S - 1, "cores")])
def test_a_job_has_the_node_for_itself_when_it_was_there_all_the_time(present_ns, method):
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=1000, package=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0, exclusive=True, present_ns=present_ns)
    assert of(attribute(interval([package], [job])), "package-0").method == method
    every = JobInput(owner="job:1.0", cpus=frozenset(range(8)), cpu_ns=0, present_ns=present_ns)
    assert of(attribute(interval([package], [every])), "package-0").method == method
    assert of(attribute(interval([package], [replace(every, held=7)])), "package-0").method == "cores"
    assert of(attribute(interval([package], [replace(every, cpus=frozenset(range(7)))])), "package-0").method == "cores"
    assert of(attribute(interval([package], [every], gap=True)), "package-0").method == "presence"


def test_a_thread_that_slept_weighs_nothing():
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=10**12, package=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=S)
    assert of(attribute(interval([package], [job], {0: S})), "package-0").by_owner() == {"job:1.0": 10**12}


def test_a_share_has_no_parts_that_nobody_named():
    assert Share("job:1.0", 5) == Share("job:1.0", 5, 0, 0, 0, 0)
    assert DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=1).static_uw == 0
    assert NodeInput(package_of={}, core_of={}).memory_b == 0


def test_a_suspended_job_without_a_cgroup_has_done_nothing():
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=10**12, package=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), suspended=True)
    assert of(attribute(interval([package], [job], {0: S})), "package-0").by_owner() == {"system": 10**12}


def test_memory_below_nothing_is_none():
    dram = DomainInput(name="dram", kind=DomainKind.DRAM, total_uj=1000, package=None, static_uw=10**9)
    jobs = [JobInput(owner=f"job:{n}.0", cpus=frozenset({n}), cpu_ns=0, memory_b=b) for n, b in ((0, -1), (1, 500))]
    assert of(attribute(interval([dram], jobs)), "dram").by_owner() == {"job:1.0": 500, "idle": 500}


def test_a_device_of_no_slices_is_a_whole_one():
    gpu = DomainInput(name="gpu-a", kind=DomainKind.GPU, total_uj=1000, slices=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), gpus={"gpu-a": GpuHolding()})
    assert of(attribute(interval([gpu], [job])), "gpu-a").method == "holder"
    one = of(attribute(interval([gpu._replace(slices=1)], [job])), "gpu-a")
    assert (one.method, one.by_owner()) == ("slices", {"job:1.0": 1000})


@pytest.mark.parametrize("hold", [GpuHolding(part=0), GpuHolding()], ids=["nothing", "none named"])
def test_a_part_of_nothing_or_none_named_is_the_least_part(hold):
    gpu = DomainInput(name="gpu-a", kind=DomainKind.GPU, total_uj=4_000_000)
    one = JobInput(owner="job:1.0", cpus=frozenset({0}), gpus={"gpu-a": hold})
    other = JobInput(owner="job:2.0", cpus=frozenset({1}), gpus={"gpu-a": GpuHolding(part=3)})
    assert of(attribute(interval([gpu], [one, other])), "gpu-a").by_owner() == {
        "job:1.0": 1_000_000,
        "job:2.0": 3_000_000,
    }


def test_a_meter_that_shows_just_its_leaves_has_a_rest_of_nothing_and_not_a_negative_one():
    leaf = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=100, package=0)
    meter = DomainInput(name="psys", kind=DomainKind.METER, total_uj=100, leaves=("package-0",))
    jobs = [JobInput(owner=f"job:{number}.0", cpus=frozenset({number}), cpu_ns=0) for number in (1, 2)]
    rest = of(attribute(interval([leaf, meter], jobs)), "other")
    assert (rest.method, rest.total_uj, rest.shares) == ("residual", 0, ())
    less = of(attribute(interval([leaf, meter._replace(total_uj=99)], jobs)), "other")
    assert (less.method, less.by_owner()) == ("negative residual", {"unknown": -1})


def test_who_has_the_node_alone_has_a_meters_rest_and_none_of_it_is_held_idle():
    meter = DomainInput(name="psys", kind=DomainKind.METER, total_uj=100, leaves=())
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0, exclusive=True)
    for suspended in (False, True):
        rest = of(attribute(interval([meter], [replace(job, suspended=suspended)])), "other")
        assert rest.shares == (Share("job:1.0", 100, 0, 100, 0, 100 if suspended else 0),)


def test_a_gpu_in_an_interval_of_no_length_is_its_holders():
    device = DomainInput(name="gpu-a", kind=DomainKind.GPU, total_uj=9)
    jobs = [JobInput(owner=f"job:{n}.0", cpus=frozenset({n}), gpus={"gpu-a": GpuHolding()}) for n in (1, 2, 3)]
    result = of(attribute(interval([device], jobs, end_ns=0)), "gpu-a").by_owner()
    assert result == {"job:1.0": 3, "job:2.0": 3, "job:3.0": 3}


def test_a_jobs_part_of_a_node_is_its_largest_of_cores_memory_and_gpus():
    gpus = [DomainInput(name=f"gpu-{name}", kind=DomainKind.GPU, total_uj=0) for name in "ab"]
    meter = DomainInput(name="psys", kind=DomainKind.METER, total_uj=1000, static_uw=1000, leaves=("gpu-a", "gpu-b"))
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0, gpus={"gpu-a": GpuHolding()})
    for more, part in (({}, 500), ({"memory_b": 750}, 750), ({"cpus": frozenset(range(7))}, 875)):
        rest = of(attribute(interval([*gpus, meter], [replace(job, **more)])), "other")
        assert rest.by_owner() == {"job:1.0": part, "idle": 1000 - part}
    assert JobInput(owner="job:1.0").memory_b == 0


def test_what_a_party_was_given_below_nothing_weighs_nothing_in_a_meters_rest():
    meter = DomainInput(
        name="psys", kind=DomainKind.METER, total_uj=100, inside={"job:1.0": 60, "job:2.0": -10}, leaves=()
    )
    jobs = [JobInput(owner=f"job:{number}.0", cpus=frozenset({number}), cpu_ns=0) for number in (1, 2)]
    assert of(attribute(interval([meter], jobs)), "other").by_owner() == {"job:1.0": 50}


# --- power gauges as counters


def test_the_counter_of_a_gauge_counts_microjoules():
    sensor = SyntheticCounter(replace(GAUGE, wrap_range=7), S).sensor
    assert (sensor.id, sensor.kind, sensor.quantity) == ("hwmon:node:energy", Kind.COUNTER, Quantity.ENERGY)
    assert (sensor.unit, sensor.scale_num, sensor.scale_den, sensor.wrap_range) == ("uJ", 1, 1, None)
    assert sensor.scope == "node (integrated power)"


def test_a_gap_of_just_the_longest_kind_is_bridged_and_a_longer_one_is_a_reset():
    counter, first = SyntheticCounter(GAUGE, S).advance(Reading(1000, 0))
    bridged, second = counter.advance(Reading(3000, S))
    assert second.ticks - first.ticks == 2_000_000
    _, again = bridged.advance(Reading(9000, S))  # the same moment adds nothing
    assert again.ticks == second.ticks
    _, after = counter.advance(Reading(3000, S + 1))
    assert after.ticks < first.ticks


def test_less_than_a_microjoule_is_none_yet():
    small = replace(GAUGE, scale_num=1)
    state, first = SyntheticCounter(small, S).advance(Reading(1, 0))
    state, second = state.advance(Reading(1, S - 1))
    _, third = state.advance(Reading(1, S))
    assert (second.ticks - first.ticks, third.ticks - first.ticks) == (0, 1)


def test_nothing_that_is_counted_after_a_gap_reaches_what_was_counted_before():
    state, first = SyntheticCounter(GAUGE, 10**6 * S).advance(Reading(10**9, 0))
    state, _ = state.advance(Reading(10**9, 10**7 * S))  # a gap
    state, last = state.advance(Reading(10**9, 10**7 * S + 10**3 * S))  # then a gigajoule, a thousand times over
    assert last.ticks < first.ticks
    assert difference(state.sensor, first, last).ticks is None


# --- power gauges over a time span


@pytest.mark.parametrize(("gap_ns", "covered_ns"), [(S, S), (S - 1, 0)])
def test_readings_as_far_apart_as_may_be_have_no_gap_between_them(gap_ns, covered_ns):
    assert integrate(GAUGE, [Reading(1000, 0), Reading(1000, S)], 0, S, gap_ns).covered_ns == covered_ns


def test_a_span_that_begins_where_a_piece_ends_has_nothing_of_it():
    result = integrate(replace(GAUGE, max_uw=3_000_000), [Reading(1000, 0), Reading(1000, S)], S, 2 * S, S)
    assert result == Integral(0, 0, 3_000_000, 0, S)


def test_bounds_are_the_smaller_and_the_larger_reading_and_in_gaps_nothing_and_the_ceiling():
    readings = [Reading(1000, 0), Reading(4000, S), Reading(2000, 2 * S)]
    result = integrate(replace(GAUGE, max_uw=9_000_000), readings, 0, 3 * S, S)
    assert result == Integral(2_500_000 + 3_000_000, 1_000_000 + 2_000_000, 4_000_000 + 4_000_000 + 9_000_000, 2 * S, S)
    assert integrate(replace(GAUGE, max_uw=None), readings, 0, 2 * S, S).high_uj == 8_000_000


def test_a_piece_of_a_straight_line_has_the_lines_power():
    result = integrate(GAUGE, [Reading(1000, S), Reading(3000, 3 * S)], 3 * S // 2, 2 * S, 2 * S)
    assert (result.low_uj, result.energy_uj, result.high_uj) == (750_000, 875_000, 1_000_000)


def test_two_readings_of_one_moment_add_nothing():
    assert integrate(GAUGE, [Reading(1000, 0), Reading(5000, 0)], 0, S, S).covered_ns == 0


# --- counters


COUNTER = replace(
    GAUGE, id="powercap:package-0:energy", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="2 uJ", scale_num=2,
    scale_den=1, update_ns=S // 10, max_uw=1_000_000, wrap_range=10_000_000, resolution=3,
)  # fmt: skip


def test_the_ceiling_is_power_times_time_with_an_update_at_each_edge_and_a_step():
    assert ceiling_ticks(COUNTER, S) == 1_200_000 // 2 + 3
    assert ceiling_ticks(replace(COUNTER, scale_num=1, scale_den=4), S) == 1_200_000 * 4 + 3
    assert ceiling_ticks(replace(COUNTER, max_uw=None), S) is None


@pytest.mark.parametrize(("ticks", "status"), [(600_003, Status.OK), (600_004, Status.IMPLAUSIBLE)])
def test_a_counter_may_rise_to_the_ceiling(ticks, status):
    assert difference(COUNTER, Reading(0, 0), Reading(ticks, S)).status is status
    wrapped = difference(COUNTER, Reading(10_000_000 - ticks, 0), Reading(0, S))
    assert wrapped.status is (Status.WRAPPED if status is Status.OK else Status.RESET)


@pytest.mark.parametrize(("seconds", "status"), [(19.8, Status.AMBIGUOUS), (19.79999, Status.OK)])
def test_from_the_time_of_one_more_turn_on_a_difference_is_not_known(seconds, status):
    at_ns = round(seconds * S)
    exact = replace(COUNTER, resolution=0)
    assert difference(exact, Reading(0, 0), Reading(0, at_ns)).status is status
    assert difference(exact, Reading(0, 0), Reading(0, at_ns)).elapsed_ns == at_ns


def test_a_counter_that_stood_at_its_whole_range_has_wrapped_by_nothing():
    result = difference(COUNTER, Reading(10_000_000, 0), Reading(0, S))
    assert (result.ticks, result.status, result.at_least) == (0, Status.WRAPPED, 0)
    assert difference(replace(COUNTER, max_uw=None), Reading(20_000_001, 0), Reading(0, S)).status is Status.RESET


def test_two_readings_of_one_moment_are_in_order():
    assert difference(COUNTER, Reading(5, S), Reading(5, S)) == Difference(0, Status.OK, 0)


def test_what_is_not_known_has_no_lower_bound():
    assert difference(COUNTER, Reading(None, 0, "lost"), Reading(5, S)) == Difference(None, Status.GAP, S, 0, "lost")
    assert difference(COUNTER, Reading(None, 0), Reading(None, S)).why == "no reading"


def test_a_counter_is_polled_four_times_a_turn():
    assert longest_poll_ns(COUNTER) == 5 * S
    assert longest_poll_ns(replace(COUNTER, wrap_range=None)) is None
    assert longest_poll_ns(replace(COUNTER, max_uw=None)) is None


def test_busy_times_tell_why_they_are_not_known():
    assert span(4, 4) == Span(0)
    assert span(5, 4) == Span(None, "went backwards")
    assert span(None, 4) == Span(None, "was not read before")
    assert span(4, None) == span(None, None) == Span(None, "was not read")
    assert busy_between({0: 1, 1: 5}, {0: 4, 2: 9}) == (
        {0: 3}, {1: "ended when it went offline", 2: "is not known, it came online"}
    )  # fmt: skip
    assert busy_between({}, {0: 4}) == ({}, {0: "was not read before"})
    assert busy_between({0: 4}, {}) == ({}, {0: "was not read"})
    assert busy_between({}, {}, [7]) == ({}, {7: "was not read"})


# --- uncertainty and checks


def test_uncertainties_add_as_the_method_says():
    assert standard_uj() == 0
    assert standard_uj([Gain(300, 0.01, "a"), Gain(-100, 0.01, "a")]) == 2
    assert standard_uj([Gain(300, 0.01, "a"), Gain(400, 0.01, "b")]) == 5
    assert standard_uj(edges=[Edge(12_000_000, S), Edge(0, S)]) == math.ceil(12e6 / math.sqrt(12))
    assert standard_uj(gaps=[Gap(4_000_000, 16_000_000, S // 2)]) == math.ceil(6e6 / math.sqrt(12))


def test_the_method_names_each_share_of_doubt():
    """The table of docs/method.md is what is computed with."""
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    table = text[text.index("| attribution method |") :].split("\n\n")[0]
    told = {}
    for cell, shares in re.findall(r"^\| ([a-z+, ]+) \| ([\d %,]+) \|", table, re.MULTILINE):
        methods, percents = cell.split(", "), [float(one) for one in re.findall(r"\d+", shares)]
        told |= zip(methods, percents * (len(methods) // len(percents)))
    assert told == {method: pytest.approx(100 * error) for method, error in SHARING_ERROR.items()}


@pytest.mark.parametrize(
    ("counter_uj", "agrees"), [(800, True), (799, False), (2400, True), (2401, False), (1, False), (0, False)]
)
def test_a_counter_agrees_within_the_tolerance_of_what_the_power_readings_allow(counter_uj, agrees):
    check = compare(counter_uj, Integral(1500, 1000, 2000, S, 0))
    assert (check.flag == "", check.ratio) == (agrees, counter_uj / 1500)
    assert ("frozen" in check.flag) is (counter_uj == 0)
    assert (compare(counter_uj, Integral(1500, 1000, 2000, S, 0), 1.0).flag == "") is (counter_uj != 0)


def test_without_nine_tenths_of_the_power_nothing_is_said_of_a_counter():
    assert compare(0, Integral(1500, 1000, None, 9 * S, S)).flag
    assert not compare(0, Integral(1500, 1000, None, 9 * S - 1, S + 1)).flag
    assert compare(None, Integral(1500, 1000, 2000, S, 0)) == compare(9, Integral(0, 0, 0, S, 0)) == Check(None)
    assert compare(1800, Integral(1500, 1000, None, S, 0)).flag == ""
    assert compare(1801, Integral(1500, 1000, None, S, 0)).flag == "the counter shows 1.20 times the integrated power"


# --- factors


def test_a_factor_holds_from_its_time_on_and_the_first_before():
    factor = Factor((1.0, 2.0, 3.0), (10, 20, 30), "s", "d")
    assert [factor.at(ns) for ns in (0, 9, 10, 19, 20, 29, 30, 99)] == [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time\n", "f, line 1: 'time': write the columns time,value there"),
        ("x" * 70, f"f, line 1: {'x' * 60!r}: write the columns time,value there"),
        ("time,value,value\n", "f, line 1: 'time,value,value': write the columns time,value there"),
        ("time,value\n", "f: no values: write a line with a time and a value below the first line"),
        (
            "time,value\n2026-01-01T00:00Z,1\n2026-01-02T00:00Z,2\n2026-01-02T00:00Z,2\n",
            "f, line 4: has the time of line 3: leave one of them out",
        ),
        (f"time,value\n{'9' * 50},1\n", f"f, line 2: {'9' * 40!r} is no time: write UTC like 2026-01-31T13:00Z"),
        (
            f"time,value\n2026-01-01T00:00Z,{'y' * 50}\n",
            f"f, line 2: {'y' * 40!r} is no value: write a number from 0 to 9, or leave the line out",
        ),
        (
            "time,value\n2026-01-01T00:00Z,9.1\n",
            "f, line 2: '9.1' is no value: write a number from 0 to 9, or leave the line out",
        ),
        (
            "time,value\n2026-01-01T00:00Z,inf\n",
            "f, line 2: 'inf' is no value: write a number from 0 to 9, or leave the line out",
        ),
        (
            "time,value\n2026-01-01T00:00Z,1,5\n",
            "f, line 2: more columns than the first line names: decimals are written with a point",
        ),
    ],
)
def test_a_series_that_is_wrong_names_the_line_and_the_remedy(text, said):
    with pytest.raises(ConfigError) as caught:
        series(text, "s", "d", where="f", low=0, high=9)
    assert str(caught.value) == said


@pytest.mark.parametrize(("size_b", "said"), [(4 << 20, "line 1: not CSV"), ((4 << 20) + 1, "larger than 4 MiB")])
def test_a_series_has_four_mebibytes_at_most(tmp_path, size_b, said):
    (tmp_path / "series.csv").write_text("x" * size_b)
    with pytest.raises(ConfigError, match=said):
        from_policy({"source": "s", "date": "d", "series": str(tmp_path / "series.csv")})


def test_a_line_that_is_no_csv_is_named():
    text = f"time,value\n2026-01-01T00:00Z,1\n2026-01-02T00:00Z,{'1' * 200_000}\n"
    with pytest.raises(ConfigError, match="f, line 3: not CSV"):
        series(text, "s", "d", where="f")


def test_a_series_holds_its_bounds_and_sorts_its_times():
    text = "value,time\n9,2026-01-02T00:00Z\n0,2026-01-01T01:00+01:00\n"
    factor = series(text, "s", "d", "EUR", low=0, high=9)
    assert factor == Factor((0.0, 9.0), (1_767_225_600 * S, 1_767_312_000 * S), "s", "d", "EUR")
    with pytest.raises(ConfigError, match="'nan' is no value: write a number, or leave"):
        series("time,value\n2026-01-01T00:00Z,nan\n", "s", "d")
    with pytest.raises(ConfigError, match="'inf' is no value"):
        series("time,value\n2026-01-01T00:00Z,inf\n", "s", "d")
    with pytest.raises(ConfigError, match="the series of 's', line 2"):
        series("time,value\nx,1\n", "s", "d")


@pytest.mark.parametrize(
    ("values", "times", "source", "date"),
    [((), (), "s", "d"), ((1.0,), (0, 1), "s", "d"), ((1.0, 2.0), (1, 1), "s", "d"), ((1.0, 2.0), (2, 1), "s", "d"),
     ((1.0,), (0,), " ", "d"), ((1.0,), (0,), "s", "")],
)  # fmt: skip
def test_a_factor_that_cannot_be_is_refused(values, times, source, date):
    with pytest.raises(ConfigError):
        Factor(values, times, source, date)


def test_a_factor_of_the_policy_has_its_first_figure_and_its_note():
    table = {"source": "s", "date": "d", "currency": "EUR", "per_kwh": 0, "g_per_kwh": None}
    assert from_policy(table) == constant(0.0, "s", "d", "EUR")
    assert from_policy({**table, "stage": "operational", "value": 2}) == constant(2.0, "s", "d", "operational")
    assert from_policy({}) is from_policy(None) is None
    with pytest.raises(ConfigError, match="needs a value or a series"):
        from_policy({"source": "s", "date": "d"})
    read = {"p": "time,value\n2026-01-01T00:00Z,3\n"}.__getitem__
    told = from_policy({**table, "series": "p"}, read, 0, 3)
    assert (told.values, told.note) == ((3.0,), "EUR")
    with pytest.raises(ConfigError, match="p, line 2: '3' is no value: write a number from 0 to 2"):
        from_policy({**table, "series": "p"}, read, 0, 2)


def test_a_piece_of_no_length_has_the_factors_of_its_moment():
    price = Factor((1.0, 3.0), (0, 20), "s", "d", "EUR")
    pue = Factor((1.5,), (0,), "s", "d")
    one_kwh = 3_600_000_000_000
    for piece, cost in (((20, 20), 4.5), ((10, 30), 3.0), ((0, 20), 1.5), ((20, 21), 4.5), ((15, 25), 3.0)):
        result = footprint([Piece(*piece, one_kwh)], Factors(pue=pue, price=price), at_wall=True)
        assert result.cost == pytest.approx(cost)
        assert result.facility_uj == pytest.approx(1.5 * one_kwh)
        assert (result.currency, result.lower_bound) == ("EUR", False)
    assert footprint([], Factors(pue=pue), at_wall=False).lower_bound
    assert footprint([], Factors(price=price), at_wall=True).lower_bound


# --- the grid


def test_a_moment_of_the_grid_is_not_its_own_next_one():
    assert Schedule.starting(S, 0, 10 * S).next_index == 11
    assert Schedule.starting(S, 0, 10 * S - 1).next_index == 10
    assert Schedule.starting(1, 0, 10).next_index == 11


def test_a_tick_is_due_at_its_very_time():
    schedule = Schedule.starting(S, 0, 10 * S)
    assert schedule.take(S - 1)[0] is None
    assert schedule.take(S) == (Tick(11, S, 0, 0), Schedule(S, 10 * S, 12, 0))
    assert schedule.take(2 * S - 1)[0] == Tick(11, S, S - 1, 0)
    assert schedule.take(2 * S)[0] == Tick(12, 2 * S, 0, 1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("since_s", [0, 50])
def test_a_clock_may_drift_by_the_noise_and_a_thousandth(sign, since_s):
    schedule = Schedule.starting(S, 7 * S, 10 * S)
    most_ns = 50_000_000 + since_s * 1_000_000
    now_ns, wall_ns = (7 + since_s) * S, (10 + since_s) * S
    followed = schedule.observe(now_ns, wall_ns + sign * most_ns)
    assert (followed.offset_ns, followed.step_ns, followed.seen_mono_ns) == (3 * S + sign * most_ns, 0, now_ns)
    stepped = schedule.observe(now_ns, wall_ns + sign * (most_ns + 1))
    assert (stepped.offset_ns, stepped.step_ns) == (3 * S, sign * (most_ns + 1))
    again = stepped.observe(now_ns, wall_ns + sign * (most_ns + 1))
    assert (again.offset_ns, again.step_ns) == (3 * S, sign * (most_ns + 1))
    earlier = schedule.observe(6 * S, 9 * S + sign * 50_000_000)  # a reading from before the last one: noise alone
    assert earlier.step_ns == 0
    assert schedule.observe(6 * S, 9 * S + sign * 50_000_001).step_ns != 0


def test_another_period_begins_after_the_last_tick():
    schedule = Schedule.starting(S, 0, 10 * S)  # the last tick was that of 10 s
    assert schedule.at(3 * S).next_index == 4  # 12 s
    assert schedule.at(5 * S).next_index == 3  # 15 s, not 10 s again
    assert schedule.at(S // 2).next_index == 21  # 10.5 s


@pytest.mark.parametrize("kind", [DomainKind.PACKAGE, DomainKind.DRAM, DomainKind.GPU])
@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_of_what_a_counter_lost_nothing_is_static(kind, jobs):
    """A counter that ran backwards: no share of the loss is energy that somebody held by being there."""
    domain = DomainInput(name="d", kind=kind, total_uj=-5, package=None, static_uw=10**9)
    held = [
        JobInput(owner=f"job:{n}.0", cpus=frozenset({n}), cpu_ns=S, memory_b=100, gpus={"d": GpuHolding(part=1)})
        for n in range(jobs)
    ]
    (found,) = attribute(interval([domain], held, busy={0: S // 2, 1: S // 2}))
    assert sum(share.energy_uj for share in found.shares) == -5
    assert [share.static_uj for share in found.shares] == [0] * len(found.shares)


@pytest.mark.parametrize(("static_uw", "end_ns"), [(-1, S), (0, S), (10**9, -1), (10**9, 0)])
def test_a_power_below_nothing_and_a_time_below_nothing_are_nothing(static_uw, end_ns):
    meter = DomainInput(name="psys", kind=DomainKind.METER, total_uj=10, static_uw=static_uw, leaves=())
    jobs = [JobInput(owner="job:1.0", cpus=frozenset({0})), JobInput(owner="job:2.0")]
    (found,) = attribute(interval([meter], jobs, end_ns=end_ns))
    assert [(share.energy_uj, share.static_uj) for share in found.shares] == [(10, 0)]


def test_of_a_nanosecond_each_job_holds_what_it_holds_of_a_second():
    """4 uJ of static energy: a job with half of the memory, one of four CPUs, or half of a GPU's time has its part."""
    many = 4 * 10**15
    dram = DomainInput(name="dram", kind=DomainKind.DRAM, total_uj=4, package=None, static_uw=many)
    meter = DomainInput(name="psys", kind=DomainKind.METER, total_uj=8, static_uw=many, leaves=("dram",))
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=4, package=0, static_uw=many)
    job = JobInput(owner="job:1.0", cpus=frozenset({0, 4}), memory_b=500)
    result = attribute(interval([dram, meter, package], [job], end_ns=1))
    shares = {one.domain: {share.owner: share.static_uj for share in one.shares} for one in result}
    assert shares == {
        "dram": {"job:1.0": 2, "idle": 2},
        "package-0": {"job:1.0": 2, "idle": 2},
        "other": {"job:1.0": 2, "idle": 2},
    }


def test_whoever_holds_a_gpu_for_all_of_a_nanosecond_is_its_holder():
    gpu = DomainInput(name="gpu-a", kind=DomainKind.GPU, total_uj=4)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), gpus={"gpu-a": GpuHolding(part=1)}, present_ns=1)
    (found,) = attribute(interval([gpu], [job], end_ns=1))
    assert (found.method, [(share.owner, share.energy_uj) for share in found.shares]) == ("holder", [("job:1.0", 4)])


@pytest.mark.parametrize(
    ("jobs", "more", "provenance"),
    [
        ([], {}, Provenance.MEASURED),
        ([], {"gap": True}, Provenance.MODELLED),
        ([], {"unread": {0: "no line"}}, Provenance.MODELLED),
        ([JobInput(owner="job:1.0", cpus=frozenset({0}))], {}, Provenance.MODELLED),
    ],
)
def test_what_no_job_shares_is_as_measured_where_all_of_it_is_known(jobs, more, provenance):
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=9, package=0)
    (found,) = attribute(interval([package], jobs, busy={cpu: 1 for cpu in range(1, 8)}, **more))
    assert found.provenance == provenance


def test_a_gpu_part_that_did_nothing_is_not_one_of_which_nothing_is_known():
    """Even of a job of which something else is impossible, here its memory."""
    gpu = DomainInput(name="gpu-a", kind=DomainKind.GPU, total_uj=10, slices=2)
    idle, busy = (
        JobInput(
            owner=f"job:{n}.0", cpus=frozenset({n}), memory_b=-n, gpus={"gpu-a": GpuHolding(part=1, activity=activity)}
        )
        for n, activity in ((1, 0), (2, 5))
    )
    (found,) = attribute(interval([gpu], [idle, busy]))
    assert [(share.owner, share.dynamic_uj) for share in found.shares] == [("job:2.0", 10)]


def test_a_job_that_did_nothing_did_nothing_on_a_cpu_of_which_nothing_is_known():
    package = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=9, package=0)
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=0)
    (found,) = attribute(interval([package], [job], busy=dict.fromkeys(range(1, 8), 0), unread={0: "no line"}))
    assert [(share.owner, share.energy_uj) for share in found.shares] == [("unknown", 9)]


def test_a_gauge_that_falls_silent_two_thousand_times_still_counts_above_nothing():
    counter, ticks = SyntheticCounter(GAUGE, max_gap_ns=S), []
    for gap in range(2000):
        counter, reading = counter.advance(Reading(1000, gap * 10 * S))
        ticks.append(reading.ticks)
    assert ticks == sorted(ticks, reverse=True)
    assert len(set(ticks)) == 2000
    assert ticks[-1] > 0
