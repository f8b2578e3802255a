from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model.sensor import Provenance
from perun_hpc.energy.attribute import (
    DomainInput,
    DomainKind,
    GpuHolding,
    IntervalInput,
    JobInput,
    NodeInput,
    apportion,
    attribute,
)
from tests.examples import examples

S = 1_000_000_000
# Two packages of four cores with two threads each: CPU c and c + 8 share core c; cores 0-3 sit on package 0.
NODE = NodeInput(
    package_of={cpu: (cpu % 8) // 4 for cpu in range(16)},
    core_of={cpu: cpu % 8 for cpu in range(16)},
    memory_b=64 * 2**30,
)
PACKAGE = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=1_000_000, package=0, static_uw=400_000)


def interval(domains, jobs, busy=None, **more):
    return IntervalInput(
        t0_ns=0, t1_ns=S, node=NODE, domains=tuple(domains), jobs=tuple(jobs), busy_ns=busy or {}, **more
    )


def shares_of(result, domain):
    return next(one for one in result if one.domain == domain)


@given(
    st.integers(-(10**15), 10**15),
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 10**18), max_size=12),
)
def test_apportion_is_exact(total, weights):
    parts = apportion(total, weights)
    assert sum(parts.values()) == total
    whole = sum(weights.values())
    if whole:
        for owner, weight in weights.items():
            assert abs(parts[owner] - total * weight / whole) <= 1 + abs(total) * 1e-12
            assert weight or not parts[owner]


def test_apportion_gives_the_left_over_to_the_largest_remainder_then_the_smaller_key():
    assert apportion(100, {"a": 1, "b": 1, "c": 1}) == {"a": 34, "b": 33, "c": 33}
    assert apportion(10, {"a": 1, "b": 4}) == {"a": 2, "b": 8}
    assert apportion(-10, {"a": 1, "b": 2}) == {"a": -3, "b": -7}
    assert apportion(7, {}) == {"idle": 7}
    assert apportion(7, {"job": 0}) == {"idle": 7}
    with pytest.raises(ValueError, match="negative"):
        apportion(1, {"a": -1})


def test_static_by_cores_and_dynamic_by_work():
    a = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=S)
    b = JobInput(owner="job:2.0", cpus=frozenset({1, 9, 2, 10}), cpu_ns=S)
    busy = {0: S, 1: S // 2, 2: S // 2}
    package = shares_of(attribute(interval([PACKAGE], [a, b], busy)), "package-0")
    by_owner = {share.owner: share for share in package.shares}
    # 0.4 W of static power for 1 s: four cores share it; job 1 holds one, job 2 two, one is free.
    assert by_owner["job:1.0"].static_uj == 100_000
    assert by_owner["job:2.0"].static_uj == 200_000
    assert by_owner["idle"].static_uj == 100_000
    assert by_owner["job:1.0"].dynamic_uj == 300_000
    assert by_owner["job:2.0"].dynamic_uj == 300_000
    assert package.method == "cores"
    assert package.provenance is Provenance.MODELLED


def test_the_second_thread_of_a_core_weighs_a_quarter():
    a = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=2 * S)
    b = JobInput(owner="job:2.0", cpus=frozenset({1, 9}), cpu_ns=S)
    domain = PACKAGE._replace(static_uw=0, total_uj=2_250_000)
    result = shares_of(attribute(interval([domain], [a, b], {0: S, 8: S, 1: S})), "package-0").by_owner()
    assert result == {"job:1.0": 1_250_000, "job:2.0": 1_000_000}


def test_what_the_jobs_cpu_time_does_not_explain_is_the_systems():
    job = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=S // 4)
    domain = PACKAGE._replace(static_uw=0)
    result = shares_of(attribute(interval([domain], [job], {0: S})), "package-0").by_owner()
    assert result == {"job:1.0": 250_000, "system": 750_000}


