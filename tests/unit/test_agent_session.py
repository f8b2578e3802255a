"""A session counts its changes: by that the agent's state is known to hold it as it is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import pytest

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Edge, Gap, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.data_model.job import SessionKey

EDGE = Edge(5, 5, 0, "hook")


def session() -> Session:
    """A job with a flagged step of one rank."""
    one = Session(SessionKey(1, 0), {"node": "n1"}, {}, "", "boot", Edge(1, 1, 0, "hook"), cpus=[1])
    one.add_step(Step(1, 1, 1, "python", "--perun"))
    one.add_rank("1", RankRun(0, 0, 17, 1))
    return one


def count_anew(one: Session) -> None:
    """Its steps are gone."""
    one.steps.clear()
    one.count_ranks()


def pass_time_suspended(one: Session) -> None:
    one.suspended = True
    one.pass_time(5)


CHANGES: dict[str, Callable[[Session], object]] = {
    "settle": lambda one: one.settle({"a": 1}, True, "hash"),
    "flag_step": lambda one: one.flag_step({"a": 1}, False),
    "run_on": lambda one: one.run_on({3}),
    "run_anywhere": lambda one: one.run_anywhere(),
    "use": lambda one: one.use(5, 6, 7),
    "see": lambda one: one.see({"governor": "powersave"}),
    "suspend": lambda one: one.suspend(True),
    "draw": lambda one: one.draw(7),
    "read_late": lambda one: one.read_late("a", [1, 2]),
    "resume": lambda one: one.resume(Gap("agent", 1, 2, "why"), 9, 7),
    "tell": lambda one: one.tell({"user": "alice"}, {"code": "0"}),
    "finish": lambda one: one.finish(EDGE, {}, 1),
    "cut_off": lambda one: one.cut_off(EDGE, {}, 7),
    "give_up": lambda one: one.give_up(7),
    "judge_counters": lambda one: one.judge_counters({}, "doubt"),
    "keep_trace": lambda one: one.keep_trace({"stored": True}),
    "lose_trace": lambda one: one.lose_trace("why", True),
    "follow_steps": lambda one: one.follow_steps(7),
    "keep_shared_out": lambda one: one.keep_shared_out({"mono_ns": 7}),
    "add_step": lambda one: one.add_step(Step(2, 1, 1, "python", "--perun")),
    "add_rank": lambda one: one.add_rank("1", RankRun(1, 1, 18, 1)),
    "shed_ranks": lambda one: one.shed_ranks("too many"),
    "count_ranks": lambda one: count_anew(one),
    "note": lambda one: one.note("why"),
    "assume": lambda one: one.assume("what"),
    "leave_out": lambda one: one.leave_out("what"),
    "fail": lambda one: one.fail("what"),
    "add_gap": lambda one: one.add_gap(Gap("agent", 1, 2, "why")),
}
SUMS: dict[str, Callable[[Session], object]] = {
    "work": lambda one: one.work(5),
    "pass_time": lambda one: pass_time_suspended(one),
    "open_account": lambda one: one.open_account("package-0", DomainAccount("cpu", "", "measured", "cores")),
    "add_share": lambda one: one.add_share("2026-12-01", "package-0", 7),
    "take_back": lambda one: one.take_back(),
    "add_use": lambda one: one.add_use(StepUse("7", 1, 1)),
    "take_uses": lambda one: one.take_uses([StepUse("7", 1, 1)]),
    "fold_steps": lambda one: one.fold_steps(0),
}
"""What changes sums alone, or what stands in journals of its own."""
ASKS = {"bare", "to_json", "from_json"}


def kept(one: Session) -> dict[str, object]:
    """What the state keeps of a session but for its sums."""
    found: dict[str, object] = json.loads(json.dumps(one.to_json()))
    for name in ("cpu_ns", "work_ns", "suspended_ns", "domains", "shares", "changes"):
        del found[name]
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_a_session_is_counted(name: str) -> None:
    one = session()
    before = one.changes
    CHANGES[name](one)
    assert kept(one) != kept(session())
    assert one.changes > before


@pytest.mark.parametrize("ended", [False, True])
def test_a_session_that_is_given_up_has_cost_what_its_agent_used_once(ended: bool) -> None:
    one = session()
    one.agent_cpu_ns = -5
    if ended:
        one.finish(EDGE, {}, 7)
    one.give_up(7)
    assert one.agent_cpu_ns == 2


def test_what_leaves_a_session_as_it_was_is_not_counted() -> None:
    """At each interval every job is told what it is told again and again."""
    one = session()

    def again() -> None:
        one.run_on({3})
        one.use(5, 6, 7)
        one.see({"governor": "powersave"})
        one.suspend(False)
        one.draw(7)
        one.note("why")
        one.assume("what")
        one.work(5)
        one.pass_time(5)

    again()
    before, changes = kept(one), one.changes
    again()
    assert (kept(one), one.changes) == (before, changes)


@pytest.mark.parametrize("name", SUMS)
def test_what_changes_sums_alone_changes_nothing_else(name: str) -> None:
    one = session()
    SUMS[name](one)
    one.suspended = False
    assert (kept(one), one.changes) == (kept(session()), session().changes)


def test_every_method_of_a_session_is_one_of_these() -> None:
    methods = {name for name, _ in inspect.getmembers(Session, inspect.isroutine) if not name.startswith("_")}
    assert methods == {*CHANGES, *SUMS, *ASKS}
