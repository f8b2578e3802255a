"""A job's energy shared out among its steps: what the rule gives to whom, that it never exceeds, and its doubts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.energy.steps import JobPart, StepPart, StepShare, share

S = 1_000_000_000
J = 1_000_000


def job(static_j: int = 0, dynamic_j: int = 0, gpu_j: int = 0, work_s: int = 0, doubt_j: int = 0) -> JobPart:
    """Ten seconds of a job with eight CPUs."""
    return JobPart(
        static_uj=static_j * J,
        dynamic_uj=dynamic_j * J,
        gpu_uj=gpu_j * J,
        static_doubt_uj=doubt_j * J,
        duration_ns=10 * S,
        work_ns=work_s * S,
        cpus=8,
    )


def step(alive_s: int = 10, held: int | None = 8, cpu_s: int | None = 0, **more: int | bool) -> StepPart:
    return StepPart(alive_ns=alive_s * S, held=held, cpu_ns=None if cpu_s is None else cpu_s * S, **more)


def joules(shares: list[StepShare]) -> list[float]:
    return [pytest.approx(one.energy_uj / J, abs=1e-5) for one in shares]


def test_a_step_that_holds_all_of_its_job_has_all_and_is_sure_of_it() -> None:
    found = share(job(100, 50, 20, work_s=40, doubt_j=30), [step(cpu_s=38), step(held=8, cpu_s=0, last=True)])
    assert joules(found) == [170, 0]
    assert (found[0].own_uj, found[0].others_uj, found[0].static_uj) == (0, 0, 0)


def test_two_steps_at_once_have_static_power_by_cpus_and_the_rest_by_cpu_time() -> None:
    found = share(job(80, 60, work_s=40), [step(held=6, cpu_s=10), step(held=2, cpu_s=30)])
    assert joules(found) == [80 * 6 / 8 + 60 / 4, 80 * 2 / 8 + 60 * 3 / 4]
    # sigma D q (1 - q): nobody knows the watts of either's work.
    assert found[0].own_uj == pytest.approx(0.34 * 60 * J * 0.25 * 0.75, rel=1e-4)


def test_a_batch_script_that_works_itself_has_its_job_and_one_that_waits_what_steps_leave() -> None:
    assert joules(share(job(100, 50, work_s=70), [step(cpu_s=70, last=True), step(idle=True)])) == [150, 0]
    # The step had 4 of 8 CPUs for half of the time: the script holds the others, and what the system did beside.
    found = share(job(80, 40, work_s=40), [step(5, held=4, cpu_s=30), step(cpu_s=0, last=True)])
    assert joules(found) == [20 + 30 + 10 / 4, 60 + 10 * 3 / 4]


def test_what_no_step_did_stays_with_the_job() -> None:
    (found,) = share(job(100, 40, work_s=40), [step(2, held=4, cpu_s=10)])
    assert found.energy_uj == pytest.approx((100 + 30) * 0.1 * J + 10 * J, abs=2)


def test_steps_that_overlap_on_the_same_cpus_share_them() -> None:
    found = share(job(80, 0), [step(), step(), step(held=None)])
    assert joules(found) == [80 / 3, 80 / 3, 80 / 3]


def test_without_cpu_times_work_goes_by_cpus_and_is_doubtful() -> None:
    found = share(job(0, 80), [step(held=2, cpu_s=None), step(held=6, cpu_s=None)])
    assert joules(found) == [20, 60]
    assert found[0].own_uj == pytest.approx(0.70 * 80 * J * 0.25 * 0.75, rel=1e-4)
    assert share(job(0, 80), [step(cpu_s=None)])[0].own_uj == 0


def test_cpu_time_that_may_be_anothers_widens_the_bounds() -> None:
    sure, unsure = (
        share(job(0, 60, work_s=20), [step(cpu_s=10, unsure_ns=unsure * S), step(cpu_s=10)])[0] for unsure in (0, 10)
    )
    assert unsure.own_uj**2 - sure.own_uj**2 == pytest.approx((30 * J) ** 2, rel=1e-3)


def test_static_power_that_is_wrong_moves_energy_between_who_holds_and_who_works() -> None:
    holds, works = share(job(80, 60, work_s=40, doubt_j=8), [step(held=6, cpu_s=0), step(held=2, cpu_s=40)])
    assert (holds.static_uj, works.static_uj) == (8 * J * 6 // 8, -8 * J * 6 // 8)


part = st.builds(
    StepPart,
    alive_ns=st.integers(0, 20 * S),
    held=st.none() | st.integers(0, 16),
    cpu_ns=st.none() | st.integers(0, 200 * S),
    unsure_ns=st.integers(0, 200 * S),
    last=st.booleans(),
    idle=st.booleans(),
)
whole = st.builds(
    JobPart,
    static_uj=st.integers(-J, 10**12),
    dynamic_uj=st.integers(-J, 10**12),
    gpu_uj=st.integers(0, 10**12),
    static_doubt_uj=st.integers(0, 10**11),
    duration_ns=st.integers(0, 20 * S),
    work_ns=st.integers(0, 200 * S),
    cpus=st.integers(1, 16),
)


@given(whole, st.lists(part, max_size=6))
def test_whatever_steps_there_are_they_have_no_more_than_their_job(job: JobPart, steps: list[StepPart]) -> None:
    found = share(job, steps)
    assert all(one.energy_uj >= 0 and one.own_uj >= 0 and one.others_uj >= 0 for one in found)
    given_uj = sum(max(0, one) for one in (job.static_uj, job.dynamic_uj, job.gpu_uj))
    assert sum(one.energy_uj for one in found) <= given_uj