def test_overlapping_cpusets_are_split_by_cpu_time():
    a = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=3 * S // 4)
    b = JobInput(owner="job:2.0", cpus=frozenset({0, 8}), cpu_ns=S // 4)
    domain = PACKAGE._replace(static_uw=0)
    result = shares_of(attribute(interval([domain], [a, b], {0: S})), "package-0").by_owner()
    assert result == {"job:1.0": 750_000, "job:2.0": 250_000}


def test_jobs_that_run_anywhere_hold_as_many_cpus_as_they_were_given():
    everywhere = frozenset(range(16))
    a = JobInput(owner="job:1.0", cpus=everywhere, held=2, cpu_ns=S)
    b = JobInput(owner="job:2.0", cpus=everywhere, held=4, cpu_ns=S)
    package = shares_of(attribute(interval([PACKAGE], [a, b], {0: S, 2: S})), "package-0")
    by_owner = {share.owner: share for share in package.shares}
    assert {owner: share.static_uj for owner, share in by_owner.items()} == {
        "job:1.0": 50_000,
        "job:2.0": 100_000,
        "idle": 250_000,
    }
    assert by_owner["job:1.0"].dynamic_uj == by_owner["job:2.0"].dynamic_uj == 300_000


def test_one_job_that_may_run_anywhere_is_not_alone_on_the_node():
    job = JobInput(owner="job:1.0", cpus=frozenset(range(16)), held=4, cpu_ns=S)
    result = shares_of(attribute(interval([PACKAGE], [job], {0: S})), "package-0")
    assert result.by_owner() == {"idle": 300_000, "job:1.0": 700_000}


def test_a_job_of_which_only_its_number_of_cpus_is_known_did_what_so_many_can():
    a = JobInput(owner="job:1.0", cpus=frozenset(range(16)), held=1)
    b = JobInput(owner="job:2.0", cpus=frozenset(range(16)), held=3)
    domain = PACKAGE._replace(static_uw=0)
    both = shares_of(attribute(interval([domain], [a, b], {cpu: S for cpu in range(4)})), "package-0")
    assert both.by_owner() == {"job:1.0": 250_000, "job:2.0": 750_000}
    one = shares_of(attribute(interval([domain], [a], {2: S})), "package-0")
    assert one.by_owner() == {"job:1.0": 1_000_000}


def test_a_job_on_the_other_package_pays_nothing_here():
    job = JobInput(owner="job:1.0", cpus=frozenset({4, 12}), cpu_ns=S)
    result = shares_of(attribute(interval([PACKAGE], [job], {4: S})), "package-0").by_owner()
    assert result == {"idle": 1_000_000}


def test_specialised_cores_are_the_systems():
    node = replace(NODE, specialised=frozenset({0, 8}))
    one = replace(interval([PACKAGE], [], {0: S}), node=node)
    result = shares_of(attribute(one), "package-0")
    by_owner = {share.owner: share for share in result.shares}
    assert by_owner["system"].static_uj == 100_000
    assert by_owner["system"].dynamic_uj == 600_000


@pytest.mark.parametrize("job", [
    JobInput(owner="job:1.0", cpus=frozenset(range(16)), cpu_ns=0),
    JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=S, exclusive=True),
])  # fmt: skip
def test_a_job_alone_on_the_node_gets_the_whole_cpu_and_memory_as_measured(job):
    dram = DomainInput(name="dram-0", kind=DomainKind.DRAM, total_uj=77, package=0)
    for domain in attribute(interval([PACKAGE, dram], [job], {0: S, 5: S})):
        assert domain.by_owner() == {"job:1.0": domain.total_uj}
        assert domain.method == "exclusive"
        assert domain.provenance is Provenance.MEASURED


def test_two_jobs_are_never_exclusive():
    a = JobInput(owner="job:1.0", cpus=frozenset(range(16)), cpu_ns=S, exclusive=True)
    b = JobInput(owner="job:2.0", cpus=frozenset({0}), cpu_ns=S)
    assert attribute(interval([PACKAGE], [a, b], {0: S}))[0].method == "cores"


def test_a_suspended_job_keeps_its_cores_static_part_unless_they_have_a_new_holder():
    asleep = JobInput(owner="job:1.0", cpus=frozenset({0, 8, 1, 9}), cpu_ns=0, suspended=True)
    awake = JobInput(owner="job:2.0", cpus=frozenset({1, 9}), cpu_ns=S)
    result = shares_of(attribute(interval([PACKAGE], [asleep, awake], {1: S})), "package-0")
    by_owner = {share.owner: share for share in result.shares}
    assert by_owner["job:1.0"].energy_uj == by_owner["job:1.0"].suspended_uj == 100_000
    assert by_owner["job:2.0"].static_uj == 100_000
    assert by_owner["job:2.0"].dynamic_uj == 600_000
    assert by_owner["idle"].static_uj == 200_000


def preempted(**of_both):
    """A job that is suspended, and the one that has all that it held."""
    asleep = JobInput(owner="job:1.0", cpus=frozenset(range(8)), cpu_ns=0, suspended=True, **of_both)
    return [asleep, JobInput(owner="job:2.0", cpus=frozenset(range(8)), cpu_ns=S, **of_both)]


