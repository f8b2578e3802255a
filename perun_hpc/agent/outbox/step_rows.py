"""The steps of a session as its boundary record lists them: what each used, and the ranks of those with `--perun`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.base.steps import Step
from perun_hpc.agent.measure.step_meter import MAX_STEPS
from perun_hpc.agent.outbox.regions import UNSEEN_BESIDE
from perun_hpc.data_model.step_id import FURTHER

AMONG_FURTHER = "its energy is in the sum of the further steps"


def steps_of(session: Session, end: Edge, error: float, edges_uj: int) -> list[dict[str, Any]]:
    """The rows, by Slurm's number.

    Parameters
    ----------
    session, end : whose steps, and when it ended.
    error : relative standard uncertainty of what the session used here at any time (`regions.error_of`).
    edges_uj : what the readings at a step's edges may be wrong by (k=1).
    """
    uses = {use.number: use for use in session.uses.values() if use.name != FURTHER}
    flagged = {step.step_id: step for step in session.steps.values()}
    rows = [
        {
            "step_id": number,
            **_of_ranks(flagged.get(number), end),
            **dict(_of_use(uses[number], end, error, edges_uj) if number in uses else _unseen(session, number)),
            "ranks": [dict(vars(run)) for run in _ranks(flagged.get(number))],
        }
        for number in sorted({*uses, *flagged})
    ]
    further = session.uses.get(FURTHER)
    if further is not None:
        row = dict(_of_use(further, end, error, edges_uj * math.sqrt(further.steps)))
        rows.append({"step_id": further.number, "tasks": 0, "nodes": 0, "command": "", **row, "ranks": []})
    return rows


def _unseen(session: Session, number: int) -> Iterator[tuple[str, Any]]:
    """Why a flagged step has no energy of its own where others' cgroups were seen: the job's is theirs already."""
    if session.uses:
        yield "why", AMONG_FURTHER if number >= MAX_STEPS and FURTHER in session.uses else UNSEEN_BESIDE


def _ranks(step: Step | None) -> list[Any]:
    return sorted(step.ranks.values(), key=lambda run: run.rank) if step is not None else []


def _of_ranks(step: Step | None, end: Edge) -> dict[str, Any]:
    """What is known of a flagged step; of any other one that is nothing."""
    if step is None:
        return {"tasks": 0, "nodes": 0, "command": "", "start_ns": None, "end_ns": None}
    return {
        "tasks": step.tasks,
        "nodes": step.nodes,
        "command": step.command,
        "start_ns": min((run.start_ns for run in step.ranks.values()), default=None),
        "end_ns": max((run.end_ns or end.real_ns for run in step.ranks.values()), default=None),
    }


def _of_use(use: StepUse, end: Edge, error: float, edges_uj: float) -> Iterator[tuple[str, Any]]:
    """What a step used, and why it is not known."""
    yield "start_ns", use.start_ns
    yield "end_ns", use.end_ns or end.real_ns
    yield "cpu_ns", use.cpu_ns or None  # 0: its cgroup was gone before anybody had looked
    if use.name == FURTHER:
        yield "steps", use.steps
    if use.energy_uj is None:
        yield "why", "nothing was measured while it ran"
        return
    part = min(1.0, use.energy_uj / use.of_uj) if use.of_uj > 0 else 0.0
    yield "energy_uj", use.energy_uj
    doubts = error * use.energy_uj, use.own_uj, use.others_uj, use.static_uj, part * edges_uj
    yield "u_uj", math.ceil(math.hypot(*doubts))
