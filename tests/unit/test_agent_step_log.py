"""The journal of flagged steps: what was written is there after a kill, and what a disk refused comes later."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.jobs import ranks
from perun_hpc.agent.jobs.step_log import MAX_B, StepLog
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.wording import cut
from perun_hpc.errors import DataError


def session() -> Session:
    return Session(SessionKey(7, 0), {"uid": "1000"}, {}, "", "boot", Edge(0, 0, 0, "hook"))


def begin(log: StepLog, one: Session, step: int, rank: int, **more: str) -> None:
    fields = {"step_id": str(step), "rank": str(rank), "command": f"./s{step}", **more}
    log.note(one, *ranks.register(one, fields, 10 + rank, 5, 6))


@pytest.fixture
def paths(tmp_path: Path) -> AgentPaths:
    found = AgentPaths(tmp_path / "run", tmp_path / "spool")
    found.session("7.0").mkdir(parents=True)
    return found


def read(paths: AgentPaths) -> Session:
    again = session()
    StepLog(paths).load(again)
    return again


def test_what_was_written_is_read_again_and_goes_on(paths: AgentPaths) -> None:
    one, log = session(), StepLog(paths)
    begin(log, one, 0, 0)
    begin(log, one, 0, 1)
    log.flush()
    one.steps["0"].ranks["1"].end_ns = 99
    log.note(one, one.steps["0"], one.steps["0"].ranks["1"])
    begin(log, one, 3, 0)
    log.flush()
    assert read(paths).steps == one.steps
    again, later = session(), StepLog(paths)
    later.load(again)
    begin(later, again, 3, 1)
    later.flush()
    assert read(paths).steps == again.steps
    assert len(read(paths).steps["3"].ranks) == 2


@pytest.mark.parametrize("torn", range(1, 120, 7))
def test_a_torn_line_costs_itself_alone(paths: AgentPaths, torn: int) -> None:
    one, log = session(), StepLog(paths)
    begin(log, one, 0, 0)
    log.flush()
    before = read(paths).steps
    begin(log, one, 0, 1)
    log.flush()
    path = paths.steps("7.0")
    path.write_bytes(path.read_bytes()[:-torn])
    again, later = session(), StepLog(paths)
    later.load(again)
    assert again.steps == before
    begin(later, again, 4, 0)
    later.flush()
    assert read(paths).steps == again.steps


def test_what_the_disk_refused_is_written_when_it_can_be(paths: AgentPaths) -> None:
    one, log = session(), StepLog(paths)
    begin(log, one, 0, 0)
    log.flush()
    moved = paths.session("7.0").rename(paths.spool / "away")
    begin(log, one, 1, 0)
    log.flush()
    moved.rename(paths.session("7.0"))
    log.flush()
    assert read(paths).steps == one.steps


def test_one_rank_again_and_again_does_not_fill_the_disk(paths: AgentPaths) -> None:
    one, log = session(), StepLog(paths)
    longest = 0
    for number in range(60_000):
        begin(log, one, 0, 0)
        one.steps["0"].ranks["0"].end_ns = number
        log.flush()
        if number % 1000 == 0:
            longest = max(longest, paths.steps("7.0").stat().st_size)
    assert longest < MAX_B + 1000
    log.flush()
    assert read(paths).steps == one.steps


def test_the_commands_of_a_job_are_cut_with_a_mark_and_counted(paths: AgentPaths) -> None:
    one, log = session(), StepLog(paths)
    for step in range(ranks.MAX_RANKS):
        begin(log, one, step, 0, command="é" * 5000)
    assert one.steps["0"].command.endswith("é…")
    assert len(one.steps["0"].command.encode()) <= ranks.MAX_TEXT_B
    texts_b = sum(len(step.command.encode()) for step in one.steps.values())
    assert ranks.MAX_JOB_TEXT_B - ranks.MAX_TEXT_B < texts_b <= ranks.MAX_JOB_TEXT_B
    assert one.left_out[ranks.TEXTS_LEFT_OUT] == sum(not step.command for step in one.steps.values())
    with pytest.raises(DataError, match="not kept"):
        begin(log, one, 9999, 0)
    assert one.left_out[ranks.RANKS_LEFT_OUT] == 1


@pytest.mark.parametrize(
    ("text", "kept"), [("abcd", "abcd"), ("abcde", "a…"), ("éé", "éé"), ("ééé", "…"), ("\udcff\0", "??")]
)
def test_texts_are_cut_to_bytes(text: str, kept: str) -> None:
    assert cut(text, 4) == kept