def test_a_preempted_job_pays_no_memory_that_its_preemptor_has():
    dram = DomainInput(name="dram-0", kind=DomainKind.DRAM, total_uj=1_000, package=0, static_uw=800)
    whole = shares_of(attribute(interval([dram], preempted(memory_b=64 * 2**30), {0: S})), "dram-0")
    assert whole.by_owner() == {"job:2.0": 1_000}
    most = [replace(job, memory_b=memory_b * 2**30) for job, memory_b in zip(preempted(), (32, 48), strict=True)]
    part = shares_of(attribute(interval([dram], most, {0: S})), "dram-0")
    assert part.by_owner() == {"job:1.0": 200, "job:2.0": 800}  # what is left of it is the suspended job's
    assert {share.owner: share.suspended_uj for share in part.shares} == {"job:1.0": 200, "job:2.0": 0}


def test_a_preempted_job_pays_no_part_of_the_node_that_its_preemptor_has():
    meter = DomainInput(
        name="node", kind=DomainKind.METER, total_uj=1_600_000, leaves=("package-0",), static_uw=200_000
    )
    other = shares_of(attribute(interval([PACKAGE, meter], preempted(exclusive=True), {0: S})), "other")
    assert {share.owner: share.static_uj for share in other.shares} == {"job:2.0": 200_000}


def test_a_suspended_job_does_no_work_on_a_gpu_that_it_shares():
    gpu = DomainInput(name="gpu-A", kind=DomainKind.GPU, total_uj=1_000, static_uw=200)
    both = preempted(gpus={"gpu-A": GpuHolding()})
    result = shares_of(attribute(interval([gpu], both)), "gpu-A")
    assert result.by_owner() == {"job:1.0": 100, "job:2.0": 900}
    alone = shares_of(attribute(interval([gpu], both[:1])), "gpu-A")
    (share,) = alone.shares
    assert (share.owner, share.energy_uj, share.suspended_uj) == ("job:1.0", 1_000, 1_000)
    sleepers = shares_of(attribute(interval([gpu], [replace(job, suspended=True) for job in both])), "gpu-A")
    assert sleepers.by_owner() == {"job:1.0": 500, "job:2.0": 500}


def test_memory_is_charged_by_allocation():
    jobs = [
        JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=S, memory_b=8 * 2**30),
        JobInput(owner="job:2.0", cpus=frozenset({1, 9}), cpu_ns=0, memory_b=16 * 2**30),
    ]
    dram = DomainInput(name="dram-0", kind=DomainKind.DRAM, total_uj=1_000, package=0, static_uw=800)
    result = shares_of(attribute(interval([dram], jobs, {0: S})), "dram-0")
    by_owner = {share.owner: share for share in result.shares}
    # Half of the node's 64 GiB hang on package 0.
    assert by_owner["job:1.0"].static_uj == 200
    assert by_owner["job:2.0"].static_uj == 400
    assert by_owner["idle"].static_uj == 200
    assert by_owner["job:1.0"].dynamic_uj == 200
    assert result.method == "memory+cores"


def test_what_nobody_watched_is_the_known_jobs_and_else_nobodys():
    job = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=S)
    watched = interval([PACKAGE, DomainInput(name="gpu-A", kind=DomainKind.GPU, total_uj=50)], [job], {0: S, 1: S})
    for seen, unseen in zip(attribute(watched), attribute(replace(watched, unseen=True)), strict=True):
        mine = seen.by_owner().get("job:1.0", 0)
        assert unseen.by_owner() == {**({"job:1.0": mine} if mine else {}), "unobserved": seen.total_uj - mine}
        assert unseen.provenance is Provenance.MODELLED
    assert attribute(replace(watched, unseen=True))[0].by_owner()["job:1.0"] > 0


def test_a_job_that_holds_the_node_alone_holds_it_while_nobody_watches():
    job = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=S, exclusive=True)
    (package,) = attribute(replace(interval([PACKAGE], [job], {0: S}), unseen=True))
    assert (package.by_owner(), package.provenance) == ({"job:1.0": 1_000_000}, Provenance.MEASURED)


def test_a_gpu_is_its_holders_with_the_idle_part_shown():
    gpu = DomainInput(name="gpu-A", kind=DomainKind.GPU, total_uj=500, static_uw=60)
    holder = JobInput(owner="job:1.0", gpus={"gpu-A": GpuHolding()})
    neighbour = JobInput(owner="job:2.0", cpus=frozenset({0}))
    result = shares_of(attribute(interval([gpu], [holder, neighbour])), "gpu-A")
    (share,) = result.shares
    assert (share.owner, share.energy_uj, share.held_idle_uj, result.method) == ("job:1.0", 500, 60, "holder")
    assert result.provenance is Provenance.MEASURED
    unheld = shares_of(attribute(interval([gpu], [neighbour])), "gpu-A")
    assert unheld.by_owner() == {"idle": 500}


