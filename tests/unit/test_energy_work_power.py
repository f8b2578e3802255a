"""What work draws, learnt from a package's own power: jobs are told apart as far as they move, and no further."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.event_model import EventPower, Row
from perun_hpc.data_model.sensor import Provenance
from perun_hpc.energy.attribute import DomainInput, DomainKind, JobInput, attribute
from perun_hpc.energy.work_power import MOST_OWNERS, NS_PER_S, OWNERS_S, Parts, WorkPower
from tests.examples import examples
from tests.unit.test_energy_attribute import NODE, PACKAGE, interval, intervals

TEN_NS = 10 * NS_PER_S
STATIC_UW = 40_000_000
LIGHT, HEAVY = "job:1.0", "job:2.0"
WATTS = {LIGHT: 3.5, HEAVY: 9.0}


def seen(power: WorkPower, busy: dict[str, float], rest_w: float = 0.0, seconds: int = 10) -> Parts | None:
    """An interval in which so many cores were busy for each owner, at its own watts."""
    watts = 40 + rest_w + sum(WATTS.get(owner, 5.0) * cores for owner, cores in busy.items())
    busy_ns = {owner: cores * seconds * NS_PER_S for owner, cores in busy.items()}
    return power.take(seconds * NS_PER_S, round(watts * seconds * 1e6), STATIC_UW, 0.08, busy_ns)


def part(parts: Parts | None, owner: str) -> tuple[float, float]:
    assert parts is not None
    return parts.weights[owner] / sum(parts.weights.values()), parts.doubts[owner]


def test_jobs_that_come_and_go_are_told_apart():
    power = WorkPower(16)
    seen(power, {LIGHT: 4})
    first = part(seen(power, {LIGHT: 4, HEAVY: 4}), HEAVY)
    seen(power, {HEAVY: 4})
    last = part(seen(power, {LIGHT: 4, HEAVY: 4}), HEAVY)
    true = 9 / 12.5
    assert abs(first[0] - true) < 2 * first[1]
    assert abs(last[0] - true) < 2 * last[1]
    assert abs(last[0] - true) < 0.06 < 0.22 == pytest.approx(true - 0.5)
    assert max(first[1], last[1]) < 0.6 * 0.36 / math.sqrt(8)  # what is known of jobs that keep step


def test_jobs_that_keep_step_are_not_told_apart_and_the_doubt_says_so():
    power = WorkPower(16)
    for _ in range(60):
        found = seen(power, {LIGHT: 4, HEAVY: 4})
    given_part, doubt = part(found, HEAVY)
    assert given_part == pytest.approx(0.5)
    assert abs(given_part - 9 / 12.5) < 2 * doubt
    assert doubt == pytest.approx(0.36 / math.sqrt(8), rel=0.1)  # 30 % and 20 % of each one's watts


def test_a_job_that_works_alone_is_sure():
    assert part(seen(WorkPower(16), {HEAVY: 4}), HEAVY) == (1.0, 0.0)


def test_static_power_that_is_wrong_is_not_taken_for_a_job():
    """20 W that are nobody's: of two like jobs, one of which comes later, neither is charged with them."""
    power = WorkPower(16)
    for _ in range(10):
        seen(power, {"job:3.0": 8}, rest_w=3.2)
    for _ in range(10):
        found = seen(power, {"job:3.0": 8, "job:4.0": 2}, rest_w=3.2)
    given_part, doubt = part(found, "job:4.0")
    assert abs(given_part - 0.2) < min(0.03, 2 * doubt)


