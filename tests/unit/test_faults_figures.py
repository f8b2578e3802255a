"""What the fault rows and the attack on Slurm's own figures call wrong: they can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack import bob
from tests.faults.figures import FAULTS, Outcome, markdown

ENDED = "COMPLETED 0:0"


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (Outcome("", ENDED, [], 90, 100.0, 5.0, [None, 90, None]), []),
        (Outcome("", ENDED, [], None, 100.0, 5.0, []), []),
        (Outcome("", ENDED, [], None, None, 0.0, []), []),
        (Outcome("", ENDED, [], 0, 100.0, 5.0, []), ["sacct has 0"]),
        (Outcome("", ENDED, [], 106, 100.0, 5.0, []), ["106 J, the ledger 100.0 J"]),
        (Outcome("", ENDED, [], None, 100.0, 5.0, [3, 200, None]), ["200 J, the ledger 100.0 J"]),
        (Outcome("", ENDED, [], 7, None, 0.0, []), ["sacct has 7 J, the ledger nothing"]),
        (Outcome("", "FAILED 1:0", ["n1 drain"], None, 1.0, 5.0, []), ["the job: FAILED 1:0", "lost n1 drain"]),
    ],
)
def test_a_lost_job_or_node_and_a_figure_that_is_a_lie_are_wrong(outcome: Outcome, wrong: list[str]) -> None:
    assert outcome.wrong == wrong


def test_a_row_has_each_blank_once_and_the_last_figure_before_it() -> None:
    name = next(iter(FAULTS))
    table = markdown([Outcome(name, ENDED, [], 9, 9.0, 1.0, [None, None, 3, 5, None, None, 8, 9])])
    assert table.splitlines()[-1] == f"| {FAULTS[name].what} | {ENDED} | 0 | 9 | 9.0 | 1 | blank 5 blank 9 | nothing |"


@pytest.mark.parametrize(("says", "bad"), [("date +%s", "steps at most"), ("echo 7", "only 0 steps")])
def test_figures_that_step_too_often_and_those_that_never_do_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, bad: str
) -> None:
    for name in ("sstat", "sacct"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    tries = bob.slurm_figures(6, "1")
    assert any(one.startswith(f"sstat of his: {bad}") for one in tries.bad), tries.bad
    assert tries.n > 0