def test_activity_decides_only_where_it_is_known_of_all_who_run():
    gpu = DomainInput(name="gpu-A", kind=DomainKind.GPU, total_uj=900, slices=7)
    known = JobInput(owner="job:1.0", gpus={"gpu-A": GpuHolding(part=1, activity=80)})
    unknown = JobInput(owner="job:2.0", gpus={"gpu-A": GpuHolding(part=2)})
    (by_slices,) = attribute(interval([gpu], [known, unknown]))
    assert by_slices.by_owner() == {"job:1.0": 300, "job:2.0": 600}
    (by_activity,) = attribute(interval([gpu], [known, replace(unknown, suspended=True)]))
    assert by_activity.by_owner() == {"job:1.0": 900}


def test_mig_slices_free_ones_idle_and_activity_decides():
    gpu = DomainInput(name="gpu-A", kind=DomainKind.GPU, total_uj=1_700, static_uw=700, slices=7)
    jobs = [
        JobInput(owner="job:1.0", gpus={"gpu-A": GpuHolding(part=3, activity=80)}),
        JobInput(owner="job:2.0", gpus={"gpu-A": GpuHolding(part=2, activity=0)}),
    ]
    result = shares_of(attribute(interval([gpu], jobs)), "gpu-A")
    by_owner = {share.owner: share for share in result.shares}
    assert {owner: share.static_uj for owner, share in by_owner.items()} == {
        "job:1.0": 300,
        "job:2.0": 200,
        "idle": 200,
    }
    assert by_owner["job:1.0"].dynamic_uj == 1000
    assert result.method == "slices+activity"
    assert result.provenance is Provenance.MODELLED


def test_the_residual_of_a_meter_is_a_line_of_its_own():
    meter = DomainInput(
        name="node", kind=DomainKind.METER, total_uj=1_600_000, leaves=("package-0",), static_uw=200_000
    )
    job = JobInput(owner="job:1.0", cpus=frozenset(range(8)), cpu_ns=8 * S)
    result = attribute(interval([PACKAGE, meter], [job], {cpu: S for cpu in range(4)}))
    other = shares_of(result, "other")
    assert other.total_uj == 600_000
    by_owner = {share.owner: share for share in other.shares}
    # Half of the node's CPUs: half of the idle part; the remainder as the leaves were used.
    assert by_owner["job:1.0"].static_uj == 100_000
    assert by_owner["idle"].static_uj == 100_000
    assert by_owner["job:1.0"].dynamic_uj == 400_000
    assert sum(leaf.total_uj for leaf in result) == 1_600_000


def test_a_negative_residual_is_signed_and_unknown():
    meter = DomainInput(name="node", kind=DomainKind.METER, total_uj=900_000, leaves=("package-0",))
    other = shares_of(attribute(interval([PACKAGE, meter], [])), "other")
    assert other.by_owner() == {"unknown": -100_000}
    assert other.total_uj == -100_000


def test_an_unknown_total_is_a_gap_not_zero():
    (result,) = attribute(interval([PACKAGE._replace(total_uj=None)], []))
    assert result.total_uj is None
    assert result.shares == ()


