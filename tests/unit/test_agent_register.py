"""The names of runs that are over: written with every hook's answer, so not more of them than serve a purpose."""

from __future__ import annotations

from perun_hpc.agent.register import MOST_DONE, Register


def test_of_ended_runs_the_newest_are_remembered() -> None:
    register = Register("n1", 4)
    register.done = {f"{number}.0": number for number in range(3 * MOST_DONE, 0, -1)}
    register.forget_before(2 * MOST_DONE + 5)
    assert set(register.done) == {f"{number}.0" for number in range(2 * MOST_DONE + 6, 3 * MOST_DONE + 1)}
    register.done = {f"{number}.0": number for number in range(3 * MOST_DONE, 0, -1)}
    register.forget_before(0)
    assert set(register.done) == {f"{number}.0" for number in range(2 * MOST_DONE + 1, 3 * MOST_DONE + 1)}
