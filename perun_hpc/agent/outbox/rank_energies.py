"""Energies of single ranks: each has its part of what its step used on this node, by its own CPU time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from perun_hpc.agent.outbox.regions import Parts, static_of

EXPLAINED = 0.8
"""Of less of a step's CPU time in its ranks' own (the rest is other programs') a rank's part is not known."""


def of_steps(
    steps: Iterable[Mapping[str, Any]], cpu_ns: Mapping[tuple[int, int], int], record: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The record's steps with the energies of their ranks, where these are known.

    Parameters
    ----------
    steps : with energies, as the record lists them.
    cpu_ns : the CPU time of each rank (step, rank) of which it is known.
    record : of the node; what of its energy is static.

    Returns
    -------
    The same; a rank has `energy_uj` and `u_uj` (k=1) where its step has an energy, and either it is the only rank here
    or the CPU time of all of them is known and most of the step's.
    """
    return [{**step, "ranks": _ranks(step, cpu_ns, record)} for step in steps]


def _ranks(
    step: Mapping[str, Any], cpu_ns: Mapping[tuple[int, int], int], record: Mapping[str, Any]
) -> list[dict[str, Any]]:
    runs, energy_uj, u_uj = list(step["ranks"]), step.get("energy_uj"), step.get("u_uj") or 0
    if energy_uj is None or not runs:
        return runs
    if len(runs) == 1:
        return [{**runs[0], "energy_uj": energy_uj, "u_uj": u_uj}]
    parts = Parts(len(runs))
    for run in runs:
        parts.take(run["rank"], cpu_ns.get((step["step_id"], run["rank"])))
    own_ns, all_ns = sum(parts.cpu_ns.values()), step.get("cpu_ns") or 0
    if len(parts.cpu_ns) < len(runs) or own_ns < EXPLAINED * all_ns or not own_ns:
        return runs
    unseen = max(0.0, 1 - own_ns / all_ns) if all_ns else 0.0
    static, static_error = _static(step, record)
    found = []
    for run in runs:
        part, of_work, uneven = parts.of(run["rank"], static)
        doubts = of_work, static_error * uneven, unseen * (1 - static) / len(runs)
        u_rank_uj = math.ceil(math.hypot(u_uj * part, energy_uj * math.hypot(*doubts)))
        found.append({**run, "energy_uj": round(energy_uj * part), "u_uj": u_rank_uj})
    return found


def _static(step: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[float, float]:
    """The static part of a step's energy, and what it may be wrong by: the job's, or by the step's part of its time."""
    of_job, error = static_of(record)
    used_uj = sum(one["energy_uj"] or 0 for one in record.get("domains", {}).values())
    job_ns = record["end"].get("real_ns", 0) - record.get("start", {}).get("real_ns", 0)
    step_ns = (step.get("end_ns") or 0) - (step.get("start_ns") or 0)
    if step["energy_uj"] <= 0 or job_ns <= 0 or step_ns <= 0:
        return of_job, error
    by_time = min(1.0, of_job * used_uj * min(1.0, step_ns / job_ns) / step["energy_uj"])
    return by_time, math.hypot(error, by_time - of_job)