def test_a_job_that_waits_for_a_while_is_still_known():
    power = WorkPower(16)
    for busy in ({LIGHT: 4}, {LIGHT: 4, HEAVY: 4}, {HEAVY: 4}, {LIGHT: 4}):
        seen(power, busy)
    short = {LIGHT: 4e8, HEAVY: 4e8}  # of which nothing is learnt
    known = power.take(NS_PER_S // 10, 0, STATIC_UW, 0.08, short)
    assert part(known, HEAVY)[0] == pytest.approx(9 / 12.5, abs=0.06)
    seen(power, {LIGHT: 4}, seconds=round(OWNERS_S) + 10)
    forgotten = power.take(NS_PER_S // 10, 0, STATIC_UW, 0.08, short)
    assert forgotten is not None
    assert forgotten.weights[HEAVY] == pytest.approx(4 * power.watts)


def test_where_nothing_fits_cpu_time_counts():
    power, noise = WorkPower(16), random.Random(4)
    for _ in range(100):
        found = power.take(TEN_NS, round(noise.uniform(400, 9000) * 1e6), STATIC_UW, 0.08, {LIGHT: 4e10, HEAVY: 4e10})
    assert power.misfit > 9
    assert found is None


@pytest.mark.parametrize("first", [(0, 0.72), (40_000_000, 0.72), (400_000_000, 0.08)])
def test_static_power_that_is_stated_anew_is_believed(first: tuple[int, float]):
    """A guess of nothing, one that becomes known, a policy that was wrong: none has a word any more."""
    power = WorkPower(16)
    for _ in range(30):
        power.take(TEN_NS, round((40 + 4 * 3.5) * 10 * 1e6), *first, {LIGHT: 4e10})
    for busy in ({LIGHT: 4}, {LIGHT: 4, HEAVY: 4}, {HEAVY: 4}):
        seen(power, busy)
    assert part(seen(power, {LIGHT: 4, HEAVY: 4}), HEAVY)[0] == pytest.approx(9 / 12.5, abs=0.07)
    assert power.misfit < 4


def test_a_guess_that_comes_down_by_and_by_loses_nothing():
    power = WorkPower(16)
    parts = []
    for number, busy in enumerate([{LIGHT: 4}, {LIGHT: 4, HEAVY: 4}, {HEAVY: 4}, {LIGHT: 4, HEAVY: 4}]):
        watts = 40 + sum(WATTS[owner] * cores for owner, cores in busy.items())
        busy_ns = {owner: cores * TEN_NS for owner, cores in busy.items()}
        parts.append(power.take(TEN_NS, round(watts * 10 * 1e6), 20_000_000 - number * 10**6, 0.72, busy_ns))
    assert part(parts[-1], HEAVY)[0] == pytest.approx(9 / 12.5, abs=0.1)


def test_it_knows_so_many_owners_and_no_more():
    power = WorkPower(256)
    for number in range(3 * MOST_OWNERS):
        assert seen(power, {f"job:{number}.0": 1.0, f"job:{number + 1}.0": 1.0}, seconds=1) is not None
    many = {f"job:{number}.0": 1.0 for number in range(MOST_OWNERS + 1)}
    assert seen(power, many) is None
    del many["job:0.0"]
    assert seen(power, many) is not None


def test_nobody_worked():
    power = WorkPower(4)
    assert seen(power, {}) is None
    assert seen(power, {LIGHT: 0.0}) is None
    assert power.take(0, 5, STATIC_UW, 0.08, {LIGHT: 1.0}) is None
    assert seen(power, {LIGHT: 1.0, HEAVY: 1.0}) is not None


def test_numbers_that_cannot_be_are_an_error():
    with pytest.raises(ArithmeticError):
        WorkPower(4).take(TEN_NS, 10**9, STATIC_UW, math.nan, {LIGHT: 1e9})


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**12), st.integers(-(10**12), 10**15), st.integers(0, 10**9),
            st.sampled_from([0.08, 0.72]),
            st.dictionaries(st.sampled_from(["system", "a", "b", "c", "d"]), st.floats(0, 1e14), max_size=5),
        ),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_whatever_comes_parts_are_parts(rows):
    power = WorkPower(8)
    for row in rows:
        found = power.take(*row)
        if found is not None:
            assert found.weights.keys() == found.doubts.keys() == {owner for owner, ns in row[4].items() if ns >= 1}
            assert all(weight > 0 and math.isfinite(weight) for weight in found.weights.values())
            assert all(doubt >= 0 and math.isfinite(doubt) for doubt in found.doubts.values())


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_filter_that_is_written_with_matrices(seed: int):
    noise = random.Random(seed)
    owners = ["a", "b", "c"]
    power, other = WorkPower(8), EventPower(8, owners, 0.08, known=False)
    for number in range(60):
        live = [owner for owner in owners if number < 5 or noise.random() < 0.8] or ["a"]
        busy = {owner: noise.uniform(0.1, 30) * 1e9 for owner in live}
        ns = noise.choice([NS_PER_S // 3, 3 * NS_PER_S, TEN_NS])
        row = Row(ns, round((40 + noise.uniform(2, 30)) * ns / 1e3), STATIC_UW, busy, dict.fromkeys(live, (1, 1, 1)))
        found, expected = power.take(ns, row.total_uj, STATIC_UW, 0.08, busy), other.take(row)
        if found is not None:
            assert found.weights == pytest.approx(expected, rel=1e-6)


# In the attribution.


@examples(100)
@given(intervals(), st.integers(0, 3))
def test_domains_close_whatever_is_learnt(one, before):
    power = WorkPower(4)

    def weigh(domain: DomainInput, duration_ns: int, busy_ns):
        return power.take(duration_ns, domain.total_uj or 0, domain.static_uw, 0.08, busy_ns)

    for _ in range(before):
        attribute(one, weigh)
    for domain, plain in zip(attribute(one, weigh), attribute(one), strict=True):
        assert (domain.domain, domain.total_uj) == (plain.domain, plain.total_uj)
        assert sum(share.energy_uj for share in domain.shares) == (domain.total_uj or 0)
        assert domain.method == plain.method or (plain.method, domain.method) == ("cores", "cores+fit")
        static, before_static = ({s.owner: s.static_uj for s in d.shares if s.static_uj} for d in (domain, plain))
        assert static == before_static or "residual" in plain.method or one.unseen


def half(domain: DomainInput, duration_ns: int, busy_ns) -> Parts:
    """Who has the higher name draws thrice as much."""
    worked = sorted(owner for owner, ns in busy_ns.items() if ns)
    return Parts({owner: float(3**place) for place, owner in enumerate(worked)}, dict.fromkeys(worked, 0.1))


JOBS = [JobInput(owner=f"job:{n}.0", cpus=frozenset({n, n + 8}), cpu_ns=NS_PER_S) for n in (0, 1)]
BUSY = {0: NS_PER_S, 1: NS_PER_S}


def test_a_shared_package_goes_by_what_its_work_draws():
    (found,) = attribute(interval([PACKAGE], JOBS, BUSY), half)
    moving = {share.owner: share.dynamic_uj for share in found.shares if share.dynamic_uj}
    assert moving == {"job:0.0": 150_000, "job:1.0": 450_000}
    assert found.method == "cores+fit"
    assert found.provenance is Provenance.MODELLED
    assert set(found.doubts_uj.values()) == {60_000}


def test_what_shows_nothing_of_work_is_not_asked():
    asked: list[str] = []

    def weigh(domain: DomainInput, duration_ns: int, busy_ns):
        asked.append(domain.name)
        return half(domain, duration_ns, busy_ns)

    dram = PACKAGE._replace(name="dram-0", kind=DomainKind.DRAM)
    guess = PACKAGE._replace(name="estimate", provenance=Provenance.ESTIMATED)
    found = attribute(interval([dram, guess, PACKAGE], JOBS, BUSY), weigh)
    assert [one.method for one in found] == ["memory+cores", "cores", "cores+fit"]
    for more in ({"gap": True}, {"unseen": True}, {"unread": {0: "was not read"}}):
        attribute(interval([PACKAGE], JOBS, BUSY, **more), weigh)
    assert asked == ["package-0"]
    every = JobInput(owner="job:9.0", cpus=frozenset(NODE.core_of), cpu_ns=NS_PER_S)
    assert attribute(interval([PACKAGE], [every], BUSY), weigh)[0].method == "exclusive"
    assert attribute(interval([PACKAGE], [], BUSY), weigh)[0].method == "cores"
    assert asked == ["package-0"] * 3  # it learns from these, too
