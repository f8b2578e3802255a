"""Static power learnt from idle times, GPUs held idle, counters made of gauges."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.activity import Activity
from perun_hpc.agent.measure.gpu_limits import GpuLimits
from perun_hpc.agent.measure.gpu_use import GpuUse
from perun_hpc.agent.measure.idling import Idling
from perun_hpc.agent.measure.intervals import Closed, Stretch, joined
from perun_hpc.agent.measure.learning import Figure, Learning
from perun_hpc.agent.outbox.boundary import Cost, boundary_record
from perun_hpc.agent.sources.gauges import Gauges
from perun_hpc.backend.gpus import Gpu, Partition
from perun_hpc.backend.hwmon import discover
from perun_hpc.config.schema import Energy
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import NOT_DUE, Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind, DomainShares, GpuHolding, JobInput, NodeInput
from perun_hpc.energy.containment import EnergyDomain, energy_counters, plan
from perun_hpc.energy.counters import Status, difference
from perun_hpc.energy.static import StaticPower
from tests.sysfs import build

S = 1_000_000_000
NODE = NodeInput(package_of={0: 0, 1: 0, 2: 1, 3: 1}, core_of={0: 0, 1: 1, 2: 2, 3: 3})


def sensor(name: str, quantity: Quantity, kind: Kind, component: str, domain: str, scale: int = 1) -> Sensor:
    return Sensor(
        id=f"x:{domain}:{name}", host="n", backend="nvml", device="d", domain=domain, component=component,
        kind=kind, quantity=quantity, unit="u", scale_num=scale,
    )  # fmt: skip


def counter(domain: str, component: str) -> Sensor:
    return sensor("energy", Quantity.ENERGY, Kind.COUNTER, component, domain)


DOMAINS = {
    "package-0": EnergyDomain("package-0", DomainKind.PACKAGE, counter("package-0", "cpu"), 0),
    "package-1": EnergyDomain("package-1", DomainKind.PACKAGE, counter("package-1", "cpu"), 1),
    "gpu-a": EnergyDomain("gpu-a", DomainKind.GPU, counter("gpu-a", "gpu"), None),
    "node": EnergyDomain("node", DomainKind.METER, counter("node", "node"), None, ("package-0", "package-1", "gpu-a")),
}


def teach(
    learning: Learning,
    busy_ns: dict[int, int],
    peaks: dict[str, int],
    times: int,
    seconds: int = 6,
    node=NODE,
    setting: str | None = "",
    package_w: int = 40,
) -> None:
    """Intervals at 40 W per package, 60 W of the GPU and 100 W of all else."""
    for number in range(times):
        t0_ns, t1_ns = number * seconds * S, (number + 1) * seconds * S
        watts = {"package-0": package_w, "package-1": package_w, "gpu-a": 60, "other": 100}
        closed = [
            Closed(t0_ns, t1_ns, DomainShares(name, w * seconds * 10**6, (), "x", Provenance.MEASURED), (), False)
            for name, w in watts.items()
        ]
        learning.take(closed, Stretch(t0_ns, t1_ns, busy_ns, ()), node, DOMAINS, peaks, t1_ns, setting)


def learnt(learning: Learning) -> dict[str, int]:
    return {name: figure.uw // 10**6 for name, figure in learning.figures(DOMAINS.values(), None).items()}


def test_half_an_hour_of_short_idle_intervals_teaches_every_domain():
    learning = Learning()
    teach(learning, {}, {"gpu-a": 0}, 299)
    assert learnt(learning) == {"package-0": 20, "package-1": 20, "gpu-a": 0, "node": 50}
    teach(learning, {}, {"gpu-a": 0}, 302)
    assert learnt(learning) == {"package-0": 40, "package-1": 40, "gpu-a": 60, "node": 100}
    again = Learning()
    again.restore(learning.to_json())
    assert learnt(again) == learnt(learning)


def test_static_power_is_that_of_the_governor_and_the_caps_in_force():
    learning = Learning()

    def figures(setting: str) -> dict[str, tuple[int, str]]:
        found = learning.figures(DOMAINS.values(), None, setting)
        return {name: (one.uw // 10**6, one.source) for name, one in found.items()}

    teach(learning, {}, {"gpu-a": 0}, 700, setting="powersave 250W", package_w=40)
    assert figures("powersave 250W")["package-0"] == (40, "learnt")
    other = figures("performance 250W")
    assert (other["package-0"], other["node"]) == ((40, "otherwise"), (100, "otherwise"))
    assert other["gpu-a"] == (60, "learnt"), "what CPUs are set to is not a GPU's"
    teach(learning, {}, {"gpu-a": 0}, 400, setting="performance 250W", package_w=55)
    assert figures("performance 250W")["package-0"] == (55, "learnt")
    assert figures("powersave 250W")["package-0"] == (40, "learnt")
    assert figures("performance 100W")["package-0"] == (40, "otherwise"), "where it idled longest"
    again = Learning()
    again.restore(learning.to_json())
    assert again.figures(DOMAINS.values(), None, "performance 250W")["package-0"] == Figure(55_000_000, "learnt")
    learning.typical_uw = {"package-0@performance 100W": 48_000_000}
    assert figures("performance 100W")["package-0"] == (48, "nodes"), "other nodes know that setting"


def test_a_gpu_s_static_power_is_that_of_the_limit_in_force():
    learning, limits = Learning(), GpuLimits()
    limit = sensor("power-limit", Quantity.POWER_LIMIT, Kind.GAUGE, "gpu", "gpu-a", 1_000)
    limits.follow([limit, counter("gpu-a", "gpu")])
    assert limits.settings == {}
    assert limits.note({limit.id: Reading(700_000, S)})
    assert limits.settings == {"gpu-a": None}, "seen in this interval for the first time"
    limits.begin()
    assert not limits.note({limit.id: Reading(700_000, 2 * S)})
    assert not limits.note({limit.id: Reading(None, 3 * S, "no answer")})
    assert limits.settings == {"gpu-a": "700W"} == limits.now

    def idles(times: int, settings: dict[str, str | None]) -> None:
        for number in range(times):
            t0_ns, t1_ns = number * 10 * S, (number + 1) * 10 * S
            shares = DomainShares("gpu-a", 600 * 10**6, (), "x", Provenance.MEASURED)
            stretch = Stretch(t0_ns, t1_ns, {}, ())
            closed = [Closed(t0_ns, t1_ns, shares, (), False)]
            learning.take(closed, stretch, NODE, DOMAINS, {"gpu-a": 0}, t1_ns, "powersave", settings)

    idles(200, {"gpu-a": None})
    assert learning.known == {}
    idles(200, limits.settings)
    assert set(learning.known) == {"gpu-a@700W"}
    gpu = [DOMAINS["gpu-a"]]
    assert learning.figures(gpu, None, "performance", limits.now)["gpu-a"] == Figure(60_000_000, "learnt")
    assert limits.note({limit.id: Reading(400_000, 4 * S)})
    assert (limits.settings, limits.now) == ({"gpu-a": None}, {"gpu-a": "400W"})
    assert learning.figures(gpu, None, "performance", limits.now)["gpu-a"] == Figure(60_000_000, "otherwise")


def test_what_was_learnt_before_settings_were_known_counts_until_there_is_better():
    learning = Learning()
    teach(learning, {}, {"gpu-a": 0}, 400)
    assert learning.figures(DOMAINS.values(), None, "powersave")["package-0"] == Figure(40_000_000, "otherwise")
    learning = Learning()
    learning.typical_uw = {"package-0": 41_000_000}
    assert learning.figures(DOMAINS.values(), None, "powersave")["package-0"] == Figure(41_000_000, "otherwise")
    assert learning.figures(DOMAINS.values(), None)["package-0"] == Figure(41_000_000, "nodes")


def test_an_interval_of_several_settings_teaches_nothing_and_few_settings_are_kept():
    learning = Learning()
    teach(learning, {}, {"gpu-a": 0}, 700, setting=None)
    assert set(learning.known) == {"gpu-a"}
    for cap in range(20):
        teach(learning, {}, {"gpu-a": 0}, 20 + cap, setting=f"powersave {cap}W")
    kept = [name for name in learning.known if name.startswith("package-0")]
    assert kept == [f"package-0@powersave {cap}W" for cap in range(12, 20)], "those of the longest idle times"


def test_a_busy_package_teaches_nothing_of_itself_and_of_the_rest_of_the_node():
    learning = Learning()
    teach(learning, {0: S}, {"gpu-a": 0}, 400)
    assert learnt(learning) == {"package-0": 20, "package-1": 40, "gpu-a": 60, "node": 50}


def test_packages_whose_cpus_are_not_known_teach_only_while_all_cpus_idle():
    learning, node = Learning(), replace(NODE, package_of={})
    teach(learning, {0: S}, {"gpu-a": 0}, 400, node=node)
    figures = learning.figures(DOMAINS.values(), None)
    assert {name for name, one in figures.items() if one.source == "learnt"} == {"gpu-a"}
    teach(learning, {}, {"gpu-a": 0}, 400, node=node)
    assert learnt(learning) == {"package-0": 40, "package-1": 40, "gpu-a": 60, "node": 100}


@pytest.mark.parametrize("peaks", [{}, {"gpu-a": 7}])
def test_a_gpu_that_is_busy_or_not_watched_teaches_nothing(peaks):
    learning = Learning()
    teach(learning, {}, peaks, 400)
    assert learnt(learning) == {"package-0": 40, "package-1": 40, "gpu-a": 0, "node": 50}


def test_the_policy_comes_before_what_was_learnt_and_nothing_is_said_to_be_unknown():
    learning = Learning()
    teach(learning, {}, {"gpu-a": 0}, 400)
    energy = Energy(package_static_uw=55_000_000, package_max_uw="auto", gpu_idle_uw="auto", kappa=0.25)
    figures = learning.figures(DOMAINS.values(), energy)
    assert figures["package-0"].to_json() == {"uw": 55_000_000, "from": "policy"}
    assert figures["gpu-a"].to_json() == {"uw": 60_000_000, "from": "learnt"}
    assert Learning().figures(DOMAINS.values(), None)["node"].to_json() == {"uw": 0, "from": "unknown"}


def test_until_static_power_is_known_half_of_the_least_power_seen_is_taken():
    learning = Learning()

    def see(name: str, joules: int, t0_ns: int, t1_ns: int, gap: bool = False) -> bool:
        shares = DomainShares(name, joules * 10**6, (), "x", Provenance.MEASURED)
        stretch = Stretch(t0_ns, t1_ns, {0: t1_ns - t0_ns}, ())
        return learning.take([Closed(t0_ns, t1_ns, shares, (), gap)], stretch, NODE, DOMAINS, {}, t1_ns)

    assert see("package-0", 900, 0, 10 * S)
    assert not see("package-0", 1000, 10 * S, 20 * S)
    assert not see("package-0", 1, 20 * S, 20 * S + S // 2)  # a counter's own steps would show
    assert not see("package-0", 1, 20 * S, 30 * S, gap=True)
    assert learning.figures(DOMAINS.values(), None)["package-0"].to_json() == {"uw": 45_000_000, "from": "unknown"}
    assert see("package-0", 300, 30 * S, 40 * S)
    again = Learning()
    again.restore(learning.to_json())
    assert learnt(again)["package-0"] == 15
    again.restore({})  # as an agent of before left it
    assert learnt(again)["package-0"] == 0


def session() -> Session:
    made = Session(SessionKey(1, 0), {}, {}, "", "", Edge(0, 0, 0, "hook"))
    made.domains["gpu-a"] = DomainAccount("gpu", "GPU", "measured", "holder")
    return made


def idle_seconds(uses: list[int | None], watts: int = 60, idle_w: int = 60) -> float | None:
    """Idle time of a job that holds the GPU while it shows these utilisations, one a second."""
    idling, job = Idling(), session()
    use = sensor("utilisation", Quantity.UTILISATION, Kind.GAUGE, "gpu", "gpu-a", 10)
    power = sensor("power", Quantity.POWER, Kind.GAUGE, "gpu", "gpu-a", 1_000_000)
    idling.follow([use, power])
    for second, ticks in enumerate(uses):
        readings = {use.id: Reading(ticks, second * S), power.id: Reading(watts, second * S)}
        idling.note(readings, {"gpu-a": idle_w * 10**6}, {"gpu-a": [job]})
    idle_ns = job.domains["gpu-a"].idle_ns
    return None if idle_ns is None else idle_ns / S


def test_a_minute_without_work_counts_wholly_and_a_shorter_pause_not():
    assert idle_seconds([0] * 101) == 100
    assert idle_seconds([0] * 60) == 0
    assert idle_seconds([0] * 40 + [3] + [0] * 40) == 0
    assert idle_seconds([0] * 71 + [3] + [0] * 71) == 140


def test_a_gpu_that_draws_power_is_not_idle_whatever_its_utilisation_says():
    assert idle_seconds([0] * 101, watts=200) == 0
    assert idle_seconds([0] * 101, watts=200, idle_w=0) == 100


def test_where_nobody_watched_idle_time_is_not_known():
    assert idle_seconds([None] * 101) is None


def test_of_graces_gauges_those_that_energy_rests_on_become_counters(tmp_path: Path):
    now = [0]
    found = discover(build("gh200", tmp_path), clock=lambda: now[0])
    gauges = Gauges()
    gauges.follow(found.sensors)
    made = {one.domain: one for one in gauges.sensors}
    assert set(made) == {"grace-0", "module-0"}
    domains = {one.name: one for one in plan([*found.sensors, *gauges.sensors]).counted}
    assert domains["module-0"].kind is DomainKind.METER
    assert domains["module-0"].leaves == ("grace-0",)
    assert {one.id for one in energy_counters([*found.sensors, *gauges.sensors])} == {one.id for one in made.values()}

    def read() -> Reading:
        both = [pair for reader in found.readers for pair in zip(reader.sensors, reader.read())]
        return gauges.advance({one.id: reading for one, reading in both}, now[0])[made["grace-0"].id]

    first = read()
    for _ in range(10):
        now[0] += S
        last = read()
    assert difference(made["grace-0"], first, last).ticks == 2_500_000_000
    found.close()


def test_a_gauge_that_is_read_seldom_counts_up_to_every_edge():
    node = sensor("power-node", Quantity.POWER, Kind.GAUGE, "node", "node")
    gauges = Gauges()
    gauges.follow([node])
    (made,) = gauges.sensors
    answers = {0: 100, 10: 100, 20: 50, 30: 50, 40: 50}  # the BMC's, in W
    edges = []
    for second in range(0, 45, 5):
        answered = second - second % 10
        reading = Reading(answers[answered] * 10**6, answered * S)
        edges.append(gauges.advance({node.id: reading}, second * S)[made.id])
    counted = [difference(made, *pair) for pair in itertools.pairwise(edges)]
    assert {one.status for one in counted} == {Status.OK}
    # The power fell on the way to the answer at 20 s: what was taken for it until 15 s lacks in what follows.
    assert [one.ticks // 10**6 for one in counted] == [500, 500, 500, 250, 250, 250, 250, 250]
    assert edges[-1].ticks - edges[0].ticks == (100 * 10 + 75 * 10 + 50 * 20) * 10**6


def test_a_gauge_that_does_not_answer_any_more_counts_nothing():
    node = sensor("power-node", Quantity.POWER, Kind.GAUGE, "node", "node")
    gauges = Gauges()
    gauges.follow([node])
    (made,) = gauges.sensors
    first = gauges.advance({node.id: Reading(10**8, 0)}, 0)[made.id]
    silent = gauges.advance({node.id: Reading(None, 5 * S, "no answer")}, 5 * S)[made.id]
    old = gauges.advance({node.id: Reading(10**8, 0)}, 31 * S)[made.id]
    assert difference(made, first, silent).ticks is None
    assert (old.ticks, old.mono_ns) == (first.ticks, 0)


def test_of_two_sensors_of_an_instance_the_first_counts_and_dcgms_is_known_by_its_numbers():
    gpu = Gpu("GPU-a", "0000:01:00.0", 0, "A100", 7, (Partition("MIG-x", 3, "1/0"), Partition("MIG-y", 3, "2/0")))
    nvml, dcgm, other = (
        sensor(f"activity-{name}", Quantity.UTILISATION, Kind.GAUGE, "gpu", "gpu-GPU-a")
        for name in ("MIG-x", "1/0", "2/0")
    )
    activity = Activity()
    activity.follow([nvml, dcgm, other], (gpu,))
    for second, ticks in enumerate(((0, 0, 0), (800, 100, 300))):
        activity.take()
        activity.note({one.id: Reading(value, second * S) for one, value in zip((nvml, dcgm, other), ticks)})
    assert activity.take() == {"MIG-x": 800_000, "MIG-y": 300_000}


def test_activity_of_an_instance_is_its_mean_over_the_time_between_two_looks():
    activity, told = Activity(), sensor("activity-MIG-x", Quantity.UTILISATION, Kind.GAUGE, "gpu", "gpu-a")
    activity.follow([told, counter("gpu-a", "gpu")], ())

    def note(second: float, ticks: int | None) -> None:
        activity.note({told.id: Reading(ticks, round(second * S))})

    note(0, 500)
    assert activity.take() == {}  # nobody knows what it stands for
    note(3, 800)
    note(3, 800)  # the same moment
    note(4, 400)
    assert activity.take() == {"MIG-x": 700_000}
    note(5, 100)
    note(6, None)
    assert activity.take() == {}
    note(7, 100)
    assert activity.take() == {"MIG-x": 100_000}
    activity.note({})
    assert activity.take() == {}


def test_activity_over_two_stretches_is_their_mean():
    def stretch(t0_s: int, t1_s: int, activity: int | None) -> Stretch:
        job = JobInput(owner="job:1.0", gpus={"gpu-a": GpuHolding(part=3, activity=activity)})
        return Stretch(t0_s * S, t1_s * S, {}, (job,))

    ((job,), _, _) = joined([stretch(0, 3, 800), stretch(3, 4, 400)])
    assert job.gpus["gpu-a"] == GpuHolding(part=3, activity=700)
    ((job,), _, _) = joined([stretch(0, 3, None), stretch(3, 4, 400)])
    assert job.gpus["gpu-a"] == GpuHolding(part=3)


def test_what_most_nodes_have_learnt_counts_until_this_one_knows_better():
    learning = Learning()
    learning.typical_uw = {"package-0": 33_000_000}
    again = Learning()
    again.restore(learning.to_json())
    assert again.figures(DOMAINS.values(), None)["package-0"].to_json() == {"uw": 33_000_000, "from": "nodes"}
    teach(again, {}, {"gpu-a": 0}, 400)
    assert again.figures(DOMAINS.values(), None)["package-0"].to_json() == {"uw": 40_000_000, "from": "learnt"}


def test_a_record_names_the_domains_whose_static_power_nobody_knows():
    job = session()
    job.domains = {
        name: DomainAccount("cpu", "CPU package", "modelled", "cores", node_uj=10, modelled_uj=modelled_uj)
        for name, modelled_uj in (("package-0", 5), ("package-1", 0), ("package-2", 5))
    }
    static = {name: Figure(1, source) for name, source in
              (("package-0", "unknown"), ("package-1", "unknown"), ("package-2", "learnt"))}  # fmt: skip
    record = boundary_record(job, job.start, (), "n1", 4, Cost(0, 0, 0, 0), {}, static, "")
    # Of a package that the job had alone nothing rests on static power.
    assert record["notes"] == ["static power of package-0 is not known: half of the least power seen is taken"]


def test_what_cannot_be_read_of_what_was_learnt_costs_itself() -> None:
    month = StaticPower({20_000: {400: 3600 * S}})
    learning = Learning()
    kept = {"package-0": month.to_json(), "package-1": {"x": 1}, "of a later version": {"package-0": 7}, "lowest": {}}
    learning.restore(kept)
    assert learning.known == {"package-0": month}


def gpu_use(readings: list[tuple[int, int | None, int | None]], holders: int = 1) -> tuple[float, float, int | None]:
    """Seconds busy, seconds watched and most memory of who holds a GPU that shows (second, per cent, bytes)."""
    seen, jobs = GpuUse(), [session() for _ in range(holders)]
    use = sensor("utilisation", Quantity.UTILISATION, Kind.GAUGE, "gpu", "gpu-a", 10)
    memory = sensor("memory", Quantity.DATA, Kind.GAUGE, "gpu", "gpu-a")
    seen.follow([use, memory])
    for second, percent, held_b in readings:
        seen.note({use.id: Reading(percent, second * S), memory.id: Reading(held_b, second * S)}, {"gpu-a": jobs})
    account = jobs[0].domains["gpu-a"]
    return account.busy_ns / S, account.watched_ns / S, account.mem_peak_b


def test_a_gpus_utilisation_stands_for_the_time_since_the_reading_before():
    assert gpu_use([(0, 100, 5), (10, 50, 9), (20, 0, 7)]) == (5, 20, 9)


def test_a_reading_that_failed_or_is_old_adds_nothing():
    assert gpu_use([(0, 0, None), (10, None, None), (20, 100, None), (30, 100, None)]) == (10, 10, None)
    assert gpu_use([(0, 0, 1), (10, 100, 1), (10, 100, 1), (9, 100, 1)])[:2] == (10, 10)


def test_of_a_gpu_that_several_jobs_hold_the_use_is_nobodys():
    assert gpu_use([(0, 100, 5), (10, 100, 5)], holders=2) == (0, 0, None)


def gpu_pace(readings: list[dict[str, int | None]], holders: int = 1) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """What a record holds of who holds a GPU that showed this, 10 s apart, and what was seen of it last.

    `busy` in per cent, `clock` in MHz, `limit` in mW, `reasons` as NVML's bits; what is None failed, what is not there
    was not due.
    """
    seen, jobs = GpuUse(), [session() for _ in range(holders)]
    kinds = {
        "busy": sensor("utilisation", Quantity.UTILISATION, Kind.GAUGE, "gpu", "gpu-a", 10),
        "clock": sensor("clock-sm", Quantity.FREQUENCY, Kind.GAUGE, "gpu", "gpu-a", 1000),
        "limit": sensor("power-limit", Quantity.POWER_LIMIT, Kind.GAUGE, "gpu", "gpu-a", 1000),
        "reasons": sensor("throttle", Quantity.FLAGS, Kind.GAUGE, "gpu", "gpu-a"),
    }
    seen.follow(kinds.values())
    for number, values in enumerate(readings):
        now_ns = 10 * number * S
        shown = {
            one.id: Reading(values[name], now_ns) if name in values else Reading(None, now_ns, NOT_DUE)
            for name, one in kinds.items()
        }
        seen.note(shown, {"gpu-a": jobs})
    return jobs[0].domains["gpu-a"].pace(), seen.now(jobs[0])


def test_a_gpus_clock_counts_while_it_works_and_its_limit_and_brakes_all_the_time():
    known, now = gpu_pace(
        [
            {"busy": 0, "clock": 210, "limit": 400_000, "reasons": 1},
            {"busy": 0, "clock": 210, "limit": 400_000, "reasons": 1},
            {"busy": 100, "clock": 1400, "limit": 300_000, "reasons": 4},
            {"busy": 50, "clock": 1100, "limit": 300_000, "reasons": 4 | 0x20},
        ]
    )
    assert known == {
        "clock_khz": 1_300_000, "limit_mw": 333_333,
        "braked_ns": 30 * S, "capped_ns": 20 * S, "slowed_ns": 10 * S,
    }  # fmt: skip
    assert now == [
        {"gpu": "gpu-a", "busy": 500, "clock_khz": 1_100_000, "limit_mw": 300_000, "capped": True, "slowed": True}
    ]


def test_what_a_gpu_does_not_show_is_absent_and_not_zero():
    assert gpu_pace([{"busy": 100, "clock": None, "limit": None, "reasons": None}] * 3) == (
        {},
        [{"gpu": "gpu-a", "busy": 1000}],
    )
    assert gpu_pace([{"busy": None, "clock": 1400, "limit": None, "reasons": None}] * 3)[0] == {}
    assert gpu_pace([{"busy": None, "clock": None, "limit": None, "reasons": None}] * 3)[1] == []


def test_between_two_readings_of_a_slow_source_what_it_showed_last_holds():
    slow = [{"busy": 100, "limit": 400_000}, {"busy": 100}, {"busy": 100}, {"busy": 100, "limit": 200_000}]
    known, now = gpu_pace(slow)
    assert known == {"limit_mw": 200_000} and now == [{"gpu": "gpu-a", "busy": 1000, "limit_mw": 200_000}]


def test_the_pace_of_a_gpu_that_several_jobs_hold_is_nobodys():
    assert gpu_pace([{"busy": 100, "clock": 1400, "limit": 1, "reasons": 4}] * 3, holders=2) == ({}, [])
