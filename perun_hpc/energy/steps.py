"""A job's energy on one node shared out among its steps: pure functions over integers.

What the steps are given never exceeds what the job has; what no step explains stays with the job. The rule stands in
docs/method.md: work by CPU time, the rest by the CPUs that steps hold and for how long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perun_hpc.energy.uncertainty import SHARING_ERROR, Split

PARTS = 1_000_000_000
"""Parts of a whole are integers of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPart:
    """What a job was given in a stretch of time.

    Attributes
    ----------
    static_uj, dynamic_uj : of packages, memory, meters' rests.
    gpu_uj : of its GPUs; which step uses which of them nobody sees.
    static_doubt_uj : what `static_uj` may be wrong by (k=1).
    duration_ns : how long.
    work_ns : CPU time behind `dynamic_uj`, the system's included where the job has the node; 0: not known.
    cpus : logical CPUs that it holds.
    """

    static_uj: int
    dynamic_uj: int
    gpu_uj: int = 0
    static_doubt_uj: int = 0
    duration_ns: int
    work_ns: int = 0
    cpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """One step in that stretch.

    Attributes
    ----------
    alive_ns : how long of it the step ran.
    held : logical CPUs that it holds; None: nobody knows, and all of the job's are taken.
    cpu_ns : CPU time; None where nobody counts it.
    unsure_ns : what that may be wrong by (k=1).
    last : whether it holds only what others leave: the batch script, an interactive shell.
    idle : whether it holds nothing: the extern step.
    """

    alive_ns: int
    held: int | None = None
    cpu_ns: int | None = None
    unsure_ns: int = 0
    last: bool = False
    idle: bool = False


@dataclass(frozen=True, slots=True)
class StepShare:
    """One step's part: energy, and its doubts (k=1, uJ), as `energy.uncertainty.Split` has them.

    `static_uj` errs with the job's static power and has its sign.
    """

    energy_uj: int
    own_uj: int
    others_uj: int
    static_uj: int


def share(job: JobPart, steps: Sequence[StepPart]) -> list[StepShare]:
    """What each step is given of a job's energy, in their order; the sum is at most the job's."""
    held, work = _held(job, steps), _work(job, steps)
    static_uj, dynamic_uj, gpu_uj = (max(0, one) for one in (job.static_uj, job.dynamic_uj, job.gpu_uj))
    explained = sum(work)
    common_uj = static_uj + dynamic_uj * (PARTS - explained) // PARTS
    # Without CPU times the work goes like the rest, and is as doubtful as that of jobs of which only presence is known.
    counted = all(one.cpu_ns is not None for one in steps if not one.idle)
    whole_ns = max(1, job.work_ns, sum(one.cpu_ns or 0 for one in steps))
    result = []
    for step, h, w in zip(steps, held, work, strict=True):
        of_work = _work_doubts(dynamic_uj, w, h, work) if counted else _parts_doubts(dynamic_uj, h, held, "presence")
        of_gpus = _parts_doubts(gpu_uj, h, held, "parts")
        unsure_uj = dynamic_uj * min(step.unsure_ns, whole_ns) / whole_ns
        result.append(
            StepShare(
                common_uj * h // PARTS + dynamic_uj * w // PARTS + gpu_uj * h // PARTS,
                math.ceil(math.hypot(of_work[0], of_gpus[0], unsure_uj)),
                math.ceil(math.hypot(of_work[1], of_gpus[1])),
                job.static_doubt_uj * (h * explained // PARTS - w) // PARTS,
            )
        )
    return result


def _work_doubts(dynamic_uj: int, w: int, h: int, work: Sequence[int]) -> tuple[float, float]:
    """What a step's energy may be wrong by for the watts of its own work, and for those of the others'.

    With q_k the parts of all work, r that of no step, and p = q_i + h_i q_r what step i has of it: sigma D q_i (1 - p)
    for its own watts; sigma D p q_k for those of another step, and sigma D q_r (h_i - p) for those of no step.
    """
    sigma_uj = SHARING_ERROR["cores"] * dynamic_uj
    q, r, share_of = w / PARTS, 1 - sum(work) / PARTS, h / PARTS
    p = q + share_of * r
    squares = max(0.0, sum((one / PARTS) ** 2 for one in work) - q * q)
    return sigma_uj * q * max(0.0, 1 - p), sigma_uj * math.hypot(p * math.sqrt(squares), r * (share_of - p))


def _parts_doubts(total_uj: int, part: int, parts: Sequence[int], method: str) -> tuple[int, int]:
    """What a part by time and CPUs may be wrong by, own and others' (`Split`)."""
    shares = [total_uj * one // PARTS for one in parts]
    split = Split.of((0, uj) for uj in (*shares, total_uj - sum(shares)))
    return split.sharing_doubt_uj(total_uj * part // PARTS, method)


def _held(job: JobPart, steps: Sequence[StepPart]) -> list[int]:
    """Parts of the job's CPUs and time that each step holds: numbered steps first, and together at most all."""

    def wanted(step: StepPart) -> int:
        alive = PARTS * min(step.alive_ns, job.duration_ns) // max(1, job.duration_ns)
        held = job.cpus if step.held is None else min(step.held, job.cpus)
        return 0 if step.idle else alive * held // max(1, job.cpus)

    asked = [wanted(step) for step in steps]
    parts, free = [0] * len(steps), PARTS
    for last in (False, True):
        whole = sum(one for one, step in zip(asked, steps, strict=True) if step.last is last)
        given = min(free, whole)
        for place, step in enumerate(steps):
            if step.last is last and whole:
                parts[place] = asked[place] * given // whole
        free -= given
    return parts


def _work(job: JobPart, steps: Sequence[StepPart]) -> list[int]:
    """Parts of the job's work that each step's CPU time explains."""
    known = [max(0, step.cpu_ns or 0) for step in steps]
    whole = max(job.work_ns, sum(known))
    return [PARTS * one // whole if whole else 0 for one in known]
