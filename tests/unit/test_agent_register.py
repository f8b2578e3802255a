"""Which run is which: names of runs that are over, runs of one name, and the directories of their sessions."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.paths import free_name
from perun_hpc.agent.base.register import MOST_DONE, Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.data_model.job import SessionKey, run_of


def test_of_ended_runs_the_newest_are_remembered() -> None:
    register = Register("n1", 4)
    register.done = {f"{number}.0": number for number in range(3 * MOST_DONE, 0, -1)}
    register.forget_before(2 * MOST_DONE + 5)
    assert set(register.done) == {f"{number}.0" for number in range(2 * MOST_DONE + 6, 3 * MOST_DONE + 1)}
    register.done = {f"{number}.0": number for number in range(3 * MOST_DONE, 0, -1)}
    register.forget_before(0)
    assert set(register.done) == {f"{number}.0" for number in range(2 * MOST_DONE + 1, 3 * MOST_DONE + 1)}


def test_an_end_that_nobody_expects_is_that_of_the_last_run_whose_end_was_not_told() -> None:
    register = Register("n1", 4)
    register.done = {"5.0": 10, "5.1": 20, "55.0": 90}
    register.unheard = {"5.1", "55.0"}
    assert not register.late_epilog(SessionKey(6, 0), 30)
    assert register.late_epilog(SessionKey(5, 2), 30)
    assert register.done["5.1"] == 30
    assert not register.late_epilog(SessionKey(5, 2), 40)  # the next one is news
    register.done["55.1"] = 95  # a run since, whose end was told
    assert not register.late_epilog(SessionKey(55, 2), 99)
    register.forget_before(90)
    assert register.unheard == set()


def test_a_directory_in_the_spool_is_never_two_sessions(tmp_path: Path) -> None:
    (tmp_path / "5.0").mkdir()
    (tmp_path / "5.0-1").symlink_to("nowhere")
    assert free_name(tmp_path, "5.0") == "5.0-2"
    assert free_name(tmp_path, "5.0", {"5.0-2"}) == "5.0-3"
    assert free_name(tmp_path, "6.0", {"5.0"}) == "6.0"
    assert [run_of(name) for name in ("5.0", "5.0-12", "5.0-", "5", "5.0-1-2", "x")] == ["5.0", "5.0", *[None] * 4]


@given(st.sampled_from([None, "sA", "sB"]), st.sampled_from([None, "sA", "sB"]), st.integers(0, 2), st.integers(-5, 5))
def test_a_start_ends_a_run_of_its_name_only_by_slurms_own_word(
    held: str | None, told: str | None, restart_count: int, after_ns: int
) -> None:
    register = Register("n1", 4)
    key = SessionKey(5, 1)
    job = {"sluid": held} if held else {}
    register.live[key] = session = Session(key, job, {}, "", "boot", Edge(0, 1000, 3, "hook"))
    found = register.run_before(SessionKey(5, restart_count), told, 1000 + after_ns)
    other_name = bool(held and told and held != told and after_ns > -3)
    assert found is (session if restart_count != 1 or other_name else None)
    assert register.run_before(SessionKey(6, 1), told, 2000) is None


def test_a_session_keeps_its_directory_and_gets_no_other_by_damage() -> None:
    session = Session(SessionKey(5, 0), {}, {}, "", "boot", Edge(0, 0, 0, "hook"), place="5.0-2")
    kept = json.loads(json.dumps(session.to_json()))
    assert Session.from_json(kept).place == "5.0-2"
    for damaged in ("", "6.0", "../5.0", "5.0/x", 7, None):
        assert Session.from_json({**kept, "place": damaged}).place == "5.0"
    del kept["place"]  # as an older agent left it
    assert Session.from_json(kept).place == "5.0"
