"""A session whose end nobody told is given up in time, whatever was seen of its job."""

from __future__ import annotations

import pytest

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.jobs.runs import LOST_NS, REPLACED_NS, UNSEEN_NS, patience_ns
from perun_hpc.data_model.job import SessionKey


@pytest.mark.parametrize(
    ("source", "cpus", "replaced", "wanted_ns"),
    [
        ("hook", [0, 1], False, LOST_NS),
        ("inbox", [], False, LOST_NS),
        ("inbox", [3], False, LOST_NS),
        ("hook", [], False, UNSEEN_NS),
        ("hook", [], True, REPLACED_NS),
        ("inbox", [3], True, REPLACED_NS),
    ],
)
def test_no_session_waits_for_ever(source: str, cpus: list[int], replaced: bool, wanted_ns: int) -> None:
    assert patience_ns(session(1, cpus, source), replaced) == wanted_ns
    assert wanted_ns <= 24 * 3600 * 10**9


@pytest.mark.parametrize(
    ("jobs", "replaced"),
    [
        ([[0, 1, 2, 3]], [False]),
        ([[0, 1], [2, 3]], [False, False]),
        ([[0, 1], [1, 2, 3]], [True, False]),
        ([[0, 1, 2, 3], [0], [1]], [True, False, False]),
        ([[0], [1], [0, 1, 2, 3]], [True, True, False]),
        ([[], [0, 1, 2, 3]], [False, False]),
    ],
)
def test_a_session_is_replaced_by_jobs_that_have_no_room_beside_it(jobs: list[list[int]], replaced: list[bool]) -> None:
    register = Register("n1", cpus=4)
    sessions = [session(number, cpus, "hook") for number, cpus in enumerate(jobs)]
    register.live.update((one.key, one) for one in sessions)
    assert [register.replaced(one) for one in sessions] == replaced


def test_a_job_that_slurm_does_not_confine_was_seen_by_its_cpu_time() -> None:
    seen = session(1, [], "hook")
    seen.cpu_ns = 1
    assert patience_ns(seen, False) == LOST_NS


def session(number: int, cpus: list[int], source: str) -> Session:
    return Session(SessionKey(number, 0), {}, {}, "", "b", Edge(number, number, 0, source), cpus=cpus)