def test_in_a_gap_jobs_count_by_presence():
    a = JobInput(owner="job:1.0", cpus=frozenset({0, 8}), cpu_ns=0, present_ns=S // 4)
    b = JobInput(owner="job:2.0", cpus=frozenset({0, 8}), cpu_ns=0, present_ns=S // 2)
    result = shares_of(attribute(interval([PACKAGE], [a, b], gap=True)), "package-0")
    by_owner = {share.owner: share.static_uj for share in result.shares}
    assert by_owner["job:1.0"] == 25_000
    assert by_owner["job:2.0"] == 50_000
    assert by_owner["idle"] == 325_000
    assert result.method == "presence"


@st.composite
def intervals(draw):
    packages, cores, threads = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4]))
    cpus = range(packages * cores * threads)
    node = NodeInput(
        package_of={cpu: (cpu % (packages * cores)) // cores for cpu in cpus},
        core_of={cpu: cpu % (packages * cores) for cpu in cpus},
        memory_b=draw(st.integers(0, 2**40)),
        specialised=frozenset(draw(st.sets(st.sampled_from(cpus), max_size=2))),
    )
    duration = draw(st.integers(1, 20 * S))
    gpus = tuple(f"gpu-{i}" for i in range(draw(st.integers(0, 3))))
    jobs = tuple(
        JobInput(
            owner=f"job:{number}.0",
            cpus=frozenset(draw(st.sets(st.sampled_from(cpus)))),
            cpu_ns=draw(st.none() | st.integers(0, 2 * duration * len(cpus))),
            memory_b=draw(st.integers(0, 2**40)),
            gpus={
                gpu: GpuHolding(part=draw(st.integers(0, 8)), activity=draw(st.none() | st.integers(0, 1000)))
                for gpu in (draw(st.sets(st.sampled_from(gpus))) if gpus else ())
            },
            suspended=draw(st.booleans()),
            exclusive=draw(st.booleans()),
            present_ns=draw(st.none() | st.integers(0, 2 * duration)),
        )
        for number in range(draw(st.integers(0, 5)))
    )
    total = st.none() | st.integers(0, 10**12)
    static = st.integers(0, 10**9)
    domains = [
        DomainInput(name=f"{kind}-{package}", kind=kind, total_uj=draw(total), package=package, static_uw=draw(static))
        for kind in (DomainKind.PACKAGE, DomainKind.DRAM)
        for package in range(packages)
    ]
    domains += [
        DomainInput(name=gpu, kind=DomainKind.GPU, total_uj=draw(total), static_uw=draw(static),
                    slices=draw(st.none() | st.integers(1, 8)))
        for gpu in gpus
    ]  # fmt: skip
    leaves = tuple(domain.name for domain in domains)
    domains.append(
        DomainInput(name="node", kind=DomainKind.METER, total_uj=draw(total), static_uw=draw(static), leaves=leaves)
    )
    busy = {cpu: draw(st.integers(0, duration + 10**7)) for cpu in cpus}
    return IntervalInput(t0_ns=7, t1_ns=7 + duration, node=node, domains=tuple(domains), jobs=jobs, busy_ns=busy,
                         gap=draw(st.booleans()), unseen=draw(st.booleans()))  # fmt: skip


@examples(150)
@given(intervals())
def test_every_domain_closes_to_the_microjoule(one):
    known_parties = {"idle", "system", "unknown", "unobserved", *(job.owner for job in one.jobs)}
    result = attribute(one)
    assert len(result) == len(one.domains)
    totals = {domain.name: domain.total_uj for domain in one.domains}
    for domain in result:
        if domain.total_uj is None:
            assert domain.shares == ()
            continue
        assert sum(share.energy_uj for share in domain.shares) == domain.total_uj
        assert {share.owner for share in domain.shares} <= known_parties
        for share in domain.shares:
            assert share.static_uj + share.dynamic_uj == share.energy_uj
            assert 0 <= share.held_idle_uj <= max(0, share.energy_uj)
            assert share.suspended_uj in (0, share.energy_uj)
        if domain.domain in totals:
            assert domain.total_uj == totals[domain.domain]
            assert all(share.energy_uj >= 0 for share in domain.shares)
    if totals["node"] is not None:
        assert sum(domain.total_uj or 0 for domain in result) == totals["node"]


def test_a_core_of_which_two_jobs_share_one_thread_is_theirs_alone():
    pair = [JobInput(owner=f"job:{n}.0", cpus=frozenset({0}), cpu_ns=S // 2) for n in (1, 2)]
    static = {share.owner: share.static_uj for share in attribute(interval([PACKAGE], pair, {0: S}))[0].shares}
    assert static["job:1.0"] == static["job:2.0"] > 0
    assert static["idle"] == 3 * (static["job:1.0"] + static["job:2.0"])


def test_cpu_time_that_does_not_fit_on_a_shared_cpu_was_done_on_the_others():
    """CPU 0 is shared: what one job used of it the other did on a CPU of its own, and nothing is the system's."""
    one = JobInput(owner="job:1.0", cpus=frozenset({0}), cpu_ns=S // 2)
    other = JobInput(owner="job:2.0", cpus=frozenset({0, 1}), cpu_ns=3 * S // 2)
    package = PACKAGE._replace(static_uw=0)
    work = attribute(interval([package], [one, other], {0: S, 1: S}))[0].by_owner()
    assert work["job:1.0"] == pytest.approx(250_000, abs=20_000)
    assert work["job:2.0"] == pytest.approx(750_000, abs=20_000)
    assert work.get("system", 0) < 10_000
