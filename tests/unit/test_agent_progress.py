"""When a running job's energy so far is told: as often as the policy says, on a shared node at nobody's own moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.progress import Progress
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.data_model.job import SessionKey

S = 1_000_000_000


def session(job_id: int, start_s: int, progress: int | str) -> Session:
    settings = {
        "store": {"progress_ns": progress},
        "privacy": {"shared_resolution_ns": 60 * S},
        "sampling": {"period_ns": S},
    }
    key = SessionKey(job_id, 0)
    return Session(key, {"uid": "1"}, settings, "", "", Edge(start_s * S, start_s * S, 0, "hook"))


def told(tmp_path: Path, *sessions: Session) -> dict[str, list[int]]:
    """At which seconds of the node's clock each session's progress was written, intervals being 10 s."""
    paths, register = AgentPaths(tmp_path / "run", tmp_path / "spool"), Register("n1", cpus=4)
    register.live = {one.key: one for one in sessions}
    for one in sessions:
        paths.session(one.key.name).mkdir(parents=True)
    visibility = Visibility(paths, register)
    found: dict[str, list[int]] = {one.key.name: [] for one in sessions}

    def record(one: Session, now: Edge) -> dict[str, object]:
        found[one.key.name].append(now.mono_ns // S)
        return {}

    progress = Progress(paths, register, visibility, record)
    for second in range(10, 301, 10):
        snapshot = Snapshot(second * S, second * S, {}, {})
        visibility.show_all(snapshot)
        progress.note(snapshot)
    assert all(paths.progress(name).exists() == bool(times) for name, times in found.items())
    return found


def test_a_job_that_is_alone_is_told_as_often_as_the_policy_says(tmp_path: Path) -> None:
    lone = session(1, 0, 30 * S)
    lone.job["exclusive"] = "1"
    times = told(tmp_path, lone)["1.0"]
    assert times[0] == 30
    steps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert 30 <= steps[0] < 70 and set(steps[1:]) == {30}, "after the first, each node at its own moment"


@pytest.mark.parametrize("start_s", [0, 7, 33])
def test_jobs_that_share_a_node_are_told_at_the_same_coarse_moments(tmp_path: Path, start_s: int) -> None:
    times = told(tmp_path, session(1, 0, 10 * S), session(2, start_s, 10 * S))
    assert times["1.0"] == [60, 120, 180, 240, 300]
    assert set(times["2.0"]) <= set(times["1.0"]) and len(times["2.0"]) >= 4


def test_never_is_never(tmp_path: Path) -> None:
    assert told(tmp_path, session(1, 0, "never"))["1.0"] == []
