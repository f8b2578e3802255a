"""What a session's energy may be wrong by, cause by cause, from what was booked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.intervals import Closed
from perun_hpc.agent.measure.learning import Figure
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Kind, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind, DomainShares, JobInput, Share
from perun_hpc.energy.containment import EnergyDomain
from perun_hpc.energy.uncertainty import PEAK, added, combined_uj

S = 1_000_000_000
RAPL = Sensor(
    id="powercap:package-0:energy", host="h", backend="powercap", device="d", domain="package-0", component="cpu",
    kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", gain_error=0.03,
)  # fmt: skip
METER = replace(RAPL, id="ipmi:node:energy", backend="ipmi", domain="node", component="node", gain_error=0.05)
PACKAGE = EnergyDomain("package-0", DomainKind.PACKAGE, RAPL, 0)
NODE = EnergyDomain("node", DomainKind.METER, METER, None, ("package-0",))


def session(**accounts: DomainAccount) -> Session:
    made = Session(SessionKey(1, 0), {}, {}, "", "", Edge(0, 0, 0, "hook"))
    made.domains = {name.replace("_", "-"): account for name, account in accounts.items()}
    return made


def account(energy_uj: int, node_uj: int, **more: int) -> DomainAccount:
    made = DomainAccount("cpu", "", "measured", "cores", node_uj=node_uj, energy_uj=energy_uj, covered_ns=100 * S)
    return replace(made, **more)


def test_a_meters_rest_has_its_gain_and_less_of_that_of_what_it_contains() -> None:
    job = session(package_0=account(900_000, 900_000), other=account(100_000, 100_000))
    doubts = booking.doubts(job, {"package-0": PACKAGE, "node": NODE})
    assert doubts["package-0"]["gain powercap"] == 27_000
    assert (doubts["other"]["gain ipmi"], doubts["other"]["gain powercap"]) == (50_000, -27_000)
    assert combined_uj(added(doubts.values())) == 50_000  # the meter's


def test_a_memory_counters_offset_goes_by_the_jobs_part() -> None:
    dram = EnergyDomain("dram-0", DomainKind.DRAM, replace(RAPL, domain="dram-0", offset_uw=1_200_000), 0)
    doubts = booking.doubts(session(dram_0=account(250, 1000)), {"dram-0": dram})
    assert doubts["dram-0"]["offset powercap"] == 1_200_000 * 100 // 4


@pytest.mark.parametrize(("peak_uw", "edge_uw"), [(100_000_000, 130_000_000), (0, 700_000_000), (10**9, 700_000_000)])
def test_edges_are_doubted_by_the_power_that_was_seen(peak_uw: int, edge_uw: int) -> None:
    gpu = replace(RAPL, gain_error=0.0, update_ns=S // 10, max_uw=700_000_000)
    domain = EnergyDomain("gpu-0", DomainKind.GPU, gpu, None)
    doubts = booking.doubts(session(gpu_0=account(1, 1, peak_uw=peak_uw)), {"gpu-0": domain})
    assert doubts["gpu-0"]["random"] == math.ceil(edge_uw / 10 * math.sqrt(2 / 12))
    assert PEAK == 1.3


@pytest.mark.parametrize(("before_uw", "lag_ns", "first_uw"), [
    (20_000_000, 0, 26_000_000), (10**9, 0, 130_000_000), (0, 0, 130_000_000), (20_000_000, S // 2, 130_000_000),
])  # fmt: skip
def test_a_counters_first_edge_is_doubted_by_the_power_before_the_job(
    before_uw: int, lag_ns: int, first_uw: int
) -> None:
    gpu = replace(RAPL, gain_error=0.0, update_ns=S // 10, lag_ns=lag_ns, max_uw=700_000_000)
    job = session(gpu_0=account(1, 1, peak_uw=100_000_000, before_uw=before_uw))
    doubts = booking.doubts(job, {"gpu-0": EnergyDomain("gpu-0", DomainKind.GPU, gpu, None)})
    old_s = (gpu.update_ns + lag_ns // 4) / S
    assert doubts["gpu-0"]["random"] == math.ceil(math.hypot(first_uw, 130e6) * old_s / math.sqrt(12))


def test_a_job_begins_after_the_power_of_the_interval_before_it() -> None:
    def closed(t0_s: int, energy_uj: int | None) -> Closed:
        owner = "job:1.0" if t0_s else "idle"
        shares = (Share(owner, energy_uj, 0, energy_uj),) if energy_uj else ()
        jobs = (JobInput(owner="job:1.0"),) if t0_s else ()
        shared = DomainShares("package-0", energy_uj, shares, "exclusive", Provenance.MEASURED)
        return Closed(t0_s * S, (t0_s + 10) * S, shared, jobs, energy_uj is None)

    domains, job = {"package-0": PACKAGE}, session()
    before = booking.book([closed(0, 50_000_000)], [job], domains, {}, "2026-11-30")
    assert before == {"package-0": 5_000_000}
    booking.book([closed(10, 900_000_000)], [job], domains, {}, "2026-11-30", before)
    assert (job.domains["package-0"].before_uw, job.domains["package-0"].peak_uw) == (5_000_000, 90_000_000)
    booking.book([closed(20, 100_000_000)], [job], domains, {}, "2026-11-30", {"package-0": 90_000_000})
    assert job.domains["package-0"].before_uw == 5_000_000
    assert booking.book([closed(30, None)], [job], domains, {}, "2026-11-30", before) == {}


def test_a_sensor_that_looks_a_part_of_the_time_is_less_sure_the_longer() -> None:
    gpu = replace(RAPL, gain_error=0.0, max_uw=10**9, sampled_ns=S // 10)
    domain = EnergyDomain("gpu-0", DomainKind.GPU, gpu, None)
    doubts = booking.doubts(session(gpu_0=account(1, 1, peak_uw=100_000_000)), {"gpu-0": domain})
    assert doubts["gpu-0"]["random"] == math.ceil(booking.SAMPLED * 130e6 * math.sqrt(0.1 * 100))


def test_what_intervals_share_out_is_doubted_alike_in_each() -> None:
    """Two owners of half each, twice: what is not known of their work and of static power adds up."""
    job = session()
    shares = (Share("job:1.0", 3_000, 1_000, 2_000), Share("job:2.0", 5_000, 3_000, 2_000))
    split = DomainShares("package-0", 8_000, shares, "cores", Provenance.MODELLED)
    for t0_ns in (0, 10 * S):
        closed = Closed(t0_ns, t0_ns + 10 * S, split, (JobInput(owner="job:1.0"),), False)
        booking.book([closed], [job], {"package-0": PACKAGE}, {"package-0": Figure(1, "policy")}, "2026-11-30")
    found = job.domains["package-0"]
    assert found.static_doubt_uj == 2 * -80  # 8 % of 1000 - 4000 / 2
    assert found.sharing_doubt_uj == found.others_doubt_uj == 2 * 340  # 34 % of 2000 (1 - 1/2)
    assert found.peak_uw == 800
    doubts = booking.doubts(job, {"package-0": PACKAGE})["package-0"]
    assert (doubts["static cpu"], doubts["sharing cpu"], doubts["random"]) == (-160, 680, 680)


def test_where_a_doubt_is_known_it_is_the_intervals() -> None:
    job = session()
    shares = (Share("job:1.0", 3_000, 1_000, 2_000), Share("job:2.0", 5_000, 3_000, 2_000))
    split = DomainShares("package-0", 8_000, shares, "cores+fit", Provenance.MODELLED, "", {"job:1.0": 500})
    closed = Closed(0, 10 * S, split, (JobInput(owner="job:1.0"),), False)
    booking.book([closed], [job], {"package-0": PACKAGE}, {}, "2026-11-30")
    found = job.domains["package-0"]
    assert found.method == "cores+fit"
    assert math.hypot(found.sharing_doubt_uj, found.others_doubt_uj) == pytest.approx(500, abs=1)
    assert found.sharing_doubt_uj == found.others_doubt_uj  # two alike


@pytest.mark.parametrize(("kind", "relative"), [
    (DomainKind.PACKAGE, 0.34), (DomainKind.DRAM, 1.0), (DomainKind.GPU, 0.7),
])  # fmt: skip
def test_over_a_gap_the_work_on_cpus_is_known_and_that_on_gpus_is_not(kind: DomainKind, relative: float) -> None:
    job, domain = session(), replace(PACKAGE, kind=kind)
    shares = (Share("job:1.0", 2_000, 0, 2_000), Share("job:2.0", 2_000, 0, 2_000))
    split = DomainShares("package-0", 4_000, shares, "presence", Provenance.MODELLED)
    closed = Closed(0, 40 * S, split, (JobInput(owner="job:1.0"),), True)
    booking.book([closed], [job], {"package-0": domain}, {}, "2026-11-30")
    assert job.domains["package-0"].sharing_doubt_uj == round(relative * 1_000)


@pytest.mark.parametrize(("scope", "present_s", "unknown_s"), [
    ("", 40, 0), ("", 10, 10), ("node (integrated power)", 40, 40),
])  # fmt: skip
def test_a_counter_has_counted_a_gap_in_which_a_job_was_from_its_begin_to_its_end(
    scope: str, present_s: int, unknown_s: int
) -> None:
    domain = replace(PACKAGE, sensor=replace(RAPL, gain_error=0.0, max_uw=1_000_000, scope=scope))
    job, share = session(), Share("job:1.0", 4_000, 4_000, 0)
    split = DomainShares("package-0", 4_000, (share,), "presence", Provenance.MODELLED)
    present_ns = None if present_s == 40 else present_s * S
    closed = Closed(0, 40 * S, split, (JobInput(owner="job:1.0", present_ns=present_ns),), True)
    booking.book([closed], [job], {"package-0": domain}, {}, "2026-11-30")
    random_uj = booking.doubts(job, {"package-0": domain})["package-0"].get("random", 0)
    assert job.domains["package-0"].gap_ns == present_s * S
    assert random_uj == math.ceil(1_000_000 * unknown_s / math.sqrt(12))


def test_what_is_counted_no_more_is_not_sure() -> None:
    """A zone that turned out to be another one's mirror, a sensor that the policy leaves out since."""
    gone = account(900_000, 900_000, static_doubt_uj=-300, sharing_doubt_uj=500, others_doubt_uj=400)
    doubts = booking.doubts(session(package_1=gone), {"package-0": PACKAGE})["package-1"]
    assert doubts == {"gain unknown": 72_000, "static cpu": -300, "sharing cpu": 500, "random": 400}
    estimated = replace(gone, provenance="estimated")
    assert booking.doubts(session(cpu=estimated), {"package-0": PACKAGE})["cpu"]["gain estimate"] == 675_000


@pytest.mark.parametrize(("intervals", "method"), [
    ([("slices", 8), ("slices+activity", 141), ("slices", 8)], "slices+activity"),
    ([("slices+activity", 8), ("slices", 141), ("slices+activity", 8)], "slices"),
    ([("cores", 50), ("presence", 30), ("presence", 30)], "presence"),
    ([("exclusive", 900), ("cores", 1), ("exclusive", 900)], "cores"),
    ([("cores", 0), ("presence", 1)], "presence"),
    ([("exclusive", 5)], "exclusive"),
])  # fmt: skip
def test_a_jobs_method_is_the_model_by_which_most_of_what_was_modelled_was_shared_out(
    intervals: list[tuple[str, int]], method: str
) -> None:
    job = DomainAccount("gpu", "", "measured", "exclusive")
    for how, energy_uj in intervals:
        job.cover(S, False, how, "modelled", 2 * energy_uj)
        job.give(Share("job:1.0", energy_uj, 0, energy_uj), how)
    assert job.method == method
    assert job.energy_uj == sum(energy_uj for _, energy_uj in intervals)
