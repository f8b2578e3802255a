"""A session whose end nobody told is given up in time, whatever was seen of its job."""

from __future__ import annotations

import pytest

from perun_hpc.agent.jobs import LOST_NS, UNSEEN_NS, patience_ns
from perun_hpc.agent.session import Edge, Session, SessionKey


@pytest.mark.parametrize(
    ("source", "cpus", "wanted_ns"),
    [("hook", [0, 1], LOST_NS), ("inbox", [], LOST_NS), ("inbox", [3], LOST_NS), ("hook", [], UNSEEN_NS)],
)
def test_no_session_waits_for_ever(source: str, cpus: list[int], wanted_ns: int) -> None:
    session = Session(SessionKey(1, 0), {}, {}, "", "b", Edge(1, 1, 0, source), cpus=cpus)
    assert patience_ns(session) == wanted_ns
    assert wanted_ns <= 24 * 3600 * 10**9
